// SPDX-License-Identifier: BSD-3-Clause
// What a feature map is: what linear attention puts in the place of the softmax's kernel,
//
//   exp(q . k)  ->  phi(q) . phi(k)
//
// A feature map turns the rows of some tokens into rows of features, a chunk at a time, so that the features of a whole
// sequence never exist:
//
//   features(dimension)        how many features a row of that dimension has
//   check(shape)               throws argument_error for what does not fit
//   fill(rows, to, stride)     to[i * stride + f] = phi(rows, i)_f, for all i in [0, rows.count) and features f
//
// `rows` says whether they are queries or keys, and where they stand, for maps that treat them differently. Rows of
// `to` are aligned and have room for whole vectors; what is past the features must be left, or made, 0. A map that
// works on each element alone is an `elementwise_features` of a function of vectors.
//
// A map that has a gradient (linear_attention_backward) says its derivative:
//
//   pull(rows, of_features, stride, to, to_stride)   to_i = (d phi / d x)(rows, i)^T of_features_i, where row i of the
//                                                    features' gradients is at of_features + i * stride
//
// A map that treats a key differently for each query head that shares it says so by own_states(shape): the states are
// then as many as the query heads.
//
// A map whose products are a function of a smaller product can say so, and products within a chunk then cost only that:
//
//   prepare(rows, to, stride)          rows of the tensor's dimension
//   fill_prepared(rows, to, stride)    the features of such rows
//   kernel(product, dimension)         phi(x) . phi(y) for vectors of products of two prepared rows
//
// What a map makes of a token may depend on the tokens before it: it follows the sequence. Such a map has, in place of
// check and fill,
//
//   check(shape, causal)       throws argument_error for what does not fit
//   open(sequence, memory)     a walk along one head's tokens, for one task: `sequence` is a followed_sequence
//   sums_keys, resumes         whether a sum of keys is a part of the state; whether a call may take and give states
//
// A walk is features, decay and update at once. It is asked for each chunk's keys first, chunk after chunk, then for
// the logarithms and rates of the same tokens, then for the queries that stand there: the causal call's; otherwise for
// all queries after all keys.
//
// Where a walk of a call that is not causal needs sums over all tokens before the first of them, the map says how they
// are made, and open(sequence, totals, memory) is given them, or null where the call is causal:
//
//   totals_of<A>                     sums of one head, all 0 when made from (memory, dimension); to.join(round, part)
//                                    adds those that a round has made of further tokens
//   rounds                           how often the tokens are gone through: a round may use the sums of those before it
//   asks(round, side)                whether a round goes through the queries, or keys
//   add(round, rows, known, to)      adds some tokens of one side to the sums `to`
#pragma once

#include "../../core/options.hpp"
#include "../../simd/convert.hpp"
#include "../../simd/math.hpp"
#include "../../simd/transform_row.hpp"
#include "../state/state_shape.hpp"

namespace attend::inline ATTEND_TARGET {

namespace extend {

enum class token_side { query, key };

/// Some tokens' rows of one head, in the accumulation type: row i at data + i * stride. The first of them is token
/// `first` of its tensor; `head` is the tensor's own. `owner`, of `owners`, is the head of the state that keys are
/// written to, or of the output that queries answer for.
template <class A>
struct token_rows {
  A const* data;
  index_t stride, count, dimension;
  token_side side;
  index_t batch, head, first;
  index_t position;  // of the first: that of a key is its token, and the last query stands at the last key
  index_t owner = 0, owners = 1;

  A const* row(index_t i) const { return data + i * stride; }
};

}  // namespace extend

namespace extend {

/// One head of a call, for a map that follows it: its rows as the tensors have them, row i at query + i * query_stride.
template <Element T>
struct followed_sequence {
  using element = T;

  T const *query, *key;
  index_t query_stride, key_stride, queries, keys, dimension, features;
  bool causal;
  index_t max_tokens;                    // of a chunk
  accumulation_t<T> const* initial_sum;  // [feature], or null: nothing came before
  accumulation_t<T>* final_sum;          // [feature], or null: nobody asks for it
};

}  // namespace extend

namespace detail {

template <class F>
concept HasFeatures = requires(F const& map, index_t dimension) {
  { map.features(dimension) } -> std::convertible_to<index_t>;
};
template <class F, class A>
concept HasFill =
    requires(F const& map, extend::token_rows<A> const& rows, A* to, index_t stride) { map.fill(rows, to, stride); };
template <class F>
concept HasSumsKeys = requires {
  { F::sums_keys } -> std::convertible_to<bool>;
};

}  // namespace detail

namespace linear {

/// Leaves queries and keys as they are. It is the default.
struct identity_features;

}  // namespace linear

namespace extend {

/// A map follows the sequence where it says whether it `resumes`, and has check(shape, causal), sums_keys and open.
template <class F>
concept FollowingFeatures = detail::has_kind<option::features, F> && requires { F::resumes; };

/// A feature map, for rows of float, of double, or of both: a map that holds numbers may have them in one type. The
/// identity alone fills nothing.
template <class F>
concept FeatureMap =
    detail::has_kind<option::features, F> && detail::HasFeatures<F> &&
    ((FollowingFeatures<F> && detail::HasCheck<F, extend::state_shape, bool> && detail::HasSumsKeys<F>) ||
     (detail::HasCheck<F, extend::state_shape> &&
      (std::same_as<F, linear::identity_features> || detail::HasFill<F, float> || detail::HasFill<F, double>)));

template <class F>
concept KernelFeatures = FeatureMap<F> && requires(F const& map, simd::vector<float> const& x) { map.kernel(x, 1); };
template <class F>
concept TotalledFeatures = FollowingFeatures<F> && requires { F::rounds; };

}  // namespace extend

namespace linear {

/// phi(x) = x. The default.
struct identity_features {
  using option_kind = option::features;

