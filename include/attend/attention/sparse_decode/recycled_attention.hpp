// SPDX-License-Identifier: BSD-3-Clause
// Selections that are used again: by the following steps (Recycled Attention), or by the following layers (HyLRA).
//
//   full      o = attention to all tokens; I = the k tokens of largest weight, for the heads that share keys together
//   recycled  o = attention to I, where each token that came since has taken the place of the one of least weight
//
//   recycled_attention      a step is full: the first, every n-th, one whose query is no longer like that of the last
//                           full one, and one before which the cache was cut
//   hylra_attention   a layer is full where the policy says so, and the others take its list
//
// Nothing is dropped from the cache: what no full step looked at, a later one may find. When layers may share a list is
// found out beforehand, from how much their lists have in common and what errors that makes; here the caller says
// which.
//
// Bytes: of a full step all keys and values, and 8 of a weight for each query head and token; of another the chosen
// keys and values.
//
// Fangyuan Xu, Tanya Goyal, Eunsol Choi: Recycled Attention: Efficient inference for long-context language models,
// 2024; how the weights of a group are put together is left open there: they are summed. HyLRA: Hybrid Layer Reuse
// Attention for Efficient Long-Context Inference, 2026.
#pragma once

#include "../../select/query_likeness.hpp"
#include "../../select/weight_selector.hpp"
#include "selected_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Says when a step is full, which means that it attends to all tokens: the first step is, each `every`-th, those whose
/// query's cosine with that of the last full step is below `similarity` (at -1 no step is full for that reason), and
/// those for which a sequence has become shorter.
struct recycled_options {
  index_t every = 50;
  double similarity = -1;
};

/// Keeps the tokens of largest weight in the last full step. A is the accumulation type of queries and keys.
///
///     recycled_selector<float> selector(shape, 32, 4096, {.budget = {.tokens = 1024}}, {.every = 50});
///     recycled_attention(q, cache, selector, o);
template <class A = float>
class recycled_selector {
 public:
  /// Takes memory for `capacity` tokens of each sequence. Throws argument_error where an extent is negative, query
  /// heads are not a multiple of key-value heads, or the choice does not fit.
  recycled_selector(cache_shape const& shape, index_t query_heads, index_t capacity,
                    weight_selector_options const& choice, recycled_options const& when = {})
      : weights_(shape, query_heads, capacity, choice),
        when_(when),
        likeness_("recycled_selector", shape.sequences, query_heads, shape.key_dimension) {
    if (when.every < 1) fail("recycled_options", "expected a full step in at least 1, got ", when.every);
    if (std::isnan(when.similarity)) fail("recycled_options", "expected a similarity, got ", when.similarity);
  }

  token_lists const& lists() const { return weights_.lists(); }
  weight_selector<A>& weights() { return weights_; }
  index_t bytes() const { return weights_.bytes() + likeness_.bytes(); }

  /// Says whether this step is full, as it is where `must_be` says so, and counts from it if it is. It is asked once a
  /// step.
  template <Element T>
  bool begins_anew(tensor_view<T const, 4> const& query, bool must_be = false) {
    detail::check_selecting_query(query, weights_.shape(), weights_.query_heads());
    scratch memory;
    index_t const numbers = weights_.query_heads() * weights_.shape().key_dimension;
    A* const mean = memory.allocate<A>(numbers * query.extent(0) + 1);
    bool full = must_be || steps_ == 0 || steps_ >= when_.every;
    for (index_t s = 0; s < query.extent(0); ++s) {
      likeness_.mean(query, s, mean + s * numbers);
      full = full || !likeness_.alike(s, mean + s * numbers, when_.similarity);
    }
    if (full)
      for (index_t s = 0; s < query.extent(0); ++s) likeness_.keep(s, mean + s * numbers);
    steps_ = full ? 1 : steps_ + 1;
    return full;
  }

 private:
  weight_selector<A> weights_;
  recycled_options when_;
  detail::query_likeness<A> likeness_;
  index_t steps_ = 0;
};

}  // namespace systems

namespace detail {

/// Attention to all tokens, whose weights then say what the lists are.
template <class Query, class Cache, class A, class Output, class... Options>
void attend_and_choose(Query const& query, Cache const& cache, weight_selector<A>& selector, Output&& output,
                       Options&... options) {
  static_assert(!has_kind<option::weights, Options...>, "attend: the selector takes the weights");
  index_t const queries = raise<4>(view_of(query)).extent(2);
  decode_attention(query, cache, output, weights(selector.weights(cache, queries)), options...);
  selector.choose(cache, queries, call::executor_of(options...));
}

}  // namespace detail

namespace systems {

/// Makes one step: query [sequence, query head, 1, key dimension] attends to a cache that has its token, and output
/// [sequence, query head, 1, value dimension] is written. Options are those of decode_attention but for weights.
///
/// Throws argument_error, before the output is written, where shapes or options do not fit.
///
///     recycled_selector<float> selector(shape, 32, 4096, {.budget = {.tokens = 1024}}, {.every = 50});
///     recycled_attention(q, cache, selector, o);
template <TensorArgument Query, KeyValueSource Cache, class A, TensorArgument Output, class... Options>
void recycled_attention(Query const& query, Cache const& cache, recycled_selector<A>& selector, Output&& output,
                        Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  tensor_view<T const, 4> const q = raise<4>(view_of(query));
  // A step that is refused is not counted: all checks come before.
  call::decode_options::check<Options...>();
  auto problem = call::cache_problem<T>(q, cache, raise<4>(view_of(output)));
  scratch memory;
  call::plan_on_cache(problem, cache, padded_keys(call::lengths_in(cache, 0, memory)), options...);
  selector.weights().weights(cache, q.extent(2));
  if (selector.begins_anew(q, !selector.weights().follows(cache)))
    return detail::attend_and_choose(query, cache, selector.weights(), output, options...);
  selector.weights().follow(cache);
  decode_attention(query, selected_rows(cache, selector.lists()), output, options...);
}

/// Attends in one layer of a step. A full layer attends to all tokens and chooses the list; the others attend to that
/// list. All layers' caches have the same tokens. Shapes, options and errors are those of recycled_attention.
///
///     weight_selector<float> selector(shape, 32, 4096, {.budget = {.tokens = 2048}});
///     hylra_attention(q, cache, selector, true, o);
///     hylra_attention(q, cache, selector, false, o2);  // the next layer, with its own cache in a program
template <TensorArgument Query, KeyValueSource Cache, class A, TensorArgument Output, class... Options>
void hylra_attention(Query const& query, Cache const& cache, weight_selector<A>& selector, bool full_layer,
                     Output&& output, Options&&... options) {
  if (full_layer) return detail::attend_and_choose(query, cache, selector, output, options...);
  selector.follow(cache);
  decode_attention(query, selected_rows(cache, selector.lists()), output, options...);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
