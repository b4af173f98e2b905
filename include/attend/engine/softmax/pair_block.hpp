// SPDX-License-Identifier: BSD-3-Clause
// A block of keys and values as a matrix unit reads it (simd/pair_products.hpp), all in bfloat16:
//
//   keys     rows as they lie in memory; a block that is not in one run, or that ends within 16 rows, is copied, and
//            so is each block where the dimension is not a multiple of 32, rows have parts (pair_parts.hpp), or the
//            unit wants another order; rows past the block's end are zeros, and so are elements past a row's
//   values   transposed into tiles of 16 columns and 32 keys, [column / 16][key / 32][16][32]: so the keys are the
//            depth of the product with weights; keys past the block's end are zeros, and columns past a row's, and so
//            are infinities and NaN, which would reach queries that do not see them
//
// Both are prepared once for all tiles that share the block, and only if a tile needs them.
//
// Products with values are of whole groups of 32 keys, counted from the block's first key. Where a call is
// chunk-invariant, they are counted from the sequence's first key: a block that begins within a group has keys and
// values of zeros before it.
#pragma once

#include "../../core/scratch.hpp"
#include "../../simd/pair_transpose.hpp"
#include "key_block.hpp"
#include "pair_parts.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Whether a matrix unit may compute the products of such queries with such keys and values.
template <Element T, class Source>
inline constexpr bool may_use_pairs =
    simd::has_pair_products && std::same_as<T, bfloat16> && std::same_as<typename Source::key_element, bfloat16> &&
    std::same_as<typename Source::value_element, bfloat16>;

/// What a tile sees of the block, whatever rows it comes from.
class pair_rows {
 public:
  /// The first key's position, and the number of keys, those of zeros among them.
  index_t first() const { return first_; }
  index_t count() const { return count_; }

  /// Keys, of which a multiple of 16 can be read.
  virtual simd::pair_matrix keys() = 0;
  /// Values, transposed: rows are columns of values. They stay as they are until the block has moved twice.
  virtual simd::pair_matrix values() = 0;
  /// How often the block has moved.
  index_t moves() const { return moves_; }
  /// Whether all values are finite. Those that are not are zeros in the tiles.
  bool values_are_finite() {
    values();
    return finite_;
  }

 protected:
  ~pair_rows() = default;

  index_t first_ = 0, count_ = 0, moves_ = 0;
  bool finite_ = true;
};

/// `Position` rotates queries, and perhaps keys, or is absent.
template <class Rows, class Position>
class pair_block final : public pair_rows {
 public:
  using element = typename Rows::key_element;
  static_assert(std::same_as<element, bfloat16> && std::same_as<typename Rows::value_element, bfloat16>);

  static constexpr index_t parts = pair_parts<Position>;
  static constexpr bool rotates = attend::detail::rotates_keys<Position>;

  /// The keys are those of `sequence`. With `aligned`, groups are counted from its first key.
  pair_block(scratch& memory, Rows const& rows, block_shape const& shape, Position const& position,
             attend::detail::sequence const& sequence, bool aligned)
      : memory_(memory),
        aligned_(aligned),
        max_keys_(shape.max_keys),
        rows_(rows),
        position_(position),
        sequence_(sequence),
        writer_(memory, shape.key_dimension),
        key_dimension_(shape.key_dimension),
        value_dimension_(shape.value_dimension) {
    for (simd::pair_bits*& tiles : tiles_)
      tiles = memory.allocate<simd::pair_bits>(divide_up(shape.max_keys, simd::pair_depth) * simd::pair_tile *
                                               padded_values());
    if constexpr (rotates) {
      angles_ = memory.allocate<float>(position.buffer_size());
      rotated_ = memory.allocate<float>(shape.key_dimension);
    }
  }

  /// The elements of a key with all its parts.
  index_t key_depth() const { return parts * writer_.padded(); }

  void move_to(index_t first_row, index_t count) {
    first_row_ = first_row;
    run_ = rows_.rows(first_row);
    lead_ = aligned_ ? run_.position % simd::pair_depth : 0;
    first_ = run_.position - lead_;
    count_ = lead_ + count;
    ++moves_;
    keys_ready_ = values_ready_ = false;
  }

 private:
  static constexpr index_t size = sizeof(std::uint16_t);

  static simd::pair_matrix rows_from(void const* first, index_t stride) {
    return {static_cast<char const*>(first), stride, simd::pair_tile * stride, simd::pair_depth * size};
  }

  simd::pair_matrix keys() override {
    if (parts == 1 && simd::reads_in_place<simd::pair_unit>(key_dimension_) && lead_ == 0 && run_.count >= count_ &&
        count_ % simd::pair_tile == 0)
      return rows_from(run_.key, run_.key_stride * size);
    index_t const padded = key_depth();
    if (!key_copy_) key_copy_ = memory_.allocate<std::uint16_t>(round_up(max_keys_, simd::pair_tile) * padded);
    if (!keys_ready_) {
      std::uint16_t* to = std::fill_n(key_copy_, lead_ * padded, std::uint16_t(0));
      index_t stored_row = first_row_;
      for_each_row(rows_, run_, first_row_, count_ - lead_, [&](auto const& run, index_t row) {
        copy_key(run, row, stored_row++, to);
        to += padded;
      });
      std::fill(to, key_copy_ + round_up(count_, simd::pair_tile) * padded, std::uint16_t(0));
      keys_ready_ = true;
    }
    return rows_from(key_copy_, padded * size);
  }

