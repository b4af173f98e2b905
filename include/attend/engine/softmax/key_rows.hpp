// SPDX-License-Identifier: BSD-3-Clause
// The rows of keys and values of a head, as the engines read them: in runs of rows at a constant stride.
//
// There are stored() rows. rows(i) returns a run whose first row is row i; positions increase with the row.
//
//   source_rows    the rows of a head of a key-value source; a problem's own tensors are such a source
//   ordered_rows   the tokens of such rows in another order
//   tensor_rows    rows that belong to no sequence: slots
#pragma once

#include "../../cache/key_value_rows.hpp"
#include "../../policy/token_order.hpp"
#include "../rows.hpp"
#include "problem.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// The tensors of a problem as a source: one head for each group of query heads that share both a key and a value head.
template <Element T>
class problem_rows {
 public:
  using key_element = T;
  using value_element = T;
  static constexpr bool in_one_run = true;

  explicit problem_rows(problem<T> const& p) : p_(&p), heads_per_group_(p.heads_per_group()) {}

  index_t sequences() const { return p_->sequences.size(); }
  index_t key_value_heads() const { return p_->shape.query_heads / heads_per_group_; }
  index_t key_heads() const { return p_->shape.key_heads; }
  index_t value_heads() const { return p_->shape.value_heads; }
  index_t key_dimension() const { return p_->key.extent(3); }
  index_t value_dimension() const { return p_->shape.value_dimension; }
  index_t size(index_t sequence) const { return p_->sequences[sequence].keys; }
  index_t stored(index_t sequence, index_t) const { return size(sequence); }

  key_value_rows<T> rows(index_t sequence, index_t group, index_t first) const {
    attend::detail::sequence const s = p_->sequences[sequence];
    index_t const head = group * heads_per_group_, heads = p_->shape.query_heads;
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
  index_t heads_per_group_;
};

template <KeyValueSource Source>
struct source_rows {
  using key_element = typename Source::key_element;
  using value_element = typename Source::value_element;
  /// Whether each row's position is its number, and each run reaches to the last row.
  static constexpr bool in_one_run = requires { requires Source::in_one_run; };

  Source const* source = nullptr;
  index_t sequence = 0, head = 0;

  index_t stored() const { return source->stored(sequence, head); }
  key_value_rows<key_element, value_element> rows(index_t first) const { return source->rows(sequence, head, first); }

  /// The first row whose position is at least this one.
  index_t first_row_from(index_t position) const {
    if constexpr (in_one_run) return position;
    index_t low = 0, high = stored();
    while (low < high) {
      index_t const middle = low + (high - low) / 2;
      auto const run = rows(middle);
      if (run.position >= position)
        high = middle;
      else if (position - run.position <= run.count)
        return std::min(middle + (position - run.position), stored());
      else
        low = middle + run.count;
    }
    return low;
  }
  /// The number of rows with consecutive positions from `first` on, at most `most`.
  index_t consecutive(index_t first, index_t most) const {
    auto const run = rows(first);
    index_t count = run.count;
    while (count < most && first + count < stored()) {
      auto const next = rows(first + count);
      if (next.position != run.position + count) break;
      count += next.count;
    }
    return std::min(count, most);
  }
};

/// The tokens of rows in one run, in another order. Tokens at a constant distance from each other are a run; for other
/// tokens, Order::tokens_at names those of many rows at once.
template <class Rows, class Order>
struct ordered_rows {
  using key_element = typename Rows::key_element;
  using value_element = typename Rows::value_element;
  static constexpr bool in_one_run = false;
  static_assert(Rows::in_one_run);

  Rows in_memory;
  Order order;

  index_t stored() const { return in_memory.stored(); }
  key_value_rows<key_element, value_element> rows(index_t first) const {
    token_run const at = order.run_at(first);
    auto run = in_memory.rows(at.token);
    run.key_stride *= at.step;
    run.value_stride *= at.step;
    run.count = at.count;
    run.position = first;
    return run;
  }
  index_t first_row_from(index_t position) const { return position; }
  index_t consecutive(index_t first, index_t most) const { return std::min(most, stored() - first); }
};

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

/// Where a stored row's key stands, whose position in the sequence is this.
template <class Rows>
attended_place place_of_key(Rows const& rows, attend::detail::sequence const& sequence, index_t position, index_t row) {
  attended_place at{sequence.batch, sequence.first_key + position, position};
  if constexpr (requires { rows.source; }) {
    at.sequence = rows.sequence;
    at.head = rows.head / attend::detail::heads_of_key(*rows.source);
    at.row = row;
  }
  return at;
}

/// Calls function(run, row of the run) for `count` rows from row `first` on, whose run is `run`.
template <class Rows, class Run, class Function>
void for_each_row(Rows const& rows, Run run, index_t first, index_t count, Function const& function) {
  for (index_t j = 0, in_run = 0; j < count; ++j, ++in_run) {
    if (in_run == run.count) {
      run = rows.rows(first + j);
      in_run = 0;
    }
    function(run, in_run);
  }
}

/// The slots of query head `head`.
template <Element T>
tensor_rows<T> slot_rows(problem<T> const& p, index_t batch, index_t head) {
  rows_of<T> const key = rows_of_head(p.slot_key, batch, head / (p.shape.query_heads / p.shape.key_heads), 0);
  if (!p.slots_have_values) return {key, {}, p.slots()};
  return {key, rows_of_head(p.slot_value, batch, head / (p.shape.query_heads / p.shape.value_heads), 0), p.slots()};
}

/// Whether value row j is the first columns of key row j: the latent of a latent cache serves as key and value.
template <class Key, class Value>
bool values_in_keys(key_value_rows<Key, Value> const& run, index_t key_dimension, index_t value_dimension) {
  if constexpr (std::same_as<Key, Value>)
    return run.key && run.key == run.value && run.key_stride == run.value_stride && value_dimension <= key_dimension;
  else
    return false;
}

}  // namespace attend::inline ATTEND_TARGET::engine
