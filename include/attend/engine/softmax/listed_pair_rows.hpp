// SPDX-License-Identifier: BSD-3-Clause
// Rows of bfloat16 that a list points to, as a matrix unit reads them (simd/pair_products.hpp): where they lie, if they
// are equally far apart and the unit can, or copied in the unit's order.
#pragma once

#include "../../core/scratch.hpp"
#include "../../simd/pair_products.hpp"

namespace attend::inline ATTEND_TARGET::engine {

class listed_pair_rows {
 public:
  /// Copies are of at most `most` rows of `dimension` elements.
  listed_pair_rows(scratch& memory, index_t most, index_t dimension)
      : memory_(memory), most_(most), dimension_(dimension), padded_(round_up(dimension, simd::pair_depth)) {}

  /// The elements of a row, and zeros behind them.
  index_t depth() const { return padded_; }

  /// `count` rows, and zeros up to a multiple of 16; as they are until the next call.
  simd::pair_matrix read(void const* const* row, index_t count) {
    auto const* const first = static_cast<char const*>(row[0]);
    index_t const stride = count > 1 ? static_cast<char const*>(row[1]) - first : 0;
    bool in_place = simd::reads_in_place<simd::pair_unit>(dimension_) && count % simd::pair_tile == 0;
    for (index_t i = 0; in_place && i < count; ++i) in_place = row[i] == first + i * stride;
    if (in_place) return rows_from(first, stride);
    if (!copy_) copy_ = memory_.allocate<std::uint16_t>(round_up(most_, simd::pair_tile) * padded_);
    for (index_t i = 0; i < count; ++i) simd::copy_row<simd::pair_unit>(row[i], dimension_, copy_ + i * padded_);
    std::fill(copy_ + count * padded_, copy_ + round_up(count, simd::pair_tile) * padded_, std::uint16_t(0));
    return rows_from(reinterpret_cast<char const*>(copy_), padded_ * size);
  }

 private:
  static constexpr index_t size = sizeof(std::uint16_t);

  static simd::pair_matrix rows_from(char const* first, index_t stride) {
    return {first, stride, simd::pair_tile * stride, simd::pair_depth * size};
  }

  scratch& memory_;
  index_t most_, dimension_, padded_;
  std::uint16_t* copy_ = nullptr;
};

}  // namespace attend::inline ATTEND_TARGET::engine
