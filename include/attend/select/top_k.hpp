// SPDX-License-Identifier: BSD-3-Clause
// The k largest of n scores, exactly.
//
// Of equal scores the one with the lower index is chosen; -0 and 0 are equal; NaN is smaller than every number, -inf
// included. So the choice depends on the scores alone.
//
// The bits of floats become integers in the same order if those of negative numbers are inverted. Digit by digit (11,
// 11 and 10 bits), a histogram shows in which bucket the k-th largest score is, and only the scores of that bucket are
// read again. Then one pass compares all scores with the k-th largest, and writes the indices of the chosen ones, in
// ascending order.
//
// Where few of many scores are wanted, a sample of the scores gives a bound that some more than k scores reach: one
// vector comparison excludes the others. Where fewer than k scores reach the bound, all scores are read.
//
// Cost: O(n), a few operations for each score whatever their distribution, less than one where few of many are wanted;
// for indices in the order of their scores, also sorting the k scores. Scratch: 8 bytes for each score and 16 KiB.
//
// Tolu Alabi, Jeffrey Blanchard, Bradley Gordon, Russel Steinbach: Fast k-Selection Algorithms for Graphics Processing
// Units, 2012 (radix selection).
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <numeric>

#include "../core/error.hpp"
#include "../core/scratch.hpp"
#include "../simd/lane_bits.hpp"

