// SPDX-License-Identifier: BSD-3-Clause
// The products of one chunk of tokens with itself and with the state, all of them register tiles.
//
//   rows of a chunk       x        [token][stride]       tokens one after the other: a tensor's own rows, or copies
//   columns of a chunk    x^T      [feature][lanes]      tokens side by side in lanes
//   products              P        [lanes][lanes]        P_ij = x_i . k_j, of which j <= i is used
//   panels                V, S     [token or feature][Vectors * width]
//
// Value columns are in lanes: a panel is as many of them as a register tile is wide, and every operation on a panel is
// lane by lane. So the results have the same bits however the columns are cut into panels.
//
// `lanes` is the length of the longest chunk, rounded up to whole register tiles. The rows past a chunk's last token,
// up to a whole block of tokens, can be read, and are 0.
#pragma once

#include <utility>

#include "../../core/scratch.hpp"
#include "../../simd/bfloat16_parts.hpp"
#include "../../simd/pack.hpp"
#include "../../simd/register_tile.hpp"
#include "../rows.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// The number of tokens or features of a block: whole register tiles of rows, whole vectors of lanes.
template <class A>
inline constexpr index_t chunk_block = std::max<index_t>(simd::register_rows, simd::width<A>);

/// The numbers of a cache line.
template <class A>
inline constexpr index_t line_of = static_cast<index_t>(detail::cache_line / sizeof(A));

/// How the arrays of a chunk are laid out.
struct chunk_layout {
  index_t features;         // the number of rows of the state
  index_t padded_features;  // the same, rounded up to whole register tiles
  index_t stride;           // the distance from one token's features to the next token's
  index_t lanes;            // the distance from one feature's tokens to the next feature's

  /// A stride of at least `count`. Rows whose stride is a multiple of four cache lines would compete for the same few
  /// sets of the level-1 cache.
  template <class A>
  static index_t apart(index_t count) {
    return count + (count % (4 * line_of<A>) == 0 ? line_of<A> : 0);
  }

  template <class A>
  static chunk_layout of(index_t features, index_t max_tokens) {
    index_t const padded = round_up(features, chunk_block<A>);
    return {features, padded, apart<A>(padded), apart<A>(round_up(max_tokens, chunk_block<A>))};
  }
};

/// One register tile of products: register_rows rows, Vectors vectors of columns. Each product is multiplied by the
/// factor at the same place, if there are factors.
template <int Vectors, class A>
[[gnu::noinline]] void multiply_columns(rows_of<A> x, A const* columns, chunk_layout const& layout, A const* factors,
                                        A* products) {
  simd::register_tile<A, Vectors> tile;
  tile.clear();
  tile.template multiply_add<false>(x.data, x.stride, columns, layout.features, layout.lanes);
  if (factors) {
    ATTEND_UNROLL for (int i = 0; i < simd::register_rows; ++i) {
      ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) tile.sum[i][v] =
          tile.sum[i][v] * simd::load(factors + i * layout.lanes + v * simd::width<A>);
    }
  }
  tile.store(products, layout.lanes);
}

/// P_ij = x_i . k_j for `vectors` vectors of columns and register_rows rows.
template <class A>
void multiply_columns(rows_of<A> x, A const* columns, index_t vectors, chunk_layout const& layout, A* products,
                      A const* factors = nullptr) {
  simd::for_tile_widths(static_cast<int>(vectors), [&]<int Vectors>(int first) {
    index_t const at = first * simd::width<A>;
    multiply_columns<Vectors, A>(x, columns + at, layout, factors ? factors + at : nullptr, products + at);
  });
}

/// P_ij = x_i . k_j, times factor_ij if there are factors, for j <= i < tokens; tiles above the triangle are left out.
template <class A>
void multiply_lower(rows_of<A> x, A const* columns, index_t tokens, chunk_layout const& layout, A* products,
                    A const* factors = nullptr) {
  for (index_t i = 0; i < tokens; i += simd::register_rows)
    multiply_columns<A>({x.row(i), x.stride}, columns, divide_up(i + simd::register_rows, simd::width<A>), layout,
                        products + i * layout.lanes, factors ? factors + i * layout.lanes : nullptr);
}

