// SPDX-License-Identifier: BSD-3-Clause
// Selects spans of tokens by the votes of all heads: spans that the weights of attention divide the sequence into, each
// represented by a few of its own keys.
//
//   observe   w_ij = mean over the query heads of exp(s q_i . k_j - L_i), for the tokens i, j of a block; when a block
//             is full, triangle_spans divides it
//   vectors   n = min(length, round(1 + (1 - confidence) (most - 1))) keys of each span: those of the tokens that get
//             the most weight from the tokens of the next span of the block; those of the last span vote themselves
//   select    v_s = sum over query heads h of weight_h * softmax over spans of (s q_h . k), the largest over the span's
//             vectors; of a span that was taken before at least persistence^steps times its vote then
//             list = first tokens, the spans of most votes that fit, last tokens and all that no span has yet
//
//   query          [sequence, query head, query, key dimension]   several vote by their mean
//   log_sum_exp    [sequence, query head, query]                  L, as attention from these queries wrote it
//
// All heads have one list. Spans do not cross the bounds of blocks: so they do not depend on how a sequence comes in
// pieces, but for what the attention to other lists changes in the weights.
//
// Memory: for `capacity` tokens at most most_vectors / shortest as many vectors of each key-value head, a map of one
// block, and the list. Cost: of a choice the bytes of the vectors, read once for the heads that share them; of
// observing a token its logits with the tokens of its block.
//
// Hongyin Tang et al.: Ltri-LLM: Streaming Long Context Inference for LLMs with Training-Free Dynamic Triangular
// Attention Pattern, 2024. From it are spans by triangles, fewer vectors where the confidence is high, vectors chosen
// by the votes of neighbouring spans, heads that vote, retrieval heads with more weight, and spans that stay candidates
// once they were retrieved. Its formulas could not be read; those above are this library's: which neighbours vote, what
// confidence is and how it becomes a number, that a head's votes are a softmax, and that an old vote fades.
#pragma once

#include <cmath>
#include <span>

#include "../../call/plan.hpp"
#include "../../select/page_selector.hpp"
#include "../../select/query_likeness.hpp"
#include "../../select/soft_votes.hpp"
#include "../../select/stored_scores.hpp"
#include "../../select/triangle_spans.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// The length of the list, how blocks of tokens are divided into spans, and how spans are chosen.
struct span_selector_options {
  /// The tokens of the list that one query sees; of several queries, those behind the first one are added. `each` does
  /// not apply, since there is one list.
  selection_budget budget = {};
  triangle_options triangles = {};
  /// The tokens whose weights to each other are looked at together.
  index_t block_tokens = 256;
  /// The vectors of a span whose tokens look only outside of it.
  index_t most_vectors = 4;
  /// What is left of the vote of a span that was taken, at the next choice: at 0.9 half of it after seven.
  double persistence = 0.9;
  /// The weight of each query head's votes, more for those that look far back (copy_scores finds them); or none: then
  /// they weigh the same. It is copied.
  std::span<float const> head_weights = {};
};

/// Chooses spans of a cache that keeps all tokens. S is the element type of the vectors.
///
///     span_selector<bfloat16> selector(shape, 32, 4096, {.budget = {.tokens = 2048, .first = 4, .last = 512}});
///     ltri_attention(cache, selector, q, k, v, o, 256);
template <Element S>
class span_selector {
 public:
  using A = accumulation_t<S>;

  /// Allocates all memory for a cache of this shape and up to `capacity` tokens of a sequence. Throws argument_error
  /// where an extent is negative, where query heads are not a multiple of key-value heads, or where an option is out of
  /// range.
  span_selector(cache_shape const& shape, index_t query_heads, index_t capacity, span_selector_options const& choice)
      : choice_(checked(choice, query_heads)),
        shape_(shape),
        query_heads_(detail::check_query_heads(query_heads, shape)),
        stride_(round_up(shape.key_dimension, simd::group_elements<S>)),
        most_spans_(divide_up(capacity, choice.block_tokens) * choice.triangles.most_spans(choice.block_tokens)),
        most_vectors_(most_spans_ * choice.most_vectors),
        lists_(shape.sequences, 1, capacity),
        vectors_(name, std::array{shape.sequences, shape.key_value_heads, most_vectors_, stride_}),
        token_(name, std::array{shape.sequences, most_vectors_}),
        spans_(name, std::array{shape.sequences, most_spans_}),
        map_(name, std::array{shape.sequences, choice.block_tokens, choice.block_tokens}),
        weights_(name, std::array{query_heads}),
        state_(name, std::array{shape.sequences}) {
    choice_.head_weights = {};
    std::fill_n(vectors_.data(), vectors_.size(), S(0));
    for (index_t head = 0; head < query_heads; ++head)
      weights_[head] = choice.head_weights.empty() ? 1 : choice.head_weights[static_cast<std::size_t>(head)];
    std::fill_n(state_.data(), state_.size(), sequence_state{});
  }

