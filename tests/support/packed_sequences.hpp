// SPDX-License-Identifier: BSD-3-Clause
// Packed sequences for tests: tokens of all sequences stand one after the other, and the expectation is the definition,
// asked for each sequence on its own.
#pragma once

#include <functional>
#include <vector>

#include "problem.hpp"

namespace attend::test {
using namespace extend;

struct packed_sequences {
  std::vector<std::int64_t> query_offsets, key_offsets;

  index_t size() const { return static_cast<index_t>(query_offsets.size()) - 1; }
  index_t first_query(index_t s) const { return query_offsets[static_cast<std::size_t>(s)]; }
  index_t first_key(index_t s) const { return key_offsets[static_cast<std::size_t>(s)]; }
  index_t queries(index_t s) const { return first_query(s + 1) - first_query(s); }
  index_t keys(index_t s) const { return first_key(s + 1) - first_key(s); }
  ragged offsets() const { return ragged(query_offsets, key_offsets); }
  sizes fitted(sizes s) const {
    s.batches = 1;
    s.queries = query_offsets.back();
    s.keys = key_offsets.back();
    return s;
  }
};

/// Tokens [first, first + count) of a tensor.
template <class T>
tensor_view<T const, 4> tokens_of(tensor<T, 4> const& tensor, index_t first, index_t count) {
  auto const view = tensor.view();
  auto extents = view.extents();
  extents[2] = count;
  return {view.data() + first * view.stride(2), extents, view.strides()};
}

/// Whether the outputs of packed sequences are those of each sequence alone, with the options that `with` gives for it.
template <class T>
testing::AssertionResult agrees(inputs<T> const& in, outputs<T> const& got, packed_sequences const& sequences,
                                std::function<reference::options(index_t sequence)> const& with) {
  using A = accumulation_t<T>;
  double const allowed = tolerance<T>(largest_magnitude(in.value.elements));
  for (index_t s = 0; s < sequences.size(); ++s) {
    index_t const first = sequences.first_query(s), queries = sequences.queries(s);
    auto expected = reference::softmax_attention<T>(
        tokens_of(in.query, first, queries), tokens_of(in.key, sequences.first_key(s), sequences.keys(s)),
        tokens_of(in.value, sequences.first_key(s), sequences.keys(s)), with(s));
    std::vector<double> output, lse, expected_lse;
    for (index_t head = 0; head < in.size.query_heads; ++head)
      for (index_t query = 0; query < queries; ++query) {
        for (index_t c = 0; c < in.size.value_dimension; ++c)
          output.push_back(static_cast<double>(got.output.view()(0, head, first + query, c)));
        if (got.log_sum_exp.elements.empty()) continue;
        lse.push_back(static_cast<double>(got.log_sum_exp.view()(0, head, first + query)));
        expected_lse.push_back(expected.lse(0, head, query));
      }
    if (auto result = near(output, expected.output, allowed); !result)
      return result << " (output of sequence " << s << ')';
    if (auto result = near(lse, expected_lse, tolerance<A>(std::max(1.0, largest_magnitude(expected_lse)))); !result)
      return result << " (log_sum_exp of sequence " << s << ')';
  }
  return testing::AssertionSuccess();
}

}  // namespace attend::test
