// SPDX-License-Identifier: BSD-3-Clause
// Selective loading of values (Sigma's DiffQKV, decoding): all keys are scored, and the values of those keys alone are
// read that have the largest weights.
//
//   alpha_hj = softmax over all j of (scale * q_h . k_j)
//   S_h = the `tokens` keys of largest alpha_h,  o_h = sum over S_h of alpha_hj v_j
//
// The definition taken: each query head has its own S_h, and weights are those of the softmax over all keys, so that
// what is left out is left out, and not shared among the chosen. With the weights divided by their sum over S_h it is
// selected_attention with the same selector.
//
//   query  [sequence, query head, 1, key dimension]
//   output [sequence, query head, 1, value dimension]
//
// It is made of what is there: logits of stored keys, the k largest, decoding over the chosen rows, and gates of heads
// that hold the chosen keys' share of all weights. Logits are rounded to float, so in double a share has an error of
// 2^-24 times the largest logit.
//
// Bytes of a step: all keys, once for the query heads that share them, and the chosen keys and values of each query
// head (the chosen keys a second time, most of them from the cache).
//
// Zhenghao Lin et al.: Sigma: Differential Rescaling of Query, Key and Value for Efficient Language Models, 2025.
#pragma once

#include "../../core/head_loop.hpp"
#include "../../select/page_selector.hpp"
#include "../../select/selected_rows.hpp"
#include "../../select/stored_scores.hpp"
#include "../cached/decode_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Chooses for each query head the keys of largest weight, and computes their share of all weights. A is the
/// accumulation type of the queries.
///
///     largest_weights<float> selector(shape, 32, 4096, 100);  // query heads, capacity, tokens of a query head
///     selective_value_attention(q, cache, selector, o);
template <class A = float>
class largest_weights {
 public:
  /// Allocates memory for caches of this shape with up to `capacity` tokens in a sequence, and for `tokens` chosen ones
  /// for each query head. Throws argument_error where a number is negative or query heads are not a multiple of
  /// key-value heads.
  largest_weights(cache_shape const& shape, index_t query_heads, index_t capacity, index_t tokens)
      : shape_(shape),
        query_heads_(detail::check_query_heads(query_heads, shape)),
        capacity_(checked("capacity", capacity)),
        tokens_(checked("tokens", tokens)),
        lists_(shape.sequences, query_heads, std::min(tokens, capacity)),
        shares_("largest_weights", std::array{shape.sequences, query_heads}) {
    std::fill_n(shares_.data(), shares_.size(), A(0));
  }

  /// The chosen tokens of each query head, and their share of all weights, [sequence, query head].
  token_lists const& lists() const { return lists_; }
  tensor_view<A const, 2> shares() const { return {shares_.data(), {shape_.sequences, query_heads_}}; }
  index_t bytes() const { return lists_.bytes() + shares_.bytes(); }

  /// The bytes of keys that select() reads of a cache, and those of the values of the chosen tokens.
  template <KeyValueSource Cache>
  index_t bytes_of_keys(Cache const& cache) const {
    index_t tokens = 0;
    for (index_t s = 0; s < cache.sequences(); ++s) tokens += cache.size(s);
    return tokens * detail::key_heads_of(cache) * row_bytes<typename Cache::key_element>(cache.key_dimension());
  }
  template <KeyValueSource Cache>
  index_t bytes_of_values(Cache const& cache) const {
    index_t tokens = 0;
    for (index_t s = 0; s < shape_.sequences; ++s)
      for (index_t head = 0; head < query_heads_; ++head) tokens += lists_.size(s, head);
    return tokens * row_bytes<typename Cache::value_element>(cache.value_dimension());
  }

  /// Scores all keys for query [sequence, query head, 1, key dimension], and writes lists and shares. Throws
  /// argument_error where shapes do not fit, or where the cache has dropped tokens.
  template <TensorArgument Query, KeyValueSource Cache, Executor E = serial>
  void select(Query const& query, Cache const& cache, E&& executor = {}) {
    tensor_view<element_of_t<Query const> const, 4> const q = raise<4>(view_of(query));
    select(q, cache, static_cast<A>(detail::usual_scale(q.extent(3))), executor);
  }

