// SPDX-License-Identifier: BSD-3-Clause
// The step of a gradient on a matrix unit (simd/pair_products.hpp), for queries, keys and values in bfloat16. The
// products are those of backward_tile.hpp, with other operands in the lanes:
//
//   S    [key][lane]      = K Q^T        exact products, summed in float
//   G    [key][lane]      = V dO^T
//   dQ^T [column][lane]  += K^T E        for each tile, as deep as its keys of the block
//   dV   [key][column]   += P dO         for all tiles of the block at once, as deep as they have lanes: sums are then
//   dK   [key][column]   += E Q          loaded and stored once for all of them
//
// Weights P and E = rate * (G - delta) are computed in float, as everywhere, and rounded to bfloat16 before they are
// multiplied: each of them by at most 2^-8 of itself. So the gradients are off by at most
//
//   dV   2^-8 sum_i p_ij |do_i|          dQ   2^-8 |scale| sum_j |e_ij| |k_j|          dK   2^-8 |scale| sum_i |e_ij|
//   |q_i|
//
// beside what float sums and the rounding of the gradients themselves add.
//
// Rows and rates lie as the unit wants them: E as rows, whose depth are lanes, and in pairs of keys, whose depth are
// keys. Queries and gradients of the output are there in pairs of elements and in pairs of rows, keys as rows and
// transposed: each is brought into these forms once for a block or a tile.
//
// A weight of 0 times an infinity is no number, so blocks with numbers that are not finite are left to the float step.
#pragma once

#include "../../simd/bfloat16_parts.hpp"
#include "../../simd/pack.hpp"
#include "../../simd/pair_transpose.hpp"
#include "backward_tile.hpp"
#include "pair_multiply.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Rows of bfloat16 in the unit's order, and as they are, with zeros behind them up to whole groups of 32.
class pair_row_copies {
 public:
  pair_row_copies(scratch& memory, index_t rows, index_t columns)
      : columns_(columns),
        // A stride that is no power of two: rows do not compete for the same sets of the level-1 cache.
        stride_(round_up(columns, simd::pair_depth) + simd::pair_depth),
        ordered_(memory.allocate<std::uint16_t>(rows * stride_)),
        plain_(simd::pair_unit::order.by_parity ? memory.allocate<std::uint16_t>(rows * stride_) : ordered_) {}

  index_t depth() const { return stride_ - simd::pair_depth; }
  std::uint16_t const* ordered(index_t j) const { return ordered_ + j * stride_; }
  std::uint16_t const* plain(index_t j) const { return plain_ + j * stride_; }

  void set(index_t j, void const* from) {
    simd::copy_row<simd::pair_unit>(from, columns_, ordered_ + j * stride_);
    if (plain_ == ordered_) return;
    std::memcpy(plain_ + j * stride_, from, static_cast<std::size_t>(columns_) * size);
    std::fill(plain_ + j * stride_ + columns_, plain_ + (j + 1) * stride_, std::uint16_t(0));
  }
  void clear(key_range rows) {
    std::fill(ordered_ + rows.first * stride_, ordered_ + rows.last * stride_, std::uint16_t(0));
    std::fill(plain_ + rows.first * stride_, plain_ + rows.last * stride_, std::uint16_t(0));
  }

  simd::pair_matrix matrix() const {
    return {reinterpret_cast<char const*>(ordered_), stride_ * size, simd::pair_tile * stride_ * size,
            simd::pair_depth * size};
  }

  /// Whether all elements of the first `rows` rows are finite.
  bool are_finite(index_t rows) const {
    // Infinite or NaN: an exponent with all bits set carries into the sign.
    using numbers [[gnu::vector_size(2 * simd::pair_depth)]] = std::uint16_t;
    numbers carried = {};
    for (index_t j = 0; j < rows; ++j)
      for (index_t c = 0; c < depth(); c += simd::pair_depth) {
        numbers x;
        std::memcpy(&x, ordered(j) + c, sizeof(x));
        carried |= (x & std::uint16_t{0x7fff}) + std::uint16_t{0x80};
      }
    std::uint16_t any = 0;
    for (index_t i = 0; i < simd::pair_depth; ++i) any |= carried[i];
    return any < 0x8000;
  }

