// SPDX-License-Identifier: BSD-3-Clause
// The inner loops of the split engine: a block of keys and a few queries, the dimension in the lanes.
//
//   logits[key][row] = q_row . k_key          tiles of (width / R) keys x R rows: as many accumulators as a vector has
//                                             lanes, which sum_rows adds up to one vector of logits
//   sum[row][:] += weights[key][row] * v_key  tiles of R rows x some vectors of columns, over all keys of the block
//
// Every byte of a block is read from memory once, for all rows. The work on one cache line is longer than the reorder
// window of a core, which therefore would not start the next line's load in time: lines are prefetched
// (read_ahead.hpp).
//
// The number of rows is padded to 1, 2, 4, ... lanes of a vector; `R` is the smaller of that number and 4.
#pragma once

#include "../../policy/pair_tensor.hpp"
#include "../../simd/integer_pairs.hpp"
#include "../../simd/stored_row.hpp"
#include "read_ahead.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// The number of keys of a block.
inline constexpr index_t split_block_keys = 64;

/// The number of accumulators that fit in the registers beside the operands.
inline constexpr int split_accumulators = 2 * simd::register_rows;

/// The largest number of rows of a register tile.
template <class A>
inline constexpr int max_split_rows = std::min(4, simd::width<A>);

/// The lanes of `x`, each repeated R times: lane l is x[l / R]. x has at least width elements.
template <int R, class A, std::size_t... Lane>
ATTEND_INLINE simd::vector<A> spread(A const* x, std::index_sequence<Lane...>) {
  using native [[gnu::vector_size(sizeof(A) * sizeof...(Lane))]] = A;
  native values;
  std::memcpy(&values, x, sizeof(values));
  return std::bit_cast<simd::vector<A>>(native(__builtin_shufflevector(values, values, int(Lane / R)...)));
}
template <int R, class A>
ATTEND_INLINE simd::vector<A> spread(A const* x) {
  return spread<R, A>(x, std::make_index_sequence<simd::width<A>>{});
}

/// The number of vectors of a row that come from one cache line.
template <StorageElement T>
inline constexpr int line_vectors =
    std::max<int>(simd::row_group<T>, int{read_ahead::line} * static_cast<int>(elements_in<T>) /
                                          (simd::width<storage_accumulation_t<T>> * int{sizeof(T)}));

// Vectors of keys and values that are plain loads are kept in registers: as memory operands of the products they would
// be loaded R times. Vectors of quantized elements are computed by several instructions, which the compiler schedules
// better without that restriction.

/// Products of queries and keys as floats: a vector of one has as many numbers as a vector of sums.
template <StorageElement T>
struct float_products {
  using number = storage_accumulation_t<T>;  // of queries
  using factor = simd::vector<number>;
  using sums = simd::vector<number>;
  using cursor = simd::row_cursor<T>;
  static constexpr index_t numbers = simd::width<number>;
  static constexpr int group = simd::row_group<T>;

  ATTEND_INLINE static sums zero() { return sums(number(0)); }
  ATTEND_INLINE static factor load(number const* from) {
    factor x = simd::load(from);
    simd::keep_in_register(x);
    return x;
  }
  ATTEND_INLINE static sums add(factor x, factor const& query, sums const& sum) {
    return simd::fused_multiply_add(x, query, sum);
  }
  ATTEND_INLINE static factor next(cursor& from) {
    factor x = from.next();
    if constexpr (!is_scaled<T>) simd::keep_in_register(x);
    return x;
  }
  /// Lane i of the result is the sum over all lanes of sum[i].
  ATTEND_INLINE static simd::vector<number> total(sums (&sum)[simd::width<number>]) {
    return simd::sum_rows<number>(sum);
  }
};