/// The memory that is prefetched during the work on the present chunk: rows that the next chunk reads, and rows of the
/// output. It is cut into short runs of bytes; each product prefetches the next runs, one with every few steps of its
/// depth.
class chunk_prefetch {
 public:
  /// Allocates memory for `max_runs` runs; runs_of() is the number of runs of a row.
  chunk_prefetch(scratch& memory, index_t max_runs) : runs_(memory.allocate<char const*>(max_runs + 1)) { clear(); }
  template <Element T>
  static index_t runs_of(index_t dimension) {
    return divide_up(dimension * static_cast<index_t>(sizeof(T)), run_bytes);
  }

  void clear() {
    count_ = at_ = 0;
    // After the last run, products prefetch the last run again, which costs little. If there is no run at all, they
    // prefetch this list.
    runs_[0] = reinterpret_cast<char const*>(runs_);
  }

  /// Adds the first `dimension` elements of rows [0, count).
  template <class T>
  [[gnu::noinline]] void add(rows_of<T> rows, index_t count, index_t dimension) {
    index_t bytes = dimension * static_cast<index_t>(sizeof(T));
    if (rows.stride == dimension) bytes *= std::exchange(count, std::min<index_t>(count, 1));
    for (index_t i = 0; i < count; ++i) {
      char const* const row = reinterpret_cast<char const*>(rows.row(i));
      for (index_t byte = 0; byte < bytes; byte += run_bytes) runs_[count_++] = row + byte;
    }
  }

  /// Adds `columns` elements from `first_column` on of up to `count` tokens of a head, from token `first` on.
  template <class T>
  void add(tensor_view<T const, 4> const& tensor, index_t batch, index_t head, index_t first, index_t count,
           index_t first_column, index_t columns) {
    count = std::min(count, tensor.extent(2) - first);
    if (count <= 0) return;
    rows_of<T> rows = rows_of_head(tensor, batch, tensor.extent(1) == 1 ? 0 : head, first);
    rows.data += first_column;
    add(rows, count, columns);
  }

  /// Prefetches the next run.
  ATTEND_INLINE void step() {
    for (index_t byte = 0; byte < run_bytes; byte += static_cast<index_t>(detail::cache_line))
      __builtin_prefetch(runs_[at_] + byte, 0, 2);
    at_ += at_ + 1 < count_;
  }

  /// tile += a * b, as register_tile::multiply_add computes it, with the prefetches of the next runs.
  template <bool RowsAreContiguous, class Tile, class A>
  ATTEND_INLINE void multiply_add(Tile& tile, A const* a, index_t stride, A const* b, index_t depth) {
    for (index_t k = 0; k < depth; k += run_depth) {
      tile.template multiply_add<RowsAreContiguous, true>(a + k * (RowsAreContiguous ? stride : 1), stride,
                                                          b + k * Tile::lanes, std::min(run_depth, depth - k),
                                                          Tile::lanes, runs_[at_]);
      at_ += at_ + 1 < count_;
    }
  }

  /// The same without prefetches where the tile is one vector wide: it loads as often as it multiplies, and has no load
  /// to spare.
  template <bool RowsAreContiguous, class Tile, class A>
  ATTEND_INLINE void multiply_add_in_wide(Tile& tile, A const* a, index_t stride, A const* b, index_t depth) {
    if constexpr (Tile::lanes > simd::width<A>)
      multiply_add<RowsAreContiguous>(tile, a, stride, b, depth);
    else
      tile.template multiply_add<RowsAreContiguous>(a, stride, b, depth);
  }

 private:
  static constexpr index_t run_depth = 16;
  static constexpr index_t run_bytes = run_depth * simd::prefetch_bytes;

  char const** runs_;
  index_t count_ = 0, at_ = 0;
};

/// tile_i *= factors_i.
template <class A, int Vectors>
ATTEND_INLINE void multiply_rows(simd::register_tile<A, Vectors>& tile, A const* factors) {
  ATTEND_UNROLL for (int i = 0; i < simd::register_rows; ++i) {
    ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) tile.sum[i][v] = tile.sum[i][v] * simd::vector<A>(factors[i]);
  }
}

/// Cuts a row of `count` vectors into panels of at most `widest` vectors, and calls function.template
/// operator()<Vectors>(first) for each.
template <class Function>
void for_panel_widths(index_t count, index_t widest, Function&& function) {
  int const vectors = static_cast<int>(count);
  if (widest >= simd::register_vectors) return simd::for_tile_widths(vectors, function);
  int first = 0;
  if (widest == 2)
    for (; first + 2 <= vectors; first += 2) function.template operator()<2>(first);
  for (; first < vectors; ++first) function.template operator()<1>(first);
}
static_assert(simd::register_vectors == 3);

