// SPDX-License-Identifier: BSD-3-Clause
// Products of pairs of 16-bit numbers (bfloat16), summed in float, by a matrix unit or by instructions for vectors.
//
// A matrix unit has eight registers, which are tiles of 16 rows of 64 bytes: 16 floats, or 16 pairs of bfloat16.
//
//   c[m][n] += sum_k a[m][2k] b[k][2n] + a[m][2k + 1] b[k][2n + 1]        m, n, k in [0, 16)
//
// So a row of `a` is 32 consecutive numbers, as tensors have them, and a row of `b` holds two rows of a matrix, their
// elements in turn: a pair for each column. Units:
//
//   amx_unit        Intel's AMX-BF16 (TDPBF16PS), where code is compiled for it
//   emulated_unit   the same operations with vectors, bit for bit where these have a fused multiply-add, in the mode of
//                   core/arithmetic_mode.hpp: sums over even and over odd numbers by themselves, then both, then c
//   vector_unit     no unit, but products by an instruction for vectors: AVX512-BF16's (VDPBF16PS), which does twice as
//                   many multiplications as a fused multiply-add, or Arm's (BFMMLA), which does four times as many
//   emulated_fours_unit   the products of BFMMLA with any vectors, bit for bit
//
// VDPBF16PS adds the product of the upper halves of pairs first, then that of the lower ones, each as a fused
// multiply-add does. So that it has the unit's sums, a pair holds two neighbours of the even numbers, or of the odd
// ones, the later one in the lower half: numbers 0, 1, 2, 3 are the pairs (2, 0), (3, 1).
//
// BFMMLA has sums of its own (four_products.hpp), and wants four numbers of a column side by side: so two rows of `b`
// hold, for each vector of columns, both pairs of its first half, and both pairs of its second half.
//
// Code that is compiled with ATTEND_EMULATED_PAIRS or ATTEND_EMULATED_FOURS as 1 computes with the one emulation or the
// other wherever it would use another unit: so tests and sanitizers see all that stands around it on any machine.
#pragma once

#include <cstring>

#include "../core/machine.hpp"
#include "four_products.hpp"
#include "transpose.hpp"

namespace attend::inline ATTEND_TARGET::simd {

/// Rows of a tile, and pairs of a row of `a`.
inline constexpr index_t pair_tile = 16;
/// Elements of a row of `a`.
inline constexpr index_t pair_depth = 2 * pair_tile;
/// Columns of a tile of `b` or `c`: those of one vector, which are 16 wherever there is a matrix unit.
inline constexpr index_t pair_columns = width<float>;

/// Two bfloat16, the first in the lower half.
using pair_bits = std::uint32_t;

/// Which of the numbers of a row are a pair, from a row's first number on.
struct pair_order {
  bool by_parity = false;
  bool in_fours = false;  // whether two rows of b hold the pairs of a column side by side

  /// Whether rows of b have neighbours as pairs, a pair for each column.
  constexpr bool plain() const { return !by_parity && !in_fours; }
  /// So many numbers are the same pairs wherever they begin.
  constexpr index_t group() const { return plain() ? 2 : 4; }
  /// The number in a half of a pair, the lower (0) or the upper one (1).
  constexpr index_t number(index_t pair, index_t half) const {
    return by_parity ? pair / 2 * 4 + pair % 2 + 2 * (1 - half) : 2 * pair + half;
  }
  constexpr index_t pair_of(index_t number) const { return by_parity ? number / 4 * 2 + number % 2 : number / 2; }
  constexpr index_t half_of(index_t number) const { return by_parity ? 1 - number % 4 / 2 : number % 2; }
  /// Where the pair of a column stands in rows of b that are `stride` apart.
  constexpr index_t place(index_t pair, index_t column, index_t stride) const {
    if (!in_fours) return pair * stride + column;
    constexpr index_t half = pair_columns / 2;
    index_t const lane = column % pair_columns;
    return (pair / 2 * 2 + lane / half) * stride + column - lane + lane % half * 2 + pair % 2;
  }
};

struct emulated_unit {
  static constexpr pair_order order{};

