// SPDX-License-Identifier: BSD-3-Clause
// Rotary positions: as a call of its own, where reading and writing is the limit, and inside attention, beside the same
// attention without them.
#include <attend/attention/softmax/rotary_embedding.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/position/rotary.hpp>

#include "benchmarks.hpp"
#include "softmax_call.hpp"
#include "visible_pairs.hpp"

namespace attend_bench {
namespace {

template <class T>
void add_embedding(element_type type, attend::options::rotary_layout layout) {
  attention_shape const shape{1, 32, 32, 8192, 8192, 128};
  attention_benchmark what{"rotary/embedding",
                           type,
                           shape,
                           layout == attend::options::rotary_layout::half_split ? "halves" : "interleaved",
                           1,
                           limit::bandwidth,
                           {}};
  double const elements = static_cast<double>(shape.query_heads * shape.queries * shape.dimension);
  what.bytes = 2 * elements * sizeof(T);
  what.flops = 3 * elements;
  what.prepare = [shape, layout] {
    struct tensors {
      random_tensor<T> x, y;
    };
    std::array<index_t, 4> const extents{shape.batch, shape.query_heads, shape.queries, shape.dimension};
    auto const kept = std::make_shared<tensors>(tensors{random_tensor<T>(extents, 1), random_tensor<T>(extents, 2)});
    auto const settings = std::make_shared<attend::rotary<attend::options::rotary_frequencies>>(
        attend::options::rotary_frequencies(shape.dimension), layout);
    auto const call = [=](attend::threads threads) {
      attend::options::rotary_embedding(kept->x.view(), *settings, kept->y.view(), attend::options::token_positions(),
                                        threads);
    };
    return attention_call{call, [=](attend::threads threads, attend::options::tile_counts&) { call(threads); }};
  };
  register_attention(what, {1, 2});
}

template <class T, class... Options>
void add_attention(char const* family, element_type type, index_t queries, Options const&... options) {
  attention_shape const shape{1, 32, 8, queries, 2048, 128};
  register_attention({family, type, shape, "causal", window_pairs(queries, shape.keys, -1, 0), limit::arithmetic,
                      [=] { return softmax_call<T>(shape, nullptr, attend::causal{}, options...); }},
                     {1});
}

}  // namespace

void register_rotary() {
  for (auto const layout : {attend::options::rotary_layout::half_split, attend::options::rotary_layout::interleaved}) {
    add_embedding<float>(element_type::f32, layout);
    add_embedding<attend::bfloat16>(element_type::bf16, layout);
  }
  attend::rotary const settings{attend::options::rotary_frequencies(128, 500000, attend::options::llama3_scaling{})};
  for (index_t const queries : {32, 2048}) {
    add_attention<float>("rotary/attention/without", element_type::f32, queries);
    add_attention<float>("rotary/attention/fused", element_type::f32, queries, settings);
  }
}

}  // namespace attend_bench
