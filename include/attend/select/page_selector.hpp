// SPDX-License-Identifier: BSD-3-Clause
// Selects the pages whose summaries have the highest scores for a query, and the first and last pages.
//
//   score[list][page] = mapped query . summary: the largest over the queries of the list, or that of their mean
//   list              = tokens of the first pages, of the k highest pages between them, and of the last pages
//
// The queries of a list are those of one query head, or those of all query heads that share a key-value head. Most
// papers define a list for each query head; with one list for the group, the keys of a page are read once for the whole
// group.
//
// Cost: each summary is read once for all heads of a group; O(pages) for the top-k; 4 bytes are written for each chosen
// token. (sequence, head) pairs are tasks for the executor, and the choice does not depend on the executor.
#pragma once

#include "page_summaries.hpp"
#include "token_lists.hpp"
#include "top_k.hpp"

namespace attend::inline ATTEND_TARGET {

namespace selection {

/// The heads that have a list each.
enum class list_of { query_head, key_value_head };
/// How a budget of tokens that is not a multiple of a page is rounded to pages.
enum class budget_rounding { up, down };
/// How the score of a list is computed from its queries: the largest of their scores, or the score of their mean.
enum class score_of { largest, mean };

/// The size of pages, the number of pages of a list, and how pages are scored.
///
///     page_selector_options const choice{.page_tokens = 16, .budget = {.tokens = 1024}, .last_pages = 1};
struct page_selector_options {
  index_t page_tokens = 16;
  /// The number of tokens of a list. The tokens that remain beside the first and last ones are chosen as whole pages,
  /// whose number is rounded as `rounding` says. A budget of all tokens chooses all pages.
  selection_budget budget = {};
  /// The numbers of first and of last pages of a sequence that are in every list; they count in the budget.
  index_t first_pages = 0, last_pages = 0;
  /// The minimum number of pages of a list, if the sequence has that many.
  index_t min_pages = 0;
  list_of lists = list_of::key_value_head;
  score_of score = score_of::largest;
  budget_rounding rounding = budget_rounding::up;
};

}  // namespace selection

namespace detail {

template <Element T>
void check_selecting_query(tensor_view<T const, 4> const& query, cache_shape const& shape, index_t query_heads) {
  check_view("query", query);
  check_extent("query", "sequences", query.extent(0), shape.sequences, "the selector");
  check_extent("query", "heads", query.extent(1), query_heads, "the selector");
  check_extent("query", "head dimension", query.extent(3), shape.key_dimension, "the selector");
}

inline index_t check_query_heads(index_t query_heads, cache_shape const& shape) {
  if (query_heads < 0 || (shape.key_value_heads == 0 ? query_heads != 0 : query_heads % shape.key_value_heads != 0))
    fail("query_heads", "expected a multiple of ", shape.key_value_heads, " (the key-value heads), got ", query_heads);
  return query_heads;
}

/// Checks that a cache has the selector's shape, and all of its tokens, in the rows of their positions: selectors that
/// read a cache's own keys require that.
template <KeyValueSource Cache>
void check_all_tokens(Cache const& cache, cache_shape const& shape, index_t capacity) {
  check_extent("cache", "sequences", cache.sequences(), shape.sequences, "the selector");
  check_extent("cache", "heads", cache.key_value_heads(), shape.key_value_heads, "the selector");
  check_extent("cache", "head dimension", cache.key_dimension(), shape.key_dimension, "the selector");
  for (index_t s = 0; s < shape.sequences; ++s) {
    if (cache.size(s) > capacity)
      fail("cache", "expected at most ", capacity, " tokens (the capacity), got ", cache.size(s));
    for (index_t head = 0; head < shape.key_value_heads; ++head)
      check_extent("cache", "stored tokens", cache.stored(s, head), cache.size(s), "appended");
  }
  check_readable(cache);
}

}  // namespace detail

namespace selection {

/// Chooses pages of a cache by their summaries. Kind is the kind of summary (select/page_kinds.hpp), S the element type
/// of the summaries.
///
///     page_selector<key_bounds, float> selector(shape, 32, 4096, {.budget = {.tokens = 1024}});
///     selector.update(cache);
///     selected_attention(q, cache, selector, o);
template <class Kind, Element S>
class page_selector {
 public:
  using A = accumulation_t<S>;

  /// Allocates all memory for a cache of this shape and up to `capacity` tokens of a sequence. Throws argument_error
  /// where an extent is negative, where query heads are not a multiple of key-value heads, or where an option is out of
  /// range.
  page_selector(cache_shape const& shape, index_t query_heads, index_t capacity, page_selector_options const& choice,
                Kind kind = {})
      : choice_(choice),
        query_heads_(detail::check_query_heads(query_heads, shape)),
        summaries_(shape, capacity, choice.page_tokens, std::move(kind)),
        lists_(shape.sequences, choice.lists == list_of::query_head ? query_heads : shape.key_value_heads, capacity) {
    choice.budget.check("budget", lists_.heads());
    if constexpr (requires { summaries_.kind().check_queries(query_heads); })
      summaries_.kind().check_queries(query_heads);
    for (index_t pages : {choice.first_pages, choice.last_pages, choice.min_pages})
      if (pages < 0) extend::fail("choice", "expected at least 0 pages, got ", pages);
  }

