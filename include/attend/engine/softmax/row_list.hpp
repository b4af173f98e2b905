// SPDX-License-Identifier: BSD-3-Clause
// The addresses of the rows of a block of the split engine: one by one for its inner loops, and as runs of bytes for
// prefetching. The rows are those of any KeyValueSource, in one piece, pages or rings, and are read in place; only rows
// that do not fill whole groups of vectors are copied.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <span>

#include "../../cache/key_value_rows.hpp"
#include "../../core/order.hpp"
#include "split_block.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// The addresses of rows, and the fewest runs of bytes that hold the first half of a block and those that hold the
/// rest.
struct row_list {
  static constexpr index_t most = split_block_keys, half = most / 2;

  /// Addresses of rows are computed this many at a time, possibly past the last row.
  static constexpr index_t group_size = 8;

  void const* row[most + group_size];
  byte_run run[most];
  index_t runs, runs_of_first_half;

  void clear() { runs = runs_of_first_half = 0; }
  std::span<byte_run const> first_half() const { return {run, static_cast<std::size_t>(runs_of_first_half)}; }
  std::span<byte_run const> second_half() const {
    return {run + runs_of_first_half, static_cast<std::size_t>(runs - runs_of_first_half)};
  }

  template <class T>
  void add(index_t count, T const* first, index_t stride, index_t rows, index_t row_bytes) {
    using addresses [[gnu::vector_size(group_size * sizeof(std::uintptr_t))]] = std::uintptr_t;
    auto const apart = static_cast<std::uintptr_t>(stride) * sizeof(T);
    addresses at = reinterpret_cast<std::uintptr_t>(first) + apart * addresses{0, 1, 2, 3, 4, 5, 6, 7};
    for (index_t i = 0; i < rows; i += group_size, at += apart * group_size)
      std::memcpy(row + count + i, &at, sizeof(at));
    char const* const begin = reinterpret_cast<char const*>(first);
    if (stride * static_cast<index_t>(sizeof(T)) != row_bytes) {
      for (index_t i = 0; i < rows; ++i) add_run(count + i, static_cast<char const*>(row[count + i]), row_bytes);
      return;
    }
    index_t const before = std::clamp(half - count, index_t{0}, rows);
    if (before > 0) add_run(count, begin, before * row_bytes);
    if (before < rows) add_run(count + before, begin + before * row_bytes, (rows - before) * row_bytes);
  }

  /// Adds the rows list[0], list[1], ...: row list[0] is at `first`.
  template <class T>
  void add_listed(index_t count, T const* first, index_t stride, std::span<std::int32_t const> list,
                  index_t row_bytes) {
    for (std::int32_t const place : list) {
      char const* const at = reinterpret_cast<char const*>(first + (place - list[0]) * stride);
      row[count] = at;
      add_run(count++, at, row_bytes);
    }
  }

  /// Repeats the last row to the end of the block, since whole register tiles are read.
  void fill_up(index_t count) {
    void const* const last = row[count - 1];
    std::fill(row + count, row + most, last);
  }

 private:
  /// Adds a run whose first row is row `at`, and which has no rows of both halves.
  void add_run(index_t at, char const* first, index_t bytes) {
    if (runs > 0 && at != half && run[runs - 1].last == first)
      run[runs - 1].last += bytes;
    else
      run[runs++] = {first, first + bytes};
    if (at < half) runs_of_first_half = runs;
  }
};

/// The addresses and scales of a block of keys and values.
template <StorageElement Key, StorageElement Value>
struct split_block {
  static constexpr index_t most = split_block_keys;

  row_list keys, values;
  // The room past the end is for a vector that is read from any row on.
  float key_scale[most + 16], value_scale[most + 16];
  float const* channel_scale = nullptr;
  index_t count = 0;
  index_t position = 0;   // of the first row; the others follow it, unless fill() was called with any_positions
  index_t first_row = 0;  // its number among the stored rows, which the others follow

  /// Fills the block with stored rows from `first` on, up to `last`, as far as they fit, and returns the first row that
  /// is left. With any_positions, positions need not be consecutive: rows from different runs share a block, and so do
  /// the rows of a list.
  template <KeyValueSource Source>
  index_t fill(Source const& source, index_t sequence, index_t head, index_t first, index_t last, index_t key_bytes,
               index_t value_bytes, bool any_positions) {
    count = 0;
    first_row = first;
    keys.clear();
    values.clear();
    while (first < last && count < most) {
      index_t const room = std::min(last - first, most - count);
      index_t const added = add(source, sequence, head, first, room, key_bytes, value_bytes, any_positions);
      if (added == 0) break;
      count += added;
      first += added;
    }
    if (count == 0) return first;
    keys.fill_up(count);
    std::fill(key_scale + count, key_scale + most, 0.f);
    return first;
  }

 private:
  using run_type = key_value_rows<Key, Value>;

