// SPDX-License-Identifier: BSD-3-Clause
// Products of four bfloat16 of each of two rows and of each of two columns, summed in float, by Arm's instruction
// BFMMLA or by an emulation that gives its bits on any machine:
//
//   sum[i][j] = odd(sum[i][j] + odd(a[i][0] b[j][0] + a[i][1] b[j][1]))        i, j in [0, 2)
//   sum[i][j] = odd(sum[i][j] + odd(a[i][2] b[j][2] + a[i][3] b[j][3]))
//
// odd(x) is x where that is a float, and else the one of its two neighbours whose last bit is 1; it is 0 below 2^-126,
// and infinite from 2^128 on. Operands below 2^-126 count as 0, and products are odd() as well, which rounds none of
// them. odd() changes a number by less than 2^-23 of itself, and there are half as many sums as products: so the bound
// of the error is that of as many fused multiply-adds, which change it by 2^-24. All this is so in any floating-point
// mode but one, FPCR.EBF of newer processors, which core/arithmetic_mode.hpp clears. Source: BFMatMulAddH in the Arm
// Architecture Reference Manual.
//
// The instruction does 16 products where a fused multiply-add does four, and Neoverse N2 executes as many of one as of
// the other in a cycle, two, and Neoverse V1 and V2 four (their models in LLVM 19, after Arm's optimization guides). Of
// the others for bfloat16, at the same rate, BFDOT does half as many products, and BFMLALB and BFMLALT, which round as
// a fused multiply-add does, no more than that. The manual expects of any processor that BFMMLA is at least as fast as
// two of BFDOT.
#pragma once

#include <cstring>
#include <limits>
#include <utility>

#include "convert.hpp"

namespace attend::inline ATTEND_TARGET::simd {

/// A vector of floats is a matrix of two rows and `columns` columns. Factors are as wide: the four numbers of the first
/// row as often as they fit into a half, and so those of the second row; or those of each column.
struct emulated_fours {
  static constexpr int lanes = width<float>, columns = lanes / 2;
  using factor = detail::lanes::bits32;

  static void read_rows(void const* first, void const* second, factor& x) {
    std::uint64_t fours[columns];
    for (int i = 0; i < columns; ++i) std::memcpy(&fours[i], i < columns / 2 ? first : second, sizeof(fours[i]));
    std::memcpy(&x, fours, sizeof(x));
  }
  static void read_columns(void const* from, factor& x) { std::memcpy(&x, from, sizeof(x)); }

  // Called rather than inlined at each product of a kernel, which takes compilers minutes.
  [[gnu::noinline]] static void multiply_add(factor const& a, factor const& b, vector<float>& sum) {
    bits pairs_of_b[2];
    separate_pairs(b, pairs_of_b, std::make_index_sequence<columns>{});
    floats rows[2];
    std::memcpy(rows, &sum, sizeof(rows));
    for (int row = 0; row < 2; ++row) {
      wide total;
      widen(rows[row], total);
      for (int pair = 0; pair < 2; ++pair) add_products(bits{} + a[row * columns + pair], pairs_of_b[pair], total);
      rows[row] = __builtin_convertvector(total, floats);
    }
    std::memcpy(&sum, rows, sizeof(rows));
  }

 private:
  // A row of the matrix. Floats are kept as doubles, which hold a product exactly, and a sum together with its rest: a
  // row of doubles is as wide as a vector of floats, and so the compiler compares all of them at once.
  using bits [[gnu::vector_size(4 * columns)]] = std::uint32_t;
  using floats [[gnu::vector_size(4 * columns)]] = float;
  using wide [[gnu::vector_size(8 * columns)]] = double;
  using wide_bits [[gnu::vector_size(8 * columns)]] = std::int64_t;

  template <std::size_t... Column>
  static void separate_pairs(factor const& b, bits (&pairs)[2], std::index_sequence<Column...>) {
    pairs[0] = __builtin_shufflevector(b, b, int(2 * Column)...);
    pairs[1] = __builtin_shufflevector(b, b, int(2 * Column + 1)...);
  }

  static void add_products(bits const& a, bits const& b, wide& total) {
    wide first, second;
    multiply(a << 16, b << 16, first);
    multiply(a & 0xffff0000u, b & 0xffff0000u, second);
    add(first, second);
    add(total, first);
  }

