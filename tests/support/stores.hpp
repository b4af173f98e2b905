// SPDX-License-Identifier: BSD-3-Clause
// What tests of key-value stores share: reading a store row by row, and errors by their message.
#pragma once

#include <gtest/gtest.h>

#include <attend/cache/quantize.hpp>
#include <attend/core/error.hpp>
#include <string>
#include <vector>

#include "expect_error.hpp"
#include "random_tensor.hpp"

namespace attend::test {
using namespace extend;

/// A stored row, widened.
template <class A>
struct stored_row {
  index_t position;
  std::vector<A> key, value;

  bool operator==(stored_row const&) const = default;
};

/// All rows of a head, run by run.
template <KeyValueSource Store>
auto stored_rows(Store const& store, index_t sequence, index_t head) {
  using A = storage_accumulation_t<typename Store::key_element>;
  std::vector<stored_row<A>> rows;
  for (index_t first = 0; first < store.stored(sequence, head);) {
    auto const run = store.rows(sequence, head, first);
    EXPECT_GT(run.count, 0);
    EXPECT_LE(first + run.count, store.stored(sequence, head));
    for (index_t i = 0; i < run.count; ++i) {
      stored_row<A> row{run.position + i, std::vector<A>(static_cast<std::size_t>(store.key_dimension())),
                        std::vector<A>(static_cast<std::size_t>(store.value_dimension()))};
      attend::detail::read_key(run, i, store.key_dimension(), row.key.data());
      attend::detail::read_value(run, i, store.value_dimension(), row.value.data());
      rows.push_back(std::move(row));
    }
    first += run.count;
  }
  return rows;
}

/// Keys and values of some heads, [head, token, dimension], of which any tokens can be appended.
template <class T>
struct token_tensors {
  tensor<T, 3> key, value;

  token_tensors(index_t heads, index_t tokens, index_t key_dimension, index_t value_dimension, unsigned seed)
      : key(normal<T, 3>({heads, tokens, key_dimension}, seed)),
        value(normal<T, 3>({heads, tokens, value_dimension}, seed + 1)) {}

  template <class Store>
  void append_to(Store& store, index_t sequence, index_t first, index_t count) const {
    store.append(sequence, part(key, first, count), part(value, first, count));
  }

  /// What a store that loses nothing has at a position.
  auto row(index_t head, index_t position) const {
    using A = accumulation_t<T>;
    auto const widened = [&](tensor<T, 3> const& all) {
      T const* const from = &all.view()(head, position, 0);
      return std::vector<A>(from, from + all.extents[2]);
    };
    return stored_row<A>{position, widened(key), widened(value)};
  }

 private:
  static tensor_view<T const, 3> part(tensor<T, 3> const& all, index_t first, index_t count) {
    auto const view = all.view();
    return {view.data() + first * view.stride(1), {view.extent(0), count, view.extent(2)}, view.strides()};
  }
};

}  // namespace attend::test