  /// The same with another scale than 1/sqrt(key dimension).
  template <TensorArgument Query, KeyValueSource Cache, Executor E = serial>
  void select(Query const& query, Cache const& cache, A scale, E&& executor) {
    arithmetic_mode const arithmetic;
    using T = element_of_t<Query const>;
    static_assert(std::same_as<accumulation_t<T>, A>,
                  "attend: largest_weights<A> needs queries whose accumulation type is A");
    tensor_view<T const, 4> const q = raise<4>(view_of(query));
    detail::check_selecting_query(q, shape_, query_heads_);
    detail::check_extent("query", "tokens", q.extent(2), 1, "a decoding step");
    detail::check_finite("scale", static_cast<double>(scale));
    detail::check_all_tokens(cache, shape_, capacity_);
    detail::check_executor(executor);
    index_t const heads = detail::key_heads_of(cache), group = heads > 0 ? query_heads_ / heads : 0;
    index_t longest = 0;
    for (index_t s = 0; s < shape_.sequences; ++s) longest = std::max<index_t>(longest, cache.size(s));
    // Ranking and weighing take about 20 operations for each logit.
    detail::loop_cost const of_head = detail::loop_cost::of(longest * group * (2 * shape_.key_dimension + 20));
    detail::for_heads(executor, shape_.sequences, heads, of_head, [&](index_t s, index_t head) {
      index_t const size = cache.size(s), first = head * group, dimension = q.extent(3);
      index_t const stride = round_up(size, simd::width<float>);
      scratch memory;
      A* const scaled = memory.allocate<A>(group * dimension + 1);
      for (index_t i = 0; i < group; ++i) {
        A* const to = scaled + i * dimension;
        simd::widen_row(&q(s, first + i, 0, 0), to, dimension);
        for (index_t c = 0; c < dimension; ++c) to[c] *= scale;
      }
      float* const logits = memory.allocate<float>(group * stride + 1);
      auto* const chosen = memory.allocate<std::int32_t>(size + 1);
      detail::score_stored_keys(
          cache, s, head * detail::heads_of_key(cache), 0, size, group,
          [&](index_t i) { return scaled + i * dimension; }, logits, stride, false);
      for (index_t i = 0; i < group; ++i) {
        float* const own = logits + i * stride;
        index_t const count = top_k(own, size, std::min(tokens_, size), chosen);
        lists_.clear(s, first + i);
        for (index_t t = 0; t < count; ++t) lists_.add(s, first + i, chosen[t], chosen[t] + 1);
        shares_[s * query_heads_ + first + i] = share_of(own, size, {chosen, static_cast<std::size_t>(count)});
      }
    });
  }

 private:
  static index_t checked(char const* argument, index_t number) {
    if (number < 0) fail(argument, "expected at least 0 tokens, got ", number);
    return number;
  }

  template <StorageElement S>
  static index_t row_bytes(index_t dimension) {
    return detail::row_elements<S>(dimension) * static_cast<index_t>(sizeof(S)) +
           (is_scaled<S> ? static_cast<index_t>(sizeof(float)) : 0);
  }

  /// The sum of the chosen weights over that of all, of logits in whole vectors; the chosen ones hold the largest.
  static A share_of(float* logits, index_t count, std::span<std::int32_t const> chosen) {
    using namespace simd;
    using lanes = vector<float>;
    if (chosen.empty()) return 0;
    std::fill(logits + count, logits + round_up(count, width<float>), -infinity<float>);
    float largest = -infinity<float>;
    for (std::int32_t const token : chosen) largest = std::max(largest, logits[token]);
    auto const weight = [&](lanes const& x) {
      return exp2<float>((x - lanes(largest)) * lanes(static_cast<float>(extend::log2_e)));
    };
    // Sums of thousands of weights are in double: in float their error would grow with the number of keys.
    double all = 0, own = 0;
    alignas(64) float each[array_size(width<float>)];
    for (index_t j = 0; j < count; j += width<float>) {
      store(each, weight(load(logits + j)));
      for (float const one : each) all += static_cast<double>(one);
    }
    for (std::int32_t const token : chosen) {
      store(each, weight(lanes(logits[token])));
      own += static_cast<double>(each[0]);
    }
    return static_cast<A>(own / all);
  }

  cache_shape shape_;
  index_t query_heads_, capacity_, tokens_;
  token_lists lists_;
  detail::buffer<A> shares_;
};

/// Attends from the last token of each sequence, whose key the cache has, reading the values of the keys of largest
/// weight alone; shapes stand at the beginning of this file. Options: scale (1/sqrt(key dimension) unless given) and
/// executor.
///
/// Throws argument_error, before the output is written, where shapes or an option do not fit.
///
///     largest_weights<float> selector(shape, 32, 4096, 100);  // query heads, capacity, tokens of a query head
///     selective_value_attention(q, cache, selector, o, threads{8});
template <TensorArgument Query, KeyValueSource Cache, class A, TensorArgument Output, class... Options>
void selective_value_attention(Query const& query, Cache const& cache, largest_weights<A>& selector, Output&& output,
                               Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  call::allows<option::scale, option::executor>::check<Options...>();
  tensor_view<T const, 4> const q = raise<4>(view_of(query));
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  call::cache_problem<T>(q, cache, o);
  detail::check_apart("output", o, "query", q);
  auto& executor = call::executor_of(options...);
  A const factor = detail::scale_or<A>(detail::usual_scale(q.extent(3)), options...);
  selector.select(q, cache, factor, executor);
  decode_attention(q, selected_rows(cache, selector.lists()), o, scale(factor), head_gates(selector.shares()),
                   executor);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