  token_lists const& lists() const { return lists_; }
  cache_shape const& shape() const { return shape_; }
  index_t query_heads() const { return query_heads_; }
  index_t capacity() const { return lists_.capacity(); }
  span_selector_options const& choice() const { return choice_; }
  /// The number of tokens of a sequence that were observed.
  index_t observed(index_t sequence) const { return state_[sequence].observed; }
  /// The spans of a sequence, whose tokens are one after the other from the first token on.
  index_t spans(index_t sequence) const { return state_[sequence].spans; }
  token_span span(index_t sequence, index_t number) const { return place(sequence, number).tokens; }
  /// The tokens whose keys represent a span, in ascending order.
  std::span<std::int32_t const> vectors(index_t sequence, index_t number) const {
    span_place const& at = place(sequence, number);
    return {token_.data() + sequence * most_vectors_ + at.vector, static_cast<std::size_t>(at.vectors)};
  }

  /// The size of the selector's memory in bytes, and the number of bytes of vectors that one selection reads.
  index_t bytes() const {
    return lists_.bytes() + vectors_.bytes() + token_.bytes() + spans_.bytes() + map_.bytes() + weights_.bytes() +
           state_.bytes();
  }
  index_t bytes_scored() const {
    index_t bytes = 0;
    for (index_t s = 0; s < shape_.sequences; ++s)
      bytes += vectors_of(s) * shape_.key_value_heads * stride_ * static_cast<index_t>(sizeof(S));
    return bytes;
  }

  /// Writes the list for query [sequence, query head, query, key dimension], of the tokens that were appended last.
  /// Throws argument_error where the query or the cache does not fit, or where fewer tokens are there than were
  /// observed.
  template <TensorArgument Query, KeyValueSource Cache, Executor E = serial>
  void select(Query const& query, Cache const& cache, E&& executor = {}) {
    arithmetic_mode const arithmetic;
    using T = element_of_t<Query const>;
    static_assert(std::same_as<accumulation_t<T>, A>, "attend: queries and vectors must have one accumulation type");
    tensor_view<T const, 4> const q = raise<4>(view_of(query));
    detail::check_selecting_query(q, shape_, query_heads_);
    detail::check_all_tokens(cache, shape_, lists_.capacity());
    detail::check_executor(executor);
    index_t longest = 0;
    for (index_t s = 0; s < shape_.sequences; ++s) {
      if (cache.size(s) < observed(s))
        fail("cache", "expected at least ", observed(s), " tokens (those observed), got ", cache.size(s));
      longest = std::max(longest, spans(s));
    }
    index_t const heads = shape_.key_value_heads;
    scratch memory;
    float* const votes = memory.allocate<float>(shape_.sequences * heads * longest + 1);
    detail::loop_cost const cost{
        static_cast<double>(bytes_scored()) * static_cast<double>(query_heads_ / std::max<index_t>(heads, 1)),
        static_cast<double>(bytes_scored())};
    detail::parallel_for(executor, shape_.sequences * heads, cost,
                         [&](index_t task) { vote(q, task / heads, task % heads, votes + task * longest); });
    for (index_t s = 0; s < shape_.sequences; ++s) {
      float* const sum = votes + s * heads * longest;
      for (index_t head = 1; head < heads; ++head)
        detail::combine_rows(sum, sum + head * longest, spans(s), [](auto const& a, auto const& b) { return a + b; });
      choose(s, cache.size(s), q.extent(2), sum);
    }
  }

