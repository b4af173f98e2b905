// SPDX-License-Identifier: BSD-3-Clause
// Prefill: as many queries as keys, which is arithmetic and nothing else.
#include "bench_plain.hpp"
#include "benchmarks.hpp"

namespace attend_bench {
namespace {

void add(element_type type, attention_shape const& shape, plain_mask mask) {
  register_attention(plain_attention("softmax/prefill", type, shape, mask), {1, 2});
}

constexpr attention_shape square(index_t tokens, index_t dimension) { return {1, 8, 8, tokens, tokens, dimension}; }

// Four query heads share a key head.
constexpr attention_shape grouped{1, 32, 8, 2048, 2048, 128};

}  // namespace

void register_prefill() {
  using enum element_type;
  for (index_t const tokens : {512, 2048, 8192})
    for (index_t const dimension : {64, 128})
      for (plain_mask const mask : {plain_mask::dense, plain_mask::causal}) add(f32, square(tokens, dimension), mask);
  for (index_t const dimension : {64, 128}) add(f32, square(4096, dimension), plain_mask::causal);
  for (plain_mask const mask : {plain_mask::dense, plain_mask::causal}) {
    add(f32, grouped, mask);
    add(f32, square(2048, 256), mask);
  }
  for (element_type const type : {f16, bf16}) {
    add(type, square(2048, 128), plain_mask::dense);
    add(type, square(4096, 128), plain_mask::causal);
    add(type, grouped, plain_mask::causal);
  }
  add(f64, square(2048, 128), plain_mask::dense);
}

}  // namespace attend_bench
