// A block of keys and values as the tiles read it: in the accumulation type, values padded to whole register tiles.
//
// Where the tensors already are like that, the block is the tensors themselves: nothing is copied. Otherwise (16-bit
// elements, a value dimension that is not a multiple of the register tile, or rows so far apart that they would fall into
// the same few cache sets) it is copied to scratch once, for all tiles that share it, and only if a tile wants it.
#pragma once

#include "../core/scratch.hpp"
#include "../policy/pair_tensor.hpp"
#include "rows.hpp"

namespace attend::engine {

/// Asks for the rows that will be read next, a few cache lines at a time, while the present ones are worked on. The
/// machine's own prefetcher does not follow the columns of values down a block.
class row_prefetch {
 public:
  row_prefetch() = default;
  template <class T>
  row_prefetch(rows_of<T> rows, key_range range, index_t dimension)
      : row_(reinterpret_cast<char const*>(rows.row(range.first))),
        stride_(rows.stride * static_cast<index_t>(sizeof(T))),
        rows_(dimension > 0 ? range.count() : 0),
        bytes_(dimension * static_cast<index_t>(sizeof(T))) {}

  index_t lines() const { return rows_ * divide_up(bytes_, line); }

  ATTEND_INLINE void advance(index_t count) {
    for (; count > 0 && rows_ > 0; --count) {
      __builtin_prefetch(row_ + offset_, 0, 2);
      offset_ += line;
      if (offset_ < bytes_) continue;
      offset_ = 0;
      row_ += stride_;
      --rows_;
    }
  }

 private:
  static constexpr index_t line = static_cast<index_t>(detail::cache_line);

  char const* row_ = nullptr;
  index_t stride_ = 0, rows_ = 0, bytes_ = 0, offset_ = 0;
};

/// The prefetches of a whole block of keys and values, spread over the work on the block before it.
struct block_prefetch {
  row_prefetch key, value;
  index_t lines_per_step = 0;

  /// To be called by every register tile of keys.
  ATTEND_INLINE void step() {
    key.advance(lines_per_step);
    value.advance(lines_per_step);
  }
};

template <Element T>
class key_block {
 public:
  using A = accumulation_t<T>;

  /// Takes the scratch that blocks of up to `most_keys` keys may need. `shared` tells whether several tiles read a block.
  key_block(scratch& memory, index_t most_keys, index_t key_dimension, index_t value_dimension, index_t key_stride,
            index_t value_stride, bool shared)
      : key_dimension_(key_dimension), value_dimension_(value_dimension) {
    copies_keys_ = !std::same_as<T, A> || (shared && far_apart(key_stride, key_dimension));
    copies_values_ = value_dimension > 0 && (!std::same_as<T, A> || value_dimension % simd::register_rows != 0 ||
                                             (shared && far_apart(value_stride, value_dimension)));
    if (copies_keys_) key_copy_ = memory.take<A>(most_keys * key_dimension);
    if (copies_values_) value_copy_ = memory.take<A>(most_keys * padded_value_dimension());
    few_keys_ = memory.take<A>(simd::register_rows * key_dimension);
  }

  /// Value columns, rounded up to whole register tiles.
  index_t padded_value_dimension() const { return round_up(value_dimension_, simd::register_rows); }

  /// Turns to keys [first, first + count). Nothing is read yet.
  void move_to(rows_of<T> key, rows_of<T> value, key_range range) {
    key_source_ = key;
    value_source_ = value;
    range_ = range;
    keys_ready_ = values_ready_ = finite_known_ = false;
  }

  /// Rows of keys from `first` on, at least register_rows of them readable: fewer are repeated into scratch.
  rows_of<A> keys(key_range range) {
    rows_of<A> const block = all_keys();
    rows_of<A> const from{block.row(range.first - range_.first), block.stride};
    if (range.count() >= simd::register_rows) return from;
    for (index_t j = 0; j < simd::register_rows; ++j)
      std::copy_n(from.row(std::min(j, range.count() - 1)), key_dimension_, few_keys_ + j * key_dimension_);
    return {few_keys_, key_dimension_};
  }

  /// Rows of values from `first` on.
  rows_of<A> values(key_range range) {
    if (!values_ready_) {
      if (copies_values_)
        copy(value_source_, value_dimension_, value_copy_, padded_value_dimension());
      values_ready_ = true;
    }
    if (copies_values_) return {value_copy_ + (range.first - range_.first) * padded_value_dimension(), padded_value_dimension()};
    if constexpr (std::same_as<T, A>)
      return {value_source_.row(range.first), value_source_.stride};
    else
      return {};
  }

  /// Whether all values of the block are finite: only then 0 * value is 0.
  bool values_are_finite() {
    if (!finite_known_) {
      rows_of<A> const rows = values(range_);
      // 0 * x is 0 for a finite x and NaN otherwise; NaN stays in the sum.
      A sum = 0;
      for (index_t j = 0; j < range_.count(); ++j) sum += times_zero(rows.row(j));
      finite_ = sum == 0;
      finite_known_ = true;
    }
    return finite_;
  }

 private:
  // Rows that start at the same place of every page compete for the same sets of the first-level cache.
  static bool far_apart(index_t stride, index_t dimension) {
    return stride > 2 * dimension && stride * static_cast<index_t>(sizeof(A)) >= 2048;
  }

  rows_of<A> all_keys() {
    if (!keys_ready_) {
      if (copies_keys_) copy(key_source_, key_dimension_, key_copy_, key_dimension_);
      keys_ready_ = true;
    }
    if (copies_keys_) return {key_copy_, key_dimension_};
    if constexpr (std::same_as<T, A>)
      return {key_source_.row(range_.first), key_source_.stride};
    else
      return {};
  }

  void copy(rows_of<T> from, index_t dimension, A* to, index_t to_stride) {
    for (index_t j = 0; j < range_.count(); ++j, to += to_stride) {
      simd::widen_row(from.row(range_.first + j), to, dimension);
      std::fill(to + dimension, to + to_stride, A(0));
    }
  }

  A times_zero(A const* row) const {
    constexpr int step = simd::width<A>;
    simd::vector<A> sum(A(0));
    index_t c = 0;
    for (; c + step <= value_dimension_; c += step)
      sum = sum + simd::vector<A>::load_unaligned(row + c) * simd::vector<A>(A(0));
    // Asked as `equal`: xsimd's `unequal` is false for NaN.
    A total = simd::all<A>(sum == sum) ? A(0) : std::numeric_limits<A>::quiet_NaN();
    for (; c < value_dimension_; ++c) total += row[c] * 0;
    return total;
  }

  index_t key_dimension_, value_dimension_;
  bool copies_keys_ = false, copies_values_ = false;
  A* key_copy_ = nullptr;
  A* value_copy_ = nullptr;
  A* few_keys_ = nullptr;
  rows_of<T> key_source_, value_source_;
  key_range range_;
  bool keys_ready_ = false, values_ready_ = false, finite_known_ = false, finite_ = true;
};

}  // namespace attend::engine