  index_t features(index_t dimension) const { return dimension; }
  void check(extend::state_shape const&) const {}
};

}  // namespace linear

namespace detail {

/// Whether a feature map has all members, for rows of type A; an error names each one that is missing.
template <class F, class A>
consteval bool has_feature_members() {
  static_assert(HasFeatures<F>, "attend: a feature map needs features(dimension) const, which gives a count");
  if constexpr (FollowingFeatures<F>) {
    static_assert(HasCheck<F, extend::state_shape, bool>,
                  "attend: a feature map that follows the sequence needs check(shape, causal) const");
    static_assert(HasSumsKeys<F>,
                  "attend: a feature map that follows the sequence needs sums_keys, a static constexpr bool");
  } else {
    static_assert(HasCheck<F, extend::state_shape>, "attend: a feature map needs check(shape) const");
    static_assert(std::same_as<F, identity_features> || HasFill<F, A>,
                  "attend: a feature map needs fill(rows, to, stride) const");
  }
  return true;
}

}  // namespace detail

namespace extend {

/// map.fill, which the identity does not need.
template <class F, class A>
void fill_features(F const& map, token_rows<A> const& rows, A* to, index_t stride) {
  if constexpr (std::same_as<F, linear::identity_features>)
    for (index_t i = 0; i < rows.count; ++i) simd::widen_row(rows.row(i), to + i * stride, rows.dimension);
  else
    map.fill(rows, to, stride);
}

/// map.pull: the gradient of rows, from that of their features; the identity's is the same.
template <class F, class A>
void pull_features(F const& map, token_rows<A> const& rows, A const* of_features, index_t stride, A* to,
                   index_t to_stride) {
  if constexpr (std::same_as<F, linear::identity_features>)
    for (index_t i = 0; i < rows.count; ++i) std::copy_n(of_features + i * stride, rows.dimension, to + i * to_stride);
  else
    map.pull(rows, of_features, stride, to, to_stride);
}

/// Whether a map, for rows of type A, says its derivative.
template <class F, class A>
concept HasPull = std::same_as<F, linear::identity_features> ||
                  requires(F const& map, token_rows<A> const& rows, A const* of_features, A* to, index_t stride) {
                    map.pull(rows, of_features, stride, to, stride);
                  };

}  // namespace extend

namespace detail {
/// Stands for a derivative that is not known.
struct no_slope {};
}  // namespace detail

namespace linear {

/// Maps queries and keys by a function of each element, phi(x)_c = function(x_c). The function is generic, since it is
/// called with vectors. For gradients its derivative is given as well, another such function.
///
///     linear_attention(q, k, v, o, elementwise_features([](auto x) { return x * x; }), key_sum{});
///     auto const squares = elementwise_features([](auto x) { return x * x; }, [](auto x) { return x + x; });
template <class Function, class Slope = detail::no_slope>
class elementwise_features {
 public:
  using option_kind = option::features;

  constexpr explicit elementwise_features(Function function, Slope derivative = {})
      : function_(std::move(function)), derivative_(std::move(derivative)) {}

  index_t features(index_t dimension) const { return dimension; }
  void check(extend::state_shape const&) const {}
  template <class A>
  void fill(extend::token_rows<A> const& rows, A* to, index_t stride) const {
    auto const function = [this](simd::vector<A> const& x) { return simd::vector<A>(function_(x)); };
    for (index_t i = 0; i < rows.count; ++i, to += stride)
      simd::transform_row(to, rows.dimension, function, rows.row(i));
  }
  template <class A>
    requires(!std::same_as<Slope, detail::no_slope>)
  void pull(extend::token_rows<A> const& rows, A const* of_features, index_t stride, A* to, index_t to_stride) const {
    auto const product = [this](simd::vector<A> const& x, simd::vector<A> const& of_feature) {
      return simd::vector<A>(derivative_(x)) * of_feature;
    };
    for (index_t i = 0; i < rows.count; ++i)
      simd::transform_row(to + i * to_stride, rows.dimension, product, rows.row(i), of_features + i * stride);
  }

 private:
  Function function_;
  [[no_unique_address]] Slope derivative_;
};

}  // namespace linear

}  // namespace attend::inline ATTEND_TARGET