/// The state and the values of a panel of a chunk.
template <class A>
struct chunk_panel {
  A* state;  // [padded feature][Vectors * width]
  A* value;  // [lanes][Vectors * width]
};

/// A panel's part of the output: row i is at data + i * stride, of which the first `columns` elements are the panel's.
template <class T>
struct chunk_output {
  T* data;
  index_t stride, columns;

  /// Narrows the first `rows` rows of a tile and writes them to rows i, i + 1, ...
  template <class A, int Vectors>
  ATTEND_INLINE void store(simd::register_tile<A, Vectors> const& tile, index_t i, index_t rows) const {
    using namespace simd;
    if (rows >= register_rows && columns >= Vectors * width<A>) {
      ATTEND_UNROLL for (int r = 0; r < register_rows; ++r) {
        T* const to = data + (i + r) * stride;
        // Two vectors of bfloat16 are rounded together where there is an instruction for it.
        constexpr int together = std::same_as<T, bfloat16> ? Vectors / 2 * 2 : 0;
        if constexpr (together > 0)
          ATTEND_UNROLL for (int v = 0; v < together; v += 2)
              store_run(reinterpret_cast<std::uint16_t*>(to + v * width<A>), tile.sum[r][v], tile.sum[r][v + 1]);
        ATTEND_UNROLL for (int v = together; v < Vectors; ++v) narrow(to + v * width<A>, tile.sum[r][v]);
      }
      return;
    }
    alignas(64) A sums[register_rows * Vectors * width<A>];
    tile.store(sums);
    for (index_t r = 0; r < std::min<index_t>(rows, register_rows); ++r)
      for (index_t c = 0; c < columns && c < Vectors * width<A>; c += width<A>)
        narrow_part(data + (i + r) * stride + c, load(sums + r * Vectors * width<A> + c),
                    std::min<index_t>(width<A>, columns - c));
  }
};

/// to_i = finish_i (factor_i q_i^T S + sum_{j <= i} P_ij v_j). Without products there is no sum; without factors they
/// are 1.
template <int Vectors, class A, class T>
[[gnu::noinline]] void read_panel(rows_of<A> query, A const* factors, A const* products, A const* finish,
                                  chunk_panel<A> panel, index_t tokens, chunk_layout const& layout, chunk_output<T> to,
                                  chunk_prefetch& prefetch) {
  using tile_type = simd::register_tile<A, Vectors>;
  for (index_t i = 0; i < tokens; i += simd::register_rows) {
    tile_type tile;
    tile.clear();
    prefetch.multiply_add<false>(tile, query.row(i), query.stride, panel.state, layout.features);
    if (factors) multiply_rows(tile, factors + i);
    if (products) {
      A const* const row = products + i * layout.lanes;
      tile.template multiply_add<false>(row, layout.lanes, panel.value, i);
      tile.multiply_add_lower(row + i, layout.lanes, panel.value + i * tile_type::lanes);
    }
    multiply_rows(tile, finish + i);
    to.store(tile, i, tokens - i);
  }
}

/// The delta rule's triangular system, solved in place: v_i <- rate_i (v_i - k_i^T S - sum_{j < i} P_ij v_j), token
/// after token. For each block of register_rows tokens, the terms of earlier blocks and of the state are register-tile
/// products; the triangle within the block is then solved in registers.
template <int Vectors, class A>
[[gnu::noinline]] void solve_panel(rows_of<A> key, A const* factors, A const* products, A const* rates,
                                   chunk_panel<A> panel, index_t tokens, chunk_layout const& layout,
                                   chunk_prefetch& prefetch) {
  using namespace simd;
  using tile_type = register_tile<A, Vectors>;
  for (index_t i = 0; i < tokens; i += register_rows) {
    A const* const row = products + i * layout.lanes;
    tile_type tile;
    tile.clear();
    prefetch.multiply_add_in_wide<false>(tile, key.row(i), key.stride, panel.state, layout.features);
    if (factors) multiply_rows(tile, factors + i);
    tile.template multiply_add<false>(row, layout.lanes, panel.value, i);
    ATTEND_UNROLL for (int r = 0; r < register_rows; ++r) {
      A* const value = panel.value + (i + r) * tile_type::lanes;
      vector<A> const rate(rates[i + r]);
      vector<A> solved[array_size(Vectors)];
      ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) {
        solved[v] = (load(value + v * width<A>) - tile.sum[r][v]) * rate;
        store(value + v * width<A>, solved[v]);
      }
      ATTEND_UNROLL for (int s = r + 1; s < register_rows; ++s) {
        vector<A> const product(row[s * layout.lanes + i + r]);
        ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) tile.sum[s][v] =
            fused_multiply_add(product, solved[v], tile.sum[s][v]);
      }
    }
  }
}

