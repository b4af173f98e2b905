// The inner loops of the split engine: a block of keys and a few queries, the dimension in the lanes.
//
//   logits[key][row] = q_row . k_key          tiles of (width / R) keys x R rows: as many accumulators as a vector has
//                                             lanes, which one transposing tree turns into one vector of logits
//   weights[key][row]                         of whole vectors of logits: lane l belongs to row l % rows
//   sum[row][:] += weights[key][row] * v_key  tiles of R rows x some vectors of columns, down all keys of the block
//
// Every byte of a block comes from memory once, for all the rows. What is to be read next is asked for along the way, a
// row for every row that is worked on: a core has enough to do between two rows for its own prefetcher to fall asleep.
//
// Rows are padded to 1, 2, 4, ... lanes of a vector; `R` is the smaller of their number and 4.
#pragma once

#include "../policy/normalizer/softmax.hpp"
#include "../policy/pair_tensor.hpp"
#include "../simd/stored_row.hpp"

namespace attend::engine {

/// Keys of a block.
inline constexpr index_t split_block_keys = 64;

/// Rows that are to be read soon.
struct rows_ahead {
  void const* const* row = nullptr;  // split_block_keys of them
  index_t bytes = 0;                 // of a row

  /// Asks for the bytes [first, last) of a row.
  ATTEND_INLINE void fetch(index_t i, index_t first, index_t last) const {
    if (first >= last) return;
    char const* const from = static_cast<char const*>(row[i]);
    for (index_t at = first; at < last; at += line) __builtin_prefetch(from + at, 0, 3);
  }

