// SPDX-License-Identifier: BSD-3-Clause
// Decoding over stores of keys and values: one query against half a gigabyte of them, which no cache holds. Elements of
// the store come after its name; queries and outputs are bfloat16 for those with scales. Pages of a paged store lie
// apart. In an evicting store head h of 8 keeps (h + 1) / 8 of the tokens, scattered among all of them.
//
// What published systems keep of 131072 tokens, beside all of them (dense):
//
//   duo    four heads of eight all, four 128 sinks and the last 1024            DuoAttention
//   mswa   two heads each the last 8192, 16384, 32768, 65536                    MSWA
//   moa    64 sinks, and 1024 and 1/16, 1/8, 1/4, 1/2 of the tokens, last ones  MoA
//   s2     the last 16 blocks of 64, and one block in eight                     S2-Attention
//   h2o    the last tenth, and the heaviest tenth, scattered                    H2O
#include <attend/attention/cached/decode_attention.hpp>
#include <attend/cache/evicting.hpp>
#include <attend/cache/head_policy.hpp>
#include <attend/cache/paged.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/head_windows.hpp>
#include <attend/select/eviction_policies.hpp>

#include <memory>
#include <numeric>
#include <vector>

#include "attention_benchmark.hpp"
#include "benchmarks.hpp"
#include "random_tensor.hpp"
#include "visible_pairs.hpp"

namespace attend_bench {
namespace {

using attend::extend::StorageElement;

/// A store that its sequences fill by turns: so the pages of each of them lie apart in the pool.
template <class T, class Store>
struct decode_tensors {
  random_tensor<T> query, output;
  Store store;

