// SPDX-License-Identifier: BSD-3-Clause
// Features that turn with the position, so that products depend on the distance: with an angle theta_c for each
// feature,
//
//   phi(x, t) = [map(x)_c cos(theta_c t), map(x)_c sin(theta_c t)]
//   phi(x, t) . phi(y, s) = sum_c map(x)_c map(y)_c cos(theta_c (t - s))
//
// t is the token's position, counted from `first_position`. Twice the features of the map.
//
// Angles may be those of query heads that share a key head: the keys are then turned for each of them, and the states
// are as many as the query heads.
//
// No token costs a cosine: every few positions the angle is turned in double from where the chunk began, and in between
// it is turned by theta in the accumulation type, whose roundings, sixteen turns at most, are all that is lost however
// far out the token stands.
//
// With learned angles of each head: LRPE, Zhen Qin et al.: Linearized Relative Positional Encoding, 2023. With one
// angle pi / 2M and rectified features: cosFormer, Zhen Qin et al.: cosFormer: Rethinking Softmax in Attention, 2022.
#pragma once

#include <cmath>

#include "../../core/check.hpp"
#include "../../core/scratch.hpp"
#include "../../simd/trigonometry.hpp"
#include "feature.hpp"

namespace attend::inline ATTEND_TARGET {

namespace linear {

/// Turns the features of another map with the position.
///
///     linear_attention(q, k, v, o, causal{}, rotated(silu_features{}, matrix), joined_rms_norm{});
template <FeatureMap Map, class Value>
class rotated {
 public:
  using option_kind = option::features;

  /// Takes angles [head, feature], in radians a token, of query heads or of key heads; one head serves all, and so does
  /// one feature.
  template <TensorArgument Angles>
  rotated(Map map, Angles const& angles, index_t first_position = 0)
      : map_(std::move(map)), angles_(extend::raise<2>(view_of(angles))), first_(first_position) {}

  index_t features(index_t dimension) const { return 2 * map_.features(dimension); }
  void check(extend::state_shape const& shape) const {
    map_.check(shape);
    detail::check_view("rotated (angles)", angles_);
    index_t const count = map_.features(shape.key_dimension);
    index_t const heads = angles_.extent(0);
    if (heads != 1 && heads != shape.key_heads && heads != shape.query_heads) {
      if (shape.key_heads == shape.query_heads)
        extend::fail("rotated", "expected angles of ", detail::one_or(shape.key_heads, "head", "heads"), ", got ",
                     heads);
      extend::fail("rotated", "expected angles of 1, ", shape.key_heads, " (as keys) or ", shape.query_heads,
                   " (as queries) heads, got ", heads);
    }
    if (angles_.extent(1) != 1 && angles_.extent(1) != count)
      extend::fail("rotated", "expected ", detail::one_or(count, "angle", "angles"), " for a head, got ",
                   angles_.extent(1));
    for (index_t h = 0; h < angles_.extent(0); ++h)
      for (index_t c = 0; c < angles_.extent(1); ++c)
        detail::check_finite("rotated (angles)", static_cast<double>(angles_(h, c)));
    if (first_ < 0 || first_ >= extend::token_limit)
      extend::fail("rotated", "expected a first position from 0 to ", extend::token_limit - 1, ", got ", first_);
  }

  /// Whether each query head needs a state of its own.
  bool own_states(extend::state_shape const& shape) const {
    return angles_.extent(0) > shape.state_heads() && angles_.extent(0) == shape.query_heads;
  }
  template <class A>
  void fill(extend::token_rows<A> const& rows, A* to, index_t stride) const {
    extend::fill_features(map_, rows, to, stride);
    index_t const count = map_.features(rows.dimension);
    turn<A> turning(*this, rows.owner * angles_.extent(0) / rows.owners, count, rows.position + first_);
    for (index_t i = 0; i < rows.count; ++i) {
      if (i % turn<A>::group_size == 0) turning.anchor(i == 0);
      turning.apply(to + i * stride);
    }
  }
  static constexpr char const* name() { return "rotated (angles)"; }
  tensor_view<Value const, 2> const& view() const { return angles_; }

