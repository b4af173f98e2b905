// SPDX-License-Identifier: BSD-3-Clause
// Rotary positions: as a call of its own, where reading and writing is the limit; inside attention, beside the same
// attention without them; and in decoding, over keys that are rotated as they are read, beside a store of rotated ones.
#include <attend/attention/cached/decode_attention.hpp>
#include <attend/attention/softmax/rotary_embedding.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/position/rotary_places.hpp>

#include <memory>

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

/// A step over keys that were rotated as they were stored, or that are as they are read.
template <class Position>
void add_decode(char const* name, Position const& position) {
  using T = attend::bfloat16;
  attention_shape const shape{1, 32, 8, 1, 131072, 128};
  attention_benchmark what{std::string("rotary/decode/") + name, element_type::bf16, shape, "dense",
                           window_pairs(1, shape.keys, -1, -1),  limit::bandwidth,   {}};
  what.bytes = 2.0 * static_cast<double>(shape.key_heads * shape.keys * shape.dimension) * sizeof(T);
  what.prepare = [shape, position] {
    struct {
      random_tensor<T> query, output;
      attend::contiguous_cache<T> store;
    } tensors{random_tensor<T>({1, shape.query_heads, 1, shape.dimension}, 1),
              random_tensor<T>({1, shape.query_heads, 1, shape.dimension}, 2),
              attend::contiguous_cache<T>({1, shape.key_heads, shape.dimension, shape.dimension}, shape.keys)};
    constexpr index_t group_size = 8192;
    random_tensor<T> key({1, shape.key_heads, group_size, shape.dimension}, 3),
        value({1, shape.key_heads, group_size, shape.dimension}, 4);
    for (index_t first = 0; first < shape.keys; first += group_size) tensors.store.append(key.view(), value.view());
    auto const kept = std::make_shared<decltype(tensors)>(std::move(tensors));
    auto const call = [kept, position](auto const&... options) {
      attend::decode_attention(kept->query.view(), kept->store, kept->output.view(), position, options...);
    };
    return attention_call{[=](attend::threads threads) { call(threads); },
                          [=](attend::threads threads, attend::options::tile_counts& counts) {
                            call(threads, attend::options::count_tiles(counts));
                          }};
  };
  register_attention(what, {1, 2});
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
  static attend::rotary const of_decoding{attend::options::rotary_frequencies(128, 500000)};
  add_decode("rotated", attend::options::rotary_queries(of_decoding));
  add_decode("as_read", of_decoding);
  add_decode("in_list", attend::options::rotary_places(of_decoding, attend::options::places_in_list{}));
}

}  // namespace attend_bench
