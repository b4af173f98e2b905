// SPDX-License-Identifier: BSD-3-Clause
// Selects tokens by the weights that attention gave them, for later steps, or layers, that attend only to these tokens.
//
//   score[list][token] = the sum, or the largest, of the token's weights over the queries of the list
//   list = first tokens, the k tokens with the largest scores, last tokens
//
// The weights are those of a call of decode_attention with the option weights(selector.weights(cache, queries)). Lists
// then follow the sequence as it grows: new tokens are added, and the tokens with the smallest scores are removed, so
// that a list keeps its length.
//
// Memory: the weights, 4 bytes for each query head and token; two lists.
#pragma once

#include "../core/executor.hpp"
#include "../core/order.hpp"
#include "page_selector.hpp"

namespace attend::inline ATTEND_TARGET {

namespace selection {

/// The number of tokens of a list, which heads have a list, and how a token's score is computed.
struct weight_selector_options {
  /// The number of tokens of a list, including its first and last tokens, which need no score.
  selection_budget budget = {};
  list_of lists = list_of::key_value_head;
  /// Whether a score is the sum (score_of::mean, the default) of the weights of a list's queries, or the largest of
  /// them.
  score_of score = score_of::mean;
};

/// Chooses the tokens that had the largest weights in a step over all tokens, and keeps the choice. A is the
/// accumulation type.
///
///     weight_selector<float> selector(shape, 32, 4096, {.budget = {.tokens = 2048}});  // query heads, tokens
///     decode_attention(q, cache, o, weights(selector.weights(cache, 1)));
///     selector.choose(cache, 1);
///     decode_attention(q, selected_rows(cache, selector.lists()), o2);
template <class A = float>
class weight_selector {
 public:
  /// Allocates memory for calls with up to `queries` queries and `capacity` tokens of each sequence. Throws
  /// argument_error where an extent is negative, where query heads are not a multiple of key-value heads, or where the
  /// budget does not fit.
  weight_selector(cache_shape const& shape, index_t query_heads, index_t capacity,
                  weight_selector_options const& choice, index_t queries = 1)
      : shape_(shape),
        query_heads_(detail::check_query_heads(query_heads, shape)),
        queries_(queries),
        choice_(choice),
        weights_("weight_selector", std::array{shape.sequences, query_heads, queries, capacity}),
        lists_(shape.sequences, choice.lists == list_of::query_head ? query_heads : shape.key_value_heads, capacity),
        ranking_("weight_selector", std::array{shape.sequences, lists_.heads(), capacity}),
        ranks_("weight_selector", std::array{shape.sequences, lists_.heads()}),
        sizes_("weight_selector", std::array{shape.sequences}) {
    choice.budget.check("budget", lists_.heads());
    std::fill_n(ranks_.data(), ranks_.size(), 0);
    std::fill_n(sizes_.data(), sizes_.size(), 0);
  }

  token_lists const& lists() const { return lists_; }
  cache_shape const& shape() const { return shape_; }
  index_t query_heads() const { return query_heads_; }
  index_t bytes() const {
    return weights_.bytes() + lists_.bytes() + ranking_.bytes() + ranks_.bytes() + sizes_.bytes();
  }

  /// The tensor to which a call on this cache must write its weights, [sequence, query head, query, token]. Throws
  /// argument_error where the cache or the number of queries does not fit.
  template <KeyValueSource Cache>
  tensor_view<A, 4> weights(Cache const& cache, index_t queries) {
    detail::check_all_tokens(cache, shape_, lists_.capacity());
    index_t longest = 0;
    for (index_t s = 0; s < cache.sequences(); ++s) longest = std::max<index_t>(longest, cache.size(s));
    if (queries > queries_)
      extend::fail("query", "expected at most ", queries_, " tokens (the selector), got ", queries);
    index_t const capacity = lists_.capacity();
    return {weights_.data(),
            {shape_.sequences, query_heads_, queries, longest},
            {query_heads_ * queries_ * capacity, queries_ * capacity, capacity, 1}};
  }

