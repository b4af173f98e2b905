// SPDX-License-Identifier: BSD-3-Clause
// A block of keys and values as the tiles read it: in the accumulation type, values padded to whole register tiles.
//
// Rows that are already stored like that are read in place. Otherwise (16-bit or quantized elements, a value dimension
// that is not a multiple of the register tile, keys that are to be rotated, rows so far apart that they would fall into
// the same few cache sets, or a block that is not in one run, as across the pages of a cache) the block is copied to
// scratch once, for all tiles that share it, and only if a tile needs it. Values that are the first columns of the keys
// (a latent cache) are read from the keys, copied or not.
#pragma once

#include "../../cache/quantize.hpp"
#include "../../core/options.hpp"
#include "../../core/scratch.hpp"
#include "../../policy/pair_tensor.hpp"
#include "../../policy/position/rotary.hpp"
#include "key_rows.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Prefetches the rows that will be read next, a few cache lines at a time, during the work on the present ones. The
/// hardware prefetcher does not follow the access to values, which reads a few columns of all rows of a block.
class row_prefetch {
 public:
  row_prefetch() = default;
  template <class T>
  row_prefetch(rows_of<T> rows, index_t count, index_t dimension)
      : row_(reinterpret_cast<char const*>(rows.data)),
        stride_(rows.stride * static_cast<index_t>(sizeof(T))),
        rows_(dimension > 0 ? count : 0),
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

/// The same for rows that a list points to: gathered keys and values; queries, which are packed when their tile is
/// first needed; and rows of the output. Where few keys are visible, waiting for these would be a good part of the
/// time.
class row_list_prefetch {
 public:
  row_list_prefetch() = default;
  row_list_prefetch(void const* const* rows, index_t count, index_t bytes)
      : rows_(rows), last_(bytes > 0 ? rows + count : rows), bytes_(bytes) {}

  index_t lines() const { return (last_ - rows_) * divide_up(bytes_, static_cast<index_t>(detail::cache_line)); }

  ATTEND_INLINE void advance(index_t count) {
    for (; count > 0 && rows_ < last_; --count) {
      __builtin_prefetch(static_cast<char const*>(*rows_) + offset_, 0, 2);
      offset_ += static_cast<index_t>(detail::cache_line);
      if (offset_ < bytes_) continue;
      offset_ = 0;
      ++rows_;
    }
  }

 private:
  void const* const* rows_ = nullptr;
  void const* const* last_ = nullptr;
  index_t bytes_ = 0, offset_ = 0;
};

/// The number of elements of keys that are multiplied between two steps of the prefetch.
inline constexpr index_t prefetch_depth = 64;

/// The prefetches of a whole block of keys and values, spread over the work on the block before it, and those of rows
/// of queries and output.
struct block_prefetch {
  row_prefetch key, value;
  row_list_prefetch gathered_key, gathered_value, query, output;
  index_t lines_per_step = 0;

  /// Spreads the prefetches of keys and values evenly over `steps` steps.
  void spread(index_t steps) {
    index_t const lines = std::max({key.lines(), value.lines(), gathered_key.lines(), gathered_value.lines()});
    lines_per_step = divide_up(lines, std::max<index_t>(steps, 1));
  }

  /// Every register tile of values calls this, and every register tile of keys for each prefetch_depth elements.
  ATTEND_INLINE void step() {
    key.advance(lines_per_step);
    value.advance(lines_per_step);
    gathered_key.advance(lines_per_step);
    gathered_value.advance(lines_per_step);
    query.advance(row_lines_per_step);
    output.advance(row_lines_per_step);
  }

 private:
  // This is enough for tiles with the fewest keys, which have some thirty steps for 48 rows of 512 bytes.
  static constexpr index_t row_lines_per_step = 8;
};

/// Whether rows are so far apart that they compete for the same sets of the level-1 cache: those do that begin at the
/// same offset of every page of 4 KiB.
template <class A>
bool far_apart(index_t stride, index_t dimension) {
  return stride > 2 * dimension && stride * static_cast<index_t>(sizeof(A)) >= 2048;
}

/// The shape of a block: its largest number of keys, and the dimensions of its rows.
struct block_shape {
  index_t max_keys, key_dimension, value_dimension;
  bool shared = false;  // whether several tiles read a block
};

/// A block of keys and values as a tile reads it, whatever rows it comes from. Rows are copied only when keys() or
/// values() is called.
template <class A>
class block_rows {
 public:
  index_t value_dimension() const { return value_dimension_; }
  /// The value dimension, rounded up to whole register tiles.
  index_t padded_value_dimension() const { return round_up(value_dimension_, simd::register_rows); }