  /// Looks at the weights of the tokens that were appended last: query and log_sum_exp are theirs, and shapes stand at
  /// the beginning of this file. Options are scale, which is that of attention, and an executor. Throws argument_error,
  /// before anything changes, where shapes do not fit, or where these tokens are not the next ones.
  template <TensorArgument Query, TensorArgument Rows, KeyValueSource Cache, class... Options>
  void observe(Query const& query, Rows const& log_sum_exp, Cache const& cache, Options&&... options) {
    arithmetic_mode const arithmetic;
    using T = element_of_t<Query const>;
    static_assert(std::same_as<accumulation_t<T>, A> &&
                      std::same_as<storage_accumulation_t<typename Cache::key_element>, A> &&
                      std::same_as<std::remove_const_t<element_of_t<Rows const>>, A>,
                  "attend: queries, keys, log_sum_exp and vectors must have one accumulation type");
    call::allows<option::scale, option::executor>::check<Options...>();
    tensor_view<T const, 4> const q = raise<4>(view_of(query));
    tensor_view<A const, 3> const lse = raise<3>(view_of(log_sum_exp));
    detail::check_selecting_query(q, shape_, query_heads_);
    detail::check_view("log_sum_exp", lse);
    detail::check_extent("log_sum_exp", "sequences", lse.extent(0), q.extent(0), "query");
    detail::check_extent("log_sum_exp", "heads", lse.extent(1), q.extent(1), "query");
    detail::check_extent("log_sum_exp", "tokens", lse.extent(2), q.extent(2), "query");
    check_next(cache, q.extent(2), 0);
    auto& executor = call::executor_of(options...);
    A const factor =
        detail::scale_or<A>(detail::usual_scale(shape_.key_dimension), options...) * static_cast<A>(log2_e);
    for (index_t s = 0; s < shape_.sequences; ++s)
      for (index_t first = 0; first < q.extent(2);) {
        index_t const left = choice_.block_tokens - observed(s) % choice_.block_tokens;
        index_t const count = std::min(left, q.extent(2) - first);
        add_rows(q, lse, cache, s, first, count, factor, executor);
        first += count;
        state_[s].observed += count;
        if (count == left) close_block(s, cache);
      }
  }

  /// Throws argument_error where a cache does not fit, which is to have `tokens` tokens of each sequence behind those
  /// that were observed when `more` of them have been appended to it.
  template <KeyValueSource Cache>
  void check_next(Cache const& cache, index_t tokens, index_t more) const {
    detail::check_all_tokens(cache, shape_, lists_.capacity());
    for (index_t s = 0; s < shape_.sequences; ++s) {
      if (more > lists_.capacity() - cache.size(s))
        fail("query", "expected at most ", lists_.capacity() - cache.size(s), " tokens (the selector's capacity), got ",
             more);
      if (cache.size(s) + more != observed(s) + tokens)
        fail("cache", "expected ", observed(s) + tokens - more, " tokens (sequence ", s, ", of which ", observed(s),
             " were observed), got ", cache.size(s));
    }
  }

  /// Divides the next block of a sequence by a map of weights [token, token] instead of weights that are observed.
  /// Throws argument_error, before anything changes, where the map is not of a block, where a block has been begun, or
  /// where the cache does not have its tokens.
  template <KeyValueSource Cache>
  void add_block(index_t sequence, tensor_view<float const, 2> const& weights, Cache const& cache) {
    arithmetic_mode const arithmetic;
    index_t const block = choice_.block_tokens;
    detail::check_sequence(sequence, shape_.sequences);
    detail::check_all_tokens(cache, shape_, lists_.capacity());
    detail::check_view("weights", weights);
    detail::check_extent("weights", "tokens", weights.extent(0), block, "a block");
    detail::check_extent("weights", "keys", weights.extent(1), block, "a block");
    if (observed(sequence) % block != 0 || cache.size(sequence) < observed(sequence) + block)
      fail("weights", "expected a whole block behind ", observed(sequence), " tokens of ", cache.size(sequence));
    for (index_t i = 0; i < block; ++i) std::copy_n(&weights(i, 0), i + 1, row_of_map(sequence, i));
    state_[sequence].observed += block;
    close_block(sequence, cache);
  }