  template <class Run>
  void copy_key(Run const& run, index_t row, [[maybe_unused]] index_t stored_row, std::uint16_t* to) const {
    element const* const key = run.key + row * run.key_stride;
    if constexpr (rotates) {
      position_.key_rotation(place_of_key(rows_, sequence_, run.position + row, stored_row), angles_)
          .apply(key, rotated_, key_dimension_);
      writer_.template write<parts>(rotated_, true, to);
    } else {
      writer_.template write<parts>(key, to);
    }
  }

  simd::pair_matrix values() override {
    simd::pair_bits* const tiles = tiles_[moves_ % 2];
    index_t const tiles_of_column = divide_up(count_, simd::pair_depth);
    if (!values_ready_) pack_values(tiles, tiles_of_column);
    values_ready_ = true;
    constexpr index_t row = simd::pair_depth * size, tile = simd::pair_tile * row;
    return {reinterpret_cast<char const*>(tiles), row, tiles_of_column * tile, tile};
  }

  void pack_values(simd::pair_bits* tiles, index_t tiles_of_column) {
    using simd::pair_depth, simd::pair_tile;
    using numbers [[gnu::vector_size(2 * pair_depth)]] = std::uint16_t;
    static constexpr std::uint16_t zeros[pair_tile] = {};
    std::uint16_t const* row[pair_depth];
    index_t skipped = lead_, filled = lead_, group = 0;  // rows of the group that are zeros, and rows that it has
    numbers carried = {};
    auto const pack_group = [&] {
      for (index_t column = 0; column < value_dimension_; column += pair_tile) {
        // A part of a tile is copied, with zeros behind it.
        std::uint16_t part[pair_depth][pair_tile];
        std::uint16_t const* from[pair_depth];
        std::fill_n(from, pair_depth, zeros);
        if (column + pair_tile <= value_dimension_)
          for (index_t j = skipped; j < filled; ++j) from[j] = row[j] + column;
        else
          for (index_t j = skipped; j < filled; ++j) {
            from[j] = part[j];
            std::fill(std::copy(row[j] + column, row[j] + value_dimension_, part[j]), part[j] + pair_tile, zeros[0]);
          }
        simd::pair_bits* const tile = tiles + (column / pair_tile * tiles_of_column + group) * pair_tile * pair_tile;
        simd::transpose_tile<simd::pair_unit>(from, tile);
        for (index_t i = 0; i < pair_tile; ++i) {
          // Infinite or NaN: an exponent with all bits set carries into the sign.
          numbers x;
          std::memcpy(&x, tile + i * pair_tile, sizeof(x));
          carried |= (x & std::uint16_t{0x7fff}) + std::uint16_t{0x80};
        }
      }
      ++group;
      skipped = filled = 0;
    };
    for_each_row(rows_, run_, first_row_, count_ - lead_, [&](auto const& run, index_t i) {
      row[filled++] = reinterpret_cast<std::uint16_t const*>(run.value + i * run.value_stride);
      if (filled == pair_depth) pack_group();
    });
    if (filled > 0) pack_group();
    finite_ = true;
    for (index_t i = 0; i < pair_depth; ++i) finite_ = finite_ && carried[i] < 0x8000;
    if (!finite_) clear_infinite(tiles, padded_values() * tiles_of_column * pair_tile);
  }

  [[gnu::cold]] static void clear_infinite(simd::pair_bits* pairs, index_t count) {
    auto const half = [](simd::pair_bits pair, simd::pair_bits exponent, simd::pair_bits all) {
      return (pair & exponent) == exponent ? 0 : pair & all;
    };
    for (simd::pair_bits* pair = pairs; pair < pairs + count; ++pair)
      *pair = half(*pair, 0x7f80u, 0xffffu) | half(*pair, 0x7f800000u, 0xffff0000u);
  }

  index_t padded_values() const { return round_up(value_dimension_, simd::pair_tile); }

  scratch& memory_;
  bool aligned_;
  index_t max_keys_;
  Rows rows_;
  Position const& position_;
  attend::detail::sequence sequence_;
  pair_part_writer<element> writer_;
  float *angles_ = nullptr, *rotated_ = nullptr;
  index_t key_dimension_, value_dimension_, first_row_ = 0;
  index_t lead_ = 0;  // how many keys of zeros come before those of the rows
  std::uint16_t* key_copy_ = nullptr;
  simd::pair_bits* tiles_[2];  // of this block, and of the one before it
  key_value_rows<element, element> run_;
  bool keys_ready_ = false, values_ready_ = false;
};

}  // namespace attend::inline ATTEND_TARGET::engine