  template <int Tile>
  void zero() {
    std::memset(tile_[Tile], 0, sizeof(tile_[Tile]));
  }
  /// Loads 16 rows that are `stride` bytes apart: of 16 pairs, or of pair_columns.
  template <int Tile>
  void load(void const* from, index_t stride) {
    load_rows(tile_[Tile], from, stride, pair_tile);
  }
  template <int Tile>
  void load_columns(void const* from, index_t stride) {
    load_rows(tile_[Tile], from, stride, pair_columns);
  }
  template <int Tile>
  void store_columns(void* to, index_t stride) const {
    for (index_t row = 0; row < pair_tile; ++row)
      std::memcpy(static_cast<char*>(to) + row * stride, tile_[Tile][row], sizeof(pair_bits) * pair_columns);
  }
  template <int C, int A, int B>
  void multiply() {
    add_product(tile_[A], tile_[B], tile_[C]);
  }

 private:
  using row_type = pair_bits[pair_tile];
  using bits [[gnu::vector_size(sizeof(pair_bits) * pair_columns)]] = pair_bits;

  // Called rather than inlined at each product of a kernel, which takes compilers minutes.
  [[gnu::noinline]] static void add_product(row_type const* of_a, row_type const* of_b, row_type* of_c) {
    bits even_of_b[pair_tile], odd_of_b[pair_tile];
    for (index_t k = 0; k < pair_tile; ++k) {
      bits const pairs = read(of_b[k]);
      even_of_b[k] = pairs << 16;
      odd_of_b[k] = pairs & 0xffff0000u;
    }
    for (index_t row = 0; row < pair_tile; ++row) {
      vector<float> even(0.0f), odd(0.0f);
      for (index_t k = 0; k < pair_tile; ++k) {
        pair_bits const a = of_a[row][k];
        even = fused_multiply_add(vector<float>(std::bit_cast<float>(a << 16)),
                                  std::bit_cast<vector<float>>(even_of_b[k]), even);
        odd = fused_multiply_add(vector<float>(std::bit_cast<float>(a & 0xffff0000u)),
                                 std::bit_cast<vector<float>>(odd_of_b[k]), odd);
      }
      vector<float> const sum = std::bit_cast<vector<float>>(read(of_c[row])) + (even + odd);
      std::memcpy(of_c[row], &sum, sizeof(sum));
    }
  }

  static bits read(pair_bits const* from) {
    bits x;
    std::memcpy(&x, from, sizeof(x));
    return x;
  }
  static void load_rows(row_type* tile, void const* from, index_t stride, index_t pairs) {
    for (index_t row = 0; row < pair_tile; ++row)
      std::memcpy(tile[row], static_cast<char const*>(from) + row * stride,
                  sizeof(pair_bits) * static_cast<std::size_t>(pairs));
  }

  alignas(64) row_type tile_[8][pair_tile];
};

#if defined(__AMX_BF16__)
/// Exists once at a time in a thread.
class amx_unit {
  static_assert(pair_columns == 16);

 public:
  static constexpr pair_order order{};

  amx_unit() {
    // Palette 1: eight tiles, each of 16 rows of 64 bytes.
    struct {
      std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
      std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } const tiles;
    __asm__ volatile("ldtilecfg %0" ::"m"(tiles));
  }
  amx_unit(amx_unit const&) = delete;
  amx_unit& operator=(amx_unit const&) = delete;
  // Tiles in their initial state are not saved when threads change.
  ~amx_unit() { __asm__ volatile("tilerelease" ::); }

  template <int Tile>
  ATTEND_INLINE void zero() {
    __asm__ volatile("tilezero %%tmm%c0" ::"i"(Tile));
  }
  template <int Tile>
  ATTEND_INLINE void load(void const* from, index_t stride) {
    __asm__ volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(Tile), "r"(from), "r"(stride) : "memory");
  }
  template <int Tile>
  ATTEND_INLINE void load_columns(void const* from, index_t stride) {
    load<Tile>(from, stride);
  }
  template <int Tile>
  ATTEND_INLINE void store_columns(void* to, index_t stride) const {
    __asm__ volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(Tile), "r"(to), "r"(stride) : "memory");
  }
  template <int C, int A, int B>
  ATTEND_INLINE void multiply() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
};
#endif

struct emulated_fours_unit {
  static constexpr pair_order order{.in_fours = true};
  using fours = emulated_fours;
};

#if defined(ATTEND_NEON_BFLOAT16)
struct vector_unit {
  static constexpr pair_order order{.in_fours = true};
  using fours = neon_fours;
};
#else
struct vector_unit {
  static constexpr pair_order order{.by_parity = true};
};
#endif