  /// Forgets the tokens of a sequence from `size` on. Those before it whose block had been divided, and is then not
  /// full, count as tokens without weights when it is full again. Throws argument_error where fewer were observed.
  void truncate(index_t sequence, index_t size) {
    detail::check_sequence(sequence, shape_.sequences);
    sequence_state& state = state_[sequence];
    if (size < 0 || size > state.observed)
      fail("size", "expected from 0 to ", state.observed, " (the tokens observed), got ", size);
    index_t const block = choice_.block_tokens;
    if (size / block < state.observed / block) std::fill_n(row_of_map(sequence, 0), block * block, 0.f);
    while (state.spans > 0 && place(sequence, state.spans - 1).tokens.first >= size / block * block) --state.spans;
    state.observed = size;
  }

 private:
  static constexpr char const* name = "span_selector";

  /// A span, where its vectors are, and the vote with which it was taken, as far as it has not faded.
  struct span_place {
    token_span tokens;
    index_t vector, vectors;
    float vote;
  };
  struct sequence_state {
    index_t observed = 0, spans = 0;
  };

  static span_selector_options const& checked(span_selector_options const& choice, index_t query_heads) {
    choice.budget.check("budget", 1);
    choice.triangles.check("triangles");
    if (choice.block_tokens < choice.triangles.longest)
      fail("choice", "expected blocks of at least ", choice.triangles.longest, " tokens (the longest span), got ",
           choice.block_tokens);
    if (choice.most_vectors < 1) fail("choice", "expected at least 1 vector of a span, got ", choice.most_vectors);
    if (!(choice.persistence >= 0 && choice.persistence <= 1))
      fail("choice", "expected a persistence from 0 to 1, got ", choice.persistence);
    if (!choice.head_weights.empty())
      detail::check_extent("head_weights", "numbers", static_cast<index_t>(choice.head_weights.size()), query_heads,
                           "query heads");
    for (float const weight : choice.head_weights)
      if (!(weight >= 0) || !std::isfinite(weight))
        fail("head_weights", "expected numbers of at least 0, got ", weight);
    return choice;
  }

  span_place& place(index_t sequence, index_t number) { return spans_[sequence * most_spans_ + number]; }
  span_place const& place(index_t sequence, index_t number) const { return spans_[sequence * most_spans_ + number]; }
  float* row_of_map(index_t sequence, index_t row) {
    return map_.data() + (sequence * choice_.block_tokens + row) * choice_.block_tokens;
  }
  index_t vectors_of(index_t sequence) const {
    index_t const count = spans(sequence);
    return count == 0 ? 0 : place(sequence, count - 1).vector + place(sequence, count - 1).vectors;
  }
  /// The tokens of a sequence that are in spans.
  index_t divided(index_t sequence) const { return observed(sequence) / choice_.block_tokens * choice_.block_tokens; }
  S* vector(index_t sequence, index_t head, index_t number) {
    return vectors_.data() + ((sequence * shape_.key_value_heads + head) * most_vectors_ + number) * stride_;
  }

  /// Writes the votes of the query heads that share a key-value head.
  template <Element T>
  void vote(tensor_view<T const, 4> const& query, index_t sequence, index_t head, float* votes) {
    index_t const count = spans(sequence), vectors = vectors_of(sequence),
                  group = query_heads_ / shape_.key_value_heads;
    std::fill_n(votes, count, 0.f);
    if (count == 0 || group == 0 || query.extent(2) == 0) return;
    scratch memory;
    detail::row_queries<S> queries(memory, group, shape_.key_dimension);
    A* const mean = memory.allocate<A>(shape_.key_dimension + 1);
    auto const scale = static_cast<A>(detail::usual_scale(shape_.key_dimension));
    for (index_t i = 0; i < group; ++i) {
      detail::mean_query(query, sequence, head * group + i, mean);
      for (index_t c = 0; c < shape_.key_dimension; ++c) mean[c] *= scale;
      queries.set(i, mean);
    }
    float* const scores = memory.allocate<float>(group * vectors);
    float* const of_span = memory.allocate<float>(round_up(count, index_t{simd::width<float>}));
    queries.score({vector(sequence, head, 0), stride_, vectors, nullptr, 0, scores, vectors, false});
    for (index_t i = 0; i < group; ++i) {
      float const* score = scores + i * vectors;
      for (index_t number = 0; number < count; ++number) {
        float most = *score;
        index_t const own = place(sequence, number).vectors;
        for (index_t j = 1; j < own; ++j) most = score[j] > most ? score[j] : most;
        of_span[number] = most;
        score += own;
      }
      detail::add_soft_votes(of_span, count, weights_[head * group + i], votes);
    }
  }