/// Products of queries and keys as pairs of integers.
template <StorageElement T>
struct pair_products {
  using number = std::int16_t;
  using factor = simd::pair_vector;
  using sums = simd::pair_sums;
  using cursor = simd::pair_cursor<T>;
  static constexpr index_t numbers = 2 * simd::width<float>;
  static constexpr int group = simd::pair_group<T>;

  ATTEND_INLINE static sums zero() { return sums{}; }
  ATTEND_INLINE static factor load(number const* from) {
    factor x;
    std::memcpy(&x, from, sizeof(x));
    return x;
  }
  ATTEND_INLINE static sums add(factor const& x, factor const& query, sums const& sum) {
    return simd::add_pairs(x, query, sum);
  }
  ATTEND_INLINE static factor next(cursor& from) { return from.next(); }
  ATTEND_INLINE static simd::vector<float> total(sums (&sum)[simd::width<float>]) {
    simd::vector<std::int32_t> rows[array_size(simd::width<float>)];
    ATTEND_UNROLL for (int i = 0; i < simd::width<float>; ++i) rows[i] =
        std::bit_cast<simd::vector<std::int32_t>>(sum[i]);
    return simd::to_floats(std::bit_cast<sums>(simd::sum_rows<std::int32_t>(rows)));
  }
};

/// The number of vectors of a row that come from one cache line.
template <StorageElement T, class Products>
inline constexpr int product_line_vectors =
    std::max<int>(Products::group, int{read_ahead::line} * static_cast<int>(elements_in<T>) /
                                       static_cast<int>(Products::numbers * int{sizeof(T)}));

/// sum[i * R + r] = a vector whose lanes add up to the dot product of key i and row r. Reads `Step` vectors of a key at
/// a time.
template <StorageElement T, class Products, int R, int Keys, int Step>
ATTEND_INLINE void score_tile(void const* const* key, typename Products::number const* query, index_t vectors,
                              typename Products::sums* sum, read_ahead* ahead, byte_run& next) {
  T const* k[array_size(Keys)];
  ATTEND_UNROLL for (int i = 0; i < Keys; ++i) k[i] = static_cast<T const*>(key[i]);
  ATTEND_UNROLL for (int i = 0; i < Keys * R; ++i) sum[i] = Products::zero();
  for (index_t v = 0; v < vectors; v += Step) {
    if (ahead && v % product_line_vectors<T, Products> == 0) {
      ATTEND_UNROLL for (int i = 0; i < Keys; ++i) ahead->fetch(next);
    }
    ATTEND_UNROLL for (int u = 0; u < Step; u += Products::group) {
      typename Products::cursor cursor[array_size(Keys)];
      ATTEND_UNROLL for (int i = 0; i < Keys; ++i) cursor[i] = typename Products::cursor(k[i], v + u);
      ATTEND_UNROLL for (int g = 0; g < Products::group; ++g) {
        auto const* const at = query + (v + u + g) * R * Products::numbers;
        typename Products::factor factor[array_size(R)];
        ATTEND_UNROLL for (int r = 0; r < R; ++r) factor[r] = Products::load(at + r * Products::numbers);
        ATTEND_UNROLL for (int i = 0; i < Keys; ++i) {
          auto const x = Products::next(cursor[i]);
          ATTEND_UNROLL for (int r = 0; r < R; ++r) sum[i * R + r] = Products::add(x, factor[r], sum[i * R + r]);
        }
      }
    }
  }
}