  decode_tensors(attention_shape const& s, Store&& empty, index_t tokens_of_turn)
      : query({s.batch, s.query_heads, s.queries, s.dimension}, 1),
        output({s.batch, s.query_heads, s.queries, s.dimension}, 2),
        store(std::move(empty)) {
    random_tensor<T> key({1, s.key_heads, tokens_of_turn, s.dimension}, 3),
        value({1, s.key_heads, tokens_of_turn, s.dimension}, 4);
    for (index_t first = 0; first < s.keys; first += tokens_of_turn)
      for (index_t sequence = 0; sequence < s.batch; ++sequence) store.append(sequence, key.view(), value.view());
  }
};

/// `kept` is the share of the tokens that the store keeps.
template <StorageElement Stored, class Tensors>
void add(std::string const& family, element_type type, attention_shape const& shape,
         std::function<std::shared_ptr<Tensors>()> make, double kept = 1) {
  double const pairs = kept * window_pairs(shape.queries, shape.keys, -1, 0);
  attention_benchmark what{family, type, shape, "causal", pairs, limit::bandwidth, {}};
  double const row_bytes = static_cast<double>(shape.dimension) * sizeof(Stored) / attend::extend::elements_in<Stored> +
                           (attend::extend::is_scaled<Stored> ? sizeof(float) : 0);
  what.bytes = kept * 2 * row_bytes * static_cast<double>(shape.batch * shape.key_heads * shape.keys);
  what.prepare = [make] {
    auto const call = [tensors = make()](auto const&... options) {
      attend::decode_attention(tensors->query.view(), tensors->store, tensors->output.view(), attend::causal{},
                               options...);
    };
    return attention_call{[=](attend::threads threads) { call(threads); },
                          [=](attend::threads threads, attend::options::tile_counts& counts) {
                            call(threads, attend::options::count_tiles(counts));
                          }};
  };
  register_attention(what, {1, 2});
}

attend::caches::cache_shape shape_of(attention_shape const& s) {
  return {s.batch, s.key_heads, s.dimension, s.dimension};
}

template <class T, StorageElement Stored>
void add_contiguous(char const* family, element_type type, attention_shape const& shape) {
  using store = attend::contiguous_cache<Stored>;
  using tensors = decode_tensors<T, store>;
  add<Stored, tensors>(family, type, shape,
                       [=] { return std::make_shared<tensors>(shape, store(shape_of(shape), shape.keys), 128); });
}

template <class T>
void add_paged(element_type type, attention_shape const& shape, index_t page_tokens) {
  using store = attend::paged_cache<T>;
  using tensors = decode_tensors<T, store>;
  attend::caches::paging const pool{.pages = shape.batch * shape.keys / page_tokens, .page_tokens = page_tokens};
  add<T, tensors>("decode/paged" + std::to_string(page_tokens), type, shape,
                  [=] { return std::make_shared<tensors>(shape, store(shape_of(shape), pool), page_tokens); });
}

template <class T>
void add_evicting(element_type type, attention_shape const& shape, index_t page_tokens) {
  using store = attend::caches::evicting_cache<T>;
  using tensors = decode_tensors<T, store>;
  attend::caches::paging const pool{.pages = shape.batch * shape.key_heads * shape.keys / page_tokens,
                                    .page_tokens = page_tokens};
  double const heads = static_cast<double>(shape.key_heads);
  add<T, tensors>(
      "decode/evicting" + std::to_string(page_tokens), type, shape,
      [=] {
        auto made = std::make_shared<tensors>(shape, store(shape_of(shape), pool), page_tokens);
        made->store.evict([=](auto const& tokens, std::span<bool> stays) {
          // Multiplying by an odd number turns each 8 tokens around; the division scatters them further.
          for (std::size_t i = 0; i < stays.size(); ++i)
            stays[i] = (tokens.position[i] * 5 + tokens.position[i] / shape.key_heads) % shape.key_heads <= tokens.head;
        });
        return made;
      },
      (heads + 1) / 2 / heads);
}

/// An evicting store after a policy has been applied to all tokens; `kept` is the share that it leaves.
template <class Policy>
void add_policy(char const* family, Policy const& policy, double kept) {
  attention_shape const shape{1, 32, 8, 1, 131072, 128};
  using store = attend::caches::evicting_cache<attend::bfloat16>;
  using tensors = decode_tensors<attend::bfloat16, store>;
  add<attend::bfloat16, tensors>(
      family, element_type::bf16, shape,
      [=] {
        index_t const page_tokens = 128;
        auto made = std::make_shared<tensors>(
            shape,
            store(shape_of(shape), {.pages = shape.key_heads * shape.keys / page_tokens, .page_tokens = page_tokens}),
            page_tokens);
        // A product with an odd number gives each token a score of its own.
        for (index_t head = 0; head < shape.key_heads; ++head)
          for (index_t row = 0; row < shape.keys;)
            for (float& score : made->store.scores(0, head, row)) score = static_cast<float>(row++ * 40503 % 65536);
        made->store.evict(policy);
        return made;
      },
      kept);
}

/// The share of `keys` tokens that windows of so many tokens leave, and as many sinks each.
double share_of(std::vector<index_t> const& windows, index_t sinks, index_t keys) {
  return static_cast<double>(std::accumulate(windows.begin(), windows.end(), index_t(0)) +
                             sinks * static_cast<index_t>(windows.size())) /
         static_cast<double>(keys * static_cast<index_t>(windows.size()));
}

void add_systems() {
  attention_shape const shape{1, 32, 8, 1, 131072, 128};
  index_t const keys = shape.keys;
  add_contiguous<attend::bfloat16, attend::bfloat16>("decode/dense", element_type::bf16, shape);

  using duo = attend::caches::head_policy_cache<attend::contiguous_cache<attend::bfloat16>,
                                                attend::rolling_cache<attend::bfloat16>>;
  using duo_tensors = decode_tensors<attend::bfloat16, duo>;
  add<attend::bfloat16, duo_tensors>(
      "decode/duo", element_type::bf16, shape,
      [=] {
        attend::caches::cache_shape const half_of_heads{1, 4, shape.dimension, shape.dimension};
        std::vector<std::int32_t> const kinds{0, 1, 0, 1, 0, 1, 0, 1};
        return std::make_shared<duo_tensors>(
            shape,
            duo(attend::contiguous_cache<attend::bfloat16>(half_of_heads, keys),
                attend::rolling_cache<attend::bfloat16>(half_of_heads, {128, 1024}, 128), kinds),
            128);
      },
      (1 + share_of({1024}, 128, keys)) / 2);

  static std::vector<index_t> const scales{8192, 8192, 16384, 16384, 32768, 32768, 65536, 65536};
  add_policy("decode/mswa", attend::caches::keep_window{.windows = scales}, share_of(scales, 0, keys));
  static std::vector<index_t> const spans = [=] {
    std::vector<index_t> all;
    for (index_t const part : {16, 16, 8, 8, 4, 4, 2, 2}) all.push_back(1024 + keys / part);
    return all;
  }();
  add_policy("decode/moa", attend::caches::keep_window{.sinks = 64, .windows = spans}, share_of(spans, 64, keys));

  attend::caches::keep_shard const shard{.settings = {.local = 16, .stride = 8}, .block = 64};
  index_t blocks = 0;
  for (index_t head = 0; head < shape.key_heads; ++head)
    for (index_t block = 0; block < keys / shard.block; ++block)
      blocks += shard.settings.shows(shape.key_heads, head, keys / shard.block, block);
  add_policy("decode/s2", shard,
             static_cast<double>(blocks * shard.block) / static_cast<double>(shape.key_heads * keys));
  add_policy("decode/h2o", attend::caches::keep_heaviest{.recent = keys / 10, .heaviest = keys / 10},
             static_cast<double>(2 * (keys / 10)) / static_cast<double>(keys));
}

}  // namespace

void register_decode() {
  // One query head for each key head, and four.
  for (index_t const query_heads : {8, 32}) {
    auto const shape = [=](index_t batch) { return attention_shape{batch, query_heads, 8, 1, 8192, 128}; };
    add_contiguous<float, float>("decode/contiguous", element_type::f32, shape(8));
    add_contiguous<attend::half, attend::half>("decode/contiguous", element_type::f16, shape(16));
    add_contiguous<attend::bfloat16, attend::bfloat16>("decode/contiguous", element_type::bf16, shape(16));
    add_contiguous<attend::bfloat16, std::int8_t>("decode/contiguous/int8", element_type::bf16, shape(32));
    add_contiguous<attend::bfloat16, attend::caches::int4_pair>("decode/contiguous/int4", element_type::bf16,
                                                                shape(64));
  }
  // A few tokens at once, as in speculative decoding. Sixteen are many enough for softmax_attention to choose the other
  // engine, where softmax/decode has the same shapes.
  add_contiguous<float, float>("decode/contiguous", element_type::f32, {8, 32, 8, 16, 8192, 128});
  for (index_t const queries : {2, 4, 16})
    add_contiguous<attend::bfloat16, attend::bfloat16>("decode/contiguous", element_type::bf16,
                                                       {16, 32, 8, queries, 8192, 128});
  for (index_t const page_tokens : {16, 128}) {
    add_paged<attend::bfloat16>(element_type::bf16, {16, 32, 8, 1, 8192, 128}, page_tokens);
    add_evicting<attend::bfloat16>(element_type::bf16, {16, 32, 8, 1, 8192, 128}, page_tokens);
  }
  add_systems();
}

}  // namespace attend_bench