  page_summaries<Kind, S> const& summaries() const { return summaries_; }
  page_summaries<Kind, S>& summaries() { return summaries_; }
  token_lists const& lists() const { return lists_; }
  page_selector_options const& choice() const { return choice_; }

  /// The size of the selector's memory in bytes, and the number of bytes of summaries that one selection reads.
  index_t bytes() const { return summaries_.bytes() + lists_.bytes(); }
  index_t bytes_scored() const {
    index_t bytes = 0;
    for (index_t s = 0; s < summaries_.shape().sequences; ++s) bytes += summaries_.bytes_scored(s);
    return bytes;
  }

  /// Changes the budget of the following selections. Throws argument_error where it is out of range.
  void set_budget(selection_budget const& budget) {
    budget.check("budget", lists_.heads());
    choice_.budget = budget;
  }

  /// Writes the scores of all pages of a sequence by which a list is chosen, and returns their number; query is that of
  /// select. Throws argument_error where the query does not fit, or where there is no room.
  template <TensorArgument Query>
  index_t score_pages(Query const& query, index_t sequence, index_t list, std::span<float> to) const {
    extend::arithmetic_mode const arithmetic;
    using T = element_of_t<Query const>;
    static_assert(std::same_as<accumulation_t<T>, A>, "attend: queries and summaries must have one accumulation type");
    tensor_view<T const, 4> const q = extend::raise<4>(view_of(query));
    detail::check_selecting_query(q, summaries_.shape(), query_heads_);
    detail::check_sequence(sequence, summaries_.shape().sequences);
    if (list < 0 || list >= lists_.heads())
      extend::fail("list", "expected from 0 to ", lists_.heads() - 1, ", got ", list);
    index_t const pages = summaries_.pages(sequence), heads = summaries_.shape().key_value_heads;
    index_t const own_lists = lists_.heads() / heads, rows = query_heads_ / heads * q.extent(2);
    if (static_cast<index_t>(to.size()) < pages)
      extend::fail("to", "expected room for ", pages, " pages, got ", to.size());
    extend::scratch memory;
    float* const scores = memory.allocate<float>(std::max<index_t>(rows, 1) * pages + 1);
    std::fill_n(scores, std::max<index_t>(rows, 1) * pages, 0.f);
    score(q, sequence, list / own_lists, 0, pages, scores, own_lists, memory);
    std::copy_n(scores + list % own_lists * pages, pages, to.begin());
    return pages;
  }

  /// Adds the tokens that were appended to the cache since the last update; call it before every selection. Throws
  /// argument_error where the cache does not fit.
  template <KeyValueSource Cache, Executor E = serial>
  void update(Cache const& cache, E&& executor = {}) {
    summaries_.update(cache, executor);
  }
  /// Removes the tokens of a sequence from `size` on; call it before the cache removes them. Throws argument_error
  /// where there are fewer tokens.
  template <KeyValueSource Cache>
  void truncate(Cache const& cache, index_t sequence, index_t size) {
    summaries_.truncate(cache, sequence, size);
  }

  /// Writes the lists for query [sequence, query head, query, key dimension]. Throws argument_error where the query
  /// does not fit, or where the cache has other tokens than at the last update.
  template <TensorArgument Query, KeyValueSource Cache, Executor E = serial>
  void select(Query const& query, Cache const& cache, E&& executor = {}) {
    extend::arithmetic_mode const arithmetic;
    using T = element_of_t<Query const>;
    static_assert(std::same_as<accumulation_t<T>, A>, "attend: queries and summaries must have one accumulation type");
    tensor_view<T const, 4> const q = extend::raise<4>(view_of(query));
    cache_shape const& shape = summaries_.shape();
    detail::check_selecting_query(q, shape, query_heads_);
    detail::check_extent("cache", "sequences", cache.sequences(), shape.sequences, "the selector");
    for (index_t s = 0; s < shape.sequences; ++s)
      detail::check_extent("cache", "tokens", cache.size(s), summaries_.size(s), "the selector was told");
    detail::check_executor(executor);
    if constexpr (!summaries_type::reads_no_keys)
      detail::check_extent("cache", "heads", cache.key_value_heads(), shape.key_value_heads, "the selector");
    index_t const rows = shape.key_value_heads > 0 ? query_heads_ / shape.key_value_heads * q.extent(2) : 0;
    detail::loop_cost const cost{static_cast<double>(bytes_scored()) * static_cast<double>(rows),
                                 static_cast<double>(bytes_scored())};
    detail::parallel_for(executor, shape.sequences * shape.key_value_heads, cost, [&](index_t task) {
      select_for(q, task / shape.key_value_heads, task % shape.key_value_heads);
    });
  }

