// SPDX-License-Identifier: BSD-3-Clause
// A block table: for each block of queries the list of the blocks of keys that it sees (block-compressed sparse rows).
//
//   grid    batches and heads (1: one list for all), tokens, and the tokens of a query block and of a key block
//   row     (batch, head, query block), numbered in that order
//   list    the row's key blocks, ascending
//
// Block I of queries holds queries [I * query_block, (I + 1) * query_block), whatever their positions are; block J of
// keys likewise; the last ones may be shorter. A head's lists serve query_heads / heads query heads that follow each
// other.
//
// It is what selectors write at run time and what fixed patterns are written down in: lists are filled row after row,
// or each on its own by several threads, and the storage is kept when the table is filled anew.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "../../core/error.hpp"
#include "../../core/types.hpp"
#include "../tile.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// Gives the shape of a block table: batches and heads that have lists, tokens, and tokens of a block.
struct block_grid {
  index_t batches = 1;
  index_t heads = 1;
  index_t queries = 0;
  index_t keys = 0;
  index_t query_block = 64;
  index_t key_block = 64;

  constexpr index_t query_blocks() const { return extend::divide_up(queries, query_block); }
  constexpr index_t key_blocks() const { return extend::divide_up(keys, key_block); }
  constexpr index_t rows() const { return batches * heads * query_blocks(); }

  /// The key blocks that hold the positions of a block of queries, where the last query stands at the last key. Two
  /// where the blocks are not aligned with each other; those before the first key are left out.
  constexpr extend::key_range own_key_blocks(index_t query_block_number) const {
    index_t const first = query_block_number * query_block + keys - queries;
    index_t const last = std::min((query_block_number + 1) * query_block, queries) - 1 + keys - queries;
    if (last < 0) return {};
    return {std::max<index_t>(first, 0) / key_block, last / key_block + 1};
  }
};

/// The lists of key blocks, one for each batch, head and query block.
///
///     block_table blocks(block_grid{.queries = 128, .keys = 128, .query_block = 64, .key_block = 64});
///     blocks.add(0), blocks.end_row();                 // queries 0 to 63 see keys 0 to 63
///     blocks.add(0), blocks.add(1), blocks.end_row();  // the others see all keys
class block_table {
 public:
  block_table() = default;

  /// Makes empty lists, to be filled row after row with add() and end_row().
  explicit block_table(block_grid const& grid) { reset(grid); }

  /// Makes empty lists with room for `capacity` key blocks each, to be filled in any order with add(row, key_block).
  block_table(block_grid const& grid, index_t capacity) { reset(grid, capacity); }

  /// Does the same to a table that was used before, whose storage is kept.
  void reset(block_grid const& grid) {
    set_grid(grid, 0);
    first_.assign(1, 0);
    last_.clear();
    blocks_.clear();
  }
  void reset(block_grid const& grid, index_t capacity) {
    if (capacity < 0) extend::fail("block_table", "expected a capacity of at least 0, got ", capacity);
    set_grid(grid, capacity);
    auto const rows = static_cast<std::size_t>(grid.rows());
    first_.resize(rows + 1);
    for (std::size_t row = 0; row <= rows; ++row) first_[row] = static_cast<index_t>(row) * capacity;
    last_.assign(first_.begin(), first_.end() - 1);
    blocks_.resize(rows * static_cast<std::size_t>(capacity));
  }

  /// Adds a key block to the list that is being filled. Key blocks of a list ascend; this is checked where it is used.
  void add(index_t key_block) { blocks_.push_back(stored(key_block)); }
  void end_row() {
    first_.push_back(static_cast<index_t>(blocks_.size()));
    last_.push_back(static_cast<index_t>(blocks_.size()));
  }

