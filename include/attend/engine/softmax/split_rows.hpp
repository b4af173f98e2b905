// SPDX-License-Identifier: BSD-3-Clause
// Some rows of the split engine, at most as many (query, head) pairs as a vector has lanes, and their softmax state.
//
//   query     [lanes / R][vectors][R][width]   packed in the order of stored keys, rotated and scaled; R is the number
//                                              of rows of a register tile, as in split_block.hpp; or as integers, or
//                                              in pairs for a matrix unit
//   sum       [lanes][stride]                  sum_j weight_j v_j, relative to the maximum
//   maximum   [width]                          lane l belongs to row l % lanes; lanes is a power of two
//   weight_sum  [width]                        the weight sum, as partial sums in the lanes of a row
//
// As in the tiled engine, the maximum is raised only where a logit exceeds it by much.
#pragma once

#include <bit>

#include "../../policy/position/rotary.hpp"
#include "split_integers.hpp"
#include "tile.hpp"

namespace attend::inline ATTEND_TARGET::engine {

template <class A>
struct split_rows {
  static constexpr int width = simd::width<A>;

  tile_rows<A> rows;
  key_range bounds;
  int lanes;
  A* query;
  std::int16_t* integers;                  // [lanes / R][vectors / 2][R][2 width], as pairs
  simd::pair_bits const* pairs = nullptr;  // [key dimension / 2][width], not scaled, for a matrix unit
  A* integer_scale;  // of the integers, [lanes / R][width], of row l % R in lane l; null without integers
  A* sum;
  index_t stride;           // of rows of sums
  A* statistics = nullptr;  // the state of statistics_layout.hpp, where statistics are asked for
  alignas(64) A maximum[array_size(width)];
  alignas(64) A weight_sum[array_size(width)];

  int tile_rows_count() const { return std::min(lanes, max_split_rows<A>); }

  /// Allocates memory for the rows that are placed, for keys of `key_vectors` vectors and sums `sum_stride` apart, and
  /// sets their state to that without keys. For a matrix unit, `query_pairs` are its queries.
  void open(scratch& memory, index_t key_vectors, index_t sum_stride, bool as_integers,
            simd::pair_bits const* query_pairs = nullptr) {
    lanes = query_pairs ? width : static_cast<int>(std::bit_ceil(static_cast<unsigned>(rows.count)));
    stride = sum_stride;
    pairs = query_pairs;
    query = memory.allocate<A>(as_integers || pairs ? 0 : lanes * key_vectors * width);
    integers = memory.allocate<std::int16_t>(as_integers ? lanes * key_vectors * width : 0);
    integer_scale = as_integers ? memory.allocate<A>(lanes / tile_rows_count() * width) : nullptr;
    index_t const sums = (pairs ? std::max<index_t>(lanes, simd::pair_tile) : lanes) * stride;
    sum = memory.allocate<A>(sums);
    std::fill_n(sum, sums, A(0));
    std::fill_n(maximum, width, -infinity<A>);
    std::fill_n(weight_sum, width, A(0));
  }

  /// Packs the queries in the order of stored keys of type Key, rotated if there is a rotation, times the scale and the
  /// keys' channel scales. `row` has room for one query, `angles` for a rotation.
  template <StorageElement Key, Element T, class Position>
  void pack(problem<T> const& p, Position const& position, float const* channel_scale, index_t key_vectors, A* row,
            A* angles) {
    index_t const dimension = p.shape.key_dimension;
    int const group_size = tile_rows_count();
    for (int lane = 0; lane < lanes; ++lane) {
      A* const to = query + lane / group_size * group_size * key_vectors * width + lane % group_size * width;
      bool const real = lane < rows.count;
      if (real) {
        auto const* const from = row_of_lane(p.query, rows, lane);
        if constexpr (std::same_as<Position, attend::detail::absent>)
          simd::widen_row(from, row, dimension);
        else
          position.query_rotation(rows.place_of(lane), angles).apply(from, row, dimension);
        for (index_t c = 0; c < dimension; ++c) row[c] *= p.scale;
        if (channel_scale)
          for (index_t c = 0; c < dimension; ++c) row[c] *= static_cast<A>(channel_scale[c]);
      }
      if constexpr (is_scaled<Key>)
        if (integer_scale) {
          pack_integers<Key>(lane, real ? row : nullptr, dimension, key_vectors / 2);
          continue;
        }
      for (index_t v = 0; v < key_vectors; ++v)
        for (index_t l = 0; l < width; ++l) {
          index_t const column = simd::stored_column<Key>(v, l);
          to[v * group_size * width + l] = real && column < dimension ? row[column] : A(0);
        }
    }
  }