 private:
  template <Element T>
  void select_for(tensor_view<T const, 4> const& query, index_t sequence, index_t head) {
    cache_shape const& shape = summaries_.shape();
    index_t const group = query_heads_ / shape.key_value_heads, queries = query.extent(2), rows = group * queries;
    index_t const size = summaries_.size(sequence), pages = summaries_.pages(sequence), page = choice_.page_tokens;
    selection_budget const& budget = choice_.budget;
    index_t const first_pages = std::min(choice_.first_pages, pages), last_pages = std::min(choice_.last_pages, pages);
    index_t const forced = std::min(budget.first, size) + std::min(budget.last, size);
    // The pages [first, last) may be chosen: they have tokens that are not in every list.
    index_t const after = extend::divide_up(std::max<index_t>(size - budget.last, 0), page);
    index_t const first = std::min(std::max(first_pages, budget.first / page), pages);
    index_t const last = std::max(std::min(pages - last_pages, after), first);

    index_t const own_lists = choice_.lists == list_of::query_head ? group : 1;
    index_t const rows_of_list = own_lists > 0 ? rows / own_lists : 0;
    extend::scratch memory;
    float* const scores = memory.allocate<float>(std::max<index_t>(rows, 1) * (last - first) + 1);
    score(query, sequence, head, first, last, scores, own_lists, memory);
    auto* const chosen = memory.allocate<std::int32_t>(last - first + 1);
    for (index_t l = 0; l < own_lists; ++l) {
      index_t const list = head * own_lists + l;
      index_t const tokens = budget.of(list, size);
      // The first and last tokens may end within pages: where all tokens are wanted, all pages between are chosen,
      // whatever their number.
      index_t const left = std::max<index_t>(tokens - forced, 0);
      index_t const for_budget = choice_.rounding == budget_rounding::up ? extend::divide_up(left, page) : left / page;
      index_t const wanted =
          tokens == size ? last - first : std::max(for_budget, choice_.min_pages) - first_pages - last_pages;
      index_t const count =
          rows_of_list == 0 ? 0
                            : top_k(scores + l * (last - first), last - first, std::max<index_t>(wanted, 0), chosen);
      for (index_t i = 0; i < count; ++i) chosen[i] += static_cast<std::int32_t>(first);
      index_t const forced_pages_end = (pages - last_pages) * page;
      lists_.assign(sequence, list, size, std::min(std::max(budget.first, first_pages * page), size),
                    {chosen, static_cast<std::size_t>(count)}, page,
                    std::max(budget.last, size - std::min(forced_pages_end, size)));
    }
  }

  /// Writes the scores [list][page] of pages [first, last).
  template <Element T>
  void score(tensor_view<T const, 4> const& query, index_t sequence, index_t head, index_t first, index_t last,
             float* scores, index_t own_lists, extend::scratch& memory) const {
    index_t const queries = query.extent(2), dimension = query.extent(3), numbers = summaries_.numbers();
    index_t const group = query_heads_ / summaries_.shape().key_value_heads, rows = group * queries;
    if (rows == 0 || last == first) return;
    index_t const of_list = rows / own_lists, pages = last - first;
    bool const mean = choice_.score == score_of::mean;
    index_t const packed = mean ? own_lists : rows;
    detail::row_queries<S> to(memory, packed, numbers);
    A* const widened = memory.allocate<A>(dimension);
    A* const mapped = memory.allocate<A>(numbers);
    A* const sum = memory.allocate<A>(numbers);
    // The rows of a list are consecutive: query heads are the outer loop.
    for (index_t row = 0; row < rows; ++row) {
      index_t const query_head = head * group + row / queries;
      simd::widen_row(&query(sequence, query_head, row % queries, 0), widened, dimension);
      summaries_.kind().map_query(widened, dimension,
                                  {sequence, query_head, summaries_.size(sequence) - queries + row % queries}, mapped);
      if (!mean) {
        to.set(row, mapped);
        continue;
      }
      if (row % of_list == 0) std::fill_n(sum, numbers, A(0));
      for (index_t c = 0; c < numbers; ++c) sum[c] += mapped[c] / static_cast<A>(of_list);
      if ((row + 1) % of_list == 0) to.set(row / of_list, sum);
    }
    summaries_.score(sequence, head, first, last, to, scores, pages, packed > 1 && own_lists == 1);
    if (mean || own_lists == 1 || of_list == 1) return;
    for (index_t l = 0; l < own_lists; ++l)
      for (index_t p = 0; p < pages; ++p) {
        float most = scores[l * of_list * pages + p];
        for (index_t i = 1; i < of_list; ++i) {
          float const other = scores[(l * of_list + i) * pages + p];
          most = most > other ? most : other;
        }
        scores[l * pages + p] = most;
      }
  }

  using summaries_type = page_summaries<Kind, S>;

  page_selector_options choice_;
  index_t query_heads_;
  summaries_type summaries_;
  token_lists lists_;
};

}  // namespace selection

}  // namespace attend::inline ATTEND_TARGET
