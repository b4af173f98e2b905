// SPDX-License-Identifier: BSD-3-Clause
// Quantization of a row of numbers to small integers with one scale. A row is quantized when its token is appended.
//
//   std::int8_t   x ~ scale * q        q in [-127, 127]   scale = max |x| / 127   |error| <= scale / 2
//   int4_pair     x ~ scale * (n - 8)  n in [1, 15]       scale = max |x| / 7     |error| <= scale / 2
//
// The maximum is over the row. With channel scales a row is divided by them first: a channel that is large in all rows
// then does not enlarge the steps of the other channels. A row with a NaN or an infinity is read back as NaN in all
// elements, since integers cannot hold either. A row whose scale would be subnormal is read back as 0. The error bound
// therefore holds for rows whose scale, and whose elements divided by channel scales, are normal numbers.
//
// Cost: two passes over a row, of a few instructions for each vector.
//
// Symmetric steps without zero points; channel scales of keys after Zirui Liu et al.: KIVI, 2024.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>

#include "../simd/stored_row.hpp"
#include "key_value_rows.hpp"

namespace attend::inline ATTEND_TARGET::detail {

/// The number of storage elements of a row of `dimension` numbers.
template <StorageElement T>
constexpr index_t row_elements(index_t dimension) {
  return divide_up(dimension, elements_in<T>);
}

/// The largest integer of a quantized element.
template <StorageElement T>
inline constexpr float max_steps = std::same_as<T, int4_pair> ? 7.0f : 127.0f;

using quantized_lanes = simd::detail::native<simd::width<float>>;
using byte_lanes [[gnu::vector_size(simd::width<float>)]] = std::uint8_t;

/// Calls visit(i, x, n) for the vectors of a row: x holds the n numbers from number i on, times the factors if there
/// are any, and zeros behind them.
template <Element T, class Visit>
ATTEND_INLINE void for_row(T const* row, float const* factor, index_t count, Visit&& visit) {
  constexpr index_t step = simd::width<float>;
  index_t i = 0;
  for (; i + step <= count; i += step)
    visit(i, factor ? simd::widen(row + i) * simd::widen(factor + i) : simd::widen(row + i), step);
  if (index_t const n = count - i; n > 0) {
    auto const last = simd::widen_part(row + i, n);
    visit(i, factor ? last * simd::widen_part(factor + i, n) : last, n);
  }
}

/// The largest magnitude of a row; NaN if it has NaN or an infinity.
template <Element T>
float largest_magnitude(T const* row, float const* factor, index_t count) {
  using lanes = simd::vector<float>;
  lanes most(0.0f), poison(0.0f);
  for_row(row, factor, count, [&](index_t, lanes const& x, index_t) ATTEND_INLINE_LAMBDA {
    most = simd::max(most, simd::abs(x));
    // 0 * x is 0 for a number; NaN stays in the sum.
    poison = poison + simd::as_computed<float>(x * lanes(0.0f));
  });
  if (!simd::all<float>(poison == poison)) return std::numeric_limits<float>::quiet_NaN();
  alignas(64) float each[simd::width<float>];
  simd::store(each, most);
  return *std::max_element(each, each + simd::width<float>);
}

/// The nearest integers. Adding 1.5 * 2^23 leaves the integer in the lowest bits of the sum, with ties rounded to even.
ATTEND_INLINE quantized_lanes::signed32 nearest_integers(simd::vector<float> const& x) {
  constexpr float shift = 12582912.0f;
  using bits = quantized_lanes::signed32;
  return std::bit_cast<bits>(x + simd::vector<float>(shift)) - std::bit_cast<bits>(simd::vector<float>(shift));
}

template <int Lanes>
struct native_pairs {
  using bits64 [[gnu::vector_size(8 * (Lanes / 2))]] = std::uint64_t;
  using bits8 [[gnu::vector_size(Lanes / 2)]] = std::uint8_t;
};
using pair_lanes = native_pairs<simd::width<float>>;

/// Stores the first `count` lanes as bytes.
ATTEND_INLINE void store_integers(std::int8_t* to, quantized_lanes::signed32 const& q, index_t count) {
  auto const narrow = __builtin_convertvector(q, byte_lanes);
  std::memcpy(to, &narrow, static_cast<std::size_t>(count));
}

/// Stores the first `count` lanes as int4_pairs. Two neighbouring lanes are read as one lane of 64 bits, in which the
/// four bits of the odd lane are shifted down beside those of the even lane.
ATTEND_INLINE void store_integers(int4_pair* to, quantized_lanes::signed32 const& q, index_t count) {
  auto const both = std::bit_cast<pair_lanes::bits64>(quantized_lanes::signed32(q + 8));
  auto const narrow = __builtin_convertvector((both | (both >> 28)) & 0xffu, pair_lanes::bits8);
  std::memcpy(static_cast<void*>(to), &narrow, static_cast<std::size_t>(row_elements<int4_pair>(count)));
}

/// Loads `count` <= width integers as floats; the lanes behind them are undefined.
ATTEND_INLINE simd::vector<float> load_integers(std::int8_t const* from, index_t count) {
  std::int8_t bytes[simd::width<float>]{};
  std::memcpy(bytes, from, static_cast<std::size_t>(count));
  return simd::detail::widen_bytes(bytes);
}

/// Interleaves the first bytes of `low` and `high`: low[0], high[0], low[1], high[1], ...
template <std::size_t... Lane>
ATTEND_INLINE byte_lanes interleave(byte_lanes const& low, byte_lanes const& high, std::index_sequence<Lane...>) {
  return __builtin_shufflevector(low, high, (int(Lane / 2 + (Lane % 2) * sizeof...(Lane)))...);
}
ATTEND_INLINE simd::vector<float> load_integers(int4_pair const* from, index_t count) {
  // The bytes go through an integer register: a vector load of bytes that were just stored one by one would wait until
  // the stores are in the cache.
  using word = std::conditional_t<simd::width<float> == 16, std::uint64_t,
                                  std::conditional_t<simd::width<float> == 8, std::uint32_t, std::uint16_t>>;
  using words [[gnu::vector_size(2 * sizeof(word))]] = word;
  word packed = 0;
  std::memcpy(&packed, static_cast<void const*>(from), static_cast<std::size_t>(row_elements<int4_pair>(count)));
  auto const pairs = std::bit_cast<byte_lanes>(words{packed, 0});
  byte_lanes const stored = interleave(pairs & 15, pairs >> 4, std::make_index_sequence<simd::width<float>>{});
  return simd::detail::widen_bytes(reinterpret_cast<std::int8_t const*>(&stored)) - simd::vector<float>(8.0f);
}

/// Writes a row as integers and returns its scale. `factor` is 1 / channel scale, or null.
template <Element T, StorageElement Q>
float quantize_row(T const* row, float const* factor, index_t count, Q* to) {
  static_assert(is_scaled<Q> && std::same_as<accumulation_t<T>, float>);
  float const scale = largest_magnitude(row, factor, count) / max_steps<Q>;
  // A scale of NaN makes the row NaN, whatever its integers are. The reciprocal of a subnormal scale may overflow, and
  // subnormal numbers count as zero: the row is then 0.
  bool const is_number = scale >= std::numeric_limits<float>::min();
  simd::vector<float> const steps(is_number ? 1 / scale : 0.0f);
  for_row(row, factor, count, [&](index_t i, simd::vector<float> const& x, index_t n) ATTEND_INLINE_LAMBDA {
    store_integers(to + i / elements_in<Q>, nearest_integers(is_number ? x * steps : steps), n);
  });
  return is_number || std::isnan(scale) ? scale : 0.0f;
}

/// Reads back a row that quantize_row wrote: scale * channel_scale[c] * integer. `channel_scale` may be null.
template <StorageElement Q>
void dequantize_row(Q const* row, float scale, float const* channel_scale, index_t count, float* to) {
  static_assert(is_scaled<Q>);
  constexpr index_t step = simd::width<float>;
  simd::vector<float> const each(scale);
  index_t i = 0;
  for (; i + step <= count; i += step) {
    auto x = load_integers(row + i / elements_in<Q>, step) * each;
    if (channel_scale) x = x * simd::widen(channel_scale + i);
    x.store_unaligned(to + i);
  }
  if (index_t const n = count - i; n > 0) {
    auto x = load_integers(row + i / elements_in<Q>, n) * each;
    if (channel_scale) x = x * simd::widen_part(channel_scale + i, n);
    simd::narrow_part(to + i, x, n);
  }
}

/// Converts a row from one element type to another with the same accumulation type.
template <Element From, Element To>
void convert_row(From const* row, index_t count, To* to) {
  using A = accumulation_t<From>;
  static_assert(std::same_as<A, accumulation_t<To>>);
  if constexpr (std::same_as<From, To>) {
    std::copy_n(row, count, to);
  } else {
    constexpr index_t step = simd::width<A>;
    index_t i = 0;
    for (; i + step <= count; i += step) simd::narrow(to + i, simd::widen(row + i));
    if (i < count) simd::narrow_part(to + i, simd::widen_part(row + i, count - i), count - i);
  }
}

/// Reads the key of row `row` of a run, in the accumulation type.
template <StorageElement Key, StorageElement Value>
void read_key(key_value_rows<Key, Value> const& run, index_t row, index_t dimension, storage_accumulation_t<Key>* to) {
  if constexpr (is_scaled<Key>)
    dequantize_row(run.key + row * run.key_stride, run.key_scale[row * run.key_scale_stride], run.channel_scale,
                   dimension, to);
  else
    simd::widen_row(run.key + row * run.key_stride, to, dimension);
}
template <StorageElement Key, StorageElement Value>
void read_value(key_value_rows<Key, Value> const& run, index_t row, index_t dimension,
                storage_accumulation_t<Value>* to) {
  if constexpr (is_scaled<Value>)
    dequantize_row(run.value + row * run.value_stride, run.value_scale[row * run.value_scale_stride], nullptr,
                   dimension, to);
  else
    simd::widen_row(run.value + row * run.value_stride, to, dimension);
}

}  // namespace attend::inline ATTEND_TARGET::detail
