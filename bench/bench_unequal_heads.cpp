// SPDX-License-Identifier: BSD-3-Clause
// Heads that differ: Sigma's DiffQKV (32 query heads, 4 key heads of half the dimension, 16 value heads), and multiple
// head embeddings (one key head and one value head for all).
#include <attend/attention/softmax/multi_head_embedding.hpp>
#include <attend/policy/mask/causal.hpp>

#include <memory>

#include "benchmarks.hpp"
#include "softmax_call.hpp"
#include "visible_pairs.hpp"

namespace attend_bench {
namespace {

constexpr index_t heads = 32, key_heads = 4, value_heads = 16, key_dimension = 64, value_dimension = 128, keys = 2048;

void add_unequal(index_t queries) {
  attention_shape const shape{1, heads, key_heads, queries, keys, key_dimension};
  attention_benchmark what{
      "diffqkv/prefill", element_type::f32, shape, "causal", window_pairs(queries, keys, -1, 0), limit::arithmetic, {}};
  what.flops = what.pairs_of_head * heads * 2 * (key_dimension + value_dimension);
  what.prepare = [queries] {
    struct tensors {
      random_tensor<float> query, key, value, output;
    };
    auto const kept =
        std::make_shared<tensors>(tensors{random_tensor<float>({1, heads, queries, key_dimension}, 1),
                                          random_tensor<float>({1, key_heads, keys, key_dimension}, 2),
                                          random_tensor<float>({1, value_heads, keys, value_dimension}, 3),
                                          random_tensor<float>({1, heads, queries, value_dimension}, 4)});
    auto const call = [kept](auto const&... options) {
      attend::softmax_attention(kept->query.view(), kept->key.view(), kept->value.view(), kept->output.view(),
                                attend::causal{}, options...);
    };
    return attention_call{[=](attend::threads threads) { call(threads); },
                          [=](attend::threads threads, attend::options::tile_counts& counts) {
                            call(threads, attend::options::count_tiles(counts));
                          }};
  };
  register_attention(what, {1, 2});
}

void add_embeddings() {
  constexpr index_t dimension = 128;
  attention_shape const shape{1, heads, 1, keys, keys, dimension};
  struct learned {
    random_tensor<float> query, key, value;
  };
  auto const vectors = std::make_shared<learned>(learned{random_tensor<float>({1, 1, heads, dimension}, 1),
                                                         random_tensor<float>({1, 1, heads, dimension}, 2),
                                                         random_tensor<float>({1, 1, heads, dimension}, 3)});
  auto const matrix = [](auto& tensor) {
    return attend::tensor_view<float const, 2>(tensor.view().data(), {heads, dimension});
  };
  attend::systems::head_embeddings<float> const embeddings{attend::systems::head_combination::multiply,
                                                           matrix(vectors->query), matrix(vectors->key),
                                                           matrix(vectors->value)};
  register_attention(
      {"multi_head_embedding/prefill", element_type::f32, shape, "causal", window_pairs(keys, keys, -1, 0),
       limit::arithmetic,
       [shape, vectors, embeddings] {
         return tensor_call<float>(
             shape, vectors,
             [vectors, embeddings](auto&& query, auto&& key, auto&& value, auto&& output, auto const&... options) {
               auto const one = [](auto const& tensor) {
                 return attend::tensor_view<float const, 3>(tensor.data(), {1, tensor.extent(2), tensor.extent(3)});
               };
               attend::systems::multi_head_embedding_attention(one(query), one(key), one(value), embeddings, output,
                                                               attend::causal{}, options...);
             });
       }},
      {1, 2});
}

}  // namespace

void register_unequal_heads() {
  for (index_t const queries : {16, 2048}) add_unequal(queries);
  add_embeddings();
}

}  // namespace attend_bench
