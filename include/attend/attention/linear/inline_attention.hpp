// SPDX-License-Identifier: BSD-3-Clause
// InLine, injective linear attention: the weights of a query are shifted, not divided, to sum to 1.
//
//   w_ij = a_ij - mean_l(a_il) + 1 / N      a_ij = scale phi(q_i) . phi(k_j)      o_i = sum_j w_ij v_j
//
// over all N keys.
//
// No two queries share their weights as they do where a sum divides them, and weights may be negative. In linear form,
// with the sum of keys z and the mean of values m,
//
//   o_i = scale phi(q_i)^T (S - z m^T) + m
//
// so that the normalizer is one correction of the state: its rows lose z m^T, and one more row, that of a constant
// feature, holds m. The published code has identity features and the scale 1 / (sqrt(d) N). The local residual that
// follows, a depthwise convolution of the values, is the caller's.
//
// Shapes and cost are those of linear_attention; each head's state is kept between the pass over the keys and that over
// the queries.
//
// Dongchen Han, Yifan Pu, Zhuofan Xia, Yizeng Han, Xuran Pan, Xiu Li, Jiwen Lu, Shiji Song, Gao Huang: Bridging the
// Divide: Reconsidering Softmax and Linear Attention, 2024.
#pragma once

#include "../../policy/feature/with_constant.hpp"
#include "../../policy/score/scale.hpp"
#include "linear_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// One head's state [feature + 1][column], the sum of keys z and the sum of values in its last row: S <- scale (S - z
/// m^T), and the last row m.
template <class A>
void shift_state(A* state, A const* key_sum, index_t features, index_t columns, index_t keys, A scale) {
  A* const mean = state + features * columns;
  A const share = keys > 0 ? 1 / static_cast<A>(keys) : A(0);
  for (index_t c = 0; c < columns; ++c) mean[c] *= share;
  for (index_t f = 0; f < features; ++f)
    for (index_t c = 0; c < columns; ++c)
      state[f * columns + c] = scale * (state[f * columns + c] - key_sum[f] * mean[c]);
}

/// A map for queries whose keys another call has read: the last query stands at the last of those keys.
template <FeatureMap Map>
class after_keys {
 public:
  using option_kind = option::features;

  after_keys(Map const& map, index_t keys) : map_(map), keys_(keys) {}

  index_t features(index_t dimension) const { return map_.features(dimension); }
  void check(state_shape const& shape) const { map_.check(shape); }
  template <class A>
  void fill(token_rows<A> rows, A* to, index_t stride) const {
    rows.position += keys_;
    map_.fill(rows, to, stride);
  }
  Map const& map() const { return map_; }

 private:
  Map const& map_;
  index_t keys_;
};

}  // namespace detail

namespace systems {

/// Attends with weights that sum to 1 without a division. Shapes are those of linear_attention. Options: features (the
/// identity unless given), scale (1 unless given), chunk_length and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     inline_attention(q, k, v, o, scale{1. / 196});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void inline_attention(Query const& query, Key const& key, Value const& value, Output&& output, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  call::allows<option::features, option::scale, option::chunk_length, option::executor>::check<Options...>();
  identity_features unchanged;
  chunk_length usual(engine::chunk_cut::longest_usual);
  with_constant const features(detail::find_option<option::features>(unchanged, options...));
  auto& executor = call::executor_of(options...);
  auto const& chunk = detail::find_option<option::chunk_length>(usual, options...);
  A const factor = detail::scale_or<A>(1, options...);

  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key)), v = raise<4>(view_of(value));
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  // Everything is checked before the first pass: the second one may not find an error.
  engine::state_problem<T> problem;
  problem.query = q, problem.key = k, problem.value = v, problem.output = o;
  detail::check_state_tensors(problem);
  detail::check_state_memory(problem);

  state_shape const& s = problem.shape;
  index_t const heads = s.batches * s.state_heads(), rows = features.features(s.key_dimension),
                columns = s.value_dimension;
  scratch memory;
  tensor_view<A, 4> const state(memory.allocate<A>(heads * rows * columns),
                                {s.batches, s.state_heads(), rows, columns});
  tensor_view<A, 3> const sum(memory.allocate<A>(heads * rows), {s.batches, s.state_heads(), rows});

  auto const no_tokens = [](auto const& tensor) {
    auto extents = tensor.extents();
    extents[2] = 0;
    return std::remove_cvref_t<decltype(tensor)>(tensor.data(), extents, tensor.strides());
  };
  linear_attention(no_tokens(q), k, v, no_tokens(o), features, key_sum{}, final_state(state, sum), chunk, executor);
  for (index_t head = 0; head < heads; ++head)
    detail::shift_state(state.data() + head * rows * columns, sum.data() + head * rows, rows - 1, columns, s.keys,
                        factor);
  linear_attention(q, no_tokens(k), no_tokens(v), o, detail::after_keys(features, s.keys), initial_state(state), chunk,
                   executor);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
