// SPDX-License-Identifier: BSD-3-Clause
// Factorized self-attention over an image: the image is cut into windows, and the tokens at the same place of all
// windows are averaged into one, so that every query sees the w * w averages of the whole image at the price of one
// window.
//
//   k'_(u, v) = mean over windows (y, x) of k_(y S + u r, x S + v r)     0 <= u, v < w,  S = r (w - 1) + 1
//   o_i       = softmax attention of q_i to k', v'
//
// r is the dilation of a window. Tokens that a window at the border would take from outside are reflected. Averages of
// keys are keys of averages, since projections are linear: so keys and values are averaged rather than tokens. The
// values' depthwise convolution and the split of channels into groups of different r are the caller's.
//
// Cost: one pass over keys and values, and dense attention to w * w keys; they are all that is kept.
//
// Haokun Qin et al.: Factorization Vision Transformer: Modeling Long Range Dependency with Local Window Cost (FaViT),
// 2023; the mean over windows as in its text.
#pragma once

#include "../../engine/pooled_rows.hpp"
#include "../softmax/softmax_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// means [batch, head, window * window, dimension] of x [batch, head, token, dimension].
template <Element T, class E>
tensor_view<T, 4> window_means(tensor_view<T const, 4> const& x, std::array<index_t, 2> const& extents, index_t window,
                               index_t dilation, scratch& memory, E& executor) {
  index_t const side = dilation * (window - 1) + 1;
  // A place behind the border is as far before it; windows reach over it by less than the image.
  auto const inside = [](index_t place, index_t extent) { return place < extent ? place : 2 * (extent - 1) - place; };
  auto const members = [&](index_t place, auto const& add) {
    index_t const down = place / window * dilation, right = place % window * dilation;
    for (index_t y = down; y - down < extents[0]; y += side)
      for (index_t z = right; z - right < extents[1]; z += side)
        add(inside(y, extents[0]) * extents[1] + inside(z, extents[1]));
  };
  index_t const windows = divide_up(extents[0], side) * divide_up(extents[1], side);
  return engine::token_means(x, window * window, windows, members, memory, executor);
}

}  // namespace detail

namespace systems {

/// Attends from each query to the averages of the image. Query, key, value and output have the shapes of
/// softmax_attention; keys are the image's tokens, row-major, and `extents` its height and width. `window` and
/// `dilation` are in tokens, and dilation * (window - 1) is less than either extent. Options are those of
/// softmax_attention over window * window keys.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, or where
/// the window reaches too far.
///
///     factorized_attention(q, k, v, o, {56, 56}, 7, 2);  // 7 x 7 averages, two tokens apart
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void factorized_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                          std::array<index_t, 2> const& extents, index_t window, index_t dilation,
                          Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  tensor_view<T const, 4> const k = raise<4>(view_of(key)), v = raise<4>(view_of(value));
  detail::check_view("key", k);
  detail::check_view("value", v);
  for (index_t extent : extents)
    if (extent < 0 || extent >= token_limit) fail("extents", "expected 0 to ", token_limit - 1, ", got ", extent);
  if (window < 1) fail("window", "expected at least 1, got ", window);
  if (dilation < 1) fail("dilation", "expected at least 1, got ", dilation);
  index_t const most = std::min(extents[0], extents[1]);
  if (most > 0 && window > 1 && dilation > (most - 1) / (window - 1))
    fail("window", "expected a reach below ", most, " (the least extent), got ", window, " with dilation ", dilation);
  detail::check_extent("key", "tokens", k.extent(2), extents[0] * extents[1], "extents");
  detail::check_extent("value", "tokens", v.extent(2), extents[0] * extents[1], "extents");
  // The softmax sees the means alone: it cannot know that they were read from the output.
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  detail::check_output_view("output", o);
  detail::check_apart("output", o, "key", k);
  detail::check_apart("output", o, "value", v);
  if (most == 0) return softmax_attention(query, key, value, output, std::forward<Options>(options)...);
  auto& executor = call::executor_of(options...);
  scratch memory;
  tensor_view<T const, 4> const keys = detail::window_means<T>(k, extents, window, dilation, memory, executor);
  tensor_view<T const, 4> const values = detail::window_means<T>(v, extents, window, dilation, memory, executor);
  softmax_attention(query, keys, values, output, std::forward<Options>(options)...);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
