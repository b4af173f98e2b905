// SPDX-License-Identifier: BSD-3-Clause
// The products of the split engine on a matrix unit (simd/pair_products.hpp), where queries, keys and values are
// bfloat16 and several rows share each key: multiply-adds would then take longer than reading the keys.
//
//   logits[key][lanes] = scale * keys . queries       keys as they lie in memory, queries in pairs of elements
//   sum[lanes][:]     += weights . values             weights rounded to bfloat16, [lanes][key]; values in pairs of
//   keys
//
// A vector of rows has few products for each value, so values are not transposed as in the tiled engine: two keys' rows
// become pairs by shifts, in the order of stored_row.hpp, which sums have in this engine anyway. What is transposed are
// the weights. Vectors prepare some columns of values while the unit multiplies those before.
//
// All between the products is computed in float, as in any step. A weight that is rounded differs by at most 2^-8 of
// itself, so an output by at most 2^-8 of sum_j p_j |v_j|.
#pragma once

#include "pair_multiply.hpp"
#include "split_rows.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Whether a matrix unit may compute the products of a call: it multiplies queries as they are. Of the instructions for
/// vectors, AVX512-BF16's would need copies of all keys, and of the 16 rows of weights that are multiplied at a time,
/// BFMMLA has numbers for four.
template <Element T, class Source, class Access = token_access<>>
inline constexpr bool may_split_in_pairs = may_use_pairs<T, Source> && simd::pair_unit::order.plain() &&
                                           std::same_as<typename Access::position_type, attend::detail::absent>;

/// Whether it does, for so many rows that share each key. With four of them, multiply-adds still take no longer than
/// reading the keys (Sapphire Rapids).
template <Element T, class Source, class Access = token_access<>>
bool splits_in_pairs(index_t key_dimension, index_t value_dimension, bool full_precision, index_t rows) {
  constexpr index_t most_rows_without = 4;
  return may_split_in_pairs<T, Source, Access> && rows > most_rows_without && simd::uses_pair_products() &&
         !full_precision && key_dimension > 0 && key_dimension % simd::pair_depth == 0 &&
         value_dimension % (2 * simd::width<float>) == 0;
}
template <class Source, class Access, Element T>
bool splits_in_pairs(problem<T> const& p, index_t rows) {
  return splits_in_pairs<T, Source, Access>(p.shape.key_dimension, p.shape.value_dimension, p.full_precision, rows);
}

/// A block of keys and values, and its two products with each vector of rows.
class split_pairs {
 public:
  split_pairs(simd::pair_unit& unit, scratch& memory, index_t key_dimension, index_t value_dimension, float scale)
      : unit_(unit),
        memory_(memory),
        key_dimension_(key_dimension),
        value_dimension_(value_dimension),
        scale_(scale),
        weights_(memory.allocate<simd::pair_bits>(split_block_keys / 2 * pair_tile)),
        values_(memory.allocate<simd::pair_bits>(split_block_keys * columns)),
        zeros_(memory.allocate<std::uint16_t>(value_dimension)) {
    // A tile has 16 rows, of which the weights fill as many as a vector has lanes.
    std::fill_n(weights_, split_block_keys / 2 * pair_tile, simd::pair_bits(0));
    std::fill_n(zeros_, value_dimension, std::uint16_t(0));
  }

  /// The number of keys that are multiplied with values: those after the last one have weights of 0.
  static index_t padded(index_t keys) { return round_up(keys, pair_depth); }

  /// Makes the block consist of these rows. As many keys can be read as fill the block.
  void move_to(void const* const* key, void const* const* value, index_t keys) {
    count_ = keys;
    rows_of_keys_ = rows_of_block(key, round_up(keys, pair_tile));
    value_ = value;
    std::copy_n(value, keys, row_);
    std::fill(row_ + keys, row_ + padded(keys), zeros_);
  }