/// The unit that is used, and whether code is compiled for one. Processors with a matrix unit have no use for the
/// instruction, so it is not compiled beside the unit.
#if ATTEND_EMULATED_PAIRS
using pair_unit = emulated_unit;
inline constexpr bool has_pair_products = true;
#elif ATTEND_EMULATED_FOURS
using pair_unit = emulated_fours_unit;
inline constexpr bool has_pair_products = true;
#elif defined(__AMX_BF16__)
using pair_unit = amx_unit;
inline constexpr bool has_pair_products = true;
#elif (defined(__AVX512BF16__) && defined(__AVX512F__)) || defined(ATTEND_NEON_BFLOAT16)
using pair_unit = vector_unit;
inline constexpr bool has_pair_products = true;
#else
using pair_unit = emulated_unit;
inline constexpr bool has_pair_products = false;
#endif

/// Whether the machine has it, and it pays there.
inline bool uses_pair_products() {
  auto const& machine = attend::detail::machine::here();
  return has_pair_products && (std::same_as<pair_unit, vector_unit> ? machine.pair_instructions : machine.matrix_unit);
}

/// The rows of a. Distances are in bytes.
struct pair_matrix {
  char const* data;
  index_t stride;  // from a row to the next
  index_t tile;    // from 16 rows to the next
  index_t step;    // from 32 elements of a row to the next

  /// What is left from a row, and an element of it, on, where both begin a tile.
  pair_matrix from(index_t row, index_t element) const {
    return {data + row / pair_tile * tile + element / pair_depth * step, stride, tile, step};
  }
};

/// The factors of a product of tiles.
struct pair_factors {
  pair_matrix a;
  pair_bits const* b;  // [depth / 2][b_stride]
  index_t b_stride;
  index_t depth;  // a multiple of 32
};

/// The operands of a product of tiles.
struct pair_operands {
  pair_matrix a;
  pair_bits const* b;  // [depth / 2][b_stride]
  float* c;            // [row][c_stride]
  index_t b_stride, c_stride;
  index_t depth;  // a multiple of 32
  bool fresh;     // c is not read
};

namespace detail {

/// function.template operator()<0>(), ..., <Count - 1>().
template <int Count, class Function>
ATTEND_INLINE void for_each_number(Function&& function) {
  [&]<int... I>(std::integer_sequence<int, I...>)
      ATTEND_INLINE_LAMBDA { (function.template operator()<I>(), ...); }(std::make_integer_sequence<int, Count>{});
}

}  // namespace detail

/// Adds products to 16 * Rows rows of sums, and Columns times pair_columns columns, which are in the unit's first
/// tiles. All of the b of a step are in registers, and a tile of a is loaded once: where another thread shares the
/// core's caches, loads decide how fast products are. At least three sums should be in flight, since a product takes
/// that much longer than from one product to the next. After each tile of a, beside() is called: what vectors compute
/// there takes no time while the unit has work.
template <int Rows, int Columns, class Unit, class Beside>
ATTEND_INLINE void add_tiles(Unit& unit, pair_factors const& work, Beside const& beside) {
  static_assert(Rows * Columns + Columns < 8);
  constexpr int a = 7, b = Rows * Columns;
  index_t const b_stride = work.b_stride * static_cast<index_t>(sizeof(pair_bits));
  char const* from_a = work.a.data;
  pair_bits const* from_b = work.b;
  for (index_t k = 0; k < work.depth; k += pair_depth, from_a += work.a.step, from_b += pair_tile * work.b_stride) {
    detail::for_each_number<Columns>(
        [&]<int C>() ATTEND_INLINE_LAMBDA { unit.template load_columns<b + C>(from_b + C * pair_columns, b_stride); });
    detail::for_each_number<Rows>([&]<int R>() ATTEND_INLINE_LAMBDA {
      unit.template load<a>(from_a + R * work.a.tile, work.a.stride);
      detail::for_each_number<Columns>(
          [&]<int C>() ATTEND_INLINE_LAMBDA { unit.template multiply<R * Columns + C, a, b + C>(); });
      beside();
    });
  }
}

/// Stores those sums.
template <int Rows, int Columns, class Unit>
ATTEND_INLINE void store_tiles(Unit& unit, float* c, index_t c_stride) {
  detail::for_each_number<Rows * Columns>([&]<int I>() ATTEND_INLINE_LAMBDA {
    unit.template store_columns<I>(c + I / Columns * pair_tile * c_stride + I % Columns * pair_columns,
                                   c_stride * static_cast<index_t>(sizeof(float)));
  });
}

