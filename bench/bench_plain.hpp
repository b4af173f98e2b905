// SPDX-License-Identifier: BSD-3-Clause
// The calls that most benchmarks share: plain softmax attention in each element type, dense, causal or in a window.
#pragma once

#include "attention_benchmark.hpp"

namespace attend_bench {

enum class plain_mask { dense, causal, window };

/// How far back the window goes.
inline constexpr index_t window_left = 1024;

/// The benchmark of a family, shape and mask, ready to be registered.
attention_benchmark plain_attention(std::string const& family, element_type type, attention_shape const& shape,
                                    plain_mask mask);

}  // namespace attend_bench
