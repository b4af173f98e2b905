// SPDX-License-Identifier: BSD-3-Clause
// A chunk's queries, keys and weights as a matrix unit multiplies them (simd/pair_products.hpp), all in bfloat16:
//
//   queries   [token][feature]           rows, by which the state is multiplied
//   across    [feature][token]           keys in pairs of features, by which queries are multiplied
//   along     [feature][token]           keys as rows of tokens, which multiply what the tokens write
//   weights   [part][query][token]       products of queries and keys, decays and rates in them; 0 for later tokens
//
// Queries and keys are a tensor's own rows, which are exact. What is no bfloat16 (weights, the state, and values with
// decays or rates: pair_columns.hpp) is a sum of two (simd/bfloat16_parts.hpp), whose error is 2^-16:
//
//   a . b ~ high . b + low . b                               2^-16 sum |a_k b_k|
//
// A unit that is sixteen times as fast as multiply-adds of floats has time for two products in the place of one.
// Rounded once, to 2^-8, they would take less time still, but a state would keep the errors of bfloat16 for good.
//
// Features are floats, and so are keys with a decay for each feature: both sides would be sums, with three products for
// one and all rows to be cut in two, which takes as long as it saves. They stay in float.
#pragma once

#include <type_traits>

#include "../../core/scratch.hpp"
#include "../../simd/bfloat16_parts.hpp"
#include "../../simd/pair_transpose.hpp"
#include "../../simd/register_tile.hpp"
#include "../rows.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// The unit that multiplies chunks. Instructions for vectors (simd::vector_unit), which have orders of their own, have
/// little time for parts: they do two to four times as many multiplications as a fused multiply-add.
inline constexpr bool has_chunk_unit = simd::has_pair_products && simd::pair_unit::order.plain();
using chunk_unit = std::conditional_t<has_chunk_unit, simd::pair_unit, simd::emulated_unit>;

/// One operand of a product in parts: part p begins p * part elements behind the first.
struct pair_rows_in_parts {
  simd::pair_matrix rows;
  index_t part, parts;

  simd::pair_matrix of(index_t p) const {
    return {rows.data + p * part * static_cast<index_t>(sizeof(std::uint16_t)), rows.stride, rows.tile, rows.step};
  }
  pair_rows_in_parts from(index_t row) const { return {rows.from(row, 0), part, parts}; }
};
struct pair_columns_in_parts {
  simd::pair_bits const* pairs;
  index_t stride, part, parts;
};

/// c = a . b, for Rows * 16 rows and Columns vectors of columns: the sum over all parts. Calls beside() after each tile
/// of a, as add_tiles does.
template <int Rows, int Columns, class Beside>
ATTEND_INLINE void multiply_parts(chunk_unit& unit, pair_rows_in_parts const& a, pair_columns_in_parts const& b,
                                  index_t depth, float* c, index_t c_stride, Beside const& beside) {
  simd::detail::for_each_number<Rows * Columns>([&]<int I>() ATTEND_INLINE_LAMBDA { unit.template zero<I>(); });
  for (index_t i = 0; i < a.parts; ++i)
    for (index_t j = 0; j < b.parts; ++j)
      simd::add_tiles<Rows, Columns>(unit, {a.of(i), b.pairs + j * b.part, b.stride, depth}, beside);
  simd::store_tiles<Rows, Columns>(unit, c, c_stride);
}

/// Calls function.template operator()<Groups>(row) for groups of 16 rows, of which two, with less than three vectors of
/// columns, are multiplied side by side.
template <int Vectors, class Function>
ATTEND_INLINE void for_row_groups(index_t rows, Function&& function) {
  constexpr int most = Vectors < 3 ? 2 : 1;
  index_t row = 0;
  for (; row + most * simd::pair_tile <= rows; row += most * simd::pair_tile) function.template operator()<most>(row);
  for (; row < rows; row += simd::pair_tile) function.template operator()<1>(row);
}

class pair_chunk {
 public:
  pair_chunk(scratch& memory, index_t features, index_t max_tokens, index_t heads, bool attends)
      : features_(features),
        depth_(depth_of(features)),
        tokens_(depth_of(max_tokens)),
        rows_(memory.allocate<std::uint16_t>(tokens_ * depth_)),
        queries_(memory.allocate<std::uint16_t>(heads * tokens_ * depth_)),
        along_(memory.allocate<std::uint16_t>(depth_ * tokens_)),
        weights_(memory.allocate<std::uint16_t>(attends ? heads * 2 * tokens_ * tokens_ : 0)),
        across_(memory.allocate<simd::pair_bits>(depth_ / 2 * tokens_)),
        row_(memory.allocate<void const*>(tokens_)) {
    // Elements past the features stay 0.
    std::fill_n(rows_, tokens_ * depth_, std::uint16_t(0));
    std::fill_n(queries_, heads * tokens_ * depth_, std::uint16_t(0));
  }

  /// The depth of products over `count` tokens or features, and their rows.
  static index_t depth_of(index_t count) { return round_up(count, simd::pair_depth); }
  static index_t rows_of(index_t count) { return round_up(count, simd::pair_tile); }

