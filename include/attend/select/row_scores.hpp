// SPDX-License-Identifier: BSD-3-Clause
// Scores of stored rows for a few queries, by which selectors rank pages and tokens:
//
//   score[query][row] = query . row          rows at a constant stride, in their own element type, each read once
//
// or for each row the largest of its scores over all queries. As in the split engine the dimension is in the lanes, and
// a tile of (width / R) rows x R queries has as many sums as a vector has lanes, which sum_rows adds up to one vector
// of scores. Here the scores of one query are in neighbouring lanes, so that those of several rows are stored, or
// compared, at once. Rows are prefetched some kilobytes ahead: the work on one cache line is longer than the reorder
// window of a core, which therefore would not start the next line's load in time.
//
// Cost: the bytes of the rows; 2 * dimension operations for each query and row.
#pragma once

#include "../core/scratch.hpp"
#include "../core/stream_ahead.hpp"
#include "../simd/stored_row.hpp"
#include "../simd/transpose.hpp"

namespace attend::inline ATTEND_TARGET::detail {

/// `count` rows, and the memory for their scores.
template <StorageElement S>
struct scored_rows {
  S const* row;
  index_t stride;  // in storage elements
  index_t count;
  float const* scale;  // one for each row, or null
  index_t scale_stride;
  float* to;  // [query][to_stride], or [row] if `largest`
  index_t to_stride;
  bool largest;
  /// Rows that lie anywhere: row i is at listed[i]. There are listed_ahead more, which are prefetched.
  S const* const* listed = nullptr;
};

/// How many rows before it is read a listed row is prefetched: some kilobytes of rows.
inline constexpr index_t listed_ahead = 16;

/// Writes the scores of R queries from `first` on, `here` of them real, with `some` rows of a step from row j on:
/// score[r * step + i].
template <int R, int step, class S, class A>
ATTEND_INLINE void write_scores(scored_rows<S> const& rows, A* score, index_t j, index_t some, int first, int here) {
  if (!rows.largest) {
    for (int r = 0; r < here; ++r)
      for (index_t i = 0; i < some; ++i)
        rows.to[(first + r) * rows.to_stride + j + i] = static_cast<float>(score[r * step + i]);
    return;
  }
  // Queries that are padding repeat the first query's scores, which does not change the largest.
  for (int r = here; r < R; ++r) std::copy_n(score, step, score + r * step);
  A most[array_size(step)];
  ATTEND_UNROLL for (int i = 0; i < step; ++i) {
    most[i] = score[i];
    ATTEND_UNROLL for (int r = 1; r < R; ++r) most[i] = most[i] > score[r * step + i] ? most[i] : score[r * step + i];
  }
  for (index_t i = 0; i < some; ++i) {
    float const one = static_cast<float>(most[i]);
    float& to = rows.to[j + i];
    to = first > 0 && to > one ? to : one;
  }
}

/// Scores rows for R queries at a time, of `queries` packed queries, [queries / R][vectors][R][width]; only the first
/// `real` of them are not padding. `Listed` rows lie anywhere.
template <StorageElement S, int R, bool Listed, class A = storage_accumulation_t<S>>
[[gnu::noinline]] void score_rows(scored_rows<S> const& rows, A const* query, index_t vectors, int queries, int real) {
  using namespace simd;
  constexpr int step = width<A> / R, group_size = std::min(step, 8);
  constexpr index_t line = 64;
  constexpr int line_vectors = std::max<int>(
      row_group<S>, static_cast<int>(line * elements_in<S> / (width<A> * static_cast<index_t>(sizeof(S)))));
  index_t const row_bytes = std::max<index_t>(std::abs(rows.stride) * static_cast<index_t>(sizeof(S)), 1);
  // Whole rows ahead, so that rows with gaps are met.
  stream_ahead const ahead(
      rows.stride * elements_in<S> == vectors * width<A>,
      divide_up(machine::here().read_ahead, row_bytes) * rows.stride * static_cast<index_t>(sizeof(S)));
  for (index_t j = 0; j < rows.count; j += step) {
    index_t const some = std::min<index_t>(step, rows.count - j);
    A const* q = query;
    for (int first = 0; first < queries; first += R, q += vectors * R * width<A>) {
      vector<A> sum[width<A>];
      ATTEND_UNROLL for (int part = 0; part < step; part += group_size) {
        S const* row[array_size(group_size)];
        [[maybe_unused]] S const* later[array_size(group_size)];
        vector<A> product[array_size(group_size * R)];
        // Whole tiles are read: the last row is repeated.
        ATTEND_UNROLL for (int i = 0; i < group_size; ++i) {
          index_t const at = std::min(j + part + i, rows.count - 1);
          row[i] = Listed ? rows.listed[at] : rows.row + at * rows.stride;
          if constexpr (Listed) later[i] = rows.listed[at + listed_ahead];
        }
        ATTEND_UNROLL for (int i = 0; i < group_size * R; ++i) product[i] = vector<A>(A(0));
        for (index_t v = 0; v < vectors; v += row_group<S>) {
          if (line_vectors == row_group<S> || v % line_vectors == 0) {
            ATTEND_UNROLL for (int i = 0; i < group_size; ++i) {
              index_t const element = v * width<A> / elements_in<S>;
              if constexpr (Listed)
                __builtin_prefetch(later[i] + element);
              else
                ahead.fetch(row[i] + element);
            }
          }
          row_cursor<S> cursor[array_size(group_size)];
          ATTEND_UNROLL for (int i = 0; i < group_size; ++i) cursor[i] = row_cursor<S>(row[i], v);
          ATTEND_UNROLL for (int g = 0; g < row_group<S>; ++g) {
            vector<A> factor[array_size(R)];
            ATTEND_UNROLL for (int r = 0; r < R; ++r) {
              factor[r] = load(q + ((v + g) * R + r) * width<A>);
              keep_in_register(factor[r]);
            }
            ATTEND_UNROLL for (int i = 0; i < group_size; ++i) {
              vector<A> const x = cursor[i].next();
              ATTEND_UNROLL for (int r = 0; r < R; ++r) product[i * R + r] =
                  fused_multiply_add(x, factor[r], product[i * R + r]);
            }
          }
        }
        ATTEND_UNROLL for (int i = 0; i < group_size; ++i) {
          ATTEND_UNROLL for (int r = 0; r < R; ++r) sum[r * step + part + i] = product[i * R + r];
        }
      }
      alignas(64) A score[width<A>];
      simd::store(score, sum_rows<A>(sum));
      if (rows.scale)
        for (int i = 0; i < width<A>; ++i)
          score[i] *= static_cast<A>(rows.scale[std::min<index_t>(j + i % step, rows.count - 1) * rows.scale_stride]);
      write_scores<R, step>(rows, score, j, some, first, std::min(R, real - first));
    }
  }
}

/// A few queries, packed in the order of stored rows.
template <StorageElement S>
class row_queries {
 public:
  using A = storage_accumulation_t<S>;

