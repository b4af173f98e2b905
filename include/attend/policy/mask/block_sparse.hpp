// SPDX-License-Identifier: BSD-3-Clause
// Block-sparse: a query sees the keys in the blocks that a table lists for its own block, and nothing else is visited.
//
//   softmax_attention(q, k, v, o, block_sparse{table})
//   softmax_attention(q, k, v, o, block_sparse{table} & causal{})
//   decode_attention(q, cache, o, block_sparse{table, newer_tokens::seen})
//
// A table may be older than the keys, such as one that serves some steps of decoding: where newer tokens are seen,
//
//   keys      blocks that have got keys since are seen by every query
//   queries   stand at their positions: one that stood in the table's call has its list there, a later one that of the
//             table's last query
//
// and in a batch all sequences have grown by as many tokens as the longest one.
//
// Work: that of the listed blocks, with no copy of keys or values. Tiles of queries are cut at the table's blocks, and
// at its heads, so that a tile has one list; query blocks shorter than a vector share a tile, which visits what any of
// them sees. A block of queries with an empty list has output 0.
//
// Tri Dao, Daniel Y. Fu, Stefano Ermon, Atri Rudra, Christopher Re: FlashAttention, 2022 (block-sparse FlashAttention).
#pragma once

#include <algorithm>

#include "../../core/check.hpp"
#include "../../core/order.hpp"
#include "block_table.hpp"
#include "mask.hpp"

namespace attend::inline ATTEND_TARGET::options {

/// Whether a table may be used with tokens that came after it was made, and shows them.
enum class newer_tokens { refused, seen };

/// Shows a query the keys in the blocks that a table lists for its block. A call throws argument_error where the
/// table's grid does not fit its tensors. Where newer tokens are seen, there may be more keys than the table has, and
/// the queries are any that do not stand before its first one.
///
///     softmax_attention(q, k, v, o, block_sparse{table} & causal{});
class block_sparse {
 public:
  using option_kind = option::mask;

  /// The table is not copied: it must outlive the call.
  explicit block_sparse(options::block_table const& table, newer_tokens newer = newer_tokens::refused)
      : table_(&table), newer_(newer) {}
  explicit block_sparse(options::block_table&&, newer_tokens = newer_tokens::refused) = delete;

  void check(problem_shape const& shape) const {
    options::block_grid const& grid = table_->grid();
    if (grid.batches != 1 && grid.batches != shape.sequences)
      fail("block_sparse", "expected a table of ", detail::one_or(shape.sequences, "batch", "batches"), ", got ",
           grid.batches);
    if (grid.heads == 0 ? shape.query_heads != 0 : shape.query_heads % grid.heads != 0)
      fail("block_sparse", "expected a table whose heads divide ", shape.query_heads, " (query), got ", grid.heads);
    if (newer_ == newer_tokens::seen)
      check_growth(shape);
    else if (grid.queries != shape.queries)
      fail("block_sparse", "expected a table of ", shape.queries, " queries, got ", grid.queries);
    else if (grid.keys != shape.keys)
      fail("block_sparse", "expected a table of ", shape.keys, " keys, got ", grid.keys);
    table_->check();
  }
  tile_grain grain(problem_shape const& shape) const {
    options::block_grid const& grid = table_->grid();
    // One list for all heads leaves them together.
    return {grid.query_block, grid.heads > 1 ? shape.query_heads / grid.heads : 0};
  }

