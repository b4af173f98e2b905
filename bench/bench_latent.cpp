// SPDX-License-Identifier: BSD-3-Clause
// Latent attention with the dimensions of DeepSeek-V2 and V3: 128 heads, a latent of 512, a rotary key of 64, and heads
// of 128 plain channels and 128 values. Names end in what is measured:
//
//   latent/decode/scores       absorbed queries against the cache alone: 2 * (576 + 512) operations a pair
//   latent/decode/absorbed     the whole call: those, and 2 * 512 * (128 + 128) for the projections of each query
//   latent/decode/.../int8     the same over latents of 8 bits
//   latent/prefill/expanded    the whole call in the other form; 16 heads
//   latent/sliced2, 4          tensor-parallel: two and four shards, each with a softmax of its own
#include <attend/attention/cached/cached_attention.hpp>
#include <attend/attention/cached/sliced_latent_attention.hpp>
#include <attend/policy/mask/causal.hpp>

#include <memory>

#include "attention_benchmark.hpp"
#include "benchmarks.hpp"
#include "random_tensor.hpp"
#include "visible_pairs.hpp"

namespace attend_bench {
namespace {

constexpr index_t latent = 512, rotary_channels = 64, plain = 128, values = 128;

template <class C, attend::extend::StorageElement Stored>
struct latent_tensors {
  random_tensor<C> query, absorbed_query, output, mixed, key, value;
  attend::caches::latent_cache<Stored> cache;
  attend::systems::latent_slicing<float> slicing;

  latent_tensors(attention_shape const& s, index_t shards)
      : query({s.batch, s.query_heads, s.queries, plain + rotary_channels}, 1),
        absorbed_query({s.batch, s.query_heads, s.queries, latent + rotary_channels}, 2),
        output({s.batch, s.query_heads, s.queries, values}, 3),
        mixed({s.batch, s.query_heads, s.queries, latent}, 4),
        key({1, s.query_heads, plain, latent}, 5),
        value({1, s.query_heads, values, latent}, 6),
        cache({s.batch, latent, rotary_channels, shards}, s.keys) {
    random_tensor<C> latents({1, 1, s.keys, latent}, 7), rotary_keys({1, 1, s.keys, rotary_channels}, 8);
    auto const rows = [](auto& tensor) {
      auto const all = tensor.view();
      return attend::tensor_view<C const, 2>(all.data(), {all.extent(2), all.extent(3)});
    };
    for (index_t b = 0; b < s.batch; ++b) cache.append(b, rows(latents), rows(rotary_keys));
    if (shards > 1) slicing = attend::systems::hadamard_slicing<float>(latent, shards);
  }

  attend::caches::latent_projections<C> projections() {
    auto const heads = [](auto& tensor) {
      auto const all = tensor.view();
      return attend::tensor_view<C const, 3>(all.data(), {all.extent(1), all.extent(2), all.extent(3)});
    };
    return {heads(key), heads(value)};
  }
};

/// call(tensors, options...) on tensors of the shape.
template <class C, attend::extend::StorageElement Stored = C, class Call>
void add(std::string const& family, element_type type, attention_shape const& shape, index_t shards,
         double flops_of_pair, double flops_of_query, double flops_of_key, Call const& call) {
  attention_benchmark what{
      family, type, shape, "causal", window_pairs(shape.queries, shape.keys, -1, 0), limit::arithmetic, {}};
  double const heads = static_cast<double>(shape.batch * shape.query_heads);
  what.flops = heads * (what.pairs_of_head * flops_of_pair + static_cast<double>(shape.queries) * flops_of_query +
                        static_cast<double>(shape.keys) * flops_of_key);
  what.prepare = [shape, shards, call] {
    auto const tensors = std::make_shared<latent_tensors<C, Stored>>(shape, shards);
    return attention_call{[=](attend::threads threads) { call(*tensors, threads); },
                          [=](attend::threads threads, attend::options::tile_counts& counts) {
                            call(*tensors, threads, attend::options::count_tiles(counts));
                          }};
  };
  register_attention(what, {1, 2});
}

template <class C, attend::extend::StorageElement Stored = C>
void add_decoding(element_type type, index_t batch, index_t queries, index_t keys, std::string const& storage = "") {
  attention_shape const shape{batch, 128, 1, queries, keys, latent + rotary_channels};
  double const of_pair = 2.0 * (2 * latent + rotary_channels), projections = 2.0 * latent * (plain + values);
  add<C, Stored>("latent/decode/scores" + storage, type, shape, 1, of_pair, 0, 0, [](auto& t, auto const&... options) {
    attend::softmax_attention(t.absorbed_query.view(), t.cache, t.mixed.view(), attend::causal{}, options...);
  });
  add<C, Stored>("latent/decode/absorbed" + storage, type, shape, 1, of_pair, projections, 0,
                 [](auto& t, auto const&... options) {
                   attend::caches::latent_attention(t.query.view(), t.cache, t.projections(), t.output.view(),
                                                    attend::causal{}, attend::options::absorbed{}, options...);
                 });
}

template <class C>
void add_sliced(char const* family, element_type type, index_t shards) {
  attention_shape const shape{1, 128, shards, 1, 8192, latent / shards + rotary_channels};
  double const of_pair = 2.0 * static_cast<double>(2 * latent + shards * rotary_channels);
  add<C>(family, type, shape, shards, of_pair, 2.0 * latent * (plain + values), 0, [](auto& t, auto const&... options) {
    attend::systems::sliced_latent_attention(t.query.view(), t.cache, t.projections(), t.slicing, t.output.view(),
                                             attend::causal{}, options...);
  });
}

}  // namespace

void register_latent() {
  using attend::bfloat16;
  for (index_t const queries : {1, 4}) {
    add_decoding<float>(element_type::f32, 1, queries, 8192);
    add_decoding<bfloat16>(element_type::bf16, 1, queries, 8192);
  }
  add_decoding<bfloat16>(element_type::bf16, 1, 1, 32768);
  add_decoding<bfloat16>(element_type::bf16, 8, 1, 4096);
  add_decoding<bfloat16, std::int8_t>(element_type::bf16, 1, 1, 8192, "/int8");
  add<float>("latent/prefill/expanded", element_type::f32, {1, 16, 1, 2048, 2048, plain + rotary_channels}, 1,
             2.0 * (plain + rotary_channels + values), 0, 2.0 * latent * (plain + values),
             [](auto& t, auto const&... options) {
               attend::caches::latent_attention(t.query.view(), t.cache, t.projections(), t.output.view(),
                                                attend::causal{}, attend::options::expanded{}, options...);
             });
  add_sliced<bfloat16>("latent/sliced2", element_type::bf16, 2);
  add_sliced<bfloat16>("latent/sliced4", element_type::bf16, 4);
}

}  // namespace attend_bench