 private:
  /// The cosines and sines at one position after the other.
  template <class A>
  class turn {
   public:
    static constexpr index_t group_size = 16;

    turn(rotated const& of, index_t row, index_t count, index_t position)
        : count_(count),
          double_(memory_.allocate<double>(4 * count)),
          here_(memory_.allocate<A>(2 * count)),
          step_(memory_.allocate<A>(2 * count)) {
      bool const several = of.angles_.extent(1) > 1;
      index_t const different = several ? count : std::min<index_t>(count, 1);
      constexpr index_t width = simd::width<double>;
      for (index_t c = 0; c < different; c += width) {
        index_t const lanes = std::min(width, different - c);
        alignas(64) double angles[extend::array_size(width)]{}, cosines[extend::array_size(width)],
            sines[extend::array_size(width)];
        for (index_t lane = 0; lane < lanes; ++lane) angles[lane] = static_cast<double>(of.angles_(row, c + lane));
        auto const turn_by = [&](double times, auto* to) {
          auto const both = simd::sincos<double>(simd::load(angles) * simd::vector<double>(times));
          simd::store(sines, both.first);
          simd::store(cosines, both.second);
          for (index_t lane = 0; lane < lanes; ++lane) {
            to[c + lane] = static_cast<std::remove_pointer_t<decltype(to)>>(cosines[lane]);
            to[count + c + lane] = static_cast<std::remove_pointer_t<decltype(to)>>(sines[lane]);
          }
        };
        turn_by(static_cast<double>(position), double_);
        turn_by(group_size, double_ + 2 * count);
        turn_by(1, step_);
      }
      for (index_t part = 0; part < 4; ++part)
        for (index_t c = different; c < count; ++c) double_[part * count + c] = double_[part * count];
      for (index_t part = 0; part < 2; ++part)
        for (index_t c = different; c < count; ++c) step_[part * count + c] = step_[part * count];
    }

    /// Starts from the angle kept in double, which moves on unless it is the first.
    void anchor(bool first) {
      for (index_t c = 0; c < count_; ++c) {
        double const cosine = double_[c], sine = double_[count_ + c];
        if (!first) {
          double_[c] = cosine * double_[2 * count_ + c] - sine * double_[3 * count_ + c];
          double_[count_ + c] = sine * double_[2 * count_ + c] + cosine * double_[3 * count_ + c];
        }
        here_[c] = static_cast<A>(double_[c]);
        here_[count_ + c] = static_cast<A>(double_[count_ + c]);
      }
    }

    /// row = [row cos, row sin]; then the angle moves on by one position.
    void apply(A* row) {
      constexpr index_t width = simd::width<A>;
      index_t c = 0;
      for (; c + width <= count_; c += width) {
        auto const at = [&](A const* from) { return simd::widen(from + c); };
        simd::vector<A> const x = at(row), cosine = at(here_), sine = at(here_ + count_);
        simd::vector<A> const step_cosine = at(step_), step_sine = at(step_ + count_);
        (x * sine).store_unaligned(row + count_ + c);
        (x * cosine).store_unaligned(row + c);
        (cosine * step_cosine - sine * step_sine).store_unaligned(here_ + c);
        (sine * step_cosine + cosine * step_sine).store_unaligned(here_ + count_ + c);
      }
      for (; c < count_; ++c) {
        A const x = row[c], cosine = here_[c], sine = here_[count_ + c];
        row[count_ + c] = x * sine;
        row[c] = x * cosine;
        here_[c] = cosine * step_[c] - sine * step_[count_ + c];
        here_[count_ + c] = sine * step_[c] + cosine * step_[count_ + c];
      }
    }

   private:
    extend::scratch memory_;
    index_t count_;
    double* double_;  // cosine and sine at the anchor, and of the turn from one anchor to the next
    A *here_, *step_;
  };

  Map map_;
  tensor_view<Value const, 2> angles_;
  index_t first_;
};
template <class Map, class Angles>
rotated(Map, Angles const&, index_t = 0) -> rotated<Map, element_of_t<Angles const>>;

}  // namespace linear

}  // namespace attend::inline ATTEND_TARGET