namespace attend::inline ATTEND_TARGET {

namespace selection {

/// The order in which chosen indices are written: ascending, or by descending score (equal scores by ascending index).
enum class top_k_order { index, score };

}  // namespace selection

namespace detail {

/// Up to this number of scores, bisection is faster than histograms.
inline constexpr index_t few_scores = 256;

/// Integers in the order of the scores, computed from their bits alone: in arithmetic on the scores, subnormal numbers
/// would all be 0.
template <class Bits>
ATTEND_INLINE Bits order_of(Bits const& bits) {
  constexpr std::int32_t sign = std::numeric_limits<std::int32_t>::min(), infinite = 0x7f800000;
  Bits const magnitude = bits & std::numeric_limits<std::int32_t>::max();
  Bits const ordered = bits ^ ((bits >> 31) & std::numeric_limits<std::int32_t>::max());
  // Without this, -0 would be one below 0.
  Bits const whole = bits == sign ? bits ^ bits : ordered;
  return magnitude > infinite ? (bits ^ bits) + sign : whole;
}
inline std::int32_t ordered_bits(float score) { return order_of(std::bit_cast<std::int32_t>(score)); }
ATTEND_INLINE simd::vector<std::int32_t> ordered_bits(simd::vector<float> const& score) {
  using integers = simd::vector<std::int32_t>;
  using lanes [[gnu::vector_size(sizeof(integers))]] = std::int32_t;
  return std::bit_cast<integers>(order_of(std::bit_cast<lanes>(score)));
}

/// The integers of scores [first, first + width); lanes past the end are those of NaN.
ATTEND_INLINE simd::vector<std::int32_t> ordered_bits(float const* scores, index_t first, index_t count) {
  constexpr int width = simd::width<float>;
  if (first + width <= count) return ordered_bits(simd::vector<float>::load_unaligned(scores + first));
  alignas(64) float part[width];
  std::fill_n(part, width, std::numeric_limits<float>::quiet_NaN());
  std::copy_n(scores + first, count - first, part);
  return ordered_bits(simd::load(part));
}

/// The scores above `bits` are chosen, and the first `ties` of those equal to it.
struct selection_threshold {
  std::int32_t bits;
  index_t ties;
};

/// The number of integers that are at least `least`. `count` is a multiple of the vectors' width.
inline index_t count_at_least(std::int32_t const* bits, index_t count, std::int32_t least) {
  using keys = simd::vector<std::int32_t>;
  constexpr int width = simd::width<float>;
  keys const before(least - 1);
  index_t found = 0;
  for (index_t i = 0; i < count; i += width)
    found += std::popcount(simd::lane_bits<std::int32_t>(keys::load_aligned(bits + i) > before));
  return found;
}

/// The k-th largest of some integers, whose bits are found one by one, by counting. For few integers, histograms would
/// chosen longer to clear, and partitioning would cost mispredicted branches.
inline std::int32_t bisect_bits(std::int32_t const* bits, index_t count, index_t k) {
  constexpr std::int32_t least = std::numeric_limits<std::int32_t>::min();
  std::int32_t threshold = count_at_least(bits, count, 0) >= k ? 0 : least;
  for (std::int32_t bit = 1 << 30; bit > 0; bit >>= 1)
    if (count_at_least(bits, count, threshold | bit) >= k) threshold |= bit;
  return threshold;
}

/// The threshold of the k largest of few scores.
inline selection_threshold bisect_threshold(float const* scores, index_t count, index_t k) {
  constexpr int width = simd::width<float>;
  alignas(64) std::int32_t bits[few_scores];
  for (index_t i = 0; i < count; i += width) ordered_bits(scores, i, count).store_aligned(bits + i);
  // Lanes past the end are those of NaN, the smallest of all. No count includes them, since every bound is larger.
  index_t const padded = round_up(count, index_t{width});
  std::int32_t const threshold = bisect_bits(bits, padded, k);
  index_t const above =
      threshold == std::numeric_limits<std::int32_t>::max() ? 0 : count_at_least(bits, padded, threshold + 1);
  return {threshold, k - above};
}

/// The threshold of the k largest scores, where 0 < k < count.
inline selection_threshold find_threshold(float const* scores, index_t count, index_t k) {
  if (count <= few_scores) return bisect_threshold(scores, count, k);
  using keys = simd::vector<std::int32_t>;
  constexpr int width = simd::width<float>, tables = 2;
  constexpr std::uint32_t sign = 0x80000000u;
  scratch memory;
  // Neighbouring scores count in different tables: in one table, those of one bucket would wait for each other's
  // increment.
  auto* const table = memory.allocate<std::uint32_t>(tables * 2048);
  auto* const left = memory.allocate<std::uint32_t>(round_up(count, width));
  for (index_t i = 0; i < count; i += width) {
    keys const bits = ordered_bits(scores, i, count) ^ keys(std::numeric_limits<std::int32_t>::min());
    bits.store_aligned(reinterpret_cast<std::int32_t*>(left + i));
  }

  std::uint32_t prefix = 0;
  index_t wanted = k;
  struct digit {
    int shift, bits;
  };
  for (auto const [shift, bits] : {digit{21, 11}, digit{10, 11}, digit{0, 10}}) {
    std::uint32_t const buckets = 1u << bits, mask = buckets - 1;
    std::fill_n(table, tables * buckets, 0u);
    index_t i = 0;
    for (; i + tables <= count; i += tables)
      for (int t = 0; t < tables; ++t) ++table[static_cast<std::uint32_t>(t) * buckets + (left[i + t] >> shift & mask)];
    for (; i < count; ++i) ++table[left[i] >> shift & mask];
    std::uint32_t bucket = buckets;
    index_t in_bucket = 0;
    do {
      wanted -= in_bucket;
      --bucket;
      in_bucket = static_cast<index_t>(table[bucket]) + table[buckets + bucket];
    } while (in_bucket < wanted);
    prefix |= bucket << shift;
    // The whole bucket is chosen: the threshold is the largest integer below it. There is one, since otherwise all
    // scores would be chosen.
    if (in_bucket == wanted) return {static_cast<std::int32_t>((prefix - 1) ^ sign), 0};
    index_t kept = 0;
    for (i = 0; i < count; ++i) {
      left[kept] = left[i];
      kept += left[i] >> shift == prefix >> shift;
    }
    count = kept;
  }
  return {static_cast<std::int32_t>(prefix ^ sign), wanted};
}

/// A bound that somewhat more than k of many scores are likely to reach, from a sample.
inline std::int32_t likely_bound(float const* scores, index_t count, index_t k) {
  constexpr index_t samples = 1024, width = simd::width<float>;
  alignas(64) float sampled[samples];
  alignas(64) std::int32_t bits[samples];
  for (index_t i = 0; i < samples; ++i) sampled[i] = scores[i * (count / samples)];
  for (index_t i = 0; i < samples; i += width) ordered_bits(sampled, i, samples).store_aligned(bits + i);
  index_t const expected = samples * k / count;
  index_t const rank = std::min(expected + 8 + expected / 4, samples - 1);
  return bisect_bits(bits, samples, rank + 1);
}

/// Writes the scores that reach a bound, and their indices, in ascending order of the indices; returns their number.
inline index_t scores_from(std::int32_t bound, float const* scores, index_t count, float* reaching,
                           std::int32_t* index) {
  constexpr int width = simd::width<float>;
  simd::vector<std::int32_t> const least(bound);
  index_t found = 0;
  for (index_t i = 0; i < count; i += width) {
    std::uint32_t reach = simd::lane_bits<std::int32_t>(ordered_bits(scores, i, count) >= least);
    if (count - i < width) reach &= (1u << (count - i)) - 1;
    for (; reach != 0; reach &= reach - 1, ++found) {
      index[found] = static_cast<std::int32_t>(i) + std::countr_zero(reach);
      reaching[found] = scores[index[found]];
    }
  }
  return found;
}

}  // namespace detail

namespace selection {

/// Writes the indices of the k largest of `count` scores to `chosen`, and returns their number: the smaller of k and
/// count. By default the indices ascend. Throws argument_error for a negative count or k.
///
///     float const scores[] = {3, 1, 2};
///     std::int32_t chosen[2];
///     index_t const found = top_k(scores, 3, 2, chosen);  // 2: chosen is {0, 2}
inline index_t top_k(float const* scores, index_t count, index_t k, std::int32_t* chosen,
                     top_k_order order = top_k_order::index) {
  constexpr int width = simd::width<float>;
  if (count < 0) extend::fail("count", "expected at least 0, got ", count);
  if (k < 0) extend::fail("k", "expected at least 0, got ", k);
  k = std::min(k, count);
  index_t reached = 0;
  if (count >= 8192 && k > 0 && k < count / 4) {
    extend::scratch memory;
    float* const reaching = memory.allocate<float>(count);
    auto* const index = memory.allocate<std::int32_t>(count);
    reached = detail::scores_from(detail::likely_bound(scores, count, k), scores, count, reaching, index);
    // Where many scores equal the bound, such as zeros, it excludes too few: another round would not pay, and the
    // recursion might not end.
    if (reached > count / 2) reached = 0;
    if (reached >= k) {
      top_k(reaching, reached, k, chosen);
      for (index_t i = 0; i < k; ++i) chosen[i] = index[chosen[i]];
    }
  }
  if (k == count) {
    std::iota(chosen, chosen + k, 0);
  } else if (reached < k) {
    auto const [bits, ties] = detail::find_threshold(scores, count, k);
    simd::vector<std::int32_t> const threshold(bits);
    std::int32_t* to = chosen;
    index_t ties_left = ties;
    for (index_t i = 0; i < count; i += width) {
      auto const key = detail::ordered_bits(scores, i, count);
      std::uint32_t lanes = simd::lane_bits<std::int32_t>(key > threshold);
      if (ties_left > 0) {
        std::uint32_t equal = simd::lane_bits<std::int32_t>(key == threshold);
        for (; equal != 0 && ties_left > 0; equal &= equal - 1, --ties_left) lanes |= equal & (~equal + 1);
      }
      for (; lanes != 0; lanes &= lanes - 1) *to++ = static_cast<std::int32_t>(i) + std::countr_zero(lanes);
    }
  }
  if (order == top_k_order::score)
    std::sort(chosen, chosen + k, [scores](std::int32_t a, std::int32_t b) {
      std::int32_t const first = detail::ordered_bits(scores[a]), second = detail::ordered_bits(scores[b]);
      return first > second || (first == second && a < b);
    });
  return k;
}

}  // namespace selection

}  // namespace attend::inline ATTEND_TARGET