  static void multiply(bits const& a, bits const& b, wide& product) {
    floats x, y;
    std::memcpy(&x, &a, sizeof(x));
    std::memcpy(&y, &b, sizeof(y));
    wide of_a, of_b;
    widen(x, of_a);
    widen(y, of_b);
    product = of_a * of_b;
    round_to_odd(product, wide{});
  }

  static void widen(floats const& x, wide& to) {
    // Copied, since functions that return vectors narrower or wider than the machine's, as std::bit_cast, give
    // warnings.
    bits of_x;
    std::memcpy(&of_x, &x, sizeof(of_x));
    bits const normal = (of_x & 0x7f800000u) != 0;
    of_x &= normal | 0x80000000u;
    floats counted;
    std::memcpy(&counted, &of_x, sizeof(counted));
    to = __builtin_convertvector(counted, wide);
  }

  static void add(wide& x, wide const& y) {
    wide const sum = x + y, of_y = sum - x, rest = (x - (sum - of_y)) + (y - of_y);
    x = sum;
    round_to_odd(x, rest);
  }

  /// x becomes odd(x + rest), for a rest of at most half of the last bit of x.
  static void round_to_odd(wide& x, wide const& rest) {
    constexpr std::int64_t sign = std::numeric_limits<std::int64_t>::min(), last = std::int64_t{1} << 29,
                           infinite = std::int64_t{0x7ff} << 52, smallest = std::int64_t{1023 - 126} << 52,
                           overflow = std::int64_t{1023 + 128} << 52;
    wide_bits of_x;
    std::memcpy(&of_x, &x, sizeof(of_x));
    // Odd among doubles first: of the two beside x + rest, x is one.
    wide_bits const moves = ((rest < 0) | (rest > 0)) & ((of_x & 1) == 0), outwards = (rest > 0) == (x > 0);
    of_x += moves & ((outwards & 2) - 1);
    of_x = (of_x | (((of_x & (last - 1)) != 0) & last)) & ~(last - 1);
    wide_bits const size = of_x & ~sign, is_nan = size > infinite, is_large = (size >= overflow) & ~is_nan;
    of_x &= (size >= smallest) | sign;
    of_x = (of_x & ~(is_large & ~sign)) | (is_large & infinite);
    of_x = (of_x & ~is_nan) | (is_nan & (infinite | infinite >> 1));
    std::memcpy(&x, &of_x, sizeof(x));
  }
};

#if defined(ATTEND_NEON_BFLOAT16)
struct neon_fours {
  static constexpr int lanes = width<float>;
  static_assert(lanes == 4);
  using factor = bfloat16x8_t;

  ATTEND_INLINE static void read_rows(void const* first, void const* second, factor& x) {
    std::uint64_t of_first, of_second;
    std::memcpy(&of_first, first, sizeof(of_first));
    std::memcpy(&of_second, second, sizeof(of_second));
    x = vreinterpretq_bf16_u64(uint64x2_t{of_first, of_second});
  }
  ATTEND_INLINE static void read_columns(void const* from, factor& x) { std::memcpy(&x, from, sizeof(x)); }
  ATTEND_INLINE static void multiply_add(factor const& a, factor const& b, vector<float>& sum) {
    float32x4_t total = sum;
    // Volatile, so that products stay between the loads of their operands: compilers otherwise move all loads of a step
    // to its beginning, which leaves no registers for some of the sums.
    asm volatile("bfmmla %0.4s, %1.8h, %2.8h" : "+w"(total) : "w"(a), "w"(b));
    sum = total;
  }
};
#endif

/// The rows of two matrices with the same rows: the columns of one, and then those of the other.
template <std::size_t... Lane>
ATTEND_INLINE void join_columns(vector<float> const& one, vector<float> const& other, vector<float>& first,
                                vector<float>& second, std::index_sequence<Lane...>) {
  constexpr int lanes = width<float>, half = lanes / 2;
  using floats = detail::lanes::real;
  auto const a = std::bit_cast<floats>(one), b = std::bit_cast<floats>(other);
  first = std::bit_cast<vector<float>>(
      floats(__builtin_shufflevector(a, b, (int(Lane) < half ? int(Lane) : int(Lane) + half)...)));
  second = std::bit_cast<vector<float>>(
      floats(__builtin_shufflevector(a, b, (int(Lane) < half ? int(Lane) + half : int(Lane) + lanes)...)));
}

}  // namespace attend::inline ATTEND_TARGET::simd
