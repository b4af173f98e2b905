// SPDX-License-Identifier: BSD-3-Clause
// By what angles the pairs of channels of a token are rotated. A source of angles is one of
//
//   rotary_frequencies(d, base, scaling)   angle_i = position * theta_i; evaluated where it is needed, with no table
//     axial({d1, d2, d3}, base)            each axis has channels and frequencies of its own: images, video
//     sections({n1, n2, n3})               the frequencies of one axis, pairs [0, n1) at the first axis' position, n2
//                                          more at the second's, ...; interleaved_sections: 1 2 3 1 2 3 ... 1 1 1
//   rotary_angles{theta}                   any angles, in radians: [position, pair] or [batch, position, pair]
//   rotary_table{cosine, sine}             any cosines and sines, of the same shapes
//
// A source says how many pairs and axes it has, checks that it knows a range of positions, and fills in the cosines and
// sines of a token's pairs.
//
// An angle of frequencies is reduced to half a turn in double precision before it is rounded: its error does not grow
// with the position beyond that of theta_i itself. Cost: about a nanosecond for a pair of a token, whatever the heads.
//
// Jianlin Su et al.: RoFormer, 2021. Peng Wang et al.: Qwen2-VL, 2024 (sections: multimodal rotary positions).
// Shuai Bai et al.: Qwen3-VL, 2025 (interleaved sections). Byeongho Heo et al.: Rotary Position Embedding for Vision
// Transformer, 2024 (axial). Hyotaek Jeon et al.: ST-LINK, 2025 (angles from a graph).
#pragma once

#include <numeric>
#include <vector>

#include "../../core/arithmetic_mode.hpp"
#include "../../simd/convert.hpp"
#include "../../simd/trigonometry.hpp"
#include "rotary_scaling.hpp"
#include "token_positions.hpp"

namespace attend::inline ATTEND_TARGET {

namespace extend {

/// Where a token stands: its batch, and its position on each axis.
struct token_place {
  static constexpr int max_axes = 3;
  index_t batch;
  std::array<index_t, max_axes> position;

  static token_place of(options::token_positions const& positions, index_t batch, index_t token) {
    token_place place{batch, {}};
    for (int axis = 0; axis < max_axes; ++axis)
      place.position[static_cast<std::size_t>(axis)] =
          positions(std::min<index_t>(axis, positions.axes() - 1), batch, token);
    return place;
  }
  static token_place on_all_axes(index_t batch, index_t position) { return {batch, {position, position, position}}; }
};

}  // namespace extend

namespace extend {

/// fill(place, cosine, sine) writes round_up(pairs(), width) numbers to each.
template <class S>
concept RotaryAngles =
    requires(S const& source, extend::token_place const& place, extend::key_range positions, float* numbers) {
      { source.pairs() } -> std::same_as<index_t>;
      { source.axes() } -> std::same_as<index_t>;
      source.check(positions, index_t{});
      source.fill(place, numbers, numbers);
    };

}  // namespace extend

namespace options {

/// Angles that are a position times the frequency of a pair.
///
///     rotary const text(rotary_frequencies(128, 500000, llama3_scaling{}));  // channels, base, scaling
class rotary_frequencies {
 public:
  /// Takes the usual frequencies of `dimension` channels, an even number. Throws argument_error where it is not, or
  /// base or scaling are out of range.
  template <class Scaling = unscaled>
  explicit rotary_frequencies(index_t dimension, double base = 10000, Scaling const& scaling = {}) {
    extend::arithmetic_mode const arithmetic;
    scaling.check();
    append(dimension, base, scaling, 0);
    attention_factor_ = scaling.attention_factor();
    pad();
  }

  /// Takes frequencies of one's own: radians per position for each pair, and the number that cosine and sine are
  /// multiplied by.
  explicit rotary_frequencies(std::vector<double> const& radians, double attention_factor = 1)
      : attention_factor_(attention_factor) {
    extend::arithmetic_mode const arithmetic;
    for (double theta : radians) {
      detail::check_finite("rotary_frequencies", theta);
      add(theta, 0);
    }
    detail::check_finite("rotary_frequencies", attention_factor);
    pad();
  }

  /// Gives dimensions[a] channels to axis a, each with frequencies as for that many channels.
  ///
  ///     rotary const image(rotary_frequencies::axial({64, 64}));  // channels of the row, of the column
  static rotary_frequencies axial(std::vector<index_t> const& dimensions, double base = 10000) {
    extend::arithmetic_mode const arithmetic;
    rotary_frequencies result((std::vector<double>()));
    if (dimensions.size() > token_place::max_axes)
      extend::fail("rotary_frequencies", "expected at most ", token_place::max_axes, " axes, got ", dimensions.size());
    result.clear();
    for (std::size_t axis = 0; axis < dimensions.size(); ++axis)
      result.append(dimensions[axis], base, unscaled{}, static_cast<int>(axis));
    result.pad();
    return result;
  }