/// The keys with which the state is updated: columns [feature][lanes] where the chunk's products need columns as well,
/// otherwise rows [token][stride].
template <class A>
struct chunk_writes {
  A const* data;
  index_t stride;
  bool columns;
};

/// The decay of a state in a chunk: a_f = high[f] + low[f], which has more digits than one number, or 1 without them.
/// What a chunk adds to the state, which may be much larger, is summed up first, so that the state is rounded only
/// once.
template <class A>
struct state_factors {
  using vector = simd::vector<A>;

  A const *high, *low;

  /// a_f x + y, for columns of feature f.
  ATTEND_INLINE vector of_feature(index_t f, vector const& x, vector const& y) const {
    return high ? sum(vector(high[f]), vector(low[f]), x, y) : x + y;
  }
  /// The same for features f, f + 1, ...
  ATTEND_INLINE vector of_features(index_t f, vector const& x, vector const& y) const {
    return high ? sum(simd::load(high + f), simd::load(low + f), x, y) : x + y;
  }

 private:
  ATTEND_INLINE static vector sum(vector const& upper, vector const& lower, vector const& x, vector const& y) {
    return simd::fused_multiply_add(x, upper, simd::fused_multiply_add(x, lower, y));
  }
};

/// The features [first, last) of a panel of the state before a chunk and after it, which may be in the same place. Both
/// numbers are multiples of register_rows.
template <class A>
struct state_change {
  A const* before;  // [padded feature][Vectors * width]
  A* after;         // [padded feature][Vectors * width]
  index_t first, last;
};

/// S_f <- a_f S_f + D_f, for what a chunk adds: `added` is [padded feature][Vectors * width].
template <int Vectors, class A>
[[gnu::noinline]] void add_panel(state_factors<A> factors, A const* added, state_change<A> const& state) {
  constexpr index_t width = simd::width<A>, lanes = Vectors * width;
  for (index_t f = state.first; f < state.last; ++f)
    ATTEND_UNROLL for (index_t at = f * lanes; at < (f + 1) * lanes; at += width)
        simd::store(state.after + at, factors.of_feature(f, simd::load(state.before + at), simd::load(added + at)));
}

/// S_f <- a_f S_f + sum_j k_jf v_j; `value` is [lanes][Vectors * width].
template <int Vectors, class A>
[[gnu::noinline]] void write_panel(chunk_writes<A> key, state_factors<A> factors, A const* value,
                                   state_change<A> const& state, index_t tokens, chunk_prefetch& prefetch) {
  using namespace simd;
  using tile_type = register_tile<A, Vectors>;
  for (index_t f = state.first; f < state.last; f += register_rows) {
    A const* const before = state.before + f * tile_type::lanes;
    // Another processor may have written the state before: it arrives during the product.
    if (before != state.after + f * tile_type::lanes)
      ATTEND_UNROLL for (index_t at = 0; at < register_rows * tile_type::lanes; at += line_of<A>)
          __builtin_prefetch(before + at);
    tile_type tile;
    tile.clear();
    if (key.columns)
      prefetch.multiply_add_in_wide<false>(tile, key.data + f * key.stride, key.stride, value, tokens);
    else
      prefetch.multiply_add_in_wide<true>(tile, key.data + f, key.stride, value, tokens);
    ATTEND_UNROLL for (int i = 0; i < register_rows; ++i) {
      ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) {
        tile.sum[i][v] = factors.of_feature(f + i, load(before + (i * Vectors + v) * width<A>), tile.sum[i][v]);
      }
    }
    tile.store(state.after + f * tile_type::lanes);
  }
}

}  // namespace attend::inline ATTEND_TARGET::engine