  /// Adds a key block to a row that has room. Different rows may be filled by different threads.
  void add(index_t row, index_t key_block) {
    if (row < 0 || row >= rows()) extend::fail("block_table", "expected a row of ", rows(), ", got ", row);
    index_t& last = last_[static_cast<std::size_t>(row)];
    if (last == first_[static_cast<std::size_t>(row) + 1])
      extend::fail("block_table", "expected at most ", last - first_[static_cast<std::size_t>(row)],
                   " key blocks in row ", row, ", got one more");
    blocks_[static_cast<std::size_t>(last++)] = stored(key_block);
  }

  block_grid const& grid() const { return grid_; }

  index_t row(index_t batch, index_t head, index_t query_block) const {
    return ((grid_.batches == 1 ? 0 : batch) * grid_.heads + head) * grid_.query_blocks() + query_block;
  }

  /// Gives the key blocks of a row. It is valid until the table is changed.
  std::span<std::int32_t const> list(index_t row) const {
    auto const r = static_cast<std::size_t>(row);
    return {blocks_.data() + first_[r], static_cast<std::size_t>(last_[r] - first_[r])};
  }

  /// Gives the number of rows that are filled: grid().rows() once the table is whole.
  index_t rows() const { return static_cast<index_t>(last_.size()); }

  /// Gives the number of pairs of blocks that see each other.
  index_t pairs() const {
    index_t count = 0;
    for (std::size_t row = 0; row < last_.size(); ++row) count += last_[row] - first_[row];
    return count;
  }
  /// Gives their fraction of all pairs of blocks.
  double density() const {
    double const all = static_cast<double>(grid_.rows()) * static_cast<double>(grid_.key_blocks());
    return all > 0 ? static_cast<double>(pairs()) / all : 0;
  }

  /// Throws argument_error unless every row has an ascending list of key blocks that exist.
  void check() const {
    if (rows() != grid_.rows()) extend::fail("block_table", "expected ", grid_.rows(), " rows, got ", rows());
    if (auto const listed = static_cast<index_t>(blocks_.size()); listed != first_.back())
      extend::fail("block_table", "expected all key blocks in rows that are ended, got ", listed - first_.back(),
                   " behind them");
    index_t const blocks = grid_.key_blocks();
    for (index_t r = 0; r < rows(); ++r) {
      index_t before = -1;
      for (index_t const block : list(r)) {
        if (block <= before || block >= blocks)
          extend::fail("block_table", "expected ascending key blocks below ", blocks, " in row ", r, ", got ", block,
                       " after ", before);
        before = block;
      }
    }
  }

 private:
  void set_grid(block_grid const& grid, index_t capacity) {
    for (index_t const extent : {grid.batches, grid.heads, grid.queries, grid.keys})
      if (extent < 0 || extent >= extend::token_limit)
        extend::fail("block_table", "expected extents from 0 to ", extend::token_limit - 1, ", got ", extent);
    for (index_t const block : {grid.query_block, grid.key_block})
      if (block < 1 || block >= extend::token_limit)
        extend::fail("block_table", "expected blocks of 1 to ", extend::token_limit - 1, " tokens, got ", block);
    double const rows = static_cast<double>(grid.batches * grid.heads) * static_cast<double>(grid.query_blocks());
    if (rows * static_cast<double>(std::max<index_t>(capacity, 1)) >= 0x1p56)
      extend::fail("block_table", "expected lists that fit in memory, got ", grid.batches, " x ", grid.heads, " x ",
                   grid.query_blocks(), " (batch, head, query block) of ", capacity, " key blocks");
    grid_ = grid;
  }

  /// A key block that is no 32-bit number is none of the grid's: it is kept as -1, which check() refuses.
  static std::int32_t stored(index_t key_block) {
    return std::in_range<std::int32_t>(key_block) ? static_cast<std::int32_t>(key_block) : -1;
  }

  block_grid grid_{0, 1, 0, 0, 64, 64};
  std::vector<index_t> first_{0}, last_;  // row r is blocks_[first_[r]] to blocks_[last_[r]]
  std::vector<std::int32_t> blocks_;
};

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
