// SPDX-License-Identifier: BSD-3-Clause
// Calls so short that what surrounds the arithmetic counts: reading options, checking arguments, packing queries.
#include "bench_plain.hpp"
#include "benchmarks.hpp"

namespace attend_bench {

void register_short() {
  for (index_t const tokens : {16, 64})
    for (index_t const heads : {1, 12}) {
      attention_benchmark call =
          plain_attention("softmax/short", element_type::f32, {1, heads, heads, tokens, tokens, 64}, plain_mask::dense);
      call.limited_by = limit::overhead;
      register_attention(call, {1});
    }
}

}  // namespace attend_bench