  /// to[element pair][row]: rows that are the columns of a product, `rows` of them, a multiple of 16.
  void transpose(index_t rows, simd::pair_bits* to) const {
    void const* from[simd::pair_depth];
    for (index_t j = 0; j < rows; ++j) from[j] = ordered(j);
    simd::transpose_pairs(from, rows, depth() / 2, to, rows);
    simd::order_columns<simd::pair_unit>(to, depth() / 2, rows, rows);
  }

  /// to[row pair][element]: the first `rows` rows, a multiple of 4, as the depth of a product. Those from `count` on
  /// are zeros. Rows of `to` are `stride` apart.
  void pair_up(index_t rows, index_t count, simd::pair_bits* to, index_t stride) const {
    static constexpr std::uint16_t zeros[simd::pair_tile] = {};
    constexpr simd::pair_order order = simd::pair_unit::order;
    for (index_t pair = 0; pair < rows / 2; ++pair)
      for (index_t c = 0; c < padded(columns_); c += simd::pair_tile) {
        auto const part = [&](index_t half) {
          index_t const j = order.number(pair, half);
          return j < count ? plain(j) + c : zeros;
        };
        simd::interleave_pairs(part(0), part(1), to + pair * stride + c);
      }
    simd::order_columns<simd::pair_unit>(to, rows / 2, padded(columns_), stride);
  }

  static index_t padded(index_t columns) { return round_up(columns, simd::pair_tile); }

 private:
  static constexpr index_t size = sizeof(std::uint16_t);

  index_t columns_, stride_;
  std::uint16_t *ordered_, *plain_;
};

/// Sums of rows, whose stride is no power of two either.
struct pair_row_sums {
  float* data = nullptr;
  index_t stride = 0, columns = 0;

  static pair_row_sums of(scratch& memory, index_t rows, index_t columns) {
    index_t const stride = pair_row_copies::padded(columns) + simd::pair_tile;
    return {memory.allocate<float>(rows * stride), stride, columns};
  }
  float* row(index_t j) const { return data + j * stride; }
};

/// The queries of a tile, and what is summed up for them.
struct pair_backward_tile {
  static constexpr int vectors = 2;
  static constexpr int max_lanes = vectors * simd::width<float>;
  static constexpr int lanes() { return max_lanes; }

  tile_rows<float> rows;
  index_t number;                     // among the tiles that share a block
  simd::pair_bits *query, *gradient;  // [element pair][lanes]
  float* sum;                         // [padded key dimension][lanes] of dQ^T
  bool touched;
  key_range keys;  // of the present block, for which it has weights: whole groups of 32
  alignas(64) float log_sum_exp[array_size(max_lanes)];
  alignas(64) float delta[array_size(max_lanes)];
  alignas(64) float of_bias[array_size(max_lanes)], of_scale[array_size(max_lanes)];  // sums of rows for options
};

/// A block of keys and values, and what is summed up for them.
struct pair_backward_block {
  pair_row_copies key, value;
  simd::pair_bits* transposed_key;   // [column / 16][key / 32][16][32]
  pair_row_sums key_sum, value_sum;  // copies, where sums cannot be added in memory
  bool finite = true;
  padded_rows<float> keys_in_memory{}, values_in_memory{};  // to which the sums are added
  unsigned touched = 0;  // a bit for each group of 32 keys that has sums in the copies

  index_t count = 0, groups = 0;  // of the block's keys

  static pair_backward_block of(scratch& memory, index_t most, index_t key_dimension, index_t value_dimension) {
    most = round_up(most, simd::pair_depth);
    return {pair_row_copies(memory, most, key_dimension), pair_row_copies(memory, most, value_dimension),
            memory.allocate<simd::pair_bits>(most / 2 * pair_row_copies::padded(key_dimension)),
            pair_row_sums::of(memory, most, key_dimension), pair_row_sums::of(memory, most, value_dimension)};
  }

