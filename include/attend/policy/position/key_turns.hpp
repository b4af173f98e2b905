// SPDX-License-Identifier: BSD-3-Clause
// Rotations of many keys, one after the other. Positions of stored keys are mostly close to those before, and angles of
// frequencies add up, so that a rotation is the product of two:
//
//   p = 32 h + l, 0 <= l < 32      cos p = cos 32h cos l - sin 32h sin l,   sin p = sin 32h cos l + cos 32h sin l
//
// The 32 rotations of l are computed once for a call, that of h where h changes: a key costs two products of complex
// numbers for each pair instead of a cosine and a sine. It is exact to 3 units in the last place, and depends on the
// position alone. Angles that are no multiples of a position, and positions with several axes that differ, are taken
// as they are.
//
// Memory: the rotations of l, 256 bytes for each channel of floats, for a call, and two rotations for each task.
#pragma once

#include "../../core/scratch.hpp"
#include "rotary.hpp"

namespace attend::inline ATTEND_TARGET::detail {

/// Whether angles of positions are sums of those of their parts.
template <class Angles>
inline constexpr bool angles_add = requires(Angles const& angles, token_place const& place, float* numbers) {
  angles.fill_difference(place, numbers, numbers);
};

/// The rotations of 0 to 31, for all tasks of a call.
template <class A>
struct turn_table {
  static constexpr index_t turns = 32;

  A const* numbers = nullptr;

  turn_table() = default;
  template <class Position>
  turn_table(scratch& memory, Position const& position) {
    auto const& settings = position.settings();
    if constexpr (angles_add<std::remove_cvref_t<decltype(settings.angles())>>) {
      A* const to = memory.allocate<A>(turns * settings.buffer_size());
      for (index_t l = 0; l < turns; ++l)
        settings.rotation_by(token_place::on_all_axes(0, l), to + l * settings.buffer_size());
      numbers = to;
    }
  }
};

/// Rotates keys.
template <class Position, class A>
class key_turns {
 public:
  using settings_type = std::remove_cvref_t<decltype(std::declval<Position const&>().settings())>;
  static constexpr bool adds = angles_add<std::remove_cvref_t<decltype(std::declval<settings_type>().angles())>>;

  key_turns(scratch& memory, Position const& position, turn_table<A> const& table)
      : position_(position),
        settings_(position.settings()),
        table_(table.numbers),
        size_(settings_.buffer_size()),
        far_numbers_(memory.allocate<A>(adds ? size_ : 0)),
        own_(memory.allocate<A>(size_)) {}

  /// to = from, which is the key that stands there, rotated: rows of `dimension` channels, in place or apart.
  template <Element From>
  void apply(attended_place const& key, From const* from, A* to, index_t dimension) {
    token_place const place = position_.key_angle(key);
    if (!adds_up(place)) return whole(place, own_).apply(from, to, dimension);
    auto const turn = product(place);
    if (far_.layout == rotary_layout::half_split)
      simd::rotate_halves_by(from, to, far_.pairs, turn);
    else
      simd::rotate_interleaved_by(from, to, far_.pairs, turn);
    for (index_t c = 2 * far_.pairs; c < dimension; ++c) to[c] = static_cast<A>(from[c]);
  }

  /// The rotation of a key, until the next is asked for.
  rotation<A> at(attended_place const& key) {
    token_place const place = position_.key_angle(key);
    if (!adds_up(place)) return whole(place, own_);
    auto const turn = product(place);
    index_t const numbers = far_.layout == rotary_layout::half_split ? far_.pairs : 2 * far_.pairs;
    for (index_t i = 0; i < numbers; i += simd::width<A>) {
      auto const [cosine, sine] = turn(i, 0);
      cosine.store_unaligned(own_ + i);
      sine.store_unaligned(own_ + size_ / 2 + i);
    }
    return {own_, own_ + size_ / 2, far_.pairs, far_.layout};
  }

 private:
  static constexpr index_t turns = turn_table<A>::turns;

  bool adds_up(token_place const& place) const {
    return adds && (settings_.angles().axes() == 1 ||
                    (place.position[0] == place.position[1] && place.position[0] == place.position[2]));
  }

  rotation<A> whole(token_place const& place, A* to) const {
    if constexpr (Position::turns_further)
      return settings_.rotation_by(place, to);
    else
      return settings_.rotation_at(place, to);
  }

  /// Gives cosines and sines from one of their numbers on. With numbers for each channel, the sines of an interleaved
  /// layout have signs, and so have their products.
  auto product(token_place const& place) {
    using lanes = simd::vector<A>;
    index_t const near = place.position[0] & (turns - 1), beyond = place.position[0] - near;
    if (!there_ || beyond != beyond_) {
      far_ = whole(token_place::on_all_axes(place.batch, beyond), far_numbers_);
      beyond_ = beyond;
      there_ = true;
    }
    return [cosine = table_ + near * size_, sine = table_ + near * size_ + size_ / 2, far_cosine = far_.cosine,
            far_sine = far_.sine](index_t i, index_t) ATTEND_INLINE_LAMBDA {
      lanes const c = lanes::load_unaligned(cosine + i), s = lanes::load_unaligned(sine + i),
                  far_c = lanes::load_unaligned(far_cosine + i), far_s = lanes::load_unaligned(far_sine + i);
      return std::pair(simd::fused_multiply_add<A>(far_c, c, -(far_s * s)),
                       simd::fused_multiply_add<A>(far_s, c, far_c * s));
    };
  }

  Position const& position_;
  settings_type const& settings_;
  A const* table_;
  index_t size_;
  A* far_numbers_;  // of the rotation of 32 h
  A* own_;          // of that of a key
  rotation<A> far_{};
  index_t beyond_ = 0;
  bool there_ = false;
};

}  // namespace attend::inline ATTEND_TARGET::detail