  /// The keys at these positions. At least register_rows keys can be read from them: fewer are copied to scratch, and
  /// the last one is repeated.
  rows_of<A> keys(key_range range) {
    rows_of<A> const block = all_keys();
    rows_of<A> const from{block.row(range.first - range_.first), block.stride};
    if (range.count() >= simd::register_rows) return from;
    for (index_t j = 0; j < simd::register_rows; ++j)
      std::copy_n(from.row(std::min(j, range.count() - 1)), key_dimension_, few_keys_ + j * key_dimension_);
    return {few_keys_, key_dimension_};
  }

  /// The values at these positions.
  rows_of<A> values(key_range range) {
    rows_of<A> const block = all_values();
    return {block.row(range.first - range_.first), block.stride};
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

 protected:
  block_rows(scratch& memory, block_shape const& shape)
      : key_dimension_(shape.key_dimension),
        value_dimension_(shape.value_dimension),
        few_keys_(memory.allocate<A>(simd::register_rows * shape.key_dimension)) {}
  ~block_rows() = default;

  void turn_to(key_range range) {
    range_ = range;
    finite_known_ = false;
  }

  virtual rows_of<A> all_keys() = 0;
  virtual rows_of<A> all_values() = 0;

  index_t const key_dimension_, value_dimension_;
  key_range range_;

 private:
  A times_zero(A const* row) const {
    constexpr int step = simd::width<A>;
    simd::vector<A> sum(A(0));
    index_t c = 0;
    auto const add = [&](simd::vector<A> const& x) { sum = sum + simd::as_computed<A>(x * simd::vector<A>(A(0))); };
    for (; c + step <= value_dimension_; c += step) add(simd::vector<A>::load_unaligned(row + c));
    if (c < value_dimension_) add(simd::widen_part(row + c, value_dimension_ - c));
    // NaN is found by `==`, since xsimd's `!=` is false for NaN.
    return simd::all<A>(sum == sum) ? A(0) : std::numeric_limits<A>::quiet_NaN();
  }

  A* const few_keys_;
  bool finite_known_ = false, finite_ = true;
};

/// A block of keys and values of `Rows`. Position rotates the keys, or is absent.
template <class Rows, class Position = attend::detail::absent>
class key_block final : public block_rows<storage_accumulation_t<typename Rows::key_element>> {
 public:
  using key_element = typename Rows::key_element;
  using value_element = typename Rows::value_element;
  using A = storage_accumulation_t<key_element>;
  static_assert(std::same_as<A, storage_accumulation_t<value_element>>);
  static constexpr bool gathers = requires(Rows const& rows) { rows.order; };
  static constexpr bool rotates = attend::detail::rotates_keys<Position>;

  /// `memory` is for copies, if any are needed. `position` rotates the keys, which are those of `sequence`.
  key_block(scratch& memory, Rows const& rows, block_shape const& shape, Position const* position = nullptr,
            attend::detail::sequence const& sequence = {})
      : block_rows<A>(memory, shape),
        memory_(memory),
        max_keys_(shape.max_keys),
        rows_(rows),
        position_(position),
        sequence_(sequence) {
    if (rows.stored() > 0) run_ = rows.rows(0);
    values_in_keys_ = !rotates && values_in_keys(run_, key_dimension_, this->padded_value_dimension());
    copies_all_keys_ =
        rotates || !std::same_as<key_element, A> || (shape.shared && far_apart<A>(run_.key_stride, key_dimension_));
    copies_all_values_ = value_dimension_ > 0 && !values_in_keys_ &&
                         (!std::same_as<value_element, A> || value_dimension_ % simd::register_rows != 0 ||
                          (shape.shared && far_apart<A>(run_.value_stride, value_dimension_)));
    if constexpr (gathers) token_ = memory.allocate<index_t>(shape.max_keys);
    if constexpr (rotates) angles_ = memory.allocate<A>(position->buffer_size());
  }

