// SPDX-License-Identifier: BSD-3-Clause
// RetrievalAttention (decoding): the first and the last tokens, and for each query head the tokens that an index of the
// keys finds for its query.
//
//   W = first and last tokens; Omega_h = the k tokens between of largest q_h . k_j, as the index finds them
//   o = e^(l_W - l) o_W + e^(l_Omega - l) o_Omega,  l = ln(e^l_W + e^l_Omega)
//
// which is the softmax over both together. The index is flat and exact by default (select/flat_index.hpp): it reads all
// keys. The paper's is a graph that joins keys which the same queries looked for (select/projected_index.hpp); whatever
// has update(), search() and bytes() serves.
//
// Bytes of a step: what the index reads, the resident tokens once for the heads that share keys, and the retrieved
// tokens of each query head.
//
// Di Liu et al.: RetrievalAttention: Accelerating Long-Context LLM Inference via Vector Retrieval, 2024.
#pragma once

#include "../../core/head_loop.hpp"
#include "../../select/flat_index.hpp"
#include "../../select/selected_rows.hpp"
#include "../cached/decode_attention.hpp"
#include "../softmax/merge.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// Whether an option rotates keys as they are read, for places that are known from their positions.
template <class Option>
inline constexpr bool rotates_by_position =
    rotates_keys<std::remove_cvref_t<Option>> && !requires { requires !std::remove_cvref_t<Option>::reads_positions; };

}  // namespace detail

namespace systems {

/// Counts tokens, and they are taken as they are: the retrieved ones come on top of the resident ones.
struct retrieval_options {
  index_t first = 128, last = 512;  // resident tokens
  index_t tokens = 100;             // retrieved for each query
};

/// Finds the keys of largest product with an index: flat_index looks at all keys, projected_index and hnsw_index search
/// a graph.
///
///     retrieval_selector<> selector(shape, 32, 4096, {.first = 128, .last = 512, .tokens = 100});
///     selector.update(cache);
///     retrieval_attention(q, cache, selector, o);
template <class Index = flat_index>
class retrieval_selector {
 public:
  /// Takes memory for `capacity` tokens of each sequence. Throws argument_error where a number is negative or query
  /// heads are not a multiple of key-value heads.
  retrieval_selector(cache_shape const& shape, index_t query_heads, index_t capacity, retrieval_options const& choice,
                     Index index = {})
      : shape_(shape),
        query_heads_(detail::check_query_heads(query_heads, shape)),
        choice_(choice),
        capacity_(capacity),
        index_(std::move(index)),
        retrieved_(shape.sequences, query_heads, std::min(checked(choice.tokens), capacity)),
        resident_(
            shape.sequences, 1,
            std::min(std::min(checked(choice.first), capacity) + std::min(checked(choice.last), capacity), capacity)) {}

  Index const& index() const { return index_; }
  token_lists const& lists() const { return retrieved_; }
  token_lists const& resident() const { return resident_; }
  index_t bytes() const { return index_.bytes() + retrieved_.bytes() + resident_.bytes(); }

  template <KeyValueSource Cache, Executor E = serial>
  void update(Cache const& cache, E&& executor = {}) {
    index_.update(cache, executor);
  }