  template <KeyValueSource Source>
  index_t add(Source const& source, index_t sequence, index_t head, index_t first, index_t room, index_t key_bytes,
              index_t value_bytes, bool any_positions) {
    if constexpr (requires { source.lists_rows; })
      if (source.lists_rows && any_positions) {
        auto const [run, list] = source.listed_rows(sequence, head, first);
        return add_listed(run, list.first(std::min(list.size(), static_cast<std::size_t>(room))), key_bytes,
                          value_bytes);
      }
    return add_run(any_positions ? attend::detail::adjacent_rows(source, sequence, head, first)
                                 : source.rows(sequence, head, first),
                   room, key_bytes, value_bytes, any_positions);
  }

  /// Whether rows of this run can be in the block: their positions follow, and their channel scales are the same.
  bool suits(run_type const& run, bool any_positions) {
    if (count == 0) {
      position = run.position;
      channel_scale = run.channel_scale;
    }
    return (any_positions || run.position == position + count) && run.channel_scale == channel_scale;
  }

  index_t add_run(run_type const& run, index_t room, index_t key_bytes, index_t value_bytes, bool any_positions) {
    if (!suits(run, any_positions)) return 0;
    index_t const added = std::min(run.count, room);
    keys.add(count, run.key, run.key_stride, added, key_bytes);
    values.add(count, run.value, run.value_stride, added, value_bytes);
    if constexpr (is_scaled<Key>) copy_scales(run.key_scale, run.key_scale_stride, added, key_scale + count);
    if constexpr (is_scaled<Value>) copy_scales(run.value_scale, run.value_scale_stride, added, value_scale + count);
    return added;
  }

  /// Adds those rows of an ascending list that are in the run, which begins at the first row of the list. Returns their
  /// number.
  index_t add_listed(run_type const& run, std::span<std::int32_t const> list, index_t key_bytes, index_t value_bytes) {
    if (!suits(run, true)) return 0;
    if (list.back() - list[0] >= run.count)
      list = list.first(static_cast<std::size_t>(
          std::lower_bound(list.begin(), list.end(), list[0] + run.count, detail::ascending{}) - list.begin()));
    keys.add_listed(count, run.key, run.key_stride, list, key_bytes);
    values.add_listed(count, run.value, run.value_stride, list, value_bytes);
    for (std::size_t i = 0; i < list.size(); ++i) {
      index_t const place = list[i] - list[0], to = count + static_cast<index_t>(i);
      if constexpr (is_scaled<Key>) key_scale[to] = run.key_scale[place * run.key_scale_stride];
      if constexpr (is_scaled<Value>) value_scale[to] = run.value_scale[place * run.value_scale_stride];
    }
    return static_cast<index_t>(list.size());
  }

  static void copy_scales(float const* from, index_t stride, index_t count, float* to) {
    index_t i = 0;
    if (stride == 1)
      for (; i + 16 <= count; i += 16) std::memcpy(to + i, from + i, 16 * sizeof(float));
    for (; i < count; ++i) to[i] = from[i * stride];
    // Prefetches the scales of the next block, which are too few for the hardware prefetcher to recognize a stream.
    index_t const apart = std::max<index_t>(std::abs(stride) * static_cast<index_t>(sizeof(float)), 4);
    index_t const step = std::max<index_t>(read_ahead::line / apart, 1);
    for (i = count; i < count + most; i += step) __builtin_prefetch(from + i * stride, 0, 3);
  }
};

/// Rows as the inner loops read them, in whole groups of vectors. Rows that do not fill whole groups are copied, block
/// by block.
template <StorageElement T, bool InPairs = false>
class whole_rows {
 public:
  whole_rows(scratch& memory, index_t dimension)
      : bytes_(divide_up(dimension, elements_in<T>) * static_cast<index_t>(sizeof(T))),
        vectors_(divide_up(dimension, simd::group_elements<T, InPairs>) * simd::row_group<T, InPairs>) {
    if (dimension % simd::group_elements<T, InPairs> == 0) return;
    index_t const stride = vectors_ * simd::width<storage_accumulation_t<T>> / elements_in<T>;
    copies_ = memory.allocate<void*>(split_block_keys);
    T* const rows = memory.allocate<T>(split_block_keys * stride);
    std::memset(static_cast<void*>(rows), 0, static_cast<std::size_t>(split_block_keys * stride) * sizeof(T));
    for (index_t i = 0; i < split_block_keys; ++i) copies_[i] = rows + i * stride;
  }

  index_t bytes() const { return bytes_; }
  index_t vectors() const { return vectors_; }

  void const* const* read(void const* const* row, index_t count) const {
    if (!copies_) return row;
    for (index_t i = 0; i < count; ++i) std::memcpy(copies_[i], row[i], static_cast<std::size_t>(bytes_));
    return copies_;
  }

 private:
  index_t bytes_, vectors_;
  void** copies_ = nullptr;
};

}  // namespace attend::inline ATTEND_TARGET::engine