  /// Writes the lists from the weights of that call. Throws argument_error where weights(cache, queries) would.
  template <KeyValueSource Cache, Executor E = serial>
  void choose(Cache const& cache, index_t queries, E&& executor = {}) {
    extend::arithmetic_mode const arithmetic;
    tensor_view<A, 4> const all = weights(cache, queries);
    detail::check_executor(executor);
    index_t const heads = lists_.heads(), rows = query_heads_ / std::max<index_t>(heads, 1) * queries;
    // Weights are added up, and then ranked, which takes about 40 operations for each token.
    double tokens = 0;
    for (index_t s = 0; s < shape_.sequences; ++s) tokens += static_cast<double>(cache.size(s));
    detail::loop_cost const cost{tokens * static_cast<double>(heads) * static_cast<double>(rows + 40)};
    detail::parallel_for(executor, shape_.sequences * heads, cost, [&](index_t task) {
      index_t const s = task / heads, list = task % heads, size = cache.size(s);
      selection_budget const& budget = choice_.budget;
      index_t const first = std::min(budget.first, size), end = std::max(size - budget.last, first);
      extend::scratch memory;
      float* const scores = memory.allocate<float>(end - first + 1);
      std::fill_n(scores, end - first, 0.f);
      for (index_t row = 0; row < rows; ++row) {
        A const* const from = &all(s, list * (rows / queries) + row / queries, row % queries, 0);
        for (index_t j = first; j < end; ++j) {
          float const weight = static_cast<float>(from[j]);
          float& score = scores[j - first];
          score = choice_.score == score_of::mean ? score + weight : std::max(score, weight);
        }
      }
      std::int32_t* const ranking = ranking_.data() + task * lists_.capacity();
      auto* const chosen = memory.allocate<std::int32_t>(end - first + 1);
      index_t const wanted = std::max<index_t>(budget.of(list, size) - first - (size - end), 0);
      index_t const count = top_k(scores, end - first, wanted, ranking, top_k_order::score);
      for (index_t i = 0; i < count; ++i) ranking[i] += static_cast<std::int32_t>(first);
      std::copy_n(ranking, count, chosen);
      std::sort(chosen, chosen + count, detail::ascending{});
      ranks_[task] = count;
      lists_.assign(s, list, size, first, {chosen, static_cast<std::size_t>(count)}, 1, size - end);
    });
    for (index_t s = 0; s < shape_.sequences; ++s) sizes_[s] = cache.size(s);
  }

  /// Whether follow() is possible: no sequence has become shorter since the last choice.
  template <KeyValueSource Cache>
  bool follows(Cache const& cache) const {
    for (index_t s = 0; s < shape_.sequences; ++s)
      if (cache.size(s) < sizes_[s]) return false;
    return true;
  }

  /// Adds the tokens that were appended to the cache since the last call of choose() or follow(), and removes the
  /// chosen token with the smallest score for each of them. Throws argument_error where the cache does not fit, or has
  /// fewer tokens than at that call.
  template <KeyValueSource Cache>
  void follow(Cache const& cache) {
    detail::check_all_tokens(cache, shape_, lists_.capacity());
    for (index_t s = 0; s < shape_.sequences; ++s)
      if (cache.size(s) < sizes_[s])
        extend::fail("cache", "expected at least ", sizes_[s], " tokens (of the last selection), got ", cache.size(s));
    for (index_t s = 0; s < shape_.sequences; ++s) {
      index_t const size = cache.size(s);
      for (index_t list = 0; list < lists_.heads(); ++list) {
        index_t const number = s * lists_.heads() + list;
        index_t const leave = std::min(size - sizes_[s], ranks_[number]);
        for (index_t i = 0; i < leave; ++i)
          lists_.erase(s, list, ranking_[number * lists_.capacity() + --ranks_[number]]);
        lists_.add(s, list, sizes_[s], size);
      }
      sizes_[s] = size;
    }
  }

 private:
  cache_shape shape_;
  index_t query_heads_, queries_;
  weight_selector_options choice_;
  detail::buffer<A> weights_;
  token_lists lists_;
  detail::buffer<std::int32_t> ranking_;
  detail::buffer<index_t> ranks_, sizes_;
};

}  // namespace selection

}  // namespace attend::inline ATTEND_TARGET