  /// Writes the logits [key][width], up to a multiple of 16 keys. `query` is [key dimension / 2][width].
  void score(simd::pair_bits const* query, float* logits, read_ahead* ahead) {
    index_t const keys = round_up(count_, pair_tile);
    byte_run next = ahead ? ahead->next : byte_run{};
    block_prefetch none;
    multiply_pair_rows<1>(
        unit_, rows_of_keys_, keys, query, key_dimension_, logits, true, none,
        [&]() ATTEND_INLINE_LAMBDA {
          for (int line = 0; ahead && line < pair_tile; line += 4) ahead->template fetch_lines<4>(next);
        },
        [](index_t) {});
    if (ahead) ahead->next = next;
    for (float* at = logits; at < logits + count_ * width; at += width)
      simd::store(at, simd::load(at) * simd::vector<float>(scale_));
  }

  /// Adds the products of weights [key][width] and values to the sums, 16 rows that are `stride` apart. `hidden`, [key]
  /// [width] or null: whether a pair adds nothing, whatever its value is.
  void add_values(float const* weights, bool const* hidden, float* sum, index_t stride, read_ahead* ahead) {
    round_weights(weights);
    if (!hidden || values_are_finite()) return multiply_values(row_, sum, stride, ahead);
    void const* finite[array_size(split_block_keys)];
    copy_finite(finite);
    multiply_values(finite, sum, stride, ahead);
    add_infinities(hidden, sum, stride);
  }

 private:
  static constexpr index_t width = simd::width<float>, pair_tile = simd::pair_tile, pair_depth = simd::pair_depth;
  /// The columns that are multiplied at a time: those of two vectors are read as pairs from the same bits.
  static constexpr index_t columns = 2 * width;
  static constexpr index_t size = sizeof(std::uint16_t);

  static simd::pair_matrix rows_from(char const* first, index_t stride) {
    return {first, stride, pair_tile * stride, pair_depth * size};
  }

  /// Rows that are equally far apart, as the unit reads them: where they lie, or copied.
  simd::pair_matrix rows_of_block(void const* const* key, index_t count) {
    auto const* const first = static_cast<char const*>(key[0]);
    index_t const stride = static_cast<char const*>(key[1]) - first;
    bool in_place = true;
    for (index_t i = 0; i < count; ++i) in_place &= key[i] == first + i * stride;
    if (in_place) return rows_from(first, stride);
    if (!keys_) keys_ = memory_.allocate<std::uint16_t>(split_block_keys * key_dimension_);
    for (index_t i = 0; i < count; ++i)
      std::memcpy(keys_ + i * key_dimension_, key[i], static_cast<std::size_t>(key_dimension_ * size));
    return rows_from(reinterpret_cast<char const*>(keys_), key_dimension_ * size);
  }

  void multiply_values(void const* const* row, float* sum, index_t stride, read_ahead* ahead) {
    index_t const steps = padded(count_) / pair_depth;
    constexpr index_t row_bytes = pair_depth * size, tile_bytes = pair_tile * row_bytes;
    simd::pair_matrix const weights{reinterpret_cast<char const*>(weights_), row_bytes, 0, tile_bytes};
    byte_run next = ahead ? ahead->next : byte_run{};
    for (index_t step = 0; step < steps; ++step) pack_values(row, step, 0, ahead, next);
    for (index_t column = 0; column < value_dimension_; column += columns) {
      index_t step = 0;
      simd::multiply_tiles<1, 2>(unit_,
                                 {weights, values_of(column), sum + column, columns, stride, padded(count_), false},
                                 [&]() ATTEND_INLINE_LAMBDA {
                                   if (column + columns < value_dimension_)
                                     pack_values(row, step++, column + columns, ahead, next);
                                 });
    }
    if (ahead) ahead->next = next;
  }

  /// The values of columns in pairs, [key / 2][columns]. Those of the columns before are read while they are written.
  simd::pair_bits* values_of(index_t column) const {
    return values_ + column / columns % 2 * (split_block_keys / 2 * columns);
  }

  /// Writes columns of 32 keys in pairs.
  ATTEND_INLINE void pack_values(void const* const* row, index_t step, index_t column, read_ahead* ahead,
                                 byte_run& next) const {
    using bits [[gnu::vector_size(sizeof(simd::pair_bits) * width)]] = simd::pair_bits;
    auto const read = [&](index_t key) ATTEND_INLINE_LAMBDA {
      bits x;
      std::memcpy(&x, static_cast<std::uint16_t const*>(row[key]) + column, sizeof(x));
      return x;
    };
    index_t const first = step * pair_depth;
    simd::pair_bits* to = values_of(column) + first / 2 * columns;
    for (index_t key = first; key < first + pair_depth; key += 2, to += columns) {
      bits const a = read(key), b = read(key + 1);
      bits const even = (a & 0xffffu) | (b << 16), odd = (a >> 16) | (b & 0xffff0000u);
      std::memcpy(to, &even, sizeof(even));
      std::memcpy(to + width, &odd, sizeof(odd));
      if (ahead) ahead->template fetch_lines<2>(next);
    }
  }