  template <Element T>
  void set(rows_of<T> of_keys, rows_of<T> of_values, index_t count_of_rows) {
    count = count_of_rows;
    for (index_t j = 0; j < count; ++j) {
      key.set(j, of_keys.row(j));
      value.set(j, of_values.row(j));
    }
  }
  /// Brings the keys into their other forms.
  void prepare() {
    index_t const padded = round_up(count, simd::pair_depth);
    groups = padded / simd::pair_depth;
    key.clear({count, padded});
    value.clear({count, padded});
    finite = key.are_finite(count) && value.are_finite(count);
    for (index_t group = 0; group < groups; ++group)
      for (index_t c = 0; c < pair_row_copies::padded(key_sum.columns); c += simd::pair_tile) {
        std::uint16_t const* row[simd::pair_depth];
        for (index_t j = 0; j < simd::pair_depth; ++j) row[j] = key.plain(group * simd::pair_depth + j) + c;
        simd::transpose_tile<simd::pair_unit>(
            row, transposed_key + (c / simd::pair_tile * groups + group) * simd::pair_tile * simd::pair_tile);
      }
  }

  void begin_sums(padded_rows<float> const& of_keys, padded_rows<float> const& of_values) {
    keys_in_memory = of_keys;
    values_in_memory = of_values;
    touched = 0;
  }
  /// Whether the unit can add to 32 rows from row `first` on where they lie.
  bool adds_in_place(index_t first) const {
    return first + simd::pair_depth <= count && keys_in_memory.columns % simd::pair_tile == 0 &&
           values_in_memory.columns % simd::pair_tile == 0;
  }
  /// Adds the copies' sums.
  void end_sums() const {
    for (index_t j = 0; j < count; ++j) {
      if (!(touched >> (j / simd::pair_depth) & 1u)) continue;
      add(key_sum.row(j), keys_in_memory.row(j), key_sum.columns);
      add(value_sum.row(j), values_in_memory.row(j), value_sum.columns);
    }
  }
  static void add(float const* from, float* to, index_t columns) {
    for (index_t c = 0; c < columns; ++c) to[c] += from[c];
  }

  /// The transposed keys as rows.
  simd::pair_matrix columns_of_keys() const {
    constexpr index_t row = simd::pair_tile * sizeof(simd::pair_bits), tile = simd::pair_tile * row;
    return {reinterpret_cast<char const*>(transposed_key), row, groups * tile, tile};
  }
};

/// The work on tiles that share blocks.
class pair_backward_step {
 public:
  using tile_type = pair_backward_tile;
  using block_type = pair_backward_block;
  static constexpr index_t lanes = tile_type::max_lanes;
  static_assert(simd::pair_depth % lanes == 0);
  static_assert(!simd::pair_unit::order.by_parity || lanes == simd::pair_depth, "a tile is a row in the unit's order");
  /// Tiles whose lanes are a group of 32.
  static constexpr index_t tiles_of_group = simd::pair_depth / lanes;

  block_prefetch ahead, sums;
  option_step<float> extras;

  static constexpr bool scales_changes = true;