/// Adds a product to c, or writes it there.
template <int Rows, int Columns, class Unit, class Beside>
ATTEND_INLINE void multiply_tiles(Unit& unit, pair_operands const& work, Beside const& beside) {
  detail::for_each_number<Rows * Columns>([&]<int I>() ATTEND_INLINE_LAMBDA {
    if (work.fresh)
      unit.template zero<I>();
    else
      unit.template load_columns<I>(work.c + I / Columns * pair_tile * work.c_stride + I % Columns * pair_columns,
                                    work.c_stride * static_cast<index_t>(sizeof(float)));
  });
  add_tiles<Rows, Columns>(unit, pair_factors{work.a, work.b, work.b_stride, work.depth}, beside);
  store_tiles<Rows, Columns>(unit, work.c, work.c_stride);
}

#if defined(__AVX512BF16__) && defined(__AVX512F__)
namespace detail {

/// Rows * Columns vectors of c, with sums over even and over odd numbers in registers.
template <int Rows, int Columns>
[[gnu::noinline]] void multiply_rows(pair_operands const& work, char const* a, float* c) {
  static_assert(vector_unit::order.group() == 4);
  for (index_t k = 0; k < work.depth; k += pair_depth) {
    vector<float> sum[2][array_size(Rows)][array_size(Columns)];
    for (auto& of_parity : sum)
      for (auto& row : of_parity)
        for (auto& x : row) x = vector<float>(0.0f);
    pair_bits const* b = work.b + k / 2 * work.b_stride;
    for (index_t pair = 0; pair < pair_tile; pair += 2)
      ATTEND_UNROLL for (int parity = 0; parity < 2; ++parity, b += work.b_stride) {
        __m512bh of_b[array_size(Columns)];
        ATTEND_UNROLL for (int v = 0; v < Columns; ++v) std::memcpy(&of_b[v], b + v * pair_columns, sizeof(of_b[v]));
        ATTEND_UNROLL for (int row = 0; row < Rows; ++row) {
          int both;
          std::memcpy(&both, a + row * work.a.stride + (pair + parity) * 4, sizeof(both));
          auto const of_a = std::bit_cast<__m512bh>(_mm512_set1_epi32(both));
          ATTEND_UNROLL for (int v = 0; v < Columns; ++v) sum[parity][row][v] =
              _mm512_dpbf16_ps(sum[parity][row][v], of_a, of_b[v]);
        }
      }
    bool const fresh = work.fresh && k == 0;
    ATTEND_UNROLL for (int row = 0; row < Rows; ++row) {
      ATTEND_UNROLL for (int v = 0; v < Columns; ++v) {
        float* const at = c + row * work.c_stride + v * width<float>;
        store(at, (fresh ? vector<float>(0.0f) : load(at)) + (sum[0][row][v] + sum[1][row][v]));
      }
    }
    a += work.a.step;
  }
}

}  // namespace detail

/// The same by instructions. What is beside them takes its own time.
template <int Rows, int Columns, class Beside>
ATTEND_INLINE void multiply_tiles(vector_unit&, pair_operands const& work, Beside const& beside) {
  // At least 16 sums are in flight, and 24 in a full tile, which leaves registers for the operands.
  constexpr index_t rows = Columns == 1 ? 8 : 4;
  for (index_t row = 0; row < Rows * pair_tile; row += rows) {
    detail::multiply_rows<rows, Columns>(work,
                                         work.a.data + row / pair_tile * work.a.tile + row % pair_tile * work.a.stride,
                                         work.c + row * work.c_stride);
    if ((row + rows) % pair_tile == 0)
      for (index_t k = 0; k < work.depth; k += pair_depth) beside();
  }
}
#endif

