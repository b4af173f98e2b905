// SPDX-License-Identifier: BSD-3-Clause
// ONNX's RotaryEmbedding as one call: pairs of channels rotated by angles whose cosines and sines are given.
//
//   y_a = x_a cos - x_b sin, y_b = x_b cos + x_a sin
//
//   X, Y [batch, num_heads, token, d] or [batch, token, num_heads * d]
//   cos_cache, sin_cache [position, pair] with position_ids [batch, token], [batch, token, pair] without
//
// Channels past 2 * pairs stay as they are; pair i is channels (i, pairs + i), or (2i, 2i + 1) where interleaved.
// It is rotary_embedding with rotary_table{cosine, sine}; Y may be X.
#pragma once

#include <optional>

#include "../attention/softmax/rotary_embedding.hpp"
#include "tensors.hpp"

namespace attend::inline ATTEND_TARGET::onnx {

/// The operator's attributes, with its names and defaults.
struct rotary_embedding_attributes {
  index_t interleaved = 0;
  /// Needed with three axes.
  index_t num_heads = 0;
  /// Channels that are rotated; 0 is all of them. The caches have half as many.
  index_t rotary_embedding_dim = 0;
};

/// Rotary embedding of ONNX. position_ids are 32- or 64-bit signed integers; without them, the caches have a row for
/// each batch and token.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory, positions or an attribute do not
/// fit.
///
///     onnx::rotary_embedding(q, cosines, sines, o);
template <TensorArgument X, TensorArgument Cosine, TensorArgument Sine, TensorArgument Output, Executor E = serial>
void rotary_embedding(X const& x, Cosine const& cos_cache, Sine const& sin_cache, Output&& y,
                      rotary_embedding_attributes const& attributes = {},
                      std::optional<token_positions> const& position_ids = {}, E&& executor = {}) {
  arithmetic_mode const arithmetic;
  static_assert(rank_of<X const> == rank_of<Output>, "attend: X and Y must have one number of axes");
  auto const from = attend::detail::with_heads("X", view_of(x), "num_heads", attributes.num_heads);
  auto const to = attend::detail::with_heads("Y", view_of(y), "num_heads", attributes.num_heads);
  bool const interleaved = attend::detail::flag("interleaved", attributes.interleaved);
  auto const cosine = raise<3>(view_of(cos_cache)), sine = raise<3>(view_of(sin_cache));
  index_t const given = attributes.rotary_embedding_dim, rotated = given == 0 ? from.extent(3) : given;
  if (given < 0 || given % 2 != 0 || given > from.extent(3))
    fail("rotary_embedding_dim", "expected an even number from 0 to ", from.extent(3), " (the head's), got ", given);
  if (2 * cosine.extent(2) != rotated)
    fail("cos_cache", "expected a last extent of ", rotated / 2, " (half of the channels that are rotated), got ",
         cosine.extent(2));
  if (!position_ids)
    attend::detail::check_shape("cos_cache", cosine, {from.extent(0), from.extent(2), rotated / 2},
                                "batch, token, pair, without position_ids");
  rotary const settings(rotary_table(cosine, sine),
                        interleaved ? rotary_layout::interleaved : rotary_layout::half_split);
  attend::options::rotary_embedding(from, settings, to, position_ids.value_or(token_positions()), executor);
}

}  // namespace attend::inline ATTEND_TARGET::onnx