  /// Writes the list of a sequence of `size` tokens, of which the last `queries` vote.
  void choose(index_t sequence, index_t size, index_t queries, float* votes) {
    selection_budget const& budget = choice_.budget;
    index_t const count = spans(sequence), further = std::max<index_t>(queries - 1, 0);
    index_t const first = std::min(budget.first, size),
                  end = std::max(std::min(size - further - budget.last, divided(sequence)), first);
    // Spans without tokens between the first and the last ones are not asked for.
    for (index_t number = 0; number < count; ++number) {
      span_place& at = place(sequence, number);
      at.vote *= static_cast<float>(choice_.persistence);
      bool const between = at.tokens.first < end && at.tokens.last > first;
      votes[number] = between ? std::max(votes[number], at.vote) : -1;
    }
    index_t left = budget.of(0, size) + further - first - (size - end);
    scratch memory;
    auto* const ranked = memory.allocate<std::int32_t>(count + 1);
    bool* const taken = memory.allocate<bool>(count + 1);
    std::fill_n(taken, count, false);
    // Two spans may reach into the first and the last tokens, and be as short as one token between them.
    index_t const most = std::max<index_t>(left, 0) / choice_.triangles.shortest + 2;
    index_t const found = top_k(votes, count, std::min(count, most), ranked, top_k_order::score);
    for (index_t i = 0; i < found && votes[ranked[i]] >= 0; ++i) {
      span_place& at = place(sequence, ranked[i]);
      left -= std::min(at.tokens.last, end) - std::max(at.tokens.first, first);
      if (left < 0) break;
      taken[ranked[i]] = true;
      at.vote = votes[ranked[i]];
    }
    lists_.clear(sequence, 0);
    lists_.add(sequence, 0, 0, first);
    for (index_t number = 0; number < count; ++number)
      if (taken[number]) lists_.add(sequence, 0, span(sequence, number).first, span(sequence, number).last);
    lists_.add(sequence, 0, end, size);
  }

  /// Writes the rows of the map for `count` tokens of one block, from query `first` on.
  template <Element T, class Cache, class E>
  void add_rows(tensor_view<T const, 4> const& query, tensor_view<A const, 3> const& lse, Cache const& cache,
                index_t sequence, index_t first, index_t count, A factor, E& executor) {
    index_t const heads = shape_.key_value_heads, group = heads > 0 ? query_heads_ / heads : 0;
    index_t const dimension = shape_.key_dimension, block = divided(sequence), row = observed(sequence) - block;
    if (group == 0) return;
    // So many queries share the reading of a key.
    index_t const together = std::max<index_t>(16 / group, 1), tasks = divide_up(count, together);
    double const pairs = static_cast<double>(count) * static_cast<double>(row + count) * static_cast<double>(group);
    detail::loop_cost const cost{pairs * static_cast<double>(heads * (2 * dimension + 30))};
    detail::parallel_for(executor, tasks, cost, [&](index_t task) {
      index_t const from = task * together, to = std::min(from + together, count), rows = (to - from) * group;
      index_t const keys = row + to, stride = round_up(keys, index_t{simd::width<float>});
      scratch memory;
      A* const packed = memory.allocate<A>(rows * dimension + 1);
      float* const scores = memory.allocate<float>(rows * stride);
      for (index_t i = from; i < to; ++i) std::fill_n(row_of_map(sequence, row + i), choice_.block_tokens, 0.f);
      for (index_t head = 0; head < heads; ++head) {
        for (index_t i = 0; i < rows; ++i) {
          A* const one = packed + i * dimension;
          simd::widen_row(&query(sequence, head * group + i % group, first + from + i / group, 0), one, dimension);
          for (index_t c = 0; c < dimension; ++c) one[c] *= factor;
        }
        detail::score_stored_keys(
            cache, sequence, head, block, block + keys, rows, [&](index_t i) { return packed + i * dimension; }, scores,
            stride, false);
        for (index_t i = 0; i < rows; ++i) {
          index_t const at = from + i / group;
          A const total = lse(sequence, head * group + i % group, first + at);
          if (std::isfinite(total))
            add_weights(scores + i * stride, row + at + 1, static_cast<float>(total * static_cast<A>(log2_e)),
                        row_of_map(sequence, row + at));
        }
      }
    });
  }