  /// weights_ becomes [key / 32][row][32].
  void round_weights(float const* weights) {
    for (index_t key = 0; key < count_; key += pair_depth) {
      alignas(64) simd::pair_bits pairs[pair_tile][array_size(width)];
      void const* lines[pair_tile];
      for (index_t i = 0; i < pair_tile; ++i) {
        float const* const at = weights + (key + 2 * i) * width;
        simd::store_pairs(pairs[i], simd::load(at), simd::load(at + width));
        lines[i] = pairs[i];
      }
      simd::transpose_pairs(lines, pair_tile, width, weights_ + key / 2 * pair_tile, pair_tile);
    }
  }

  static bool is_finite(std::uint16_t x) { return (x & 0x7f80u) != 0x7f80u; }

  bool values_are_finite() const {
    using numbers [[gnu::vector_size(2 * columns)]] = std::uint16_t;
    // Infinite or NaN: an exponent with all bits set carries into the sign.
    numbers carried = {};
    for (index_t j = 0; j < count_; ++j)
      for (index_t column = 0; column < value_dimension_; column += columns) {
        numbers x;
        std::memcpy(&x, static_cast<std::uint16_t const*>(value_[j]) + column, sizeof(x));
        carried |= (x & std::uint16_t{0x7fff}) + std::uint16_t{0x80};
      }
    bool finite = true;
    for (index_t i = 0; i < columns; ++i) finite = finite && carried[i] < 0x8000;
    return finite;
  }

  /// Copies the values with zeros in place of those that are not finite, and points `row` to the copies.
  [[gnu::cold, gnu::noinline]] void copy_finite(void const** row) {
    if (!finite_) finite_ = memory_.allocate<std::uint16_t>(split_block_keys * value_dimension_);
    for (index_t j = 0; j < padded(count_); ++j) {
      auto const* const from = static_cast<std::uint16_t const*>(row_[j]);
      std::uint16_t* const to = finite_ + j * value_dimension_;
      for (index_t c = 0; c < value_dimension_; ++c) to[c] = is_finite(from[c]) ? from[c] : std::uint16_t(0);
      row[j] = to;
    }
  }

  /// Adds the products with values that are not finite to the rows that see their keys: so hidden ones change no bit.
  [[gnu::cold, gnu::noinline]] void add_infinities(bool const* hidden, float* sum, index_t stride) const {
    for (index_t j = 0; j < count_; ++j)
      for (index_t i = 0; i < value_dimension_; ++i) {
        std::uint16_t const x =
            static_cast<std::uint16_t const*>(value_[j])[simd::stored_column<bfloat16>(i / width, i % width)];
        if (is_finite(x)) continue;
        float const number = std::bit_cast<float>(static_cast<simd::pair_bits>(x) << 16);
        for (index_t lane = 0; lane < width; ++lane) {
          if (hidden[j * width + lane]) continue;
          simd::pair_bits const pair = weights_[(j / pair_depth * pair_tile + lane) * pair_tile + j % pair_depth / 2];
          float const weight = std::bit_cast<float>(j % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
          sum[lane * stride + i] += weight * number;
        }
      }
  }

  simd::pair_unit& unit_;
  scratch& memory_;
  index_t key_dimension_, value_dimension_, count_ = 0;
  float scale_;
  simd::pair_matrix rows_of_keys_{};
  void const* const* value_ = nullptr;
  void const* row_[array_size(split_block_keys)];  // of values, and zeros up to whole tiles
  simd::pair_bits* weights_;                       // [key / 32][row][16]
  simd::pair_bits* values_;
  std::uint16_t* zeros_;
  std::uint16_t* keys_ = nullptr;    // copies of rows that are not equally far apart
  std::uint16_t* finite_ = nullptr;  // copies of values, without those that are not finite
};

}  // namespace attend::inline ATTEND_TARGET::engine
