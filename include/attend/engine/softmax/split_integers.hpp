// SPDX-License-Identifier: BSD-3-Clause
// The split engine's products with stored integers as products of integers (integer_pairs.hpp), where queries have 16
// bits: twice as many at a time as of floats, and without conversions. What a stored integer is multiplied by becomes
// an integer of 16 bits as well:
//
//   q ~ scale * n      n in [-32767, 32767]   scale = max |q| / 32767       of each query
//   w ~ scale * n      n in [-32767, 32767]   scale = max |w| / 32767       of each row of the weights of some keys
//
// |error| <= scale / 2, which is 2^-16 of the largest. A half rounds its largest element alone by up to 2^-12 of it,
// and so as much as all elements of a query of 256 together, as errors add up. The errors of a row's weights, of 64
// keys at most, add up to less than 2^-10 of the largest weight. Sums are exact. A query that has an infinity or NaN
// has logits of NaN, and weights of which one is infinite or NaN make the row's output NaN. Numbers that are all below
// 2^-111 count as zero.
#pragma once

#include <limits>

#include "../../cache/key_value_rows.hpp"
#include "split_block.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Whether queries of type T may be multiplied as integers with what a source stores.
template <Element T, KeyValueSource Source>
inline constexpr bool multiplies_integers =
    simd::multiplies_pairs && sizeof(T) == 2 &&
    (is_scaled<typename Source::key_element> || is_scaled<typename Source::value_element>);

/// Whether rows need not be copied to be read as pairs, or would be as floats, too (whole_rows).
template <StorageElement S>
constexpr bool pairs_are_in_place(index_t dimension) {
  return dimension % simd::group_elements<S, true> == 0 || dimension % simd::group_elements<S> != 0;
}

inline constexpr float integer_steps = 32767;

/// The scale of integers whose largest magnitude `steps` stands for `most`: NaN unless that is finite.
ATTEND_INLINE simd::vector<float> scale_of(simd::vector<float> const& most, float steps) {
  simd::vector<float> const scale = most / simd::vector<float>(steps);
  return simd::select(scale <= simd::vector<float>(std::numeric_limits<float>::max()), scale,
                      simd::vector<float>(std::numeric_limits<float>::quiet_NaN()));
}

/// 1 / scale, or 0 where the numbers count as zero.
ATTEND_INLINE simd::vector<float> steps_of(simd::vector<float> const& scale) {
  return simd::select(scale >= simd::vector<float>(std::numeric_limits<float>::min()),
                      simd::vector<float>(1.0f) / scale, simd::vector<float>(0.0f));
}

/// The nearest integers, of magnitudes below 2^22. Adding 1.5 * 2^23 leaves the integer in the lowest bits of the sum.
ATTEND_INLINE simd::pair_sums nearest_integers(simd::vector<float> const& x) {
  simd::vector<float> const shift(12582912.0f);
  return std::bit_cast<simd::pair_sums>(simd::as_computed<float>(x + shift)) - std::bit_cast<simd::pair_sums>(shift);
}

/// The largest of those lanes whose number modulo Rows is the same, in each of them.
template <int Rows, std::size_t... Lane>
ATTEND_INLINE simd::vector<float> largest_of_rows(simd::vector<float> x, std::index_sequence<Lane...> lanes) {
  using native = simd::detail::lanes::real;
  if constexpr (Rows < simd::width<float>) {
    auto const from = std::bit_cast<native>(x);
    x = simd::max(
        x, std::bit_cast<simd::vector<float>>(native(__builtin_shufflevector(from, from, (int(Lane) ^ Rows)...))));
    return largest_of_rows<2 * Rows>(x, lanes);
  } else {
    return x;
  }
}

/// Weights as pairs of integers: those of key m of the first half of some keys and of the second half are a pair.
struct integer_weights {
  static constexpr int width = simd::width<float>;

  index_t half;                                                             // the number of keys of a half
  alignas(64) std::int32_t pair[array_size(split_block_keys / 2 * width)];  // [half][rows]
  alignas(64) float scale[array_size(width)];                               // of each row

  /// Converts weights [keys][Rows].
  template <int Rows>
  void convert(float const* weights, index_t keys) {
    using namespace simd;
    half = divide_up(keys, index_t{2});
    // Whole vectors are read from the beginning of either half on.
    index_t const numbers = half * Rows, read = round_up(numbers, width);
    alignas(64) float padded[array_size((split_block_keys + width) * width)];
    if (keys < 2 * half || numbers < read) {
      std::copy_n(weights, keys * Rows, padded);
      std::fill(padded + keys * Rows, padded + numbers + read, 0.0f);
      weights = padded;
    }
    auto const first = [&](index_t i) ATTEND_INLINE_LAMBDA { return vector<float>::load_unaligned(weights + i); };
    auto const second = [&](index_t i) ATTEND_INLINE_LAMBDA { return first(numbers + i); };
    vector<float> most[2] = {vector<float>(0.0f), vector<float>(0.0f)}, poison[2] = {most[0], most[0]};
    for (index_t i = 0; i < numbers; i += width) {
      vector<float> const x[] = {abs<float>(first(i)), abs<float>(second(i))};
      ATTEND_UNROLL for (int h = 0; h < 2; ++h) {
        most[h] = simd::max(most[h], x[h]);
        poison[h] = poison[h] + x[h];
      }
    }
    // 0 * x is 0 for a finite sum and NaN otherwise.
    vector<float> const none(0.0f), largest = select((poison[0] + poison[1]) * none == none,
                                                     simd::max(most[0], most[1]), vector<float>(infinity<float>));
    vector<float> const scales =
        scale_of(largest_of_rows<Rows>(largest, std::make_index_sequence<array_size(width)>{}), integer_steps);
    vector<float> const each = steps_of(scales);
    store(scale, scales);
    for (index_t i = 0; i < numbers; i += width) {
      pair_sums const both = (nearest_integers(first(i) * each) & 0xffff) | (nearest_integers(second(i) * each) << 16);
      std::memcpy(pair + i, &both, sizeof(both));
    }
  }
};

