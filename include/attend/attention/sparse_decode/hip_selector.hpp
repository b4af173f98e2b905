// SPDX-License-Identifier: BSD-3-Clause
// HiP (decoding): HiP attention's tree search over the keys of a cache, whose result serves several steps.
//
//   sinks    the first blocks of keys
//   window   the block of the step's first query, `local` blocks before it, and all tokens behind
//   found    of the blocks between, those that select/interval_search.hpp finds for the step's queries, by hip_form
//   list     {sinks, found, window}, one for each key-value head by the queries of all its query heads, or one for each
//            query head
//
// A search is made in the first step, in each `every`-th, in the first after refresh(), and where a sequence has become
// shorter. The steps between take the blocks that it found, and the window from where it began then: whatever came
// since is seen, so that the window grows until the next search. A block of a prompt is a step of several queries: with
// causal{} as an option, chunks that are appended and attended to one by one are HiP's prefill over any cache.
//
// Cost of a search: log2(blocks / m) rounds with 2 m keys each (m where first tokens stand for halves, and m blocks
// where first blocks do), gathered from anywhere and read once for all queries of a list; of another step the list
// alone.
//
// Heejun Lee et al.: HiP Attention: Sparse Sub-Quadratic Attention with Hierarchical Attention Pruning, 2024.
#pragma once

#include "../../select/interval_search.hpp"
#include "../../select/page_selector.hpp"
#include "../../select/stored_scores.hpp"
#include "selected_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Says how many tokens a block of keys has, how many blocks a list has of those that the search finds, the local ones
/// before a query's own, and the first ones, what stands for an interval, and which heads have a list of their own. A
/// search is made in each `every`-th step.
struct hip_selector_options {
  index_t block_tokens = 64;
  index_t blocks = 16;
  index_t local = 1;
  index_t sinks = 1;
  hip_form form = hip_form::middle_token;
  index_t every = 1;
  list_of lists = list_of::key_value_head;
};

/// Chooses blocks of a cache by HiP's search. A is the accumulation type of queries and keys. The cache has all of its
/// tokens: one that drops some is refused.
///
///     hip_selector<float> selector(shape, 32, 4096, {.blocks = 16, .every = 4});
///     selected_attention(q, cache, selector, o);
template <class A = float>
class hip_selector {
 public:
  /// Takes memory for `capacity` tokens of each sequence. Throws argument_error where an extent is negative, query
  /// heads are not a multiple of key-value heads, or a setting is out of range.
  hip_selector(cache_shape const& shape, index_t query_heads, index_t capacity, hip_selector_options const& settings)
      : shape_(shape),
        query_heads_(detail::check_query_heads(query_heads, shape)),
        settings_(checked(settings, capacity)),
        lists_(shape.sequences, settings.lists == list_of::query_head ? query_heads : shape.key_value_heads, capacity),
        found_("hip_selector", std::array{shape.sequences, lists_.heads(), settings_.blocks}),
        of_list_("hip_selector", std::array{shape.sequences, lists_.heads()}),
        of_sequence_("hip_selector", std::array{shape.sequences}) {}

  token_lists const& lists() const { return lists_; }
  hip_selector_options const& settings() const { return settings_; }
  index_t bytes() const { return lists_.bytes() + found_.bytes() + of_list_.bytes() + of_sequence_.bytes(); }
  /// Gives the number of bytes of keys that the latest step scored: none where it made no search.
  index_t bytes_scored() const { return searched_ ? bytes_scored_ : 0; }
  /// Says whether the latest step made a search.
  bool searched() const { return searched_; }
  /// Lets the next step make a search, as it must where a sequence was cut and has grown again since the last step.
  void refresh() { steps_ = 0; }