  template <class T>
  key_range bounds(tile_rows<T> const& rows) const {
    key_range all{first_newer(rows) * key_block(), rows.keys};
    for_lists(rows, [&](auto list) {
      if (!list.empty()) all = hull(all, {list.front() * key_block(), (list.back() + 1) * key_block()});
    });
    return intersection(all, {0, rows.keys});
  }
  template <class T>
  key_range next(tile_rows<T> const& rows, index_t from) const {
    key_range run{std::max(from, first_newer(rows) * key_block()), rows.keys};
    if (run.empty()) run = {rows.keys, rows.keys};
    for_lists(rows, [&](auto list) {
      auto at = find(list, from / key_block());
      if (at == list.end()) return;
      key_range found{std::max(from, *at * key_block()), (*at + 1) * key_block()};
      // Further than a block of the engine it need not look.
      while (++at != list.end() && *at * key_block() == found.last && found.count() < max_block_keys)
        found.last += key_block();
      run = first_run(found, run);
    });
    return intersection(run, {0, rows.keys});
  }
  template <class T>
  visibility classify(tile_rows<T> const& rows, key_range range) const {
    index_t const first = range.first / key_block(), end_block = (range.last - 1) / key_block() + 1;
    index_t const last = std::clamp(first_newer(rows), first, end_block);
    bool every = true, some = last < end_block;
    for_lists(rows, [&](auto list) {
      auto const begin = find(list, first), end = find(list, last);
      some |= begin != end;
      every &= end - begin == last - first;
    });
    return every ? visibility::all : some ? visibility::some : visibility::none;
  }
  template <class T>
  auto bind(tile_rows<T> const& rows, key_range range) const {
    struct bound {
      index_t first;
      std::int16_t block_of_key[max_block_keys];
      // Uninitialised beyond the range's blocks: it is never read there.
      alignas(64) T seen[max_block_keys][tile_rows<T>::lanes];
      auto operator()(mask_place<T> const& place) const {
        return simd::reinterpret_mask<position_t<T>>(
            simd::load(seen[block_of_key[place.key_index - first]] + place.lane) != simd::vector<T>(T(0)));
      }
    };
    bound result;
    result.first = range.first;
    index_t const first = range.first / key_block(), last = (range.last - 1) / key_block();
    for (index_t key = range.first; key < range.last; ++key)
      result.block_of_key[key - range.first] = static_cast<std::int16_t>(key / key_block() - first);
    index_t const newer = first_newer(rows);
    index_t row_before = -1;
    for (int lane = 0; lane < tile_rows<T>::lanes; ++lane) {
      index_t const row = row_of(rows, rows.head[lane], rows.query[lane]);
      for (index_t block = 0; block <= last - first; ++block) {
        T* const truth = result.seen[block] + lane;
        if (row == row_before) {
          *truth = truth[-1];
          continue;
        }
        auto const list = table_->list(row);
        auto const at = find(list, first + block);
        *truth = first + block >= newer || (at != list.end() && *at == first + block);
      }
      row_before = row;
    }
    return result;
  }

 private:
  using list_type = std::span<std::int32_t const>;

  index_t key_block() const { return table_->grid().key_block; }

  /// The first of a list's blocks that is not before `block`.
  static list_type::iterator find(list_type list, index_t block) {
    return std::lower_bound(list.begin(), list.end(), block, detail::ascending{});
  }

  void check_growth(problem_shape const& shape) const {
    options::block_grid const& grid = table_->grid();
    if (shape.sequences != shape.batches)
      fail("block_sparse", "expected a batch for each sequence (newer tokens are seen), got ", shape.sequences,
           " packed sequences");
    if (grid.keys > shape.keys)
      fail("block_sparse", "expected a table of at most ", shape.keys, " keys, got ", grid.keys);
    if (shape.queries == 0) return;
    if (grid.queries == 0) fail("block_sparse", "expected a table of at least 1 query, got 0");
    if (index_t const first = shape.keys - shape.queries; grid.keys - grid.queries > first)
      fail("block_sparse", "expected a table that begins at or before position ", first, " (query), got ",
           grid.keys - grid.queries);
  }

  /// The first of the blocks that have keys which the table does not know; behind the last one where there are none.
  template <class T>
  index_t first_newer(tile_rows<T> const& rows) const {
    index_t const growth = newer_ == newer_tokens::seen ? rows.shape->keys - table_->grid().keys : 0;
    return growth > 0 ? std::max<index_t>(rows.keys - growth, 0) / key_block() : divide_up(rows.keys, key_block());
  }
  /// The table's block of queries that a query belongs to.
  template <class T>
  index_t query_block_of(tile_rows<T> const& rows, index_t query) const {
    options::block_grid const& grid = table_->grid();
    if (newer_ == newer_tokens::refused) return query / grid.query_block;
    index_t const earlier = rows.shape->keys - rows.shape->queries - (grid.keys - grid.queries);
    return std::min(query + earlier, grid.queries - 1) / grid.query_block;
  }
  template <class T>
  index_t row_of(tile_rows<T> const& rows, index_t head, index_t query) const {
    options::block_grid const& grid = table_->grid();
    return table_->row(rows.sequence, head * grid.heads / rows.shape->query_heads, query_block_of(rows, query));
  }

  /// The lists of a tile's rows; where heads have lists of their own, of all heads from its first to its last.
  template <class T, class Function>
  void for_lists(tile_rows<T> const& rows, Function&& function) const {
    index_t const first = rows.first_query(), last = rows.last_query();
    index_t const blocks = query_block_of(rows, last) - query_block_of(rows, first);
    index_t first_row = row_of(rows, rows.head[0], first), last_row = first_row;
    if (table_->grid().heads > 1) {
      auto const heads = std::minmax_element(rows.head, rows.head + rows.count);
      first_row = row_of(rows, *heads.first, first);
      last_row = row_of(rows, *heads.second, first);
    }
    for (index_t row = first_row; row <= last_row; row += table_->grid().query_blocks())
      for (index_t block = 0; block <= blocks; ++block) function(table_->list(row + block));
  }

  options::block_table const* table_;
  newer_tokens newer_;
};

}  // namespace attend::inline ATTEND_TARGET::options
