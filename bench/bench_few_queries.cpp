// SPDX-License-Identifier: BSD-3-Clause
// A few queries against a long cache, as in decoding: every byte of keys and values is read for little arithmetic.
// There are half a gigabyte of them, which no cache holds, but in the steps of one model.
#include "bench_plain.hpp"
#include "benchmarks.hpp"

namespace attend_bench {
namespace {

void add(element_type type, index_t batch, index_t query_heads, index_t queries) {
  attention_benchmark call = plain_attention("softmax/decode", type, {batch, query_heads, 8, queries, 8192, 128},
                                             queries == 1 ? plain_mask::dense : plain_mask::causal);
  call.limited_by = limit::bandwidth;
  register_attention(call, {1, 2});
}

}  // namespace

void register_few_queries() {
  add(element_type::f32, 8, 8, 1);
  for (element_type const type : {element_type::f32, element_type::f16, element_type::bf16})
    for (index_t const queries : {1, 4, 16}) add(type, type == element_type::f32 ? 8 : 16, 32, queries);
  // One step of a model of 32 query heads and 8 key heads (Llama-3-8B).
  for (index_t const batch : {1, 8}) add(element_type::bf16, batch, 32, 1);
}

}  // namespace attend_bench
