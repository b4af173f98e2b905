// SPDX-License-Identifier: BSD-3-Clause
// Rotary positions: pairs of channels of queries and keys are rotated by angles that depend on where the token stands,
// so that a logit depends on the difference of two positions.
//
//   (x_a, x_b) -> (x_a cos - x_b sin, x_b cos + x_a sin)      angle of pair i at position p: see rotary_angles.hpp
//
//   half_split     pair i is channels (i, dimension/2 + i): GPT-NeoX, Llama, Qwen
//   interleaved    pair i is channels (2i, 2i + 1): RoFormer, GPT-J, DeepSeek
//
// The first 2 * pairs channels of a row are rotated, and the others are left as they are.
//
// As an option of softmax_attention it rotates queries as they are packed, once for each head, and keys as their blocks
// are copied, once for each task that reads the block: the tensors stay as they are. A key costs its angles, about a
// nanosecond for a pair of channels, and its copy, whatever the number of queries that share it: a few percent of the
// products for a hundred queries, as much as they for one or two. Keys that are read again and again, as in decoding,
// are better rotated once: a cache does so as it takes them (cache/append.hpp), and rotary_queries then says that
// queries alone are to be rotated.
//
// Jianlin Su et al.: RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021.
#pragma once

#include "../../core/options.hpp"
#include "../../simd/rotate.hpp"
#include "rotary_angles.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

enum class rotary_layout { half_split, interleaved };

/// The rotation of one token, ready for any number of rows: cosines and sines as the layout's kernel reads them.
template <class A>
struct rotation {
  A const* cosine;
  A const* sine;
  index_t pairs;
  rotary_layout layout;

  /// to = from, rotated: rows of `dimension` channels, in place or apart. To and From accumulate in A.
  template <Element From, Element To>
  void apply(From const* from, To* to, index_t dimension) const {
    if (layout == rotary_layout::half_split)
      simd::rotate_halves(from, to, cosine, sine, pairs);
    else
      simd::rotate_interleaved(from, to, cosine, sine, pairs);
    if constexpr (std::same_as<From, To>) {
      if (from != to) std::copy(from + 2 * pairs, from + dimension, to + 2 * pairs);
    } else {
      for (index_t c = 2 * pairs; c < dimension; ++c) to[c] = static_cast<To>(static_cast<A>(from[c]));
    }
  }
};

}  // namespace options

/// Rotates queries and keys by the angles of their positions. A call throws argument_error where the channels do not
/// fit, or the angles do not know a position.
///
///     softmax_attention(q, k, v, o, causal{}, rotary(rotary_frequencies(128)));
template <extend::RotaryAngles Angles>
class rotary {
 public:
  using option_kind = option::position;
  static constexpr bool rotates_keys = true;

  explicit rotary(Angles angles, options::rotary_layout layout = options::rotary_layout::half_split)
      : angles_(std::move(angles)), layout_(layout) {}

  /// Gives the same for queries and keys that stand at these positions, in place of where attention has them.
  ///
  ///     softmax_attention(q, k, v, o, position.at(token_positions(512), token_positions(0)));
  rotary at(options::token_positions const& query, options::token_positions const& key) const {
    rotary moved(*this);
    moved.query_ = query;
    moved.key_ = key;
    moved.moved_ = true;
    return moved;
  }
  rotary at(options::token_positions const& positions) const { return at(positions, positions); }

  /// Gives the number of channels that are rotated.
  index_t dimension() const { return 2 * angles_.pairs(); }
  Angles const& angles() const { return angles_; }
  options::rotary_layout layout() const { return layout_; }

  /// Gives how many numbers the buffer of a rotation holds.
  index_t buffer_size() const { return 2 * half_buffer(); }

  /// Gives the rotation of a token at a place. It lives in `buffer`.
  template <class A>
  options::rotation<A> rotation_at(extend::token_place const& place, A* buffer) const {
    angles_.fill(place, buffer, buffer + half_buffer());
    return laid_out(buffer);
  }

  /// Gives the rotation that takes a token, rotated already, from its place to one that lies further by `difference`.
  template <class A>
  options::rotation<A> rotation_by(extend::token_place const& difference, A* buffer) const {
    angles_.fill_difference(difference, buffer, buffer + half_buffer());
    return laid_out(buffer);
  }

  /// Throws argument_error where it does not fit tokens that stand at these positions, in rows of so many channels.
  void check(options::token_positions const& positions, index_t batches, index_t tokens,
             index_t dimension_of_row) const {
    check_dimension(dimension_of_row);
    angles_.check(positions.check("positions", angles_.axes(), batches, tokens), batches);
  }