  /// Adds a head's share of the mean weights. A weight is at most 1, and one that is no number is 0.
  void add_weights(float const* score, index_t count, float total, float* to) const {
    using lanes = simd::vector<float>;
    lanes const shift(total), most(1 / static_cast<float>(query_heads_)), none(0.f), one(1.f);
    detail::combine_rows(to, score, count, [&](lanes const& sum, lanes const& x) {
      lanes const weight = simd::exp2<float>(x - shift);
      return sum + most * simd::select(weight == weight, simd::select(weight < one, weight, one), none);
    });
  }

  /// Divides the block that has become full into spans, and takes their vectors from the cache.
  template <class Cache>
  void close_block(index_t sequence, Cache const& cache) {
    index_t const tokens = choice_.block_tokens, begin = observed(sequence) - tokens;
    tensor_view<float const, 2> const map(row_of_map(sequence, 0), {tokens, tokens});
    scratch memory;
    auto* const found = memory.allocate<token_span>(choice_.triangles.most_spans(tokens));
    auto const room = static_cast<std::size_t>(choice_.triangles.most_spans(tokens));
    index_t const count = triangle_spans(map, choice_.triangles, {found, room});
    float* const votes = memory.allocate<float>(tokens);
    for (index_t number = 0; number < count; ++number) {
      token_span const& own = found[number];
      token_span const& voters = number + 1 < count ? found[number + 1] : own;
      std::fill_n(votes, own.last - own.first, 0.f);
      for (index_t i = voters.first; i < voters.last; ++i)
        for (index_t j = own.first; j < std::min(own.last, i + 1); ++j) votes[j - own.first] += map(i, j);
      index_t const vector = vectors_of(sequence);
      std::int32_t* const token = token_.data() + sequence * most_vectors_ + vector;
      index_t const vectors = top_k(votes, own.last - own.first, vectors_for(own.confidence), token);
      for (index_t i = 0; i < vectors; ++i) token[i] += static_cast<std::int32_t>(begin + own.first);
      place(sequence, state_[sequence].spans) = {
          {begin + own.first, begin + own.last, own.confidence}, vector, vectors, 0};
      ++state_[sequence].spans;
      copy_keys(cache, sequence, vector, vectors);
    }
  }

  index_t vectors_for(float confidence) const {
    // A confidence that is no number counts as none.
    double const sure = confidence > 0 ? std::min(static_cast<double>(confidence), 1.0) : 0;
    return std::lround(1 + (1 - sure) * static_cast<double>(choice_.most_vectors - 1));
  }

  template <class Cache>
  void copy_keys(Cache const& cache, index_t sequence, index_t first, index_t count) {
    scratch memory;
    A* const key = memory.allocate<A>(shape_.key_dimension + 1);
    for (index_t head = 0; head < shape_.key_value_heads; ++head)
      for (index_t i = first; i < first + count; ++i) {
        detail::read_key(cache.rows(sequence, head, token_[sequence * most_vectors_ + i]), 0, shape_.key_dimension,
                         key);
        detail::convert_row(key, shape_.key_dimension, vector(sequence, head, i));
      }
  }

  span_selector_options choice_;
  cache_shape shape_;
  index_t query_heads_, stride_, most_spans_, most_vectors_;
  token_lists lists_;
  detail::buffer<S> vectors_;
  detail::buffer<std::int32_t> token_;
  detail::buffer<span_place> spans_;
  detail::buffer<float> map_, weights_;
  detail::buffer<sequence_state> state_;
};

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