  static constexpr index_t line = 64;
};

/// Accumulators that fit in the registers beside the operands.
inline constexpr int split_accumulators = 2 * simd::register_rows;

/// Rows of a register tile.
template <class A>
inline constexpr int most_split_rows = std::min(4, simd::width<A>);

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

/// Logits [key][rows] of `keys` keys, a multiple of width / R. query is [rows / R][vectors][R][width]; the logits of a
/// key are multiplied by its scale if T is scaled.
template <StorageElement T, int R, class A = storage_accumulation_t<T>>
[[gnu::noinline]] void score_keys(T const* const* key, float const* scale, index_t keys, A const* query,
                                  index_t vectors, int rows, A* logits, rows_ahead ahead) {
  using namespace simd;
  constexpr int step = width<A> / R;
  // Addresses of more rows than that would not fit in the general registers.
  constexpr int together = std::min(step, 8);
  for (index_t j = 0; j < keys; j += step) {
    for (int i = 0; i < step; ++i) ahead.fetch(j + i, 0, ahead.bytes);
    A const* q = query;
    for (int row = 0; row < rows; row += R, q += vectors * R * width<A>) {
      vector<A> sum[width<A>];
      ATTEND_UNROLL for (int part = 0; part < step; part += together) {
        T const* k[together];
        ATTEND_UNROLL for (int i = 0; i < together; ++i) k[i] = key[j + part + i];
        ATTEND_UNROLL for (int i = 0; i < together * R; ++i) sum[part * R + i] = vector<A>(A(0));
        for (index_t v = 0; v < vectors; v += row_group<T>) {
          row_cursor<T> cursor[together];
          ATTEND_UNROLL for (int i = 0; i < together; ++i) cursor[i] = row_cursor<T>(k[i], v);
          ATTEND_UNROLL for (int g = 0; g < row_group<T>; ++g) {
            A const* const at = q + (v + g) * R * width<A>;
            vector<A> factor[R];
            ATTEND_UNROLL for (int r = 0; r < R; ++r) {
              factor[r] = load(at + r * width<A>);
              keep_in_register(factor[r]);
            }
            ATTEND_UNROLL for (int i = 0; i < together; ++i) {
              vector<A> const x = cursor[i].next();
              ATTEND_UNROLL for (int r = 0; r < R; ++r) {
                vector<A>& total = sum[(part + i) * R + r];
                total = fused_multiply_add(x, factor[r], total);
              }
            }
          }
        }
      }
      vector<A> result = sum_rows<A>(sum);
      if constexpr (is_scaled<T>) result = result * spread<R>(scale + j);
      if (rows == R) {
        store(logits + j * R, result);
      } else {
        alignas(64) A parts[width<A>];
        store(parts, result);
        for (int i = 0; i < step; ++i) std::copy_n(parts + i * R, R, logits + (j + i) * rows + row);
      }
    }
  }
}

/// Lane by lane, the largest of `count` vectors of logits.
template <class A>
simd::vector<A> largest_of(A const* logits, index_t count) {
  simd::vector<A> most(-infinity<A>);
  for (index_t i = 0; i < count; ++i) most = xsimd::max(most, simd::load(logits + i * simd::width<A>));
  return most;
}

/// Turns `count` vectors of logits into weights relative to the maximum, multiplied by their keys' scale if there is
/// one, and gives what to add to the mass. Lane l of vector i belongs to key (i * width + l) / Rows.
template <int Rows, bool Scaled, class A, class N>
[[gnu::noinline]] simd::vector<A> weigh_keys(N const& normalizer, A* logits, index_t count,
                                             simd::vector<A> const& maximum, float const* scale) {
  using namespace simd;
  vector<A> mass(A(0));
  for (index_t i = 0; i < count; ++i) {
    vector<A> const s = load(logits + i * width<A>);
    vector<A> weight = normalizer.template weight<A>(s, maximum);
    mass = mass + normalizer.template mass<A>(s, weight);
    if constexpr (Scaled) weight = weight * spread<Rows>(scale + i * (width<A> / Rows));
    store(logits + i * width<A>, weight);
  }
  return mass;
}

/// Columns [first, first + V) vectors wide, of R rows from `row` on. False if a sum came out as no finite number; then
/// nothing is added.
template <StorageElement T, int R, int V, bool Checked, class A>
ATTEND_INLINE bool add_value_tile(T const* const* value, index_t keys, A const* weights, int rows, int row,
                                  index_t first, A* sum, index_t sum_stride, rows_ahead ahead, index_t ahead_first,
                                  index_t ahead_last) {
  using namespace simd;
  vector<A> total[R][V];
  ATTEND_UNROLL for (int r = 0; r < R; ++r) { ATTEND_UNROLL for (int v = 0; v < V; ++v) total[r][v] = vector<A>(A(0)); }
  A const* weight = weights + row;
  for (index_t j = 0; j < keys; ++j, weight += rows) {
    ahead.fetch(j, ahead_first, ahead_last);
    vector<A> w[R];
    ATTEND_UNROLL for (int r = 0; r < R; ++r) w[r] = vector<A>(weight[r]);
    row_cursor<T> cursor;
    ATTEND_UNROLL for (int v = 0; v < V; ++v) {
      if (v % row_group<T> == 0) cursor = row_cursor<T>(value[j], first + v);
      vector<A> const x = cursor.next();
      ATTEND_UNROLL for (int r = 0; r < R; ++r) total[r][v] = fused_multiply_add(x, w[r], total[r][v]);
    }
  }
  if constexpr (Checked) {
    // 0 * x is 0 for a finite x and NaN otherwise.
    vector<A> zero(A(0));
    ATTEND_UNROLL for (int r = 0; r < R; ++r) {
      ATTEND_UNROLL for (int v = 0; v < V; ++v) zero = fused_multiply_add(total[r][v], vector<A>(A(0)), zero);
    }
    if (!all<A>(zero == zero)) return false;
  }
  ATTEND_UNROLL for (int r = 0; r < R; ++r) {
    ATTEND_UNROLL for (int v = 0; v < V; ++v) {
      A* const at = sum + (row + r) * sum_stride + (first + v) * width<A>;
      store(at, load(at) + total[r][v]);
    }
  }
  return true;
}

/// The same, where hidden keys (logits of -inf) must add nothing, not 0 * NaN.
template <StorageElement T, int R, int V, class A>
[[gnu::cold, gnu::noinline]] void add_value_tile_guarded(T const* const* value, index_t keys, A const* weights,
                                                         bool const* hidden, int rows, int row, index_t first, A* sum,
                                                         index_t sum_stride) {
  using namespace simd;
  for (index_t j = 0; j < keys; ++j) {
    row_cursor<T> cursor;
    for (int v = 0; v < V; ++v) {
      if (v % row_group<T> == 0) cursor = row_cursor<T>(value[j], first + v);
      vector<A> const x = cursor.next();
      for (int r = 0; r < R; ++r) {
        if (hidden[j * rows + row + r]) continue;
        A* const at = sum + (row + r) * sum_stride + (first + v) * width<A>;
        store(at, fused_multiply_add(x, vector<A>(weights[j * rows + row + r]), load(at)));
      }
    }
  }
}

/// What add_values works on.
template <StorageElement T, class A>
struct value_work {
  T const* const* value;
  index_t keys;
  A const* weights;    // [key][rows]
  bool const* hidden;  // [key][rows], or null if no key is hidden
  int rows;
  index_t vectors;  // of a row of values
  A* sum;           // [rows][sum_stride]
  index_t sum_stride;
  rows_ahead ahead;
};

template <StorageElement T, int R, int V, class A>
[[gnu::noinline]] void add_value_columns(value_work<T, A> const& w, index_t first, index_t ahead_first,
                                         index_t ahead_last) {
  for (int row = 0; row < w.rows; row += R) {
    rows_ahead const& ahead = w.ahead;
    index_t const last = row == 0 ? ahead_last : ahead_first;
    if (!w.hidden)
      add_value_tile<T, R, V, false, A>(w.value, w.keys, w.weights, w.rows, row, first, w.sum, w.sum_stride, ahead,
                                        ahead_first, last);
    else if (!add_value_tile<T, R, V, true, A>(w.value, w.keys, w.weights, w.rows, row, first, w.sum, w.sum_stride,
                                               ahead, ahead_first, last))
      add_value_tile_guarded<T, R, V, A>(w.value, w.keys, w.weights, w.hidden, w.rows, row, first, w.sum, w.sum_stride);
  }
}

/// sum[row][:] += sum over the keys of weight * value. Columns in tiles as wide as the accumulators allow, then
/// narrower.
template <StorageElement T, int R, int V = split_accumulators / R, class A>
void add_values(value_work<T, A> const& w, index_t first = 0) {
  index_t const tiles = divide_up(w.vectors, V);
  index_t const share = round_up(divide_up(w.ahead.bytes, std::max<index_t>(tiles, 1)), rows_ahead::line);
  for (index_t tile = 0; first + V <= w.vectors; first += V, ++tile)
    add_value_columns<T, R, V, A>(w, first, tile * share, std::min((tile + 1) * share, w.ahead.bytes));
  if constexpr (V > 1)
    if (first < w.vectors) add_values<T, R, V / 2, A>(w, first);
}

}  // namespace attend::engine
