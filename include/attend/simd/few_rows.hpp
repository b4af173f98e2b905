// A few rows times a matrix that is read once, in its own place and type: reading it is what it costs.
//
//   multiply_few              to[r][c] = sum_k from[r][k] * matrix[k][c]     lanes along c; from is broadcast
//   multiply_few_transposed   to[r][n] = sum_k from[r][k] * matrix[n][k]     lanes along k; summed across at the end
//
// `from` is [Rows][stride], stride a multiple of the width, with zeros past the depth. Rows * Vectors accumulators, and
// the loaded operands, stay in registers.
#pragma once

#include "convert.hpp"
#include "register_tile.hpp"

namespace attend::simd {

namespace detail {

/// The first `count` elements, or all of a vector's where there are so many.
template <Element T>
ATTEND_INLINE vector<accumulation_t<T>> widen_up_to(T const* from, index_t count) {
  return count >= width<accumulation_t<T>> ? widen(from) : widen_part(from, count);
}

/// Columns [first, first + Vectors * width), of which `count` exist.
template <int Rows, int Vectors, bool Whole, Element T, class A, Element To>
void multiply_strip(A const* from, index_t from_stride, T const* matrix, index_t stride, index_t depth, index_t first,
                    index_t count, To* const* to) {
  vector<A> sum[Rows][Vectors];
  ATTEND_UNROLL for (int r = 0; r < Rows; ++r) {
    ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) sum[r][v] = vector<A>(A(0));
  }
  // The rows of a strip are too far apart for the machine to see where it goes on.
  constexpr index_t ahead = 12;
  T const* row = matrix + first;
  for (index_t k = 0; k < depth; ++k, row += stride) {
    vector<A> loaded[Vectors];
    ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) {
      T const* const at = row + v * width<A>;
      __builtin_prefetch(at + ahead * stride, 0, 3);
      loaded[v] = Whole ? widen(at) : widen_up_to(at, count - v * width<A>);
    }
    ATTEND_UNROLL for (int r = 0; r < Rows; ++r) {
      vector<A> const broadcast(from[r * from_stride + k]);
      ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) sum[r][v] =
          fused_multiply_add<A>(broadcast, loaded[v], sum[r][v]);
    }
  }
  ATTEND_UNROLL for (int r = 0; r < Rows; ++r) {
    ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) {
      if constexpr (Whole)
        narrow(to[r] + first + v * width<A>, sum[r][v]);
      else
        narrow_part(to[r] + first, sum[r][v], count);
    }
  }
}

template <class A>
A sum_of_lanes(vector<A> const& x) {
  alignas(64) A lanes[width<A>];
  store(lanes, x);
  for (int half = width<A> / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

/// Rows [first, first + Vectors) of the matrix.
template <int Rows, int Vectors, Element T, class A, Element To>
void dot_strip(A const* from, index_t from_stride, T const* matrix, index_t stride, index_t depth, index_t first,
               To* const* to) {
  vector<A> sum[Rows][Vectors];
  ATTEND_UNROLL for (int r = 0; r < Rows; ++r) {
    ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) sum[r][v] = vector<A>(A(0));
  }
  T const* const rows = matrix + first * stride;
  auto const step = [&](index_t k, auto const& loaded_from) ATTEND_INLINE_LAMBDA {
    vector<A> own[Rows];
    ATTEND_UNROLL for (int r = 0; r < Rows; ++r) own[r] = vector<A>::load_unaligned(from + r * from_stride + k);
    ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) {
      vector<A> const loaded = loaded_from(rows + v * stride + k);
      ATTEND_UNROLL for (int r = 0; r < Rows; ++r) sum[r][v] = fused_multiply_add<A>(own[r], loaded, sum[r][v]);
    }
  };
  index_t k = 0;
  for (; k + width<A> <= depth; k += width<A>) step(k, [](T const* at) ATTEND_INLINE_LAMBDA { return widen(at); });
  if (k < depth) step(k, [&](T const* at) ATTEND_INLINE_LAMBDA { return widen_part(at, depth - k); });
  ATTEND_UNROLL for (int r = 0; r < Rows; ++r) {
    ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) to[r][first + v] = static_cast<To>(sum_of_lanes<A>(sum[r][v]));
  }
}

}  // namespace detail

/// matrix [depth][columns], rows `stride` apart.
template <int Rows, Element T, class A, Element To>
void multiply_few(A const* from, index_t from_stride, T const* matrix, index_t stride, index_t depth, index_t columns,
                  To* const* to) {
  constexpr int vectors = std::max(register_rows * register_vectors / 2 / Rows, 1);
  index_t c = 0;
  for (; c + vectors * width<A> <= columns; c += vectors * width<A>)
    detail::multiply_strip<Rows, vectors, true>(from, from_stride, matrix, stride, depth, c, columns - c, to);
  for (; c + width<A> <= columns; c += width<A>)
    detail::multiply_strip<Rows, 1, true>(from, from_stride, matrix, stride, depth, c, columns - c, to);
  if (c < columns) detail::multiply_strip<Rows, 1, false>(from, from_stride, matrix, stride, depth, c, columns - c, to);
}

/// matrix [rows][depth], rows `stride` apart.
template <int Rows, Element T, class A, Element To>
void multiply_few_transposed(A const* from, index_t from_stride, T const* matrix, index_t stride, index_t rows,
                             index_t depth, To* const* to) {
  constexpr int together = std::max(register_rows * register_vectors / 2 / Rows, 1);
  index_t n = 0;
  for (; n + together <= rows; n += together)
    detail::dot_strip<Rows, together>(from, from_stride, matrix, stride, depth, n, to);
  for (; n < rows; ++n) detail::dot_strip<Rows, 1>(from, from_stride, matrix, stride, depth, n, to);
}

}  // namespace attend::simd
