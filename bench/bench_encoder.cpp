// SPDX-License-Identifier: BSD-3-Clause
// An encoder of sentences: a few hundred tokens, many small heads, nothing hidden.
#include "bench_plain.hpp"
#include "benchmarks.hpp"

namespace attend_bench {

void register_encoder() {
  for (index_t const batch : {1, 8})
    register_attention(
        plain_attention("softmax/encoder", element_type::f32, {batch, 12, 12, 256, 256, 32}, plain_mask::dense),
        {1, 2});
}

}  // namespace attend_bench