  pair_backward_step(scratch& memory, problem_shape const& shape, float scale, index_t tiles)
      : scale_(scale),
        key_dimension_(shape.key_dimension),
        value_dimension_(shape.value_dimension),
        tiles_(round_up(tiles, tiles_of_group)),
        weight_(memory.allocate<float>(max_block_keys * lanes)),
        rate_(memory.allocate<float>(max_block_keys * lanes)),
        change_(memory.allocate<float>(max_block_keys * lanes)),
        seen_(memory.allocate<float>((max_block_keys + simd::register_rows) * lanes)),
        change_pairs_(memory.allocate<simd::pair_bits>(max_block_keys / 2 * lanes)),
        row_stride_(tiles_ * lanes + simd::pair_depth),
        weight_rows_(memory.allocate<std::uint16_t>(max_block_keys * row_stride_)),
        change_rows_(memory.allocate<std::uint16_t>(max_block_keys * row_stride_)),
        query_stride_(pair_row_copies::padded(shape.key_dimension)),
        gradient_stride_(pair_row_copies::padded(shape.value_dimension)),
        query_rows_(memory.allocate<simd::pair_bits>(tiles_ * lanes / 2 * query_stride_)),
        gradient_rows_(memory.allocate<simd::pair_bits>(tiles_ * lanes / 2 * gradient_stride_)),
        row_sums_(pair_row_sums::of(memory, lanes, shape.key_dimension)),
        keys_(memory.allocate<key_range>(tiles_)) {
    index_t const missing = (tiles_ - tiles) * lanes / 2;
    std::fill_n(query_rows_ + tiles * lanes / 2 * query_stride_, missing * query_stride_, simd::pair_bits(0));
    std::fill_n(gradient_rows_ + tiles * lanes / 2 * gradient_stride_, missing * gradient_stride_, simd::pair_bits(0));
    std::fill_n(keys_, tiles_, key_range{});
  }

  /// Gives a tile memory for its operands and its sum.
  void open(tile_type& tile, scratch& memory) const {
    tile.query = memory.allocate<simd::pair_bits>(round_up(key_dimension_, simd::pair_depth) / 2 * lanes);
    tile.gradient = memory.allocate<simd::pair_bits>(round_up(value_dimension_, simd::pair_depth) / 2 * lanes);
    tile.sum = memory.allocate<float>(query_stride_ * lanes);
    tile.touched = false;
    tile.keys = {};
  }

  /// Takes the rows of a tile's queries and of the gradients of their outputs, of which the last one may be repeated.
  void take(tile_type const& tile, pair_row_copies const& query, pair_row_copies const& gradient) {
    query.transpose(lanes, tile.query);
    gradient.transpose(lanes, tile.gradient);
    finite_ = finite_ && query.are_finite(tile.rows.count) && gradient.are_finite(tile.rows.count);
    query.pair_up(lanes, tile.rows.count, query_rows_ + tile.number * lanes / 2 * query_stride_, query_stride_);
    gradient.pair_up(lanes, tile.rows.count, gradient_rows_ + tile.number * lanes / 2 * gradient_stride_,
                     gradient_stride_);
  }

  /// Whether all numbers of the tiles and the block are finite.
  bool takes(block_type const& block) const { return finite_ && block.finite; }

  static index_t prefetch_steps(index_t keys, index_t) { return prefetch_steps_of_pairs(keys); }

  /// Computes the weights and changes of a tile and keys `range`, of which `first` is the row in the block. The ranges
  /// of a tile come in order.
  void add(tile_type& tile, block_type const& block, any_backward_policies<float> const& call, key_range range,
           index_t first, bool masked) {
    if (masked) {
      visible_parts seen(range.count());
      call.find_visible(tile.vectors, tile.rows, range, seen_, seen);
      if (seen.empty()) return;
      key_range const shown{seen.begin()->keys.first, std::prev(seen.end())->keys.last};
      range = {range.first + shown.first, range.first + shown.last};
      first += shown.first;
      multiply(tile, block, {first, first + range.count()});
      hide(weight_ + first * lanes, seen_ + shown.first * lanes, range.count() * lanes);
    } else {
      multiply(tile, block, {first, first + range.count()});
    }
    float *const weight = weight_ + first * lanes, *const change = change_ + first * lanes;
    float* const rate = call.rates_are_weights ? weight : rate_;
    call.weigh(tile.vectors, tile.rows, range, masked, tile.log_sum_exp, scale_, extras.numbers(weight, rate));
    extras.add(tile, call, range, first, rate, change);
    make_changes(tile.delta, lanes, range.count(), rate, change);
    if (tile.keys.empty()) tile.keys.first = tile.keys.last = first / simd::pair_depth * simd::pair_depth;
    clear({tile.keys.last, first});
    tile.keys.last = first + range.count();
  }