/// Computes the logits [key][rows] of `keys` keys, a multiple of width / R. `query` is [rows / R][vectors][R][numbers];
/// the logits of a key are multiplied by its scale if T is scaled, and those of a row by its own, [rows / R][width] in
/// the lanes of logits, if there is one.
template <StorageElement T, class Products, int R, int Step, class A = storage_accumulation_t<T>>
[[gnu::noinline]] void score_keys(void const* const* key, float const* scale, index_t keys,
                                  typename Products::number const* query, A const* row_scale, index_t vectors, int rows,
                                  A* logits, read_ahead* ahead) {
  using namespace simd;
  constexpr int step = width<A> / R;
  // The addresses of more than 8 keys would not fit in the general-purpose registers.
  constexpr int group_size = std::min(step, 8);
  byte_run next = ahead ? ahead->next : byte_run{};
  for (index_t j = 0; j < keys; j += step) {
    auto const* q = query;
    for (int row = 0; row < rows; row += R, q += vectors * R * Products::numbers) {
      typename Products::sums sum[width<A>];
      ATTEND_UNROLL for (int part = 0; part < step; part += group_size) {
        score_tile<T, Products, R, group_size, Step>(key + j + part, q, vectors, sum + part * R,
                                                     row == 0 ? ahead : nullptr, next);
      }
      vector<A> result = Products::total(sum);
      if constexpr (is_scaled<T>) result = result * spread<R>(scale + j);
      if (row_scale) result = result * load(row_scale + row / R * width<A>);
      if (rows == R) {
        store(logits + j * R, result);
      } else {
        alignas(64) A parts[width<A>];
        store(parts, result);
        for (int i = 0; i < step; ++i) std::copy_n(parts + i * R, R, logits + (j + i) * rows + row);
      }
    }
  }
  if (ahead) ahead->next = next;
}

/// The largest of `count` vectors of logits, lane by lane.
template <class A>
simd::vector<A> largest_of(A const* logits, index_t count) {
  simd::vector<A> most(-infinity<A>);
  for (index_t i = 0; i < count; ++i) most = simd::max(most, simd::load(logits + i * simd::width<A>));
  return most;
}

/// Multiplies `count` vectors of weights by their keys' scales: lane l of vector i belongs to key (i * width + l) /
/// Rows. A weight of 0 stays 0, whatever its key's scale is.
template <int Rows, class A>
void multiply_keys_by(A* weights, index_t count, A const* scale) {
  using namespace simd;
  for (index_t i = 0; i < count; ++i) {
    vector<A> const weight = load(weights + i * width<A>), nothing(A(0));
    store(weights + i * width<A>,
          simd::select(weight == nothing, nothing, weight * spread<Rows>(scale + i * (width<A> / Rows))));
  }
}

/// The operands of add_values.
template <class A>
struct value_work {
  void const* const* value;
  index_t keys;
  A const* weights;    // [key][rows]
  bool const* hidden;  // [key][rows], or null if no key is hidden
  int rows;
  index_t vectors;  // of a row of values
  A* sum;           // [rows][sum_stride]
  index_t sum_stride;
};

/// Adds the columns of vectors [first, first + V) to the sums of R rows from `row` on, and prefetches where `ahead` is
/// not null. Returns false, and adds nothing, where keys are hidden and a sum is not finite.
template <StorageElement T, int R, int V, class A>
ATTEND_INLINE bool add_value_tile(value_work<A> const& work, int row, index_t first, read_ahead* ahead) {
  using namespace simd;
  // The number of cache lines of the tile's columns: as many lines are prefetched for each key as are read.
  constexpr int lines = static_cast<int>(divide_up(index_t{V}, index_t{line_vectors<T>}));
  vector<A> total[array_size(R)][array_size(V)];
  ATTEND_UNROLL for (int r = 0; r < R; ++r) { ATTEND_UNROLL for (int v = 0; v < V; ++v) total[r][v] = vector<A>(A(0)); }
  A const* weight = work.weights + row;
  byte_run next = ahead ? ahead->next : byte_run{};
  for (index_t j = 0; j < work.keys; ++j, weight += work.rows) {
    if (ahead) {
      ATTEND_UNROLL for (int line = 0; line < lines; ++line) ahead->fetch(next);
    }
    vector<A> w[array_size(R)];
    ATTEND_UNROLL for (int r = 0; r < R; ++r) w[r] = vector<A>(weight[r]);
    row_cursor<T> cursor;
    ATTEND_UNROLL for (int v = 0; v < V; ++v) {
      if (v % row_group<T> == 0) cursor = row_cursor<T>(static_cast<T const*>(work.value[j]), first + v);
      vector<A> x = cursor.next();
      if constexpr (!is_scaled<T>) keep_in_register(x);
      ATTEND_UNROLL for (int r = 0; r < R; ++r) total[r][v] = fused_multiply_add(x, w[r], total[r][v]);
    }
  }
  if (ahead) ahead->next = next;
  if (work.hidden) {
    // 0 * x is 0 for a finite x and NaN otherwise: one comparison then tests all sums.
    vector<A> zero(A(0));
    ATTEND_UNROLL for (int r = 0; r < R; ++r) {
      ATTEND_UNROLL for (int v = 0; v < V; ++v) zero = fused_multiply_add(total[r][v], vector<A>(A(0)), zero);
    }
    if (!all<A>(zero == zero)) return false;
  }
  ATTEND_UNROLL for (int r = 0; r < R; ++r) {
    ATTEND_UNROLL for (int v = 0; v < V; ++v) {
      A* const at = work.sum + (row + r) * work.sum_stride + (first + v) * width<A>;
      store(at, load(at) + total[r][v]);
    }
  }
  return true;
}

