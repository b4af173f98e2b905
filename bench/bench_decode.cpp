// SPDX-License-Identifier: BSD-3-Clause
// Decoding over stores of keys and values: one query against half a gigabyte of them, which no cache holds. Elements of
// the store come after its name; queries and outputs are bfloat16 for those with scales. Pages of a paged store lie
// apart. In an evicting store head h of 8 keeps (h + 1) / 8 of the tokens, scattered among all of them.
#include <attend/attention/cached/decode_attention.hpp>
#include <attend/cache/evicting.hpp>
#include <attend/cache/paged.hpp>
#include <attend/policy/mask/causal.hpp>

#include <memory>

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
}

}  // namespace attend_bench
