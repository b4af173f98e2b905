// SPDX-License-Identifier: BSD-3-Clause
// The products of a chunk's gradients, all of them register tiles. Matrices are rows at a constant stride, aligned, and
// padded with zeros to whole blocks of rows and columns; G is a lower triangle [token][lanes], of which nothing above
// the diagonal is read. Between tiles, memory is prefetched that later steps will use, if a list of it is given.
//
//   multiply_rows        to_i = f_i sum_k a_ik b_k
//   add_lower            to_i += sum_{j <= i} G_ij b_j
//   add_lower_transposed to_j += sum_{i >= j} G_ij b_i
//   add_outer            S_d = a S_d + sum_t x_td y_t           the state and its gradient, rows of value columns
//   solve_lower          e_i = x_i - sum_{j < i} L_ij r_j e_j   a delta rule's system
//   solve_upper          e_j = x_j - sum_{i > j} L_ij r_i e_i   the same, transposed: its gradient's
#pragma once

#include "../../simd/transpose.hpp"
#include "chunk_products.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Rows that are written.
template <class A>
struct row_matrix {
  A* data = nullptr;
  index_t stride = 0;

  A* row(index_t i) const { return data + i * stride; }
  operator rows_of<A>() const { return {data, stride}; }

  /// Zeros.
  static row_matrix of(scratch& memory, index_t rows, index_t stride) {
    A* const data = memory.allocate<A>(rows * stride);
    std::fill_n(data, rows * stride, A(0));
    return {data, stride};
  }
  void clear(index_t first, index_t last) const { std::fill(row(first), row(last), A(0)); }
};

/// Brings what a tile is added to into the nearest cache while its products are computed.
template <class Tile, class A>
ATTEND_INLINE void prefetch_tile(Tile const&, A const* to, index_t stride) {
  ATTEND_UNROLL for (int i = 0; i < simd::register_rows; ++i) {
    ATTEND_UNROLL for (index_t c = 0; c < Tile::lanes; c += line_of<A>) __builtin_prefetch(to + i * stride + c, 1, 3);
  }
}

/// Calls make(tile, i) for the tiles of `rows` rows, and end(tile, i) with each that is made.
template <int Vectors, class A, class Make, class End>
[[gnu::noinline]] void for_row_tiles(index_t rows, chunk_prefetch* ahead, Make const& make, End const& end) {
  // A tile takes some hundred cycles, in which so many runs of eight lines arrive.
  constexpr int runs_of_tile = 4;
  for (index_t i = 0; i < rows; i += simd::register_rows) {
    for (int run = 0; ahead && run < runs_of_tile; ++run) ahead->step();
    simd::register_tile<A, Vectors> tile;
    tile.clear();
    make(tile, i);
    end(tile, i);
  }
}

/// The same for all columns, a panel after the other: make(tile, i, column).
template <class A, class Make, class End>
void for_tiles(index_t rows, index_t columns, chunk_prefetch* ahead, Make const& make, End const& end) {
  simd::for_tile_widths(static_cast<int>(columns / simd::width<A>), [&]<int Vectors>(int first) {
    index_t const column = first * simd::width<A>;
    for_row_tiles<Vectors, A>(
        rows, ahead, [&](auto& tile, index_t i) ATTEND_INLINE_LAMBDA { make(tile, i, column); },
        [&](auto& tile, index_t i) ATTEND_INLINE_LAMBDA { end(tile, i, column); });
  });
}

/// to_i = f_i sum_{k < depth} a_ik b_k; without factors, they are 1.
template <class A>
void multiply_rows(rows_of<A> a, index_t rows, index_t depth, rows_of<A> b, index_t columns, A const* factors,
                   row_matrix<A> to, chunk_prefetch* ahead = nullptr) {
  for_tiles<A>(
      rows, columns, ahead,
      [&](auto& tile, index_t i, index_t column) ATTEND_INLINE_LAMBDA {
        tile.template multiply_add<false>(a.row(i), a.stride, b.data + column, depth, b.stride);
        if (factors) multiply_rows(tile, factors + i);
      },
      [&](auto& tile, index_t i, index_t column) ATTEND_INLINE_LAMBDA { tile.store(to.row(i) + column, to.stride); });
}

/// to_i = sum_{k < depth} a_ki b_k
template <class A>
void multiply_columns_of(rows_of<A> a, index_t rows, index_t depth, rows_of<A> b, index_t columns, row_matrix<A> to,
                         chunk_prefetch* ahead = nullptr) {
  for_tiles<A>(
      rows, columns, ahead,
      [&](auto& tile, index_t i, index_t column) ATTEND_INLINE_LAMBDA {
        tile.template multiply_add<true>(a.data + i, a.stride, b.data + column, depth, b.stride);
      },
      [&](auto& tile, index_t i, index_t column) ATTEND_INLINE_LAMBDA { tile.store(to.row(i) + column, to.stride); });
}