  template <TensorArgument Query, KeyValueSource Cache, Executor E = serial>
  void select(Query const& query, Cache const& cache, E&& executor = {}) {
    arithmetic_mode const arithmetic;
    using T = element_of_t<Query const>;
    using A = accumulation_t<T>;
    tensor_view<T const, 4> const q = raise<4>(view_of(query));
    detail::check_selecting_query(q, shape_, query_heads_);
    detail::check_extent("query", "tokens", q.extent(2), 1, "a decoding step");
    detail::check_all_tokens(cache, shape_, capacity_);
    detail::check_executor(executor);
    index_t const heads = shape_.key_value_heads, group = heads > 0 ? query_heads_ / heads : 0;
    // A search looks at a few thousand keys at most.
    index_t longest = 0;
    for (index_t s = 0; s < shape_.sequences; ++s) longest = std::max(longest, cache.size(s));
    detail::loop_cost const of_head =
        detail::loop_cost::of(2 * std::min<index_t>(longest, 4096) * group * shape_.key_dimension);
    detail::for_heads(executor, shape_.sequences, heads, of_head, [&](index_t s, index_t head) {
      index_t const size = cache.size(s);
      index_t const first = std::min(choice_.first, size), end = std::max(size - choice_.last, first);
      if (head == 0) resident_.assign(s, 0, size, first, {}, 1, size - end);
      scratch memory;
      A* const wide = memory.allocate<A>(group * q.extent(3) + 1);
      for (index_t i = 0; i < group; ++i)
        simd::widen_row(&q(s, head * group + i, 0, 0), wide + i * q.extent(3), q.extent(3));
      index_.search(
          cache, s, head, first, end, choice_.tokens, group, [&](index_t i) { return wide + i * q.extent(3); },
          [&](index_t i, std::span<std::int32_t const> found) {
            retrieved_.clear(s, head * group + i);
            for (index_t token : found) retrieved_.add(s, head * group + i, token, token + 1);
          });
    });
  }

 private:
  static index_t checked(index_t tokens) {
    if (tokens < 0) fail("choice", "expected at least 0 tokens, got ", tokens);
    return tokens;
  }

  cache_shape shape_;
  index_t query_heads_;
  retrieval_options choice_;
  index_t capacity_;
  Index index_;
  token_lists retrieved_, resident_;
};

/// Attends from query [sequence, query head, 1, key dimension] to resident and retrieved tokens of a cache that has the
/// query's token, and writes output [sequence, query head, 1, value dimension]. Options: scale (1/sqrt(key dimension)
/// unless given), rotary or rotary_places, for keys that lie unrotated and are looked for as they lie, and executor.
///
/// Throws argument_error, before the output is written, where shapes or an option do not fit.
///
///     retrieval_selector<> selector(shape, 32, 4096, {.first = 128, .last = 512, .tokens = 100});
///     selector.update(cache);
///     retrieval_attention(q, cache, selector, o);
template <TensorArgument Query, KeyValueSource Cache, class Index, TensorArgument Output, class... Options>
void retrieval_attention(Query const& query, Cache const& cache, retrieval_selector<Index>& selector, Output&& output,
                         Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  call::allows<option::scale, option::position, option::executor>::check<Options...>();
  static_assert(
      (... && (!detail::has_kind<option::position, Options> || detail::rotates_by_position<Options>)),
      "attend: of positions, retrieval_attention takes rotary, and rotary_places of which a rule knows positions: "
      "resident and retrieved rows are two lists, and the index looks for keys as they lie");
  tensor_view<T const, 4> const q = raise<4>(view_of(query));
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  call::cache_problem<T>(q, cache, o);
  detail::check_apart("output", o, "query", q);
  auto& executor = call::executor_of(options...);
  selector.select(q, cache, executor);
  scratch memory;
  index_t const rows = q.extent(0) * q.extent(1);
  partial_attention<T> parts[2] = {{o, tensor_view<A, 3>()}, {o, tensor_view<A, 3>()}};
  token_lists const* const lists[2] = {&selector.resident(), &selector.lists()};
  for (int i = 0; i < 2; ++i) {
    tensor_view<T, 4> const part(memory.allocate<T>(rows * o.extent(3) + 1), o.extents());
    tensor_view<A, 3> const log_sums(memory.allocate<A>(rows + 1), {q.extent(0), q.extent(1), 1});
    decode_attention(q, selected_rows(cache, *lists[i]), part, log_sum_exp(log_sums), options...);
    parts[i] = partial_attention<T>(part, log_sums);
  }
  merge(std::span<partial_attention<T> const>(parts), o, executor);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
