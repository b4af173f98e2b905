// SPDX-License-Identifier: BSD-3-Clause
// Rows of rotated queries and keys as a matrix unit reads them. Rotation gives floats, of which a bfloat16 keeps too
// little, but a sum of two keeps enough:
//
//   x ~ high + low                                high = bfloat16(x), low = bfloat16(x - high), |error| <= 2^-16 |x|
//
//   q . k ~ high . k + low . k                            where queries alone are rotated: 2^-16 sum_c |q_c k_c|
//   q . k ~ high . high' + high . low' + low . high'      where both are: three times as much
//
// which is one product of longer rows, whose parts are padded with zeros to multiples of 32:
//
//   query   high, low   or   high, high, low
//   key     k, k        or   high, low, high
//
// The unit has time for the longer product: exponentials bound a tile (pair_stage.hpp).
#pragma once

#include "../../core/scratch.hpp"
#include "../../policy/position/rotary.hpp"
#include "../../simd/pair_products.hpp"
#include "../../simd/transform_row.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// The number of parts of a row.
template <class Position>
inline constexpr index_t pair_parts = std::same_as<Position, attend::detail::absent> ? 1
                                      : attend::detail::rotates_keys<Position>       ? 3
                                                                                     : 2;

/// Writes parts of rows of `dimension` elements in T, which is bfloat16.
template <Element T>
class pair_part_writer {
 public:
  pair_part_writer(scratch& memory, index_t dimension)
      : dimension_(dimension), high_(memory.allocate<T>(dimension)), low_(memory.allocate<T>(dimension)) {}

  index_t padded() const { return round_up(dimension_, simd::pair_depth); }

  /// The parts of a query, or with `key` of a key.
  template <index_t Parts>
  void write(float const* row, bool key, std::uint16_t* to) const {
    static_assert(Parts > 1);
    simd::narrow_row(row, high_, dimension_);
    simd::transform_row(
        low_, dimension_,
        [](simd::vector<float> const& x, simd::vector<float> const& high) {
          simd::vector<float> const rest = x - high, nothing(0.0f);
          // An infinite number has no rest.
          return simd::select(rest == rest, rest, nothing);
        },
        row, static_cast<T const*>(high_));
    for (index_t part = 0; part < Parts; ++part, to += padded())
      write_part(part == (key ? 1 : Parts - 1) ? low_ : high_, to);
  }

  /// The same row as each part.
  template <index_t Parts>
  void write(T const* row, std::uint16_t* to) const {
    for (index_t part = 0; part < Parts; ++part, to += padded()) write_part(row, to);
  }

 private:
  void write_part(T const* row, std::uint16_t* to) const { simd::copy_row<simd::pair_unit>(row, dimension_, to); }

  index_t dimension_;
  T *high_, *low_;
};

}  // namespace attend::inline ATTEND_TARGET::engine