namespace detail {

/// Rows * Columns vectors of c, with sums over all of the depth in registers.
template <class Fours, int Rows, int Columns>
[[gnu::noinline]] void multiply_row_fours(pair_operands const& work, char const* a, float* c) {
  constexpr index_t four = 4 * sizeof(std::uint16_t);
  index_t const a_stride = work.a.stride, b_stride = work.b_stride, c_stride = work.c_stride;
  vector<float> sum[array_size(Rows / 2)][array_size(2 * Columns)];
  ATTEND_UNROLL for (int i = 0; i < Rows / 2; ++i) {
    ATTEND_UNROLL for (int v = 0; v < 2 * Columns; ++v) sum[i][v] = vector<float>(0.0f);
  }
  pair_bits const* b = work.b;
  for (index_t k = 0; k < work.depth; k += pair_depth, a += work.a.step)
    for (index_t byte = 0; byte < pair_depth / 4 * four; byte += four, b += 2 * b_stride) {
      typename Fours::factor of_b[array_size(2 * Columns)];
      ATTEND_UNROLL for (int v = 0; v < 2 * Columns; ++v)
          Fours::read_columns(b + v % 2 * b_stride + v / 2 * pair_columns, of_b[v]);
      ATTEND_UNROLL for (int i = 0; i < Rows / 2; ++i) {
        char const* const at = a + 2 * i * a_stride + byte;
        typename Fours::factor of_a;
        Fours::read_rows(at, at + a_stride, of_a);
        ATTEND_UNROLL for (int v = 0; v < 2 * Columns; ++v) Fours::multiply_add(of_a, of_b[v], sum[i][v]);
      }
    }
  bool const fresh = work.fresh;
  ATTEND_UNROLL for (int row = 0; row < Rows; row += 2) {
    ATTEND_UNROLL for (int v = 0; v < Columns; ++v) {
      vector<float> of_row[2];
      join_columns(sum[row / 2][2 * v], sum[row / 2][2 * v + 1], of_row[0], of_row[1],
                   std::make_index_sequence<width<float>>{});
      ATTEND_UNROLL for (int i = 0; i < 2; ++i) {
        float* const at = c + (row + i) * c_stride + v * width<float>;
        store(at, fresh ? of_row[i] : load(at) + of_row[i]);
      }
    }
  }
}

}  // namespace detail

/// The same by products of fours. What is beside them takes its own time.
template <int Rows, int Columns, class Unit, class Beside>
  requires(Unit::order.in_fours)
ATTEND_INLINE void multiply_tiles(Unit&, pair_operands const& work, Beside const& beside) {
  // 16 sums are in flight, or 24 in a full tile, which leaves eight of 32 registers for the operands.
  constexpr index_t rows = Columns == 1 ? 16 : 8;
  for (index_t row = 0; row < Rows * pair_tile; row += rows) {
    detail::multiply_row_fours<typename Unit::fours, rows, Columns>(
        work, work.a.data + row / pair_tile * work.a.tile + row % pair_tile * work.a.stride,
        work.c + row * work.c_stride);
    if ((row + rows) % pair_tile == 0)
      for (index_t k = 0; k < work.depth; k += pair_depth) beside();
  }
}