/// to_i += sum_{j <= i} G_ij b_j for i < tokens.
template <class A>
void add_lower(rows_of<A> g, index_t tokens, rows_of<A> b, index_t columns, row_matrix<A> to,
               chunk_prefetch* ahead = nullptr) {
  for_tiles<A>(
      tokens, columns, ahead,
      [&](auto& tile, index_t i, index_t column) ATTEND_INLINE_LAMBDA {
        prefetch_tile(tile, to.row(i) + column, to.stride);
        tile.template multiply_add<false>(g.row(i), g.stride, b.data + column, i, b.stride);
        tile.multiply_add_lower(g.row(i) + i, g.stride, b.row(i) + column, b.stride);
      },
      [&](auto& tile, index_t i, index_t column) ATTEND_INLINE_LAMBDA { tile.add_to(to.row(i) + column, to.stride); });
}

/// to_j += sum_{j <= i < tokens} G_ij b_i for j < tokens.
template <class A>
void add_lower_transposed(rows_of<A> g, index_t tokens, rows_of<A> b, index_t columns, row_matrix<A> to,
                          chunk_prefetch* ahead = nullptr) {
  for_tiles<A>(
      tokens, columns, ahead,
      [&](auto& tile, index_t j, index_t column) ATTEND_INLINE_LAMBDA {
        index_t const next = j + simd::register_rows;
        prefetch_tile(tile, to.row(j) + column, to.stride);
        tile.multiply_add_lower_transposed(g.row(j) + j, g.stride, b.row(j) + column, b.stride);
        if (next < tokens)
          tile.template multiply_add<true>(g.row(next) + j, g.stride, b.row(next) + column, tokens - next, b.stride);
      },
      [&](auto& tile, index_t j, index_t column) ATTEND_INLINE_LAMBDA { tile.add_to(to.row(j) + column, to.stride); });
}

/// after_d = a before_d + sum_{t < tokens} x_td y_t for d < rows, where a has a number for each column. The two may be
/// the same.
template <class A>
void add_outer(rows_of<A> x, rows_of<A> y, index_t tokens, index_t rows, index_t columns, state_factors<A> factors,
               rows_of<A> before, row_matrix<A> after, chunk_prefetch* ahead = nullptr) {
  for_tiles<A>(
      rows, columns, ahead,
      [&](auto& tile, index_t d, index_t column) ATTEND_INLINE_LAMBDA {
        prefetch_tile(tile, before.row(d) + column, before.stride);
        tile.template multiply_add<true>(x.data + d, x.stride, y.data + column, tokens, y.stride);
      },
      [&](auto& tile, index_t d, index_t column) ATTEND_INLINE_LAMBDA {
        constexpr int vectors = std::remove_reference_t<decltype(tile)>::lanes / simd::width<A>;
        ATTEND_UNROLL for (int r = 0; r < simd::register_rows; ++r) {
          ATTEND_UNROLL for (int v = 0; v < vectors; ++v) {
            index_t const at = column + v * simd::width<A>;
            tile.sum[r][v] = factors.of_features(at, simd::load(before.row(d + r) + at), tile.sum[r][v]);
          }
        }
        tile.store(after.row(d) + column, after.stride);
      });
}

/// to_i = x_i times factor i, or times row i of other factors where there is no list of them. The two may be the same.
template <class A>
void decay_rows(rows_of<A> x, A const* factors, rows_of<A> others, index_t count, index_t columns, row_matrix<A> to) {
  using number = simd::vector<A>;
  for (index_t i = 0; i < count; ++i)
    for (index_t f = 0; f < columns; f += simd::width<A>)
      simd::store(to.row(i) + f,
                  simd::load(x.row(i) + f) * (factors ? number(factors[i]) : simd::load(others.row(i) + f)));
}

/// S_d <- a S_d + added_d; without rows that are added, a S_d.
template <class A>
void add_to_state(rows_of<A> added, state_factors<A> factors, index_t rows, index_t columns, row_matrix<A> state) {
  using number = simd::vector<A>;
  for (index_t d = 0; d < rows; ++d)
    for (index_t f = 0; f < columns; f += simd::width<A>)
      simd::store(state.row(d) + f, factors.of_features(f, simd::load(state.row(d) + f),
                                                        added.data ? simd::load(added.row(d) + f) : number(A(0))));
}