/// Adds the columns of vectors [first, first + V), which begin `Place` vectors after the beginning of a group, to the
/// sums of R rows from `row` on, and prefetches where `ahead` is not null.
template <StorageElement T, int R, int V, int Place>
ATTEND_INLINE void add_pair_tile(value_work<float> const& work, integer_weights const& weights, int row, index_t first,
                                 read_ahead* ahead) {
  using namespace simd;
  constexpr int group = row_group<T, true>, width = simd::width<float>;
  constexpr int lines = static_cast<int>(divide_up(index_t{V}, index_t{line_vectors<T>}));
  index_t const begin = (first - Place) * width / elements_in<T>;  // of the group
  pair_sums total[array_size(R)][array_size(V)];
  ATTEND_UNROLL for (int r = 0; r < R; ++r) { ATTEND_UNROLL for (int v = 0; v < V; ++v) total[r][v] = pair_sums{}; }
  std::int32_t const* weight = weights.pair + row;
  byte_run next = ahead ? ahead->next : byte_run{};
  for (index_t m = 0; m < weights.half; ++m, weight += work.rows) {
    if (ahead) {
      ATTEND_UNROLL for (int line = 0; line < 2 * lines; ++line) ahead->fetch(next);
    }
    // Past the last key, any row will do: its weight is 0.
    T const *const one = static_cast<T const*>(work.value[std::min(m, work.keys - 1)]) + begin,
                   *const other = static_cast<T const*>(work.value[std::min(m + weights.half, work.keys - 1)]) + begin;
    pair_vector w[array_size(R)];
    ATTEND_UNROLL for (int r = 0; r < R; ++r) w[r] = std::bit_cast<pair_vector>(pair_sums{} + weight[r]);
    pairs_cursor<T> cursor;
    ATTEND_UNROLL for (int v = 0; v < V; ++v) {
      constexpr index_t stride = group_elements<T, true> / elements_in<T>;
      if (v == 0 || (Place + v) % group == 0)
        cursor = pairs_cursor<T>(one + (Place + v) / group * stride, other + (Place + v) / group * stride,
                                 (Place + v) % group);
      pair_vector const x = cursor.next();
      ATTEND_UNROLL for (int r = 0; r < R; ++r) total[r][v] = add_pairs(x, w[r], total[r][v]);
    }
  }
  if (ahead) ahead->next = next;
  ATTEND_UNROLL for (int r = 0; r < R; ++r) {
    vector<float> const scale(weights.scale[row + r]);
    ATTEND_UNROLL for (int v = 0; v < V; ++v) {
      float* const at = work.sum + (row + r) * work.sum_stride + (first + v) * width;
      store(at, fused_multiply_add(to_floats(total[r][v]), scale, load(at)));
    }
  }
}

/// Adds one tile of columns to the sums of all rows. Only the first rows prefetch.
template <StorageElement T, int R, int V, int Place = 0>
void add_pair_columns(value_work<float> const& work, integer_weights const& weights, index_t first, read_ahead* ahead) {
  constexpr int group = simd::row_group<T, true>;
  if constexpr (Place + V < group)
    if (first % group != Place) return add_pair_columns<T, R, V, Place + V>(work, weights, first, ahead);
  for (int row = 0; row < work.rows; row += R, ahead = nullptr)
    add_pair_tile<T, R, V, Place>(work, weights, row, first, ahead);
}

template <StorageElement T, int R, int V>
void add_pair_values(value_work<float> const& work, integer_weights const& weights, read_ahead* ahead,
                     index_t first = 0) {
  for (; first + V <= work.vectors; first += V)
    add_pair_columns<T, R, V>(work, weights, first, first % line_vectors<T> == 0 ? ahead : nullptr);
  // Groups are of two vectors or of twice four.
  if constexpr (V > std::min(4, simd::row_group<T, true>))
    if (first < work.vectors) add_pair_values<T, R, V / 2>(work, weights, ahead, first);
}

/// sum[row][:] += sum over the keys of weight * value, as add_values_in_steps does; hidden keys add nothing, since
/// integers are finite. `Rows` is the number of rows of the weights.
template <StorageElement T, int Rows>
void add_pair_values_in_steps(value_work<float> work, index_t step, read_ahead* ahead) {
  constexpr int tile_rows = std::min(Rows, max_split_rows<float>);
  integer_weights weights;
  index_t const keys = work.keys;
  for (index_t j = 0; j < keys; j += step) {
    work.keys = std::min(step, keys - j);
    weights.convert<Rows>(work.weights, work.keys);
    add_pair_values<T, tile_rows, std::min(8, split_accumulators / tile_rows)>(work, weights, ahead);
    work.value += step;
    work.weights += step * work.rows;
  }
}

}  // namespace attend::inline ATTEND_TARGET::engine