  /// Shares the pairs out over the axes: counts[a] consecutive pairs for axis a, which together are all pairs.
  ///
  ///     rotary const video(rotary_frequencies(128).sections({16, 24, 24}));
  rotary_frequencies sections(std::vector<index_t> const& counts) const {
    check_counts(counts);
    rotary_frequencies result(*this);
    index_t pair = 0;
    for (std::size_t axis = 0; axis < counts.size(); ++axis)
      for (index_t i = 0; i < counts[axis]; ++i)
        result.axis_[static_cast<std::size_t>(pair++)] = static_cast<int>(axis);
    result.axes_ = std::max<index_t>(static_cast<index_t>(counts.size()), 1);
    return result;
  }

  /// Shares the pairs out by turns: pair i belongs to axis i mod n as long as that has pairs left to take, and to the
  /// first axis otherwise.
  ///
  ///     rotary const video(rotary_frequencies(128).interleaved_sections({24, 20, 20}));
  rotary_frequencies interleaved_sections(std::vector<index_t> const& counts) const {
    check_counts(counts);
    rotary_frequencies result(*this);
    index_t const n = static_cast<index_t>(counts.size());
    for (index_t pair = 0; pair < pairs_; ++pair) {
      index_t const axis = pair % n;
      bool const left = pair < n * counts[static_cast<std::size_t>(axis)];
      result.axis_[static_cast<std::size_t>(pair)] = left ? static_cast<int>(axis) : 0;
    }
    result.axes_ = n;
    return result;
  }

  index_t pairs() const { return pairs_; }
  index_t axes() const { return axes_; }
  double attention_factor() const { return attention_factor_; }
  /// Gives the radians per position of a pair.
  double radians(index_t pair) const { return turns_[static_cast<std::size_t>(pair)] * (2 * std::numbers::pi); }

  void check(extend::key_range, index_t) const {}

  template <class A>
  void fill(token_place const& place, A* cosine, A* sine) const {
    fill_scaled(place, attention_factor_, cosine, sine);
  }

  /// Leaves the attention factor out: this is for tokens that are rotated already, and turned from one position to
  /// another.
  template <class A>
  void fill_difference(token_place const& place, A* cosine, A* sine) const {
    fill_scaled(place, 1, cosine, sine);
  }

 private:
  void clear() {
    pairs_ = 0;
    turns_.clear();
    axis_.clear();
  }
  void add(double theta, int axis) {
    turns_.push_back(theta / (2 * std::numbers::pi));
    axis_.push_back(axis);
    axes_ = std::max<index_t>(axes_, axis + 1);
    ++pairs_;
  }
  template <class Scaling>
  void append(index_t dimension, double base, Scaling const& scaling, int axis) {
    if (dimension < 0 || dimension % 2 != 0)
      extend::fail("rotary_frequencies", "expected an even dimension of at least 0, got ", dimension);
    if (!(std::isfinite(base) && base > 0))
      extend::fail("rotary_frequencies", "expected a finite base above 0, got ", base);
    for (index_t pair = 0; pair < dimension / 2; ++pair) {
      double const frequency = scaling.frequency(pair, dimension, base);
      if (!std::isfinite(frequency))
        extend::fail("rotary_frequencies", "expected a scaling whose frequencies are finite, got ", frequency,
                     " for pair ", pair);
      add(frequency, axis);
    }
  }
  // So that whole vectors can be read.
  void pad() {
    turns_.resize(static_cast<std::size_t>(extend::round_up(pairs_, simd::width<float>)), 0.0);
    axis_.resize(turns_.size(), 0);
  }
  void check_counts(std::vector<index_t> const& counts) const {
    index_t sum = 0;
    for (index_t count : counts) {
      if (count < 0) extend::fail("rotary_frequencies", "expected sections of at least 0 pairs, got ", count);
      sum += count;
    }
    if (counts.empty() || counts.size() > token_place::max_axes)
      extend::fail("rotary_frequencies", "expected 1 to ", token_place::max_axes, " sections, got ", counts.size());
    if (sum != pairs_)
      extend::fail("rotary_frequencies", "expected sections of ", pairs_, " pairs together, got ", sum);
  }