  /// Rounds them, and adds to the tile's gradient.
  void end_tile(tile_type& tile, block_type const& block) {
    keys_[tile.number] = {};
    if (tile.keys.empty()) return;
    key_range const ended{tile.keys.first, round_up(tile.keys.last, simd::pair_depth)};
    clear({tile.keys.last, ended.last});
    round(ended, tile.number * lanes);
    multiply_pair_rows<tile_type::vectors>(
        unit_, block.columns_of_keys().from(0, ended.first), query_stride_, change_pairs_ + ended.first / 2 * lanes,
        ended.count(), tile.sum, !std::exchange(tile.touched, true), sums, [] {}, [](index_t) {});
    keys_[tile.number] = ended;
    tile.keys = {};
    multiplied_ = 0;
  }

  /// A tile's sum as rows, until the next call.
  pair_row_sums const& rows_of_sum(tile_type const& tile) const {
    alignas(64) float factor[array_size(lanes)];
    std::fill_n(factor, lanes, 1.f);
    float* row[array_size(lanes)];
    for (index_t lane = 0; lane < lanes; ++lane) row[lane] = row_sums_.row(lane);
    simd::unpack_columns<float>(tile.sum, lanes, key_dimension_, factor, row);
    return row_sums_;
  }

  /// Adds to the sums of the block's keys.
  void end_block(block_type& block) {
    key_range all;
    for (index_t group = 0; group < tiles_; group += tiles_of_group) all = hull(all, fill_group(group));
    for (index_t key = all.first; key < all.last; key += simd::pair_depth)
      for (index_t group = 0; group < tiles_;) {
        index_t const begin = group;
        while (group < tiles_ && keys_[group].contains(key)) group += tiles_of_group;
        if (group == begin) {
          group += tiles_of_group;
          continue;
        }
        if (block.adds_in_place(key)) {
          padded_rows<float> const &values = block.values_in_memory, &keys = block.keys_in_memory;
          add_rows(weight_rows_, gradient_rows_, gradient_stride_, {begin, group}, key, values.row(key), values.stride,
                   false);
          add_rows(change_rows_, query_rows_, query_stride_, {begin, group}, key, keys.row(key), keys.stride, false);
          continue;
        }
        unsigned const bit = 1u << (key / simd::pair_depth);
        bool const fresh = !(block.touched & bit);
        block.touched |= bit;
        add_rows(weight_rows_, gradient_rows_, gradient_stride_, {begin, group}, key, block.value_sum.row(key),
                 block.value_sum.stride, fresh);
        add_rows(change_rows_, query_rows_, query_stride_, {begin, group}, key, block.key_sum.row(key),
                 block.key_sum.stride, fresh);
      }
    block.end_sums();
    std::fill_n(keys_, tiles_, key_range{});
  }

 private:
  static constexpr index_t size = sizeof(std::uint16_t);

  /// Products of whole groups of 16 keys, unless they were computed for the range before.
  void multiply(tile_type const& tile, block_type const& block, key_range rows) {
    index_t const first = std::max(rows.first / simd::pair_tile * simd::pair_tile, multiplied_);
    multiplied_ = std::max(round_up(rows.last, simd::pair_tile), multiplied_);
    if (first >= multiplied_) return;
    auto const product = [&](pair_row_copies const& of_keys, simd::pair_bits const* of_queries, float* to) {
      multiply_pair_rows<tile_type::vectors>(
          unit_, of_keys.matrix().from(first, 0), multiplied_ - first, of_queries, of_keys.depth(), to + first * lanes,
          true, ahead, [] {}, [](index_t) {});
    };
    product(block.key, tile.query, weight_);
    product(block.value, tile.gradient, change_);
  }

  static void hide(float* logits, float const* seen, index_t count) {
    using namespace simd;
    vector<float> const hidden(-infinity<float>);
    for (index_t at = 0; at < count; at += width<float>)
      store(logits + at, simd::select(load(seen + at) == hidden, hidden, load(logits + at)));
  }

