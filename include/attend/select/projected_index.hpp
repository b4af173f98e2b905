// SPDX-License-Identifier: BSD-3-Clause
// An approximate index of a cache's keys by inner product, projected from the prompt's queries: RetrievalAttention's.
//
//   search(query, first, last, k) = about the k tokens of [first, last) with the largest q . k_j
//
// build() makes a graph for each key-value head from queries like those that will be searched for: the prompt's
// (select/projected_graph.hpp). A search begins at the key that suits their mean best. Tokens that come behind those of
// the last build() are not in the graph, and a search reads their keys, all of them and exactly: after some thousands,
// build() again, with the queries of the meantime. Where all tokens of the range are wanted, nothing is searched.
//
// Cost of a search: the keys that it scores, which scored() tells, read in place, in the cache's type. Memory: 8 bytes
// for each key and 4 for each link: some ten links, since keys that no query looked for have a few bridges alone.
//
// Di Liu et al.: RetrievalAttention: Accelerating Long-Context LLM Inference via Vector Retrieval, 2024.
#pragma once

#include <utility>
#include <vector>

#include "../cache/row_memory.hpp"
#include "page_selector.hpp"
#include "projected_graph.hpp"

namespace attend::inline ATTEND_TARGET {

namespace selection {

/// An index of the keys of a cache that finds tokens approximately, by what earlier queries looked for.
///
///     projected_index index(shape, 4096);
///     index.build(cache, q, threads{8});  // q [sequence, query head, token, dimension], not only the last token's
///     retrieval_selector<projected_index> selector(shape, 32, 4096, {.tokens = 100}, std::move(index));
class projected_index {
 public:
  /// An index for caches of this shape, with up to `capacity` tokens in a sequence, that has no graph yet. A search
  /// keeps the best `beam` keys that it met, or as many as it asks for: wider beams find more. Throws argument_error
  /// for extents and numbers of bridges below 0, and for other settings below 1.
  projected_index(cache_shape const& shape, index_t capacity, index_t beam = 200,
                  projection_settings const& settings = {})
      : shape_(shape),
        capacity_(capacity),
        beam_(checked(beam)),
        settings_(settings),
        scored_("projected_index", std::array{shape.sequences, shape.key_value_heads}) {
    for (index_t extent : {shape.key_dimension, capacity})
      if (extent < 0) extend::fail("projected_index", "expected extents of at least 0, got ", extent);
    if (capacity > extend::token_limit)
      extend::fail("projected_index", "expected at most ", extend::token_limit, " tokens, got ", capacity);
    for (index_t number : {settings.nearest, settings.links, settings.building_beam})
      if (number < 1) extend::fail("projection_settings", "expected at least 1, got ", number);
    if (settings.bridges < 0)
      extend::fail("projection_settings", "expected at least 0 bridges, got ", settings.bridges);
    graphs_.resize(static_cast<std::size_t>(scored_.size()));
    std::fill_n(scored_.data(), scored_.size(), 0);
  }

  /// Sets the width of the beam. Throws argument_error for one below 1.
  void set_beam(index_t beam) { beam_ = checked(beam); }

  index_t bytes() const {
    index_t bytes = scored_.bytes();
    for (detail::key_graph const& graph : graphs_) bytes += graph.bytes();
    return bytes;
  }

  /// Makes the graphs of all tokens that the cache has, from query [sequence, query head, query, key dimension]. The
  /// time goes with queries times tokens: some ten thousand queries of a head suffice, which may be any of the
  /// prompt's. Throws argument_error, before anything is changed, where shapes do not fit or there is no query.
  template <TensorArgument Query, KeyValueSource Cache, Executor E = serial>
  void build(Cache const& cache, Query const& query, E&& executor = {}) {
    extend::arithmetic_mode const arithmetic;
    using T = element_of_t<Query const>;
    using A = extend::storage_accumulation_t<typename Cache::key_element>;
    static_assert(std::same_as<accumulation_t<T>, A>, "attend: queries and keys must have one accumulation type");
    tensor_view<T const, 4> const q = extend::raise<4>(view_of(query));
    detail::check_selecting_query(q, shape_, detail::check_query_heads(q.extent(1), shape_));
    if (q.extent(1) < 1 || q.extent(2) < 1) extend::fail("query", "expected at least one query, got none");
    check(cache);
    detail::check_executor(executor);
    index_t const heads = shape_.key_value_heads, group = q.extent(1) / heads, of_head = q.extent(2);
    std::vector<detail::key_graph> graphs(graphs_.size());
    detail::buffer<A> wide("query", std::array{group * of_head, shape_.key_dimension});
    auto const row = [&](index_t i) { return wide.data() + i * shape_.key_dimension; };
    for (index_t s = 0; s < shape_.sequences; ++s)
      for (index_t head = 0; head < heads; ++head) {
        if (cache.size(s) == 0) continue;
        for (index_t i = 0; i < group * of_head; ++i)
          simd::widen_row(&q(s, head * group + i / of_head, i % of_head, 0), row(i), shape_.key_dimension);
        graphs[static_cast<std::size_t>(s * heads + head)] =
            detail::graph_projection<Cache, decltype(row), std::remove_reference_t<E>>(cache, s, head, cache.size(s),
                                                                                       settings_, executor)
                .make(group * of_head, row);
      }
    graphs_ = std::move(graphs);
  }