  template <class A>
  void fill_scaled(token_place const& place, double factor, A* cosine, A* sine) const {
    constexpr int step = simd::width<A>;
    simd::vector<A> const scale(static_cast<A>(factor));
    double position[extend::array_size(step)];
    std::fill_n(position, step, static_cast<double>(place.position[0]));
    for (index_t i = 0; i < pairs_; i += step) {
      if (axes_ > 1)
        for (int lane = 0; lane < step; ++lane)
          position[lane] =
              static_cast<double>(place.position[static_cast<std::size_t>(axis_[static_cast<std::size_t>(i + lane)])]);
      double turns[extend::array_size(step)];
      for (int lane = 0; lane < step; ++lane) turns[lane] = turns_[static_cast<std::size_t>(i + lane)] * position[lane];
      auto const [s, c] = simd::sincos_of_turns<A>(turns);
      (c * scale).store_unaligned(cosine + i);
      (s * scale).store_unaligned(sine + i);
    }
  }

  index_t pairs_ = 0, axes_ = 1;
  std::vector<double> turns_;  // per position
  std::vector<int> axis_;
  double attention_factor_ = 1;
};

}  // namespace options

namespace detail {
template <class T>
void check_angle_rows(char const* argument, tensor_view<T const, 3> const& rows, key_range positions, index_t batches) {
  check_view(argument, rows);
  if (rows.extent(0) != 1) check_extent(argument, "batch", rows.extent(0), batches, "the tensor");
  if (rows.extent(1) == 0 && positions.last >= positions.first)
    fail(argument, "expected at least one position, got none");
  if (positions.first < 0 || positions.last >= rows.extent(1))
    fail(argument, "expected positions from 0 to ", rows.extent(1) - 1, ", got ",
         positions.first < 0 ? positions.first : positions.last);
}
template <class T>
T const* angle_row(tensor_view<T const, 3> const& rows, token_place const& place) {
  return rows.data() + (rows.extent(0) == 1 ? 0 : place.batch * rows.stride(0)) + place.position[0] * rows.stride(1);
}
/// Calls function(pair, vector) for all vectors of a row of numbers, widened; the last is filled up with zeros.
template <class A, Element T, class Function>
void for_widened(T const* row, index_t count, Function&& function) {
  static_assert(std::same_as<A, accumulation_t<T>>,
                "attend: angles are double for tensors of double, and float or 16 bits wide for all others");
  constexpr int step = simd::width<A>;
  for (index_t i = 0; i < count; i += step)
    function(i, count - i >= step ? simd::widen(row + i) : simd::widen_part(row + i, count - i));
}
}  // namespace detail

namespace options {

/// theta [position, pair] or [batch, position, pair].
template <Element T>
class rotary_angles {
 public:
  template <TensorArgument Tensor>
  explicit rotary_angles(Tensor const& theta) : theta_(extend::raise<3>(view_of(theta))) {}

  index_t pairs() const { return theta_.extent(2); }
  index_t axes() const { return 1; }
  void check(extend::key_range positions, index_t batches) const {
    detail::check_angle_rows("rotary_angles", theta_, positions, batches);
  }
  template <class A>
  void fill(token_place const& place, A* cosine, A* sine) const {
    detail::for_widened<A>(detail::angle_row(theta_, place), pairs(), [&](index_t i, simd::vector<A> const& theta) {
      auto const [s, c] = simd::sincos<A>(theta);
      c.store_unaligned(cosine + i);
      s.store_unaligned(sine + i);
    });
  }

 private:
  tensor_view<T const, 3> theta_;
};
template <class Tensor>
rotary_angles(Tensor const&) -> rotary_angles<element_of_t<Tensor const>>;

/// cosine and sine [position, pair] or [batch, position, pair].
template <Element T>
class rotary_table {
 public:
  template <TensorArgument Cosine, TensorArgument Sine>
  rotary_table(Cosine const& cosine, Sine const& sine)
      : cosine_(extend::raise<3>(view_of(cosine))), sine_(extend::raise<3>(view_of(sine))) {}

  index_t pairs() const { return cosine_.extent(2); }
  index_t axes() const { return 1; }
  void check(extend::key_range positions, index_t batches) const {
    detail::check_angle_rows("rotary_table (cosine)", cosine_, positions, batches);
    if (sine_.extents() != cosine_.extents())
      extend::fail("rotary_table (sine)", "expected shape ", detail::shape_text<3>(cosine_.extents()),
                   " (as cosine), got ", detail::shape_text<3>(sine_.extents()));
    detail::check_view("rotary_table (sine)", sine_);
  }
  template <class A>
  void fill(token_place const& place, A* cosine, A* sine) const {
    detail::for_widened<A>(detail::angle_row(cosine_, place), pairs(),
                           [&](index_t i, simd::vector<A> const& c) { c.store_unaligned(cosine + i); });
    detail::for_widened<A>(detail::angle_row(sine_, place), pairs(),
                           [&](index_t i, simd::vector<A> const& s) { s.store_unaligned(sine + i); });
  }

 private:
  tensor_view<T const, 3> cosine_, sine_;
};
template <class Cosine, class Sine>
rotary_table(Cosine const&, Sine const&) -> rotary_table<element_of_t<Cosine const>>;

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