  /// Makes the block consist of `count` rows from row `first` on, whose positions are consecutive, and returns these
  /// positions. It reads no row yet.
  key_range move_to(index_t first, index_t count) {
    first_row_ = first;
    run_ = rows_.rows(first);
    bool const in_pieces = !Rows::in_one_run && run_.count < count;
    copies_keys_ = copies_all_keys_ || in_pieces;
    copies_values_ = copies_all_values_ || (in_pieces && value_dimension_ > 0);
    keys_ready_ = values_ready_ = tokens_ready_ = false;
    this->turn_to({run_.position, run_.position + count});
    return range_;
  }

 private:
  using block_rows<A>::key_dimension_, block_rows<A>::value_dimension_, block_rows<A>::range_;

  rows_of<A> all_keys() override {
    if (copies_keys_) {
      if (!key_copy_) key_copy_ = memory_.allocate<A>(max_keys_ * key_dimension_);
      if (!keys_ready_)
        copy(key_copy_, key_dimension_, key_dimension_,
             [this](auto const& run, index_t row, index_t stored_row, index_t dimension, A* to) {
               this->read_key(run, row, stored_row, dimension, to);
             });
      keys_ready_ = true;
      return {key_copy_, key_dimension_};
    }
    if constexpr (std::same_as<key_element, A>)
      return {run_.key, run_.key_stride};
    else
      return {};
  }

  rows_of<A> all_values() override {
    if (values_in_keys_) return all_keys();
    if (copies_values_) {
      if (!value_copy_) value_copy_ = memory_.allocate<A>(max_keys_ * this->padded_value_dimension());
      if (!values_ready_)
        copy(value_copy_, value_dimension_, this->padded_value_dimension(),
             [](auto const& run, index_t row, index_t, index_t dimension, A* to) {
               attend::detail::read_value(run, row, dimension, to);
             });
      values_ready_ = true;
      return {value_copy_, this->padded_value_dimension()};
    }
    if constexpr (std::same_as<value_element, A>)
      return {run_.value, run_.value_stride};
    else
      return {};
  }

  template <class Run>
  void read_key(Run const& run, index_t row, [[maybe_unused]] index_t stored_row, index_t dimension, A* to) const {
    if constexpr (rotates) {
      auto const turn =
          position_->key_rotation(place_of_key(rows_, sequence_, run.position + row, stored_row), angles_);
      if constexpr (is_scaled<key_element>) {
        attend::detail::read_key(run, row, rows_.source->key_dimension(), to);
        turn.apply(to, to, dimension);
      } else {
        turn.apply(run.key + row * run.key_stride, to, dimension);
      }
    } else {
      attend::detail::read_key(run, row, dimension, to);
    }
  }

  /// Copies rows of the block to scratch, padded with zeros.
  template <class Read>
  void copy(A* to, index_t dimension, index_t to_stride, Read const& read) {
    if constexpr (gathers) {
      if (!tokens_ready_) rows_.order.tokens_at(range_, token_);
      tokens_ready_ = true;
      auto const all = rows_.in_memory.rows(0);
      for (index_t j = 0; j < range_.count(); ++j, to += to_stride) {
        read(all, token_[j], token_[j], dimension, to);
        std::fill(to + dimension, to + to_stride, A(0));
      }
    } else {
      index_t stored_row = first_row_;
      for_each_row(rows_, run_, first_row_, range_.count(), [&](auto const& run, index_t row) {
        read(run, row, stored_row++, dimension, to);
        std::fill(to + dimension, to + to_stride, A(0));
        to += to_stride;
      });
    }
  }

  scratch& memory_;
  index_t max_keys_;
  Rows rows_;
  Position const* position_;
  attend::detail::sequence sequence_;
  bool values_in_keys_ = false;
  bool copies_all_keys_ = false, copies_all_values_ = false;  // whether every block is copied
  bool copies_keys_ = false, copies_values_ = false;          // whether this block is copied
  A* key_copy_ = nullptr;
  A* value_copy_ = nullptr;
  A* angles_ = nullptr;
  index_t* token_ = nullptr;                        // the token of each row of the block, where rows are gathered
  key_value_rows<key_element, value_element> run_;  // the run of the block's first row
  index_t first_row_ = 0;
  bool keys_ready_ = false, values_ready_ = false, tokens_ready_ = false;
};

}  // namespace attend::inline ATTEND_TARGET::engine