  // Templates, since Eigen's type may not be defined where this header is read.
  template <std::same_as<bfloat16> E>
  void set_keys(engine::rows_of<E> keys, index_t count) {
    copy(keys, count, depth_of(count), rows_);
    for (index_t i = 0; i < depth_of(count); ++i) row_[i] = rows_ + i * depth_;
    simd::transpose_pairs(row_, depth_of(count), depth_ / 2, across_, tokens_);
    std::uint16_t* to = along_;
    for (index_t pair = 0; pair < depth_ / 2; ++pair, to += 2 * tokens_)
      for (index_t j = 0; j < depth_of(count); j += simd::pair_depth)
        separate(across_ + pair * tokens_ + j, to + j, to + tokens_ + j);
  }
  template <std::same_as<bfloat16> E>
  void set_queries(index_t head, engine::rows_of<E> queries, index_t count) {
    copy(queries, count, rows_of(count), queries_ + head * tokens_ * depth_);
  }

  pair_rows_in_parts queries(index_t head) const { return operand(queries_ + head * tokens_ * depth_, depth_, 0, 1); }
  pair_rows_in_parts along() const { return operand(along_, tokens_, 0, 1); }
  pair_rows_in_parts weights(index_t head) const {
    return operand(weights_ + head * 2 * tokens_ * tokens_, tokens_, tokens_ * tokens_, 2);
  }
  /// A weight, and a key's feature, as the unit has them.
  float weight(index_t head, index_t i, index_t j) const {
    std::uint16_t const* const at = weights_ + (head * 2 * tokens_ + i) * tokens_ + j;
    return as_float(at[0]) + as_float(at[tokens_ * tokens_]);
  }
  float key(index_t feature, index_t j) const { return as_float(along_[feature * tokens_ + j]); }

  /// to[i][j] = q_i . k_j for j <= i < count: whole tiles of rows, up to the end of the triangle's last vector.
  void multiply(chunk_unit& unit, index_t head, index_t count, float* to, index_t stride) const {
    index_t const padded = round_up(count, width);
    for (index_t i = 0; i < count; i += simd::pair_tile) {
      index_t const columns = std::min(round_up(i + simd::pair_tile, width), padded);
      simd::for_tile_widths(static_cast<int>(columns / width), [&]<int Vectors>(int first) {
        index_t const j = first * width;
        multiply_parts<1, Vectors>(unit, queries(head).from(i), {across_ + j, tokens_, 0, 1}, depth_,
                                   to + i * stride + j, stride, [] {});
      });
    }
  }

  /// Sets the weights: products, times `between` at the same places, and times rates of tokens, each of them if it is
  /// given. Products with `between` are written back.
  void set_weights(index_t head, index_t count, float* products, index_t stride, float const* between,
                   float const* rates) {
    using namespace simd;
    alignas(64) float counted[width];
    for (int i = 0; i < width; ++i) counted[i] = static_cast<float>(i);
    vector<float> const lane = load(counted), nothing(0.0f);
    for (index_t i = 0; i < rows_of(count); ++i) {
      std::uint16_t* const high = weights_ + (head * 2 * tokens_ + i) * tokens_;
      // Two tiles of rows may be multiplied side by side.
      index_t const seen = i < count ? i + 1 : 0, written = round_up(i + 1, pair_depth);
      auto const read = [&](index_t j) ATTEND_INLINE_LAMBDA {
        if (j >= seen) return nothing;
        float* const at = products + i * stride + j;
        vector<float> x = load(at);
        if (between) store(at, x = x * load(between + i * stride + j));
        if (rates) x = x * load(rates + j);
        return j + width <= seen ? x : select(lane < vector<float>(static_cast<float>(seen - j)), x, nothing);
      };
      for (index_t j = 0; j < written; j += 2 * width)
        store_run_parts(read(j), read(j + width), high + j, high + tokens_ * tokens_ + j);
    }
  }

 private:
  static constexpr index_t width = simd::width<float>;
  static_assert(simd::pair_depth % (2 * width) == 0);

  static float as_float(std::uint16_t half) { return std::bit_cast<float>(std::uint32_t{half} << 16); }

  static pair_rows_in_parts operand(std::uint16_t const* first, index_t stride, index_t part, index_t parts) {
    constexpr index_t size = sizeof(std::uint16_t);
    return {
        {reinterpret_cast<char const*>(first), stride * size, simd::pair_tile * stride * size, simd::pair_depth * size},
        part,
        parts};
  }

  /// Copies `count` rows, and writes zeros behind them up to `padded` rows.
  template <std::same_as<bfloat16> E>
  void copy(engine::rows_of<E> from, index_t count, index_t padded, std::uint16_t* to) const {
    for (index_t i = 0; i < count; ++i)
      std::memcpy(to + i * depth_, static_cast<void const*>(from.row(i)),
                  static_cast<std::size_t>(features_) * sizeof(std::uint16_t));
    std::fill(to + count * depth_, to + padded * depth_, std::uint16_t(0));
  }

  /// The lower and the upper halves of 32 pairs.
  ATTEND_INLINE static void separate(simd::pair_bits const* pairs, std::uint16_t* lower, std::uint16_t* upper) {
    using numbers [[gnu::vector_size(2 * simd::pair_depth)]] = std::uint16_t;
    numbers a, b;
    std::memcpy(&a, pairs, sizeof(a));
    std::memcpy(&b, pairs + simd::pair_tile, sizeof(b));
    numbers const low = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34,
                                                36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62),
                  high = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31, 33,
                                                 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63);
    std::memcpy(lower, &low, sizeof(low));
    std::memcpy(upper, &high, sizeof(high));
  }

  index_t features_, depth_, tokens_;
  std::uint16_t *rows_, *queries_, *along_, *weights_;
  simd::pair_bits* across_;
  void const** row_;
};

}  // namespace attend::inline ATTEND_TARGET::engine