/// In place, e_i <- x_i - sum_{j < i} L_ij u_j with u_i = r_i e_i, which is written as well: token after token. For
/// each block of tokens the terms of earlier blocks are products of tiles; the triangle within is solved in registers.
template <class A>
void solve_lower(rows_of<A> l, A const* rates, index_t tokens, index_t columns, row_matrix<A> e, row_matrix<A> u,
                 chunk_prefetch* ahead = nullptr) {
  for_tiles<A>(
      tokens, columns, ahead,
      [&](auto& tile, index_t i, index_t column)
          ATTEND_INLINE_LAMBDA { tile.template multiply_add<false>(l.row(i), l.stride, u.data + column, i, u.stride); },
      [&](auto& tile, index_t i, index_t column) ATTEND_INLINE_LAMBDA {
        constexpr int vectors = std::remove_reference_t<decltype(tile)>::lanes / simd::width<A>;
        ATTEND_UNROLL for (int r = 0; r < simd::register_rows; ++r) {
          simd::vector<A> solved[array_size(vectors)];
          simd::vector<A> const rate(rates[i + r]);
          ATTEND_UNROLL for (int v = 0; v < vectors; ++v) {
            index_t const at = column + v * simd::width<A>;
            simd::vector<A> const x = simd::load(e.row(i + r) + at) - tile.sum[r][v];
            simd::store(e.row(i + r) + at, x);
            solved[v] = x * rate;
            simd::store(u.row(i + r) + at, solved[v]);
          }
          ATTEND_UNROLL for (int s = r + 1; s < simd::register_rows; ++s) {
            simd::vector<A> const product(l.row(i + s)[i + r]);
            ATTEND_UNROLL for (int v = 0; v < vectors; ++v) tile.sum[s][v] =
                simd::fused_multiply_add(product, solved[v], tile.sum[s][v]);
          }
        }
      });
}

/// In place, e_j <- x_j - sum_{i > j} L_ij u_i with u_j = r_j e_j, from the last token to the first. Rows of e and u
/// past the last token are 0.
template <class A>
void solve_upper(rows_of<A> l, A const* rates, index_t tokens, index_t columns, row_matrix<A> e, row_matrix<A> u,
                 chunk_prefetch* ahead = nullptr) {
  index_t const last = (divide_up(tokens, index_t{simd::register_rows}) - 1) * simd::register_rows;
  for_tiles<A>(
      tokens, columns, ahead,
      [&](auto& tile, index_t number, index_t column) ATTEND_INLINE_LAMBDA {
        index_t const j = last - number, next = j + simd::register_rows;
        if (next < tokens)
          tile.template multiply_add<true>(l.row(next) + j, l.stride, u.row(next) + column, tokens - next, u.stride);
      },
      [&](auto& tile, index_t number, index_t column) ATTEND_INLINE_LAMBDA {
        constexpr int vectors = std::remove_reference_t<decltype(tile)>::lanes / simd::width<A>;
        index_t const j = last - number;
        ATTEND_UNROLL for (int r = simd::register_rows - 1; r >= 0; --r) {
          simd::vector<A> solved[array_size(vectors)];
          simd::vector<A> const rate(rates[j + r]);
          ATTEND_UNROLL for (int v = 0; v < vectors; ++v) {
            index_t const at = column + v * simd::width<A>;
            simd::vector<A> const x = simd::load(e.row(j + r) + at) - tile.sum[r][v];
            simd::store(e.row(j + r) + at, x);
            solved[v] = x * rate;
            simd::store(u.row(j + r) + at, solved[v]);
          }
          ATTEND_UNROLL for (int s = 0; s < r; ++s) {
            simd::vector<A> const product(l.row(j + r)[j + s]);
            ATTEND_UNROLL for (int v = 0; v < vectors; ++v) tile.sum[s][v] =
                simd::fused_multiply_add(product, solved[v], tile.sum[s][v]);
          }
        }
      });
}

/// to_ci = from_ic for whole vectors of rows and columns.
template <class A>
void transpose_rows(rows_of<A> from, index_t rows, index_t columns, row_matrix<A> to) {
  using namespace simd;
  for (index_t i = 0; i < rows; i += width<A>)
    for (index_t c = 0; c < columns; c += width<A>) {
      vector<A> square[array_size(width<A>)];
      ATTEND_UNROLL for (int r = 0; r < width<A>; ++r) square[r] = load(from.row(i + r) + c);
      transpose<A>(square);
      ATTEND_UNROLL for (int r = 0; r < width<A>; ++r) store(to.row(c + r) + i, square[r]);
    }
}

}  // namespace attend::inline ATTEND_TARGET::engine
