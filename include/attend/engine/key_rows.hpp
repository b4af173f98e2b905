// Where the engines read the keys and values of a head: rows, in runs that lie at a constant stride.
//
// Row i of the first `stored()` ones is the first of rows(i); positions rise with the row.
//
//   tensor_rows    of tensors: one run, in which a row's position is its number
//   ordered_rows   of tensors whose tokens are taken in another order: each row is a run of its own
//   source_rows    of a key-value store: as many runs as the store has pieces
#pragma once

#include "../cache/key_value_rows.hpp"
#include "../core/tensor_view.hpp"
#include "../policy/token_order.hpp"
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
  index_t first_row_from(index_t position) const { return position; }
  index_t consecutive(index_t first, index_t most) const { return std::min(most, count - first); }
};

template <Element T, class Order>
struct ordered_rows {
  using key_element = T;
  using value_element = T;
  static constexpr bool in_one_run = false;

  tensor_rows<T> in_memory;
  Order order;

  index_t stored() const { return in_memory.stored(); }
  key_value_rows<T> rows(index_t first) const {
    key_value_rows<T> run = in_memory.rows(order.key(first));
    run.count = 1;
    run.position = first;
    return run;
  }
  index_t first_row_from(index_t position) const { return position; }
  index_t consecutive(index_t first, index_t most) const { return in_memory.consecutive(first, most); }
};

template <KeyValueSource Source>
struct source_rows {
  using key_element = typename Source::key_element;
  using value_element = typename Source::value_element;
  static constexpr bool in_one_run = false;

  Source const* source = nullptr;
  index_t sequence = 0, head = 0;

  index_t stored() const { return source->stored(sequence, head); }
  key_value_rows<key_element, value_element> rows(index_t first) const { return source->rows(sequence, head, first); }

  /// The first row whose position is at least this one.
  index_t first_row_from(index_t position) const {
    index_t low = 0, high = stored();
    while (low < high) {
      index_t const middle = low + (high - low) / 2;
      if (rows(middle).position < position)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }
  /// How many rows from `first` on, up to `most`, have consecutive positions.
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

/// Keys and values that stand in the call's tensors.
template <Element T>
struct tensor_keys {
  problem<T> const& p;

  detail::sequence sequence(index_t number) const { return p.sequences[number]; }
  bool values_in_keys() const { return p.values_in_keys(); }

  template <class Order>
  auto rows(index_t, detail::sequence const& sequence, index_t key_head, index_t value_head, Order const& order) const {
    tensor_rows<T> const in_memory{
        rows_of_head(p.key, sequence.batch, key_head, sequence.first_key),
        p.has_values ? rows_of_head(p.value, sequence.batch, value_head, sequence.first_key) : rows_of<T>{},
        sequence.keys};
    if constexpr (std::same_as<Order, in_order>)
      return in_memory;
    else
      return ordered_rows<T, Order>{in_memory, order};
  }
};

/// Keys and values of a store: its sequence s for batch s of the queries. The last query stands at its last token.
template <Element T, KeyValueSource Source>
struct source_keys {
  problem<T> const& p;
  Source const& source;

  detail::sequence sequence(index_t number) const {
    detail::sequence of_queries = p.sequences[number];
    of_queries.keys = source.size(number);
    return of_queries;
  }
  bool values_in_keys() const { return false; }

  source_rows<Source> rows(index_t number, detail::sequence const&, index_t key_head, index_t, in_order) const {
    return {&source, number, key_head};
  }
};

}  // namespace attend::engine