  /// Checks that the cache still has the tokens of the graphs; others are taken as they are. Throws argument_error
  /// where it has another shape, fewer tokens than at the last build(), or more than `capacity`.
  template <KeyValueSource Cache, Executor E = serial>
  void update(Cache const& cache, E&& executor = {}) {
    check(cache);
    detail::check_executor(executor);
    for (index_t s = 0; s < shape_.sequences; ++s)
      for (index_t head = 0; head < shape_.key_value_heads; ++head)
        if (index_t const built = graph(s, head).tokens; cache.size(s) < built)
          extend::fail("cache", "expected at least ", built, " tokens (as the graph has), got ", cache.size(s));
  }

  /// How many keys the last search for this head has scored, for all its queries together.
  index_t scored(index_t sequence, index_t head) const { return scored_[sequence * shape_.key_value_heads + head]; }

  /// Searches as flat_index::search does. Throws argument_error where the cache has fewer tokens than at the last
  /// build(). Different heads may be searched at the same time.
  template <KeyValueSource Cache, class Query, class Found>
  void search(Cache const& cache, index_t sequence, index_t head, index_t first, index_t last, index_t k,
              index_t queries, Query const& query, Found const& found) {
    detail::key_graph const& of_head = graph(sequence, head);
    if (cache.size(sequence) < of_head.tokens)
      extend::fail("cache", "expected at least ", of_head.tokens, " tokens (as the graph has), got ",
                   cache.size(sequence));
    index_t& scored = scored_[sequence * shape_.key_value_heads + head] = 0;
    extend::scratch memory;
    extend::key_range const within = extend::intersection({first, last}, {0, of_head.tokens});
    index_t const behind = std::max(first, of_head.tokens), more = std::max<index_t>(last - behind, 0);
    index_t const wanted = std::min(k, last - first), width = std::max(beam_, k);
    auto* const tokens = memory.allocate<std::int32_t>(last - first + 1);
    if (wanted == last - first) {
      std::iota(tokens, tokens + wanted, static_cast<std::int32_t>(first));
      for (index_t i = 0; i < queries; ++i) found(i, std::span<std::int32_t const>(tokens, size_of(wanted)));
      return;
    }
    float* const scores_behind = memory.allocate<float>(queries * more + 1);
    detail::score_stored_keys(cache, sequence, head, behind, behind + more, queries, query, scores_behind, more, false);
    scored += queries * more;
    index_t const most = std::min(width, std::max<index_t>(within.count(), 0)) + more;
    float* const scores = memory.allocate<float>(most + 1);
    auto* const place = memory.allocate<std::int32_t>(most + 1);
    detail::graph_search graph_of(memory, of_head.tokens, of_head.most_links, within, width);
    detail::listed_scores<Cache> listed(memory, cache, sequence, head, of_head.most_links + 1);
    for (index_t i = 0; i < queries; ++i) {
      index_t count = 0;
      if (!within.empty() && wanted > 0) {
        listed.set_query(query(i));
        graph_of.run(
            of_head.entry, [&](index_t token) { return of_head.links(token); },
            [&](std::int32_t const* token, index_t number, float* to) { listed.score(token, number, to); });
        scored += graph_of.scored();
        for (auto const& entry : graph_of.beam())
          if (entry.counts) {
            scores[count] = entry.score;
            tokens[count++] = entry.token;
          }
      }
      std::copy_n(scores_behind + i * more, more, scores + count);
      std::iota(tokens + count, tokens + count + more, static_cast<std::int32_t>(behind));
      index_t const some = top_k(scores, count + more, wanted, place);
      for (index_t n = 0; n < some; ++n) place[n] = tokens[place[n]];
      std::sort(place, place + some, detail::ascending{});
      found(i, std::span<std::int32_t const>(place, size_of(some)));
    }
  }

 private:
  static index_t checked(index_t beam) {
    if (beam < 1) extend::fail("beam", "expected at least 1 key, got ", beam);
    return beam;
  }
  static std::size_t size_of(index_t count) { return static_cast<std::size_t>(count); }

  detail::key_graph const& graph(index_t sequence, index_t head) const {
    return graphs_[size_of(sequence * shape_.key_value_heads + head)];
  }

  template <KeyValueSource Cache>
  void check(Cache const& cache) const {
    detail::check_all_tokens(cache, shape_, capacity_);
  }

  cache_shape shape_;
  index_t capacity_, beam_;
  projection_settings settings_;
  std::vector<detail::key_graph> graphs_;
  detail::buffer<index_t> scored_;
};

}  // namespace selection

}  // namespace attend::inline ATTEND_TARGET
