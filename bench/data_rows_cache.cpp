// SPDX-License-Identifier: BSD-3-Clause
// Keys and values in a cache: decoding from each storage, writing to it, and latents in each form.
#include <attend/attention/cached/decode_attention.hpp>
#include <attend/attention/cached/sliced_latent_attention.hpp>
#include <attend/cache/contiguous.hpp>
#include <attend/policy/mask/causal.hpp>

#include <memory>

#include "data_rows.hpp"
#include "random_tensor.hpp"
#include "visible_pairs.hpp"

namespace attend_bench {
namespace {

template <class T, attend::extend::StorageElement Stored>
struct cache_tensors {
  random_tensor<T> query, key, value, output;
  attend::contiguous_cache<Stored> cache;

  cache_tensors(attention_shape const& s, data_class data)
      : query({s.batch, s.query_heads, s.queries, s.dimension}, 1),
        key({s.batch, s.key_heads, s.keys, s.dimension}, 2),
        value({s.batch, s.key_heads, s.keys, s.dimension}, 3),
        output({s.batch, s.query_heads, s.queries, s.dimension}, 4),
        cache({s.batch, s.key_heads, s.dimension, s.dimension}, s.keys) {
    turn_into<T>(data, query.view(), key.view(), value.view());
    cache.append(key.view(), value.view());
  }
};

attention_benchmark described(std::string const& family, element_type type, attention_shape const& shape) {
  return {"data/" + family,  type, shape, "causal", window_pairs(shape.queries, shape.keys, -1, 0),
          limit::arithmetic, {}};
}

template <class T, attend::extend::StorageElement Stored>
data_row decode(std::string const& storage, element_type type) {
  constexpr attention_shape shape{1, 32, 8, 1, 2048, 128};
  return {described("decode" + storage, type, shape), [=](data_class data) {
            auto const t = std::make_shared<cache_tensors<T, Stored>>(shape, data);
            return attention_call{[t](attend::threads threads) {
                                    attend::decode_attention(t->query.view(), t->cache, t->output.view(),
                                                             attend::causal{}, threads);
                                  },
                                  {}};
          }};
}

template <class T, attend::extend::StorageElement Stored>
data_row append(std::string const& storage, element_type type) {
  constexpr attention_shape shape{1, 8, 8, 1, 512, 128};
  return {described("append" + storage, type, shape), [=](data_class data) {
            auto const t = std::make_shared<cache_tensors<T, Stored>>(shape, data);
            return attention_call{[t](attend::threads) {
                                    t->cache.truncate(0, 0);
                                    t->cache.append(t->key.view(), t->value.view());
                                  },
                                  {}};
          }};
}

/// A sixth of DeepSeek's heads, over its latents of 512 and rotary keys of 64.
struct latent_tensors {
  static constexpr index_t heads = 24, latent = 512, rotary = 64, plain = 128, values = 128;
  random_tensor<float> query, latents, rotary_keys, key, value, output;
  attend::caches::latent_cache<float> cache;
  attend::systems::latent_slicing<float> slicing;

  latent_tensors(attention_shape const& s, index_t shards, data_class data)
      : query({1, heads, s.queries, plain + rotary}, 1),
        latents({1, 1, s.keys, latent}, 2),
        rotary_keys({1, 1, s.keys, rotary}, 3),
        key({1, heads, plain, latent}, 4),
        value({1, heads, values, latent}, 5),
        output({1, heads, s.queries, values}, 6),
        cache({1, latent, rotary, shards}, s.keys) {
    // Keys and values of the size of normal numbers.
    multiply(key.view(), 1 / std::sqrt(double{latent}));
    multiply(value.view(), 1 / std::sqrt(double{latent}));
    turn_into<float>(data, query.view(), latents.view(), rotary_keys.view());
    cache.append(0, rows<float const>(latents), rows<float const>(rotary_keys));
    if (shards > 1) slicing = attend::systems::hadamard_slicing<float>(latent, shards);
  }

  template <class T>
  static attend::tensor_view<T, 2> rows(random_tensor<float>& all) {
    return {all.view().data(), {all.view().extent(2), all.view().extent(3)}};
  }
  attend::caches::latent_projections<float> up() {
    auto const of = [](random_tensor<float>& all) {
      return attend::tensor_view<float const, 3>(all.view().data(),
                                                 {all.view().extent(1), all.view().extent(2), all.view().extent(3)});
    };
    return {of(key), of(value)};
  }
};

template <class Call>
data_row latent(std::string const& form, index_t queries, index_t keys, index_t shards, Call const& call) {
  attention_shape const shape{1, latent_tensors::heads, 1, queries, keys, latent_tensors::latent};
  return {described("latent/" + form, element_type::f32, shape), [=](data_class data) {
            auto const t = std::make_shared<latent_tensors>(shape, shards, data);
            return attention_call{[t, call](attend::threads threads) { call(*t, threads); }, {}};
          }};
}

}  // namespace

std::vector<data_row> cache_data_rows() {
  using attend::bfloat16;
  return {
      decode<float, float>("", element_type::f32),
      decode<attend::half, attend::half>("", element_type::f16),
      decode<bfloat16, bfloat16>("", element_type::bf16),
      decode<bfloat16, std::int8_t>("/int8", element_type::bf16),
      decode<bfloat16, attend::caches::int4_pair>("/int4", element_type::bf16),
      append<float, std::int8_t>("/int8", element_type::f32),
      append<float, attend::half>("/f16", element_type::f32),
      latent("absorbed", 1, 2048, 1,
             [](latent_tensors& t, auto const&... options) {
               attend::caches::latent_attention(t.query.view(), t.cache, t.up(), t.output.view(), attend::causal{},
                                                attend::options::absorbed{}, options...);
             }),
      latent("expanded", 256, 256, 1,
             [](latent_tensors& t, auto const&... options) {
               attend::caches::latent_attention(t.query.view(), t.cache, t.up(), t.output.view(), attend::causal{},
                                                attend::options::expanded{}, options...);
             }),
      latent("sliced2", 1, 2048, 2,
             [](latent_tensors& t, auto const&... options) {
               attend::systems::sliced_latent_attention(t.query.view(), t.cache, t.up(), t.slicing, t.output.view(),
                                                        attend::causal{}, options...);
             }),
  };
}

}  // namespace attend_bench