  /// Raises each row's maximum to the peak of its logits where that is much larger, and rescales its sums.
  void raise_maximum(simd::vector<A> const& peak) {
    using namespace simd;
    vector<A> const old = load(maximum);
    if (!any<A>(peak > old + vector<A>(maximum_slack<A>))) return;
    alignas(64) A most[array_size(width)], shrink[array_size(width)];
    store(most, simd::max(old, peak));
    for (int lane = lanes; lane < width; ++lane) most[lane % lanes] = std::max(most[lane % lanes], most[lane]);
    for (int lane = lanes; lane < width; ++lane) most[lane] = most[lane % lanes];
    vector<A> const risen = load(most);
    // Before the first visible key both may be -inf, whose difference is NaN.
    vector<A> const factor = simd::select(old == risen, vector<A>(A(1)), exp2<A>((old - risen) * vector<A>(A(log2_e))));
    store(maximum, risen);
    store(weight_sum, load(weight_sum) * factor);
    store(shrink, factor);
    for (int row = 0; row < lanes; ++row) {
      if (shrink[row] == 1) continue;
      for (index_t c = 0; c < stride; c += width)
        store(sum + row * stride + c, load(sum + row * stride + c) * vector<A>(shrink[row]));
    }
  }

  /// Calls function.template operator()<lanes>().
  template <int Lanes = width, class Function>
  void for_lanes(Function const& function) const {
    if (Lanes == lanes) return function.template operator()<Lanes>();
    if constexpr (Lanes > 1) for_lanes<Lanes / 2>(function);
  }

  /// Multiplies weights [key][lanes] by a number for each key. A hidden key's weight is 0 and stays so.
  void scale_keys(A* weights, index_t vectors, A const* scale) const {
    for_lanes([&]<int Rows>() { multiply_keys_by<Rows>(weights, vectors, scale); });
  }

  /// Packs one query, or zeros where `row` is null, as integers: so large that a sum of their products with bytes fits.
  template <StorageElement Key>
  void pack_integers(int lane, A const* row, index_t dimension, index_t key_vectors) {
    constexpr index_t numbers = 2 * width, sum_limit = index_t{1} << 31, largest_byte = 128;
    float const most_steps = static_cast<float>(std::min(
        static_cast<index_t>(integer_steps), (sum_limit - 1) / (largest_byte * std::max<index_t>(dimension, 1))));
    float most = 0;
    for (index_t c = 0; row && c < dimension; ++c) most = row[c] == row[c] ? std::max(most, std::abs(row[c])) : row[c];
    simd::vector<float> const scales = scale_of(simd::vector<float>(most), most_steps);
    float const scale = scales.get(0), steps = steps_of(scales).get(0);
    int const group_size = tile_rows_count(), group = lane / group_size, place = lane % group_size;
    for (int l = place; l < width; l += group_size) integer_scale[group * width + l] = scale;
    std::int16_t* const to = integers + (group * group_size * key_vectors + place) * numbers;
    for (index_t v = 0; v < key_vectors; ++v)
      for (index_t l = 0; l < numbers; ++l) {
        index_t const column = simd::pair_column<Key>(v, l);
        to[v * group_size * numbers + l] =
            row && column < dimension && steps > 0 ? static_cast<std::int16_t>(std::nearbyint(row[column] * steps)) : 0;
      }
  }
};

}  // namespace attend::inline ATTEND_TARGET::engine
