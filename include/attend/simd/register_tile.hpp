// SPDX-License-Identifier: BSD-3-Clause
// A register tile: the part of a matrix product whose sums stay in registers. Only this file knows how many fit.
//
// A register tile multiplies `register_rows` broadcast operands by `Vectors` loaded ones. A fused multiply-add has a
// latency of four cycles on two ports, so at least eight accumulators must be in flight; more of them mean fewer loads
// per product. With 32 registers 8 x 3 accumulators leave room for the three loaded operands and the broadcasts; with
// 16, 4 x 3 do.
#pragma once

#include "vector.hpp"

namespace attend::inline ATTEND_TARGET::simd {

#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int register_rows = 8;
#else
inline constexpr int register_rows = 4;
#endif
inline constexpr int register_vectors = 3;

/// Bytes that a product prefetches with each step of its depth (register_tile::multiply_add).
inline constexpr index_t prefetch_bytes = 32;

/// Lanes of a full tile: the queries that are worked on side by side.
template <class T>
inline constexpr int tile_lanes = register_vectors * width<T>;

/// Accumulators [register_rows][Vectors], all of them in registers.
template <class T, int Vectors>
struct register_tile {
  static constexpr int lanes = Vectors * width<T>;

  vector<T> sum[array_size(register_rows)][array_size(Vectors)];

  ATTEND_INLINE void clear() {
    ATTEND_UNROLL for (int i = 0; i < register_rows; ++i) {
      ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) sum[i][v] = vector<T>(T(0));
    }
  }

  /// to is [register_rows][Vectors * width], rows `stride` apart, aligned.
  ATTEND_INLINE void store(T* to, index_t stride = lanes) const {
    ATTEND_UNROLL for (int i = 0; i < register_rows; ++i) {
      ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) simd::store(to + i * stride + v * width<T>, sum[i][v]);
    }
  }

  ATTEND_INLINE void add_to(T* to, index_t stride = lanes) const {
    ATTEND_UNROLL for (int i = 0; i < register_rows; ++i) {
      ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) {
        T* const at = to + i * stride + v * width<T>;
        simd::store(at, load(at) + sum[i][v]);
      }
    }
  }

  /// sum[i][:] += a(i, k) * b[k][:] for k in [0, depth), where a(i, k) = a[i * row_stride + k * depth_stride] and b is
  /// [depth][Vectors * width], rows `b_stride` apart, aligned. One of the two strides of a is 1; which one is known at
  /// compile time, so that the broadcasts' addresses need few registers.
  ///
  /// With `Prefetches`, memory from `ahead` on is prefetched, half a cache line with each step of the depth: prefetches
  /// that are spread out leave enough line fill buffers to the product's own loads.
  template <bool RowsAreContiguous, bool Prefetches = false>
  ATTEND_INLINE void multiply_add(T const* a, index_t stride, T const* b, index_t depth, index_t b_stride = lanes,
                                  [[maybe_unused]] char const* ahead = nullptr) {
    for (index_t k = 0; k < depth; ++k) {
      if constexpr (Prefetches) __builtin_prefetch(ahead + k * prefetch_bytes, 0, 2);
      vector<T> loaded[array_size(Vectors)];
      ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) loaded[v] = simd::load(b + v * width<T>);
      ATTEND_UNROLL for (int i = 0; i < register_rows; ++i) {
        vector<T> const broadcast(RowsAreContiguous ? a[i] : a[i * stride]);
        ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) sum[i][v] = fused_multiply_add(broadcast, loaded[v], sum[i][v]);
        keep_order();
      }
      a += RowsAreContiguous ? stride : 1;
      b += b_stride;
    }
  }

  /// sum[i][:] += a[i * stride + k] * b[k][:] for k in [0, i]: a lower triangle times the rows of b, which are
  /// `b_stride` apart. Elements above the triangle are not read, so row k of b adds nothing to sum[i] for i < k.
  ATTEND_INLINE void multiply_add_lower(T const* a, index_t stride, T const* b, index_t b_stride = lanes) {
    ATTEND_UNROLL for (int k = 0; k < register_rows; ++k) {
      vector<T> loaded[array_size(Vectors)];
      ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) loaded[v] = simd::load(b + k * b_stride + v * width<T>);
      ATTEND_UNROLL for (int i = k; i < register_rows; ++i) {
        vector<T> const broadcast(a[i * stride + k]);
        ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) sum[i][v] = fused_multiply_add(broadcast, loaded[v], sum[i][v]);
        keep_order();
      }
    }
  }

  /// sum[i][:] += a[k * stride + i] * b[k][:] for k in [i, register_rows): the same triangle, transposed.
  ATTEND_INLINE void multiply_add_lower_transposed(T const* a, index_t stride, T const* b, index_t b_stride) {
    ATTEND_UNROLL for (int k = 0; k < register_rows; ++k) {
      vector<T> loaded[array_size(Vectors)];
      ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) loaded[v] = simd::load(b + k * b_stride + v * width<T>);
      ATTEND_UNROLL for (int i = 0; i <= k; ++i) {
        vector<T> const broadcast(a[k * stride + i]);
        ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) sum[i][v] = fused_multiply_add(broadcast, loaded[v], sum[i][v]);
        keep_order();
      }
    }
  }
};

/// Cuts a row of `count` vectors into the widths of register tiles, and calls function.template
/// operator()<Vectors>(first) for each: three vectors at a time, but the last four as two and two, since a tile of a
/// single vector keeps too few sums in flight.
template <class Function>
ATTEND_INLINE void for_tile_widths(int count, Function&& function) {
  for (int first = 0; first < count;) {
    int const left = count - first;
    if (left == 1) {
      function.template operator()<1>(first), first += 1;
    } else if (left == 2 || left == 4) {
      function.template operator()<2>(first), first += 2;
    } else {
      function.template operator()<3>(first), first += 3;
    }
  }
}
static_assert(register_vectors == 3);

}  // namespace attend::inline ATTEND_TARGET::simd
