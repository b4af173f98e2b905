// SPDX-License-Identifier: BSD-3-Clause
// The ways to keep keys and values that the program compares, each with its name: every token as it is, every token in
// fewer bits, or few tokens, and few attended to.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "attentions.hpp"
#include "decoder.hpp"

namespace generate {

struct policy {
  std::string name;
  bool exact;  // loses nothing: its text is that of the full cache
  std::function<std::unique_ptr<layer_attention>(decoder const&, attend::threads)> begin;
};

/// A prompt comes in pieces of so many characters.
inline constexpr index_t prompt_piece = 32;

/// All that a model takes. The first loses nothing, and the others are compared with it: the full cache, or where the
/// model was trained with linear attention, its states, which are all that there is.
std::vector<policy> all_policies(decoder const& model);

}  // namespace generate