  void clear(key_range keys) {
    if (keys.empty()) return;
    for (float* const of : {weight_, change_}) std::fill(of + keys.first * lanes, of + keys.last * lanes, 0.f);
  }

  /// Brings weights and changes into their forms, as columns from `column` on of the rows.
  void round(key_range keys, index_t column) {
    constexpr index_t group = simd::pair_unit::order.group(), width = simd::width<float>;
    simd::vector<float> const scale(scale_);
    for (index_t key = keys.first; key < keys.last; key += group) {
      simd::vector<float> change[2][array_size(group)];
      for (index_t i = 0; i < group; ++i) {
        index_t const at = (key + i) * lanes, to = (key + i) * row_stride_ + column;
        for (index_t v = 0; v < 2; ++v) change[v][i] = simd::load(change_ + at + v * width) * scale;
        simd::store_run(weight_rows_ + to, simd::load(weight_ + at), simd::load(weight_ + at + width));
        simd::store_run(change_rows_ + to, change[0][i], change[1][i]);
        if constexpr (simd::pair_unit::order.by_parity) {
          for (auto* const row : {weight_rows_ + to, change_rows_ + to})
            simd::copy_row<simd::pair_unit>(row, lanes, row);
        }
      }
      for (index_t v = 0; v < 2; ++v)
        simd::store_group<simd::pair_unit>(change_pairs_ + key / 2 * lanes + v * width, lanes, change[v]);
    }
  }

  /// Gives the tiles of a group the same keys, for which some of them have zeros.
  key_range fill_group(index_t first) {
    key_range all;
    for (index_t t = first; t < first + tiles_of_group; ++t) all = hull(all, keys_[t]);
    for (index_t t = first; t < first + tiles_of_group; ++t) {
      for (index_t key = all.first; key < all.last; ++key)
        if (!keys_[t].contains(key))
          for (auto* const rows : {weight_rows_, change_rows_})
            std::fill_n(rows + key * row_stride_ + t * lanes, lanes, std::uint16_t(0));
      keys_[t] = all;
    }
    return all;
  }

  /// Adds the products of 32 keys with the lanes of some tiles.
  void add_rows(std::uint16_t const* rows, simd::pair_bits const* of_lanes, index_t stride, key_range tiles,
                index_t key, float* to, index_t to_stride, bool fresh) {
    simd::pair_matrix const a = simd::pair_matrix{reinterpret_cast<char const*>(rows), row_stride_ * size,
                                                  simd::pair_tile * row_stride_ * size, simd::pair_depth * size}
                                    .from(key, tiles.first * lanes);
    simd::pair_operands work{
        a, of_lanes + tiles.first * lanes / 2 * stride, to, stride, to_stride, tiles.count() * lanes, fresh};
    constexpr index_t width = simd::width<float>;
    index_t c = 0;
    for (; c + 2 * width <= stride; c += 2 * width, work.b += 2 * width, work.c += 2 * width)
      simd::multiply_tiles<2, 2>(unit_, work, [] {});
    if (c < stride) simd::multiply_tiles<2, 1>(unit_, work, [] {});
  }

  float scale_;
  index_t key_dimension_, value_dimension_, tiles_;
  float *weight_, *rate_, *change_, *seen_;  // [key][lanes]
  simd::pair_bits* change_pairs_;            // [key / 2][lanes]
  index_t row_stride_;
  std::uint16_t *weight_rows_, *change_rows_;  // [key][lanes of all tiles]
  index_t query_stride_, gradient_stride_;
  simd::pair_bits *query_rows_, *gradient_rows_;  // [lanes of all tiles / 2][column]
  pair_row_sums row_sums_;
  key_range* keys_;         // of each tile, in the present block
  index_t multiplied_ = 0;  // to which key of the block the present tile has products
  bool finite_ = true;
  simd::pair_unit unit_;
};

}  // namespace attend::inline ATTEND_TARGET::engine