/// The same for a tile of any size with values that are not finite: hidden keys, whose logits were -inf, are skipped,
/// since 0 * NaN is NaN.
template <StorageElement T, class A>
[[gnu::cold, gnu::noinline]] void add_value_tile_guarded(value_work<A> const& work, int row, int rows, index_t first,
                                                         int vectors) {
  using namespace simd;
  for (index_t j = 0; j < work.keys; ++j) {
    row_cursor<T> cursor;
    for (int v = 0; v < vectors; ++v) {
      if (v % row_group<T> == 0) cursor = row_cursor<T>(static_cast<T const*>(work.value[j]), first + v);
      vector<A> const x = cursor.next();
      for (int r = row; r < row + rows; ++r) {
        if (work.hidden[j * work.rows + r]) continue;
        A* const at = work.sum + r * work.sum_stride + (first + v) * width<A>;
        store(at, fused_multiply_add(x, vector<A>(work.weights[j * work.rows + r]), load(at)));
      }
    }
  }
}

/// Adds one tile of columns to the sums of all rows. Only the first rows prefetch.
template <StorageElement T, int R, int V, class A>
[[gnu::noinline]] void add_value_columns(value_work<A> const& work, index_t first, read_ahead* ahead) {
  for (int row = 0; row < work.rows; row += R, ahead = nullptr)
    if (!add_value_tile<T, R, V>(work, row, first, ahead)) add_value_tile_guarded<T>(work, row, R, first, V);
}

/// sum[row][:] += sum over the keys of weight * value. Columns are cut into tiles as wide as the accumulators allow,
/// and the rest into narrower ones.
template <StorageElement T, int R, int V = split_accumulators / R, class A>
void add_values(value_work<A> const& work, read_ahead* ahead, index_t first = 0) {
  for (; first + V <= work.vectors; first += V)
    add_value_columns<T, R, V>(work, first, first % line_vectors<T> == 0 ? ahead : nullptr);
  if constexpr (V > 1)
    if (first < work.vectors) add_values<T, R, V / 2>(work, ahead, first);
}

/// The same, `step` keys at a time: so few that all columns of their values stay in the level-1 cache.
template <StorageElement T, int R, class A>
void add_values_in_steps(value_work<A> work, index_t step, read_ahead* ahead) {
  index_t const keys = work.keys;
  for (index_t j = 0; j < keys; j += step) {
    work.keys = std::min(step, keys - j);
    add_values<T, R>(work, ahead);
    work.value += step;
    work.weights += step * work.rows;
    if (work.hidden) work.hidden += step * work.rows;
  }
}

}  // namespace attend::inline ATTEND_TARGET::engine
