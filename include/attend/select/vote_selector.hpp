// SPDX-License-Identifier: BSD-3-Clause
// Selects tokens by soft votes of all heads, and uses the selection again as long as queries are similar.
//
//   middle = all tokens except the first and the last ones, which are in every list
//   a_h = softmax over the middle of (q_h . k_j)        without a scale; q_h is the mean over the queries of head h
//   c_j = sum_h a_hj, or the largest such sum of the neighbours of j within a window
//   T   = the k tokens with the largest c;  list = first tokens, T, last tokens: one for all heads
//
// T is used again while cos(q, q') >= the similarity, where q' is the query that chose T, and q and q' join all heads
// one after the other; no key is read then. Tokens that have left the last ones since T was chosen are not in the list
// before the next choice.
//
// Cost of a choice: the bytes of the keys, and temporarily 8 bytes of memory for each token and head. Cost of a step
// that uses T again: writing the list.
//
// In the paper, keys are cached without rotation, and queries and chosen keys are rotated for consecutive positions:
// the option `rotary` of selected_attention does that. Then queries vote without rotation. Without that option, on a
// cache of rotated keys, rotated queries vote. Queries of several tokens vote by their mean.
//
// Wei Wu et al.: TokenSelect: Efficient Long-Context Inference and Length Extrapolation for LLMs via Dynamic
// Token-Level KV Cache Selection, 2024.
#pragma once

#include "../core/executor.hpp"
#include "page_selector.hpp"
#include "query_likeness.hpp"
#include "soft_votes.hpp"
#include "stored_scores.hpp"

namespace attend::inline ATTEND_TARGET {

namespace selection {

/// The number of tokens of the list, how far votes reach, and when a selection is used again.
struct vote_selector_options {
  /// The number of tokens of the list, including its first and last tokens, which need no votes. `each` does not apply,
  /// since there is one list.
  selection_budget budget = {};
  /// An odd number: the vote of a token is the largest of the votes up to (neighbours - 1) / 2 tokens away.
  index_t neighbours = 1;
  /// A selection is used again where the cosine of the queries is at least this; above 1, it never is.
  double similarity = 0.9;
};

/// Chooses tokens by the votes of all query heads. A is the accumulation type of queries and keys.
///
///     vote_selector<float> selector(shape, 32, 4096, {.budget = {.tokens = 2048, .first = 128, .last = 512}});
///     selected_attention(q, cache, selector, o, rotary(rotary_frequencies(128)));
template <class A = float>
class vote_selector {
 public:
  /// Allocates memory for `capacity` tokens of each sequence. Throws argument_error where an extent is negative, where
  /// query heads are not a multiple of key-value heads, or where an option is out of range.
  vote_selector(cache_shape const& shape, index_t query_heads, index_t capacity, vote_selector_options const& choice)
      : shape_(shape),
        query_heads_(detail::check_query_heads(query_heads, shape)),
        choice_(choice),
        lists_(shape.sequences, 1, capacity),
        chosen_("vote_selector", std::array{shape.sequences, capacity}),
        kept_("vote_selector", std::array{shape.sequences}),
        likeness_("vote_selector", shape.sequences, query_heads, shape.key_dimension) {
    choice.budget.check("budget", 1);
    if (choice.neighbours < 1 || choice.neighbours % 2 == 0)
      extend::fail("choice", "expected an odd number of neighbours, got ", choice.neighbours);
    if (std::isnan(choice.similarity)) extend::fail("choice", "expected a similarity, got ", choice.similarity);
    std::fill_n(kept_.data(), kept_.size(), selection{});
  }

  token_lists const& lists() const { return lists_; }
  index_t bytes() const { return lists_.bytes() + chosen_.bytes() + kept_.bytes() + likeness_.bytes(); }
  /// Whether the latest selection of a sequence used that of an earlier query again.
  bool reused(index_t sequence) const { return kept_[sequence].reused; }
  /// The number of bytes of keys that the latest selections read: none where a selection was used again.
  index_t bytes_scored() const {
    index_t bytes = 0;
    for (index_t s = 0; s < shape_.sequences; ++s) bytes += kept_[s].reused ? 0 : kept_[s].bytes_scored;
    return bytes;
  }

