// A few queries against a long cache, as in decoding: every byte of keys and values is read for little arithmetic.
// There are half a gigabyte of them, which no cache holds.
#include "bench_plain.hpp"
#include "benchmarks.hpp"

namespace attend_bench {
namespace {

void add(element_type type, index_t query_heads, index_t queries) {
  index_t const batch = type == element_type::f32 ? 8 : 16;
  attention_benchmark call = plain_attention("softmax/decode", type, {batch, query_heads, 8, queries, 8192, 128},
                                             queries == 1 ? plain_mask::dense : plain_mask::causal);
  call.limited_by = limit::bandwidth;
  register_attention(call, {1, 2});
}

}  // namespace

void register_few_queries() {
  add(element_type::f32, 8, 1);
  for (element_type const type : {element_type::f32, element_type::f16, element_type::bf16})
    for (index_t const queries : {1, 4, 16}) add(type, 32, queries);
}

}  // namespace attend_bench
