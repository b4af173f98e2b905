// SPDX-License-Identifier: BSD-3-Clause
// Heads that differ: Sigma's DiffQKV (32 query heads, 4 key heads of half the dimension, 16 value heads; in decoding of
// the values' dimension, beside equal numbers of both), and multiple head embeddings (one key head and one value head
// for all).
#include <attend/attention/cached/decode_attention.hpp>
#include <attend/attention/softmax/multi_head_embedding.hpp>
#include <attend/cache/contiguous.hpp>
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

/// One query against so many keys that no cache holds them. The name's number of key-value heads is that of keys.
template <class T>
void add_decode(element_type type, index_t of_keys, index_t of_values) {
  constexpr index_t dimension = 128, tokens_of_turn = 128;
  index_t const tokens = 32768 * static_cast<index_t>(sizeof(float) / sizeof(T));
  attention_shape const shape{1, heads, of_keys, 1, tokens, dimension};
  attention_benchmark what{"diffqkv/decode/values" + std::to_string(of_values),
                           type,
                           shape,
                           "causal",
                           window_pairs(1, tokens, -1, 0),
                           limit::bandwidth,
                           {}};
  what.bytes = static_cast<double>((of_keys + of_values) * tokens * dimension) * sizeof(T);
  what.prepare = [=] {
    struct kept_tokens {
      random_tensor<T> query, output;
      attend::contiguous_cache<T> store;
    };
    auto const kept = std::make_shared<kept_tokens>(kept_tokens{random_tensor<T>({1, heads, 1, dimension}, 1),
                                                                random_tensor<T>({1, heads, 1, dimension}, 2),
                                                                {{.key_value_heads = std::max(of_keys, of_values),
                                                                  .key_dimension = dimension,
                                                                  .value_dimension = dimension,
                                                                  .key_heads = of_keys,
                                                                  .value_heads = of_values},
                                                                 tokens}});
    random_tensor<T> key({1, of_keys, tokens_of_turn, dimension}, 3),
        value({1, of_values, tokens_of_turn, dimension}, 4);
    for (index_t first = 0; first < tokens; first += tokens_of_turn) kept->store.append(key.view(), value.view());
    auto const call = [kept](auto const&... options) {
      attend::decode_attention(kept->query.view(), kept->store, kept->output.view(), attend::causal{}, options...);
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
  for (auto const& [of_keys, of_values] : {std::pair{key_heads, value_heads}, std::pair{value_heads, value_heads},
                                           std::pair{key_heads, key_heads}, std::pair{value_heads, key_heads}}) {
    add_decode<float>(element_type::f32, of_keys, of_values);
    add_decode<attend::bfloat16>(element_type::bf16, of_keys, of_values);
  }
  add_embeddings();
}

}  // namespace attend_bench