  template <TensorArgument Query, KeyValueSource Cache, Executor E = serial>
  void select(Query const& query, Cache const& cache, E&& executor = {}) {
    extend::arithmetic_mode const arithmetic;
    using T = element_of_t<Query const>;
    static_assert(std::same_as<accumulation_t<T>, A> &&
                      std::same_as<extend::storage_accumulation_t<typename Cache::key_element>, A>,
                  "attend: queries, keys and the selector must have one accumulation type");
    tensor_view<T const, 4> const q = extend::raise<4>(view_of(query));
    detail::check_selecting_query(q, shape_, query_heads_);
    detail::check_all_tokens(cache, shape_, lists_.capacity());
    detail::check_executor(executor);
    for (index_t s = 0; s < shape_.sequences; ++s) select_for(q, cache, s, executor);
  }

 private:
  struct selection {
    index_t size = -1, count = 0, bytes_scored = 0;
    bool reused = false;
  };

  template <Element T, class Cache, class E>
  void select_for(tensor_view<T const, 4> const& query, Cache const& cache, index_t sequence, E& executor) {
    selection& kept = kept_[sequence];
    selection_budget const& budget = choice_.budget;
    index_t const size = cache.size(sequence);
    index_t const first = std::min(budget.first, size), end = std::max(size - budget.last, first);
    std::int32_t* const chosen = chosen_.data() + sequence * lists_.capacity();
    extend::scratch memory;
    A* const mean = memory.allocate<A>(query_heads_ * shape_.key_dimension);
    likeness_.mean(query, sequence, mean);
    kept.reused = kept.size >= 0 && kept.size <= size && likeness_.alike(sequence, mean, choice_.similarity);
    if (!kept.reused) {
      using Key = typename Cache::key_element;
      kept.size = size;
      kept.bytes_scored = shape_.key_value_heads * (end - first) *
                          extend::divide_up(shape_.key_dimension, extend::elements_in<Key>) *
                          static_cast<index_t>(sizeof(Key));
      likeness_.keep(sequence, mean);
      float* const votes = memory.allocate<float>(shape_.key_value_heads * (end - first) + 1);
      detail::loop_cost const cost{
          2.0 * static_cast<double>(query_heads_ * shape_.key_dimension) * static_cast<double>(end - first),
          static_cast<double>(kept.bytes_scored)};
      detail::parallel_for(executor, shape_.key_value_heads, cost, [&](index_t head) {
        vote(cache, sequence, head, first, end, mean, votes + head * (end - first));
      });
      for (index_t head = 1; head < shape_.key_value_heads; ++head)
        detail::combine_rows(votes, votes + head * (end - first), end - first,
                             [](auto const& a, auto const& b) { return a + b; });
      float const* counted = votes;
      if (choice_.neighbours > 1) counted = raised(votes, end - first, memory);
      index_t const wanted = budget.of(0, size) - first - (size - end);
      kept.count = top_k(counted, end - first, std::max<index_t>(wanted, 0), chosen);
      for (index_t i = 0; i < kept.count; ++i) chosen[i] += static_cast<std::int32_t>(first);
    }
    lists_.assign(sequence, 0, size, first, {chosen, static_cast<std::size_t>(kept.count)}, 1, size - end);
  }

  /// Adds the votes of the query heads that share a key-value head to `votes`.
  template <class Cache>
  void vote(Cache const& cache, index_t sequence, index_t head, index_t first, index_t end, A const* mean,
            float* votes) const {
    index_t const group = query_heads_ / shape_.key_value_heads, count = end - first;
    std::fill_n(votes, count, 0.f);
    if (count == 0) return;
    extend::scratch memory;
    index_t const stride = extend::round_up(count, index_t{simd::width<float>});
    float* const scores = memory.allocate<float>(group * stride);
    attend::detail::score_stored_keys(
        cache, sequence, head, first, end, group,
        [&](index_t i) { return mean + (head * group + i) * shape_.key_dimension; }, scores, stride, false);
    for (index_t i = 0; i < group; ++i) detail::add_soft_votes(scores + i * stride, count, 1, votes);
  }

  /// For each token, the largest of the votes within reach.
  float const* raised(float const* votes, index_t count, extend::scratch& memory) const {
    index_t const reach = (choice_.neighbours - 1) / 2;
    float* const to = memory.allocate<float>(count + 1);
    for (index_t j = 0; j < count; ++j)
      to[j] = *std::max_element(votes + std::max<index_t>(j - reach, 0), votes + std::min(j + reach + 1, count));
    return to;
  }

  cache_shape shape_;
  index_t query_heads_;
  vote_selector_options choice_;
  token_lists lists_;
  detail::buffer<std::int32_t> chosen_;
  detail::buffer<selection> kept_;
  detail::query_likeness<A> likeness_;
};

}  // namespace selection

}  // namespace attend::inline ATTEND_TARGET
