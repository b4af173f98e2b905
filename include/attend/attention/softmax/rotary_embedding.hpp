// SPDX-License-Identifier: BSD-3-Clause
// Rotary positions of a tensor: what is done to queries and keys where attention does not do it by itself.
//
//   y[batch, head, token] = x[batch, head, token], its pairs of channels rotated by the angles of the token's position
//
// Layouts, angles and scalings are those of policy/position/rotary.hpp. With rotary_table{cosine, sine} it is ONNX's
// RotaryEmbedding: caches of rank 2 with position_ids, of rank 3 without; rotary_embedding_dim is twice the caches'
// last extent. An input of three axes, [batch, token, head * dimension], is a view with strides here.
//
// rotate_further takes rows that are rotated already to positions that lie further by a difference: rotations add up.
// What blocks of keys need that are kept at positions of their own and reused at others (Dongyang Ma, Yan Wang, Tian
// Lan: Block-Attention for Efficient Prefilling, 2024).
//
// Cost: x is read and y written once; the angles of a token serve all its heads.
#pragma once

#include "../../core/head_loop.hpp"
#include "../../core/scratch.hpp"
#include "../../policy/position/rotary.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// y = x rotated, where rotate(place, buffer) gives the rotation of a token.
template <Element T, class Rotary, class E, class Rotate>
void rotate_tokens(tensor_view<T const, 4> const& x, tensor_view<T, 4> const& y, Rotary const& settings,
                   token_positions const& positions, E& executor, Rotate const& rotate) {
  using A = accumulation_t<T>;
  check_view("x", x);
  check_output_view("y", y);
  if (y.extents() != x.extents())
    fail("y", "expected shape ", shape_text<4>(x.extents()), " (as x), got ", shape_text<4>(y.extents()));
  bool const in_place = static_cast<T const*>(y.data()) == x.data() && y.strides() == x.strides();
  if (!in_place) check_apart("y", y, "x", x);
  index_t const batches = x.extent(0), heads = x.extent(1), tokens = x.extent(2), dimension = x.extent(3);
  settings.check(positions, batches, tokens, dimension);
  check_executor(executor);
  if (x.empty()) return;

  // Tokens of a head are next to each other, heads of a token are not: the angles of some tokens are kept for all
  // heads.
  constexpr index_t tokens_of_task = 16;
  index_t const tasks_of_batch = divide_up(tokens, tokens_of_task);
  loop_cost const of_task =
      loop_cost::of(0, 2 * heads * std::min(tokens, tokens_of_task) * dimension * static_cast<index_t>(sizeof(T)));
  for_heads(executor, batches, tasks_of_batch, of_task, [&](index_t batch, index_t task) {
    index_t const first = task * tokens_of_task;
    index_t const count = std::min(tokens_of_task, tokens - first);
    scratch memory;
    rotation<A> turns[tokens_of_task];
    for (index_t t = 0; t < count; ++t)
      turns[t] = rotate(token_place::of(positions, batch, first + t), memory.allocate<A>(settings.buffer_size()));
    for (index_t head = 0; head < heads; ++head)
      for (index_t t = 0; t < count; ++t)
        turns[t].apply(&x(batch, head, first + t, 0), &y(batch, head, first + t, 0), dimension);
  });
}

}  // namespace detail

namespace options {

/// Rotates x [batch, head, token, dimension] into y of the same shape and element type, which may be x itself; leading
/// axes may be left out. Token t stands at position t unless `positions` says otherwise. The work is done by one thread
/// unless an executor is given.
///
/// Throws argument_error, before anything is written, where shapes, memory, angles or positions do not fit.
///
///     rotary_embedding(q, rotary(rotary_frequencies(128)), q);  // in place
template <TensorArgument X, class Angles, TensorArgument Y, Executor E = serial>
void rotary_embedding(X const& x, rotary<Angles> const& settings, Y&& y, token_positions const& positions = {},
                      E&& executor = {}) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Y>;
  static_assert(Element<T> && std::same_as<element_of_t<X const>, T>, "attend: x and y must have one element type");
  detail::rotate_tokens<T>(raise<4>(view_of(x)), raise<4>(view_of(y)), settings, positions, executor,
                           [&](token_place const& place, auto* buffer) { return settings.rotation_at(place, buffer); });
}

/// Rotates x further: x was rotated by rotary_embedding for positions p, and y will be as if rotated for p +
/// difference. The attention factor is not applied again. This needs frequencies, since the angles of a table do not
/// add up. Shapes and errors are those of rotary_embedding.
///
///     rotate_further(k, rotary(rotary_frequencies(128)), k, token_positions(512));  // 512 tokens later
template <TensorArgument X, TensorArgument Y, Executor E = serial>
void rotate_further(X const& x, rotary<rotary_frequencies> const& settings, Y&& y, token_positions const& difference,
                    E&& executor = {}) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Y>;
  static_assert(Element<T> && std::same_as<element_of_t<X const>, T>, "attend: x and y must have one element type");
  detail::rotate_tokens<T>(raise<4>(view_of(x)), raise<4>(view_of(y)), settings, difference, executor,
                           [&](token_place const& place, auto* buffer) { return settings.rotation_by(place, buffer); });
}

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