  /// Writes the lists for query [sequence, query head, query, key dimension], the last tokens of the cache's sequences.
  ///
  /// Throws argument_error where the query or the cache does not fit; the selector is as it was then.
  template <TensorArgument Query, KeyValueSource Cache, Executor E = serial>
  void select(Query const& query, Cache const& cache, E&& executor = {}) {
    arithmetic_mode const arithmetic;
    using T = element_of_t<Query const>;
    using Key = typename Cache::key_element;
    static_assert(std::same_as<accumulation_t<T>, A> && std::same_as<storage_accumulation_t<Key>, A>,
                  "attend: queries, keys and the selector must have one accumulation type");
    tensor_view<T const, 4> const q = raise<4>(view_of(query));
    detail::check_selecting_query(q, shape_, query_heads_);
    detail::check_all_tokens(cache, shape_, lists_.capacity());
    detail::check_executor(executor);
    bool search = steps_ == 0 || steps_ >= settings_.every;
    for (index_t s = 0; s < shape_.sequences; ++s) search = search || cache.size(s) < of_sequence_[s].size;
    index_t const steps = search ? 1 : steps_ + 1;
    // Where a search is not finished, the next step makes one.
    steps_ = 0;
    for (index_t s = 0; s < shape_.sequences; ++s) {
      sequence_state& state = of_sequence_[s];
      state.size = cache.size(s);
      if (!search) continue;
      index_t const own = std::max<index_t>(state.size - q.extent(2), 0) / settings_.block_tokens;
      state.window = std::max<index_t>(own - settings_.local, 0);
      state.sinks = std::min(settings_.sinks, state.window);
    }
    index_t const rows = lists_.heads() > 0 ? query_heads_ / lists_.heads() * q.extent(2) : 0;
    double const numbers = static_cast<double>(search ? most_scored() * shape_.key_dimension : lists_.capacity());
    detail::parallel_for(executor, shape_.sequences * lists_.heads(),
                         detail::loop_cost{2 * numbers * static_cast<double>(std::max<index_t>(rows, 1)), numbers},
                         [&](index_t task) {
                           index_t const s = task / lists_.heads(), list = task % lists_.heads();
                           if (search) find(q, cache, s, list);
                           write(s, list);
                         });
    searched_ = search;
    if (search) {
      bytes_scored_ = 0;
      index_t const of_key = divide_up(shape_.key_dimension, elements_in<Key>) * static_cast<index_t>(sizeof(Key));
      for (index_t i = 0; i < of_list_.size(); ++i) bytes_scored_ += of_list_[i].tokens_scored * of_key;
    }
    steps_ = steps;
  }

 private:
  struct list_state {
    index_t found, tokens_scored;
  };
  struct sequence_state {
    index_t size, window, sinks;  // the last two in blocks, at the last search
  };

  static hip_selector_options checked(hip_selector_options settings, index_t capacity) {
    if (settings.block_tokens < 1 || settings.block_tokens >= token_limit)
      fail("hip_selector_options", "expected blocks of 1 to ", token_limit - 1, " tokens, got ", settings.block_tokens);
    for (index_t count : {settings.blocks, settings.local, settings.sinks})
      if (count < 0 || count >= token_limit)
        fail("hip_selector_options", "expected 0 to ", token_limit - 1, " blocks, got ", count);
    if (settings.every < 1) fail("hip_selector_options", "expected a search in at least 1 step, got ", settings.every);
    settings.blocks = std::min(settings.blocks, divide_up(std::max<index_t>(capacity, 0), settings.block_tokens));
    return settings;
  }

  /// The keys of a search for one list, about.
  index_t most_scored() const {
    index_t const blocks = divide_up(lists_.capacity(), settings_.block_tokens);
    index_t const rounds = std::bit_width(static_cast<std::size_t>(blocks / std::max<index_t>(settings_.blocks, 1)));
    return 2 * settings_.blocks * rounds;
  }

  template <Element T, class Cache>
  void find(tensor_view<T const, 4> const& query, Cache const& cache, index_t sequence, index_t list) {
    index_t const heads = query_heads_ / lists_.heads(), stride = detail::interval_search::query_stride(settings_.form);
    index_t const queries = divide_up(query.extent(2), stride), rows = heads * queries;
    index_t const dimension = shape_.key_dimension;
    scratch memory;
    A* const widened = memory.allocate<A>(rows * dimension + 1);
    for (index_t row = 0; row < rows; ++row)
      simd::widen_row(&query(sequence, list * heads + row / queries, row % queries * stride, 0),
                      widened + row * dimension, dimension);
    auto const row = [&](index_t i) { return widened + i * dimension; };
    detail::stored_scores<Cache, decltype(row)> scores(memory, cache, sequence,
                                                       list * shape_.key_value_heads / lists_.heads(), rows, row);
    detail::interval_search search(settings_.form, settings_.blocks, settings_.block_tokens, memory);
    sequence_state const& state = of_sequence_[sequence];
    auto const found = search.find(state.sinks, state.window, [&](std::span<std::int32_t const> tokens, float* to) {
      scores.score_listed(tokens, to);
    });
    index_t const number = sequence * lists_.heads() + list;
    std::copy(found.begin(), found.end(), found_.data() + number * settings_.blocks);
    of_list_[number] = {static_cast<index_t>(found.size()), search.tokens_scored()};
  }

  void write(index_t sequence, index_t list) {
    index_t const number = sequence * lists_.heads() + list, block = settings_.block_tokens;
    sequence_state const& state = of_sequence_[sequence];
    lists_.assign(sequence, list, state.size, state.sinks * block,
                  {found_.data() + number * settings_.blocks, static_cast<std::size_t>(of_list_[number].found)}, block,
                  state.size - state.window * block);
  }

  cache_shape shape_;
  index_t query_heads_;
  hip_selector_options settings_;
  token_lists lists_;
  detail::buffer<std::int32_t> found_;  // [sequence][list][block], of the last search
  detail::buffer<list_state> of_list_;
  detail::buffer<sequence_state> of_sequence_;
  index_t steps_ = 0, bytes_scored_ = 0;  // since the last search, and of it
  bool searched_ = false;
};

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
