// SPDX-License-Identifier: BSD-3-Clause
// A sliding window over a long sequence: the work grows with the window, not with the sequence.
#include "bench_plain.hpp"
#include "benchmarks.hpp"

namespace attend_bench {

void register_window() {
  register_attention(
      plain_attention("softmax/prefill", element_type::f32, {1, 2, 2, 32768, 32768, 128}, plain_mask::window), {1, 2});
}

}  // namespace attend_bench