  /// Allocates scratch memory for `count` >= 1 queries.
  row_queries(scratch& memory, index_t count, index_t dimension)
      : dimension_(dimension),
        vectors_(divide_up(dimension, simd::group_elements<S>) * simd::row_group<S>),
        real_(static_cast<int>(count)) {
    per_group_ = std::min({static_cast<int>(std::bit_ceil(static_cast<unsigned>(count))), 4, simd::width<A>});
    padded_ = static_cast<int>(round_up(count, per_group_));
    packed_ = memory.allocate<A>(padded_ * vectors_ * simd::width<A>);
    std::fill_n(packed_, padded_ * vectors_ * simd::width<A>, A(0));
  }

  void set(index_t query, A const* values) {
    constexpr int width = simd::width<A>;
    A* const to = packed_ + query / per_group_ * per_group_ * vectors_ * width + query % per_group_ * width;
    for (index_t v = 0; v < vectors_; ++v)
      for (index_t lane = 0; lane < width; ++lane)
        if (index_t const column = simd::stored_column<S>(v, lane); column < dimension_)
          to[v * per_group_ * width + lane] = values[column];
  }

  /// Scores rows. They hold whole vectors: elements past the dimension may be any finite numbers.
  void score(scored_rows<S> const& rows) const { score_any<false>(rows); }
  void score_listed(scored_rows<S> const& rows) const { score_any<true>(rows); }

 private:
  template <bool Listed>
  void score_any(scored_rows<S> const& rows) const {
    switch (per_group_) {
      case 1:
        return score_rows<S, 1, Listed>(rows, packed_, vectors_, padded_, real_);
      case 2:
        return score_rows<S, std::min(2, simd::width<A>), Listed>(rows, packed_, vectors_, padded_, real_);
      default:
        return score_rows<S, std::min(4, simd::width<A>), Listed>(rows, packed_, vectors_, padded_, real_);
    }
  }

  index_t dimension_, vectors_;
  int real_, per_group_, padded_;
  A* packed_;
};

}  // namespace attend::inline ATTEND_TARGET::detail
