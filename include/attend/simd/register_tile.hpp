// The one place that knows how many accumulators fit in the registers.
//
// A register tile is `rows` broadcast operands times `vectors` loaded ones. A fused multiply-add has a latency of four
// cycles on two ports, so at least eight accumulators must be in flight; more of them mean fewer loads per product. With
// 32 registers 8 x 3 accumulators leave room for the three loaded operands and the broadcasts; with 16, 4 x 3 do.
#pragma once

#include "vector.hpp"

namespace attend::simd {

#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int register_rows = 8;
#else
inline constexpr int register_rows = 4;
#endif
inline constexpr int register_vectors = 3;

/// Lanes of a full tile: the queries that are worked on side by side.
template <class T>
inline constexpr int tile_lanes = register_vectors * width<T>;

/// Accumulators [register_rows][Vectors], all of them in registers.
template <class T, int Vectors>
struct register_tile {
  vector<T> sum[register_rows][Vectors];

  ATTEND_INLINE void clear() {
    ATTEND_UNROLL for (int i = 0; i < register_rows; ++i) {
      ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) sum[i][v] = vector<T>(T(0));
    }
  }

  /// to is [register_rows][Vectors * width], aligned.
  ATTEND_INLINE void store(T* to) const {
    ATTEND_UNROLL for (int i = 0; i < register_rows; ++i) {
      ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) simd::store(to + (i * Vectors + v) * width<T>, sum[i][v]);
    }
  }

  ATTEND_INLINE void add_to(T* to) const {
    ATTEND_UNROLL for (int i = 0; i < register_rows; ++i) {
      ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) {
        T* const at = to + (i * Vectors + v) * width<T>;
        simd::store(at, load(at) + sum[i][v]);
      }
    }
  }

  /// sum[i][:] += a(i, k) * b[k][:] for k in [0, depth), where a(i, k) = a[i * row_stride + k * depth_stride] and b is
  /// [depth][Vectors * width], aligned. One of the two strides is 1; which one is known at compile time, so that the
  /// broadcasts' addresses need few registers.
  template <bool RowsAreContiguous>
  ATTEND_INLINE void multiply_add(T const* a, index_t stride, T const* b, index_t depth) {
    for (index_t k = 0; k < depth; ++k) {
      vector<T> loaded[Vectors];
      ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) loaded[v] = simd::load(b + v * width<T>);
      ATTEND_UNROLL for (int i = 0; i < register_rows; ++i) {
        vector<T> const broadcast(RowsAreContiguous ? a[i] : a[i * stride]);
        ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) sum[i][v] = fused_multiply_add(broadcast, loaded[v], sum[i][v]);
      }
      a += RowsAreContiguous ? stride : 1;
      b += Vectors * width<T>;
    }
  }
};

}  // namespace attend::simd