  /// Does the same for queries of attention and for keys that a cache takes, whose positions, where none are given, are
  /// in the range given.
  void check_queries(index_t batches, index_t tokens, extend::key_range positions, index_t dimension_of_row) const {
    check_tokens("rotary (queries)", query_, batches, tokens, positions, dimension_of_row);
  }
  void check_keys(index_t batches, index_t tokens, extend::key_range positions, index_t dimension_of_row) const {
    check_tokens("rotary (keys)", key_, batches, tokens, positions, dimension_of_row);
  }

  /// Says whether positions were given.
  bool moved() const { return moved_; }

  // What the engine asks.

  /// Positions of queries are in a range.
  void check(extend::problem_shape const& shape, extend::key_range positions) const {
    check_queries(shape.batches, shape.queries, positions, shape.key_dimension);
    check_keys(shape.batches, shape.keys, {0, shape.keys - 1}, shape.key_dimension);
  }
  /// Gives the rotation of a query, and that of a key.
  template <class A>
  options::rotation<A> query_rotation(extend::attending_place const& at, A* buffer) const {
    return rotation_at(moved_ ? extend::token_place::of(query_, at.batch, at.token)
                              : extend::token_place::on_all_axes(at.batch, at.position),
                       buffer);
  }
  template <class A>
  options::rotation<A> key_rotation(extend::attended_place const& at, A* buffer) const {
    return rotation_at(key_angle(at), buffer);
  }
  /// Gives the place that a key's angles are those of, and what knows angles.
  extend::token_place key_angle(extend::attended_place const& at) const {
    return moved_ ? extend::token_place::of(key_, at.batch, at.token)
                  : extend::token_place::on_all_axes(at.batch, at.position);
  }
  rotary const& settings() const { return *this; }
  /// Says whether keys are rotated already, and are turned further by the angle.
  static constexpr bool turns_further = false;

 private:
  // Room for each channel, in whole vectors.
  index_t half_buffer() const { return extend::round_up(dimension(), simd::width<float>); }

  void check_dimension(index_t dimension_of_row) const {
    if (dimension() > dimension_of_row)
      extend::fail("rotary", "expected at most ", dimension_of_row, " channels (the head dimension), got ",
                   dimension());
  }

  void check_tokens(char const* argument, options::token_positions const& given, index_t batches, index_t tokens,
                    extend::key_range positions, index_t dimension_of_row) const {
    check_dimension(dimension_of_row);
    if (moved_)
      angles_.check(given.check(argument, angles_.axes(), batches, tokens), batches);
    else if (batches > 0 && tokens > 0)
      angles_.check(positions, batches);
  }

  template <class A>
  options::rotation<A> laid_out(A* buffer) const {
    A* const cosine = buffer;
    A* const sine = buffer + half_buffer();
    if (layout_ == options::rotary_layout::interleaved)
      for (index_t pair = angles_.pairs() - 1; pair >= 0; --pair) {
        A const c = cosine[pair], s = sine[pair];
        cosine[2 * pair] = cosine[2 * pair + 1] = c;
        sine[2 * pair] = -s;
        sine[2 * pair + 1] = s;
      }
    return {cosine, sine, angles_.pairs(), layout_};
  }

  Angles angles_;
  options::rotary_layout layout_;
  options::token_positions query_, key_;
  bool moved_ = false;
};

namespace options {

/// Rotates queries alone, for keys that are rotated already.
///
///     decode_attention(q, cache, o, rotary_queries(position));
template <RotaryAngles Angles>
class rotary_queries {
 public:
  using option_kind = option::position;
  static constexpr bool rotates_keys = false;

  explicit rotary_queries(rotary<Angles> const& settings) : settings_(&settings) {}

  // What the engines ask, as of rotary.

  void check(extend::problem_shape const& shape, extend::key_range positions) const {
    check_queries(shape.batches, shape.queries, positions, shape.key_dimension);
  }
  void check_queries(index_t batches, index_t tokens, extend::key_range positions, index_t dimension_of_row) const {
    settings_->check_queries(batches, tokens, positions, dimension_of_row);
  }
  bool moved() const { return settings_->moved(); }
  index_t buffer_size() const { return settings_->buffer_size(); }
  template <class A>
  options::rotation<A> query_rotation(extend::attending_place const& at, A* buffer) const {
    return settings_->query_rotation(at, buffer);
  }

 private:
  rotary<Angles> const* settings_;
};

}  // namespace options

namespace detail {
/// Whether a policy does something else with queries of each head.
template <class Position>
inline constexpr bool differs_by_head = requires { requires Position::differs_by_head; };

/// Whether a policy rotates keys of a cache when they are read, and not as they are appended.
template <class Option>
inline constexpr bool rotates_as_read = requires { requires std::remove_cvref_t<Option>::rotates_as_read; };

/// Whether an option, or its absence, rotates keys.
template <class Position>
inline constexpr bool rotates_keys = false;
template <class Position>
  requires requires { Position::rotates_keys; }
inline constexpr bool rotates_keys<Position> = Position::rotates_keys;
}  // namespace detail

}  // namespace attend::inline ATTEND_TARGET
