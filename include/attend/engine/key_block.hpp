// A block of keys and values as the tiles read it: in the accumulation type, values padded to whole register tiles.
//
// Where they already lie in memory like that, the block is that memory: nothing is copied. Otherwise (16-bit or
// quantised elements, a value dimension that is not a multiple of the register tile, keys that are to be rotated, rows
// so far apart that they would fall into the same few cache sets, or a block that is not in one run, as across the
// pages of a cache) it is copied to scratch once, for all tiles that share it, and only if a tile wants it. Values that
// are the first columns of the keys (a latent cache) are read from the keys, copied or not.
#pragma once

#include "../cache/quantize.hpp"
#include "../core/scratch.hpp"
#include "problem.hpp"

namespace attend::engine {

/// Rows of one head: row j at data + j * stride.
template <class T>
struct rows_of {
  T const* data = nullptr;
  index_t stride = 0;

  T const* row(index_t j) const { return data + j * stride; }
};

template <class T>
rows_of<T> rows_of_head(tensor_view<T const, 4> const& tensor, index_t batch, index_t head, index_t first) {
  index_t const b = tensor.extent(0) == 1 ? 0 : batch;
  return {tensor.data() + b * tensor.stride(0) + head * tensor.stride(1) + first * tensor.stride(2), tensor.stride(2)};
}

/// The tensors of a problem as a source: one head for each group of query heads that share both a key and a value head.
template <Element T>
class problem_rows {
 public:
  using key_element = T;
  using value_element = T;
  static constexpr bool in_one_run = true;

  explicit problem_rows(problem<T> const& p) : p_(&p), together_(p.heads_together()) {}

  index_t sequences() const { return p_->sequences.size(); }
  index_t key_value_heads() const { return p_->shape.query_heads / together_; }
  index_t key_dimension() const { return p_->shape.key_dimension; }
  index_t value_dimension() const { return p_->shape.value_dimension; }
  index_t size(index_t sequence) const { return p_->sequences[sequence].keys; }
  index_t stored(index_t sequence, index_t) const { return size(sequence); }
  bool values_in_keys() const {
    return p_->has_values && p_->value.data() == p_->key.data() && p_->value.strides() == p_->key.strides();
  }

  key_value_rows<T> rows(index_t sequence, index_t group, index_t first) const {
    attend::detail::sequence const s = p_->sequences[sequence];
    index_t const head = group * together_, heads = p_->shape.query_heads;
    rows_of<T> const key = rows_of_head(p_->key, s.batch, head / (heads / p_->shape.key_heads), s.first_key + first);
    rows_of<T> const value =
        rows_of_head(p_->value, s.batch, head / (heads / p_->shape.value_heads), s.first_key + first);
    key_value_rows<T> run;
    run.key = key.data;
    run.value = value.data;
    run.key_stride = key.stride;
    run.value_stride = value.stride;
    run.count = s.keys - first;
    run.position = first;
    return run;
  }

 private:
  problem<T> const* p_;
  index_t together_;
};

/// Whether a source's values are the first elements of its keys, in the same memory.
template <KeyValueSource Source>
bool values_in_keys(Source const& source) {
  if constexpr (requires { source.values_in_keys(); })
    return source.values_in_keys();
  else
    return false;
}

/// The rows of a head of a source, as blocks are made of them.
template <KeyValueSource Source>
struct source_rows {
  using key_element = typename Source::key_element;
  using value_element = typename Source::value_element;
  static constexpr bool in_one_run = requires { requires Source::in_one_run; };

  Source const* source = nullptr;
  index_t sequence = 0, head = 0;

  index_t stored() const { return source->stored(sequence, head); }
  key_value_rows<key_element, value_element> rows(index_t first) const { return source->rows(sequence, head, first); }
};

/// The same of rows that belong to no sequence: slots.
template <Element T>
struct tensor_rows {
  using key_element = T;
  using value_element = T;
  static constexpr bool in_one_run = true;

  rows_of<T> key, value;
  index_t count = 0;

