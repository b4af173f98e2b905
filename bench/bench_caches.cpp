// SPDX-License-Identifier: BSD-3-Clause
// Prefill of the last tokens of a few thousand through stores that are not in one piece, or not in the elements of the
// queries. Two sequences are filled by turns, a page or some tokens at a time, so that pages that follow each other in
// a sequence are apart in the pool.
#include <attend/attention/cached/cached_attention.hpp>
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

attend::caches::cache_shape shape_of(attention_shape const& s) {
  return {s.batch, s.key_heads, s.dimension, s.dimension};
}

/// Fills all sequences by turns.
template <class T, class Store>
void fill(Store& store, attention_shape const& s, index_t tokens_of_turn) {
  random_tensor<T> key({1, s.key_heads, tokens_of_turn, s.dimension}, 3),
      value({1, s.key_heads, tokens_of_turn, s.dimension}, 4);
  for (index_t first = 0; first < s.keys; first += tokens_of_turn)
    for (index_t sequence = 0; sequence < s.batch; ++sequence) store.append(sequence, key.view(), value.view());
}

template <class T, class Make>
void add(std::string const& family, element_type type, attention_shape const& shape, index_t tokens_of_turn,
         Make const& make) {
  using Store = decltype(make(shape));
  attention_benchmark what{
      family, type, shape, "causal", window_pairs(shape.queries, shape.keys, -1, 0), limit::arithmetic, {}};
  what.prepare = [=] {
    struct {
      random_tensor<T> query, output;
      Store store;
    } tensors{random_tensor<T>({shape.batch, shape.query_heads, shape.queries, shape.dimension}, 1),
              random_tensor<T>({shape.batch, shape.query_heads, shape.queries, shape.dimension}, 2), make(shape)};
    fill<T>(tensors.store, shape, tokens_of_turn);
    auto const kept = std::make_shared<decltype(tensors)>(std::move(tensors));
    auto const call = [kept](auto const&... options) {
      attend::softmax_attention(kept->query.view(), kept->store, kept->output.view(), attend::causal{}, options...);
    };
    return attention_call{[=](attend::threads threads) { call(threads); },
                          [=](attend::threads threads, attend::options::tile_counts& counts) {
                            call(threads, attend::options::count_tiles(counts));
                          }};
  };
  register_attention(what, {1, 2});
}

template <StorageElement Stored>
auto contiguous() {
  return [](attention_shape const& s) { return attend::contiguous_cache<Stored>(shape_of(s), s.keys); };
}
template <StorageElement Stored>
auto paged(index_t page_tokens) {
  return [=](attention_shape const& s) {
    index_t const pages = s.batch * attend::extend::divide_up(s.keys, page_tokens);
    return attend::paged_cache<Stored>(shape_of(s), {.pages = pages, .page_tokens = page_tokens, .max_tokens = s.keys});
  };
}

}  // namespace

void register_caches() {
  attention_shape const prefill{2, 8, 8, 512, 4096, 128};
  add<float>("cached_prefill/contiguous", element_type::f32, prefill, 128, contiguous<float>());
  add<float>("cached_prefill/paged16", element_type::f32, prefill, 16, paged<float>(16));
  add<float>("cached_prefill/paged128", element_type::f32, prefill, 128, paged<float>(128));
  add<float>("cached_prefill/int8", element_type::f32, prefill, 128, contiguous<std::int8_t>());
  add<float>("cached_prefill/int4", element_type::f32, prefill, 128, contiguous<attend::caches::int4_pair>());
}

}  // namespace attend_bench