namespace detail {

/// The nearest bfloat16, the even one where two are near, in the upper halves of the lanes; the lower ones are not 0.
ATTEND_INLINE lanes::bits32 rounded_bits(vector<float> const& x) {
  auto const b = std::bit_cast<lanes::bits32>(x);
  // What is not a number stays so: its payload may be in the half that is lost.
  lanes::bits32 const nan = (b & 0x7fffffffu) > 0x7f800000u;
  return (nan & (b | 0x400000u)) | (~nan & (b + 0x7fffu + ((b >> 16) & 1u)));
}

ATTEND_INLINE void round_pairs(vector<float> const& first, vector<float> const& second, lanes::bits32& pairs) {
#if defined(__AVX512BF16__) && defined(__AVX512F__)
  static_assert(width<float> == 16);
  alignas(64) static constexpr std::uint16_t in_turn[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                            21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                            11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  auto const both =
      std::bit_cast<__m512i>(_mm512_cvtne2ps_pbh(static_cast<__m512>(second), static_cast<__m512>(first)));
  pairs = std::bit_cast<lanes::bits32>(_mm512_permutexvar_epi16(_mm512_load_si512(in_turn), both));
#elif defined(ATTEND_NEON_BFLOAT16)
  auto const half = [](float32x4_t x) ATTEND_INLINE_LAMBDA { return vreinterpretq_u16_bf16(vcvtq_low_bf16_f32(x)); };
  pairs = std::bit_cast<lanes::bits32>(vzip1q_u16(half(first), half(second)));
#else
  pairs = (rounded_bits(first) >> 16) | (rounded_bits(second) & 0xffff0000u);
#endif
}

/// The elements of two rows in turn, in the place of the rows.
template <std::size_t... Lane>
ATTEND_INLINE void set_side_by_side(lanes::bits32& first, lanes::bits32& second, std::index_sequence<Lane...>) {
  constexpr int count = width<float>;
  lanes::bits32 const a = first, b = second;
  first = __builtin_shufflevector(a, b, (int(Lane) / 2 + (Lane % 2 ? count : 0))...);
  second = __builtin_shufflevector(a, b, ((count + int(Lane)) / 2 + (Lane % 2 ? count : 0))...);
}

/// Stores the pairs of a group, each of which is a row, in the unit's order.
template <class Unit>
ATTEND_INLINE void store_in_order(pair_bits* to, index_t stride,
                                  lanes::bits32 (&pairs)[array_size(Unit::order.group() / 2)]) {
  if constexpr (Unit::order.in_fours) set_side_by_side(pairs[0], pairs[1], std::make_index_sequence<width<float>>{});
  constexpr index_t count = Unit::order.group() / 2;
  ATTEND_UNROLL for (index_t i = 0; i < count; ++i) std::memcpy(to + i * stride, &pairs[i], sizeof(pairs[i]));
}

}  // namespace detail

/// Rounds to the nearest bfloat16, to even ones where two are near: the first row's to the lower halves of pairs, the
/// second row's to the upper ones.
ATTEND_INLINE void store_pairs(pair_bits* to, vector<float> const& first, vector<float> const& second) {
  detail::lanes::bits32 pairs;
  detail::round_pairs(first, second, pairs);
  std::memcpy(to, &pairs, sizeof(pairs));
}

/// Rounds as many rows as a group of the unit's order has, and stores their pairs in rows that are `stride` apart.
template <class Unit>
ATTEND_INLINE void store_group(pair_bits* to, index_t stride, vector<float> const* rows) {
  constexpr pair_order order = Unit::order;
  constexpr index_t count = order.group() / 2;
  detail::lanes::bits32 pairs[array_size(count)];
  ATTEND_UNROLL for (index_t i = 0; i < count; ++i)
      detail::round_pairs(rows[order.number(i, 0)], rows[order.number(i, 1)], pairs[i]);
  detail::store_in_order<Unit>(to, stride, pairs);
}

/// Brings rows of b that have a pair for each column, a multiple of pair_columns of them, into the unit's order.
template <class Unit>
void order_columns(pair_bits* b, index_t pairs, index_t columns, index_t stride) {
  if constexpr (Unit::order.in_fours)
    for (index_t pair = 0; pair < pairs; pair += 2)
      for (index_t column = 0; column < columns; column += pair_columns) {
        pair_bits* const at = b + pair * stride + column;
        detail::lanes::bits32 rows[2];
        for (index_t i = 0; i < 2; ++i) std::memcpy(&rows[i], at + i * stride, sizeof(rows[i]));
        detail::store_in_order<Unit>(at, stride, rows);
      }
}

/// Whether the unit can read a row of `count` bfloat16 where it lies.
template <class Unit>
bool reads_in_place(index_t count) {
  return !Unit::order.by_parity && count % pair_depth == 0;
}

/// Copies a row of bfloat16 in the unit's order, and zeros behind it up to a multiple of 32.
template <class Unit>
void copy_row(void const* from, index_t count, std::uint16_t* to) {
  using numbers [[gnu::vector_size(2 * pair_depth)]] = std::uint16_t;
  auto const copy = [&](index_t first, index_t bytes) ATTEND_INLINE_LAMBDA {
    numbers x = {};
    std::memcpy(&x, static_cast<std::uint16_t const*>(from) + first, static_cast<std::size_t>(bytes));
    if constexpr (Unit::order.by_parity)
      x = __builtin_shufflevector(x, x, 2, 0, 3, 1, 6, 4, 7, 5, 10, 8, 11, 9, 14, 12, 15, 13, 18, 16, 19, 17, 22, 20,
                                  23, 21, 26, 24, 27, 25, 30, 28, 31, 29);
    std::memcpy(to + first, &x, sizeof(x));
  };
  index_t const whole = count / pair_depth * pair_depth;
  for (index_t first = 0; first < whole; first += pair_depth) copy(first, 2 * pair_depth);
  if (whole < count) copy(whole, 2 * (count - whole));
}

}  // namespace attend::inline ATTEND_TARGET::simd