  index_t stored() const { return count; }
  key_value_rows<T> rows(index_t first) const {
    key_value_rows<T> run;
    run.key = key.row(first);
    run.value = value.row(first);
    run.key_stride = key.stride;
    run.value_stride = value.stride;
    run.count = count - first;
    run.position = first;
    return run;
  }
};

/// The first row whose position is at least this one.
template <class Rows>
index_t first_row_from(Rows const& rows, index_t position) {
  index_t low = 0, high = rows.stored();
  while (low < high) {
    index_t const middle = low + (high - low) / 2;
    if (rows.rows(middle).position < position)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

/// How many rows from `first` on, up to `most`, have consecutive positions.
template <class Rows>
index_t consecutive_rows(Rows const& rows, index_t first, index_t most) {
  auto const run = rows.rows(first);
  index_t count = run.count;
  while (count < most && first + count < rows.stored()) {
    auto const next = rows.rows(first + count);
    if (next.position != run.position + count) break;
    count += next.count;
  }
  return std::min(count, most);
}

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

/// Dimensions of keys from one step of the prefetch to the next.
inline constexpr index_t prefetch_depth = 64;

/// The prefetches of a whole block of keys and values, spread over the work on the block before it.
struct block_prefetch {
  row_prefetch key, value;
  index_t lines_per_step = 0;

  /// To be called by every register tile of values, and of keys for every prefetch_depth of their dimension.
  ATTEND_INLINE void step() {
    key.advance(lines_per_step);
    value.advance(lines_per_step);
  }
};

/// Position says how keys are rotated, or is absent.
template <class Rows, class Position = attend::detail::absent>
class key_block {
 public:
  using key_element = typename Rows::key_element;
  using value_element = typename Rows::value_element;
  using A = storage_accumulation_t<key_element>;
  static_assert(std::same_as<A, storage_accumulation_t<value_element>>);
  static constexpr bool rotates = !std::same_as<Position, attend::detail::absent>;

  /// Takes the scratch that blocks of up to `most_keys` of these rows may need. `shared` tells whether several tiles
  /// read a block.
  key_block(scratch& memory, Rows const& rows, index_t most_keys, index_t key_dimension, index_t value_dimension,
            bool shared, Position const& position)
      : rows_(rows), key_dimension_(key_dimension), value_dimension_(value_dimension), position_(position) {
    if (rows.stored() > 0) run_ = rows.rows(0);
    if constexpr (std::same_as<key_element, value_element> && !rotates)
      values_in_keys_ =
          run_.key == run_.value && run_.key_stride == run_.value_stride && padded_value_dimension() <= key_dimension;
    copies_all_keys_ =
        rotates || !std::same_as<key_element, A> || (shared && far_apart(run_.key_stride, key_dimension));
    copies_all_values_ = value_dimension > 0 && !values_in_keys_ &&
                         (!std::same_as<value_element, A> || value_dimension % simd::register_rows != 0 ||
                          (shared && far_apart(run_.value_stride, value_dimension)));
    if (copies_all_keys_ || !Rows::in_one_run) key_copy_ = memory.take<A>(most_keys * key_dimension);
    if (copies_all_values_ || (!Rows::in_one_run && !values_in_keys_))
      value_copy_ = memory.take<A>(most_keys * padded_value_dimension());
    few_keys_ = memory.take<A>(simd::register_rows * key_dimension);
    if constexpr (rotates) angles_ = memory.take<A>(position.buffer_size());
  }

  /// Value columns, rounded up to whole register tiles.
  index_t padded_value_dimension() const { return round_up(value_dimension_, simd::register_rows); }

  /// Turns to `count` rows from row `first` on, whose positions are consecutive, and returns these. Nothing is read
  /// yet. Keys of a sequence are rotated; others have no place in one.
  key_range move_to(index_t first, index_t count, attend::detail::sequence const* sequence = nullptr) {
    first_row_ = first;
    run_ = rows_.rows(first);
    range_ = {run_.position, run_.position + count};
    sequence_ = sequence;
    bool const in_pieces = !Rows::in_one_run && run_.count < count;
    copies_keys_ = copies_all_keys_ || in_pieces;
    copies_values_ = copies_all_values_ || (in_pieces && value_dimension_ > 0);
    keys_ready_ = values_ready_ = finite_known_ = false;
    return range_;
  }

  /// Keys at these positions, at least register_rows of them readable: fewer are repeated into scratch.
  rows_of<A> keys(key_range range) {
    rows_of<A> const block = all_keys();
    rows_of<A> const from{block.row(range.first - range_.first), block.stride};
    if (range.count() >= simd::register_rows) return from;
    for (index_t j = 0; j < simd::register_rows; ++j)
      std::copy_n(from.row(std::min(j, range.count() - 1)), key_dimension_, few_keys_ + j * key_dimension_);
    return {few_keys_, key_dimension_};
  }

  /// Values at these positions.
  rows_of<A> values(key_range range) {
    rows_of<A> const block = values_in_keys_ ? all_keys() : all_values();
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

 private:
  // Rows that start at the same place of every page compete for the same sets of the first-level cache.
  static bool far_apart(index_t stride, index_t dimension) {
    return stride > 2 * dimension && stride * static_cast<index_t>(sizeof(A)) >= 2048;
  }

  rows_of<A> all_keys() {
    if (copies_keys_) {
      if (!keys_ready_)
        copy(key_copy_, key_dimension_, key_dimension_,
             [&](auto const& run, index_t row, A* to) { copy_key(run, row, to); });
      keys_ready_ = true;
      return {key_copy_, key_dimension_};
    }
    if constexpr (std::same_as<key_element, A>)
      return {run_.key, run_.key_stride};
    else
      return {};
  }

  rows_of<A> all_values() {
    if (copies_values_) {
      if (!values_ready_)
        copy(value_copy_, value_dimension_, padded_value_dimension(),
             [&](auto const& run, index_t row, A* to) { attend::detail::read_value(run, row, value_dimension_, to); });
      values_ready_ = true;
      return {value_copy_, padded_value_dimension()};
    }
    if constexpr (std::same_as<value_element, A>)
      return {run_.value, run_.value_stride};
    else
      return {};
  }

  template <class Run>
  void copy_key(Run const& run, index_t row, A* to) const {
    if constexpr (rotates) {
      if (sequence_) {
        index_t const position = run.position + row;
        auto const turn = position_.key_rotation(sequence_->batch, sequence_->first_key + position, position, angles_);
        if constexpr (is_scaled<key_element>) {
          attend::detail::read_key(run, row, key_dimension_, to);
          turn.apply(to, to, key_dimension_);
        } else {
          turn.apply(run.key + row * run.key_stride, to, key_dimension_);
        }
        return;
      }
    }
    attend::detail::read_key(run, row, key_dimension_, to);
  }

  /// Rows of the block to scratch, padded with zeros.
  template <class Read>
  void copy(A* to, index_t dimension, index_t to_stride, Read const& read) {
    auto run = run_;
    for (index_t j = 0, in_run = 0; j < range_.count(); ++j, ++in_run, to += to_stride) {
      if (in_run == run.count) {
        run = rows_.rows(first_row_ + j);
        in_run = 0;
      }
      read(run, in_run, to);
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

  Rows rows_;
  index_t key_dimension_, value_dimension_;
  Position const& position_;
  bool values_in_keys_ = false;
  bool copies_all_keys_ = false, copies_all_values_ = false;  // of every block
  bool copies_keys_ = false, copies_values_ = false;          // of this one
  A* key_copy_ = nullptr;
  A* value_copy_ = nullptr;
  A* few_keys_ = nullptr;
  A* angles_ = nullptr;
  key_value_rows<key_element, value_element> run_;  // the first of the block
  index_t first_row_ = 0;
  attend::detail::sequence const* sequence_ = nullptr;
  key_range range_;
  bool keys_ready_ = false, values_ready_ = false, finite_known_ = false, finite_ = true;
};

}  // namespace attend::engine
