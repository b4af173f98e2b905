// SPDX-License-Identifier: BSD-3-Clause
// Block-sparse: a query sees the keys in the blocks that a table lists for its own block, and nothing else is visited.
//
//   softmax_attention(q, k, v, o, block_sparse{table})
//   softmax_attention(q, k, v, o, block_sparse{table} & causal{})
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

/// Shows a query the keys in the blocks that a table lists for its block. A call throws argument_error where the
/// table's grid does not fit its tensors.
///
///     softmax_attention(q, k, v, o, block_sparse{table} & causal{});
class block_sparse {
 public:
  using option_kind = option::mask;

  /// The table is not copied: it must outlive the call.
  explicit block_sparse(options::block_table const& table) : table_(&table) {}
  explicit block_sparse(options::block_table&&) = delete;

  void check(problem_shape const& shape) const {
    options::block_grid const& grid = table_->grid();
    if (grid.batches != 1 && grid.batches != shape.sequences)
      fail("block_sparse", "expected a table of ", detail::one_or(shape.sequences, "batch", "batches"), ", got ",
           grid.batches);
    if (grid.heads == 0 ? shape.query_heads != 0 : shape.query_heads % grid.heads != 0)
      fail("block_sparse", "expected a table whose heads divide ", shape.query_heads, " (query), got ", grid.heads);
    if (grid.queries != shape.queries)
      fail("block_sparse", "expected a table of ", shape.queries, " queries, got ", grid.queries);
    if (grid.keys != shape.keys) fail("block_sparse", "expected a table of ", shape.keys, " keys, got ", grid.keys);
    table_->check();
  }
  tile_grain grain(problem_shape const& shape) const {
    options::block_grid const& grid = table_->grid();
    // One list for all heads leaves them together.
    return {grid.query_block, grid.heads > 1 ? shape.query_heads / grid.heads : 0};
  }

  template <class T>
  key_range bounds(tile_rows<T> const& rows) const {
    key_range all;
    for_lists(rows, [&](auto list) {
      if (!list.empty()) all = hull(all, {list.front() * key_block(), (list.back() + 1) * key_block()});
    });
    return intersection(all, {0, rows.keys});
  }
  template <class T>
  key_range next(tile_rows<T> const& rows, index_t from) const {
    key_range run{rows.keys, rows.keys};
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
    index_t const first = range.first / key_block(), last = (range.last - 1) / key_block();
    bool every = true, some = false;
    for_lists(rows, [&](auto list) {
      auto const begin = find(list, first), end = find(list, last + 1);
      some |= begin != end;
      every &= end - begin == last + 1 - first;
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
        *truth = at != list.end() && *at == first + block;
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

  template <class T>
  index_t row_of(tile_rows<T> const& rows, index_t head, index_t query) const {
    options::block_grid const& grid = table_->grid();
    return table_->row(rows.sequence, head * grid.heads / rows.shape->query_heads, query / grid.query_block);
  }

  /// The lists of a tile's rows; where heads have lists of their own, of all heads from its first to its last.
  template <class T, class Function>
  void for_lists(tile_rows<T> const& rows, Function&& function) const {
    index_t const first = rows.first_query(), last = rows.last_query();
    index_t const query_block = table_->grid().query_block, blocks = last / query_block - first / query_block;
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
};

}  // namespace attend::inline ATTEND_TARGET::options
