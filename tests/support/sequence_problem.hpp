// SPDX-License-Identifier: BSD-3-Clause
// A problem for the systems that carry a state: random queries, keys and values, what a call makes of them, and whether
// that is what a definition over all pairs says.
#pragma once

#include <gtest/gtest.h>

#include <attend/core/executor.hpp>
#include <attend/reference/kernel_attention.hpp>

#include "compare.hpp"
#include "random_tensor.hpp"

namespace attend::test {
using namespace extend;

struct sequence_sizes {
  index_t batches = 1, query_heads = 1, key_heads = 1, value_heads = 1, queries = 1, keys = 1, dimension = 8,
          columns = 8;
};

/// Around whole vectors, register tiles and chunks; heads in groups; nothing at all.
inline std::vector<sequence_sizes> awkward_sequences() {
  return {{1, 1, 1, 1, 1, 1, 1, 1},     {2, 2, 1, 1, 5, 5, 7, 3},    {1, 4, 2, 2, 65, 65, 16, 17},
          {1, 2, 2, 1, 9, 130, 24, 33}, {2, 1, 1, 1, 64, 64, 8, 40}, {1, 1, 1, 1, 200, 200, 20, 65},
          {1, 2, 1, 2, 0, 6, 4, 4},     {1, 2, 2, 2, 3, 3, 5, 0}};
}

template <class T>
struct sequence_inputs {
  sequence_sizes size;
  tensor<T, 4> query, key, value;

  sequence_inputs(sequence_sizes const& s, unsigned seed, double deviation = 1)
      : size(s),
        query(normal<T, 4>({s.batches, s.query_heads, s.queries, s.dimension}, seed, deviation)),
        key(normal<T, 4>({s.batches, s.key_heads, s.keys, s.dimension}, seed + 1000, deviation)),
        value(normal<T, 4>({s.batches, s.value_heads, s.keys, s.columns}, seed + 2000)) {}

  /// What call(query, key, value, output) writes into an output of sevens.
  template <class Call>
  tensor<T, 4> output(Call&& call) const {
    auto result = filled<T, 4>({size.batches, size.query_heads, size.queries, size.columns}, T(7));
    call(query.view(), key.view(), value.view(), result.view());
    return result;
  }
};

/// Each output within 200 unit roundoffs of the sum of the magnitudes it is made of (compare.hpp), and its own
/// rounding. Terms below the least normal number may be lost, which are taken to be up to one over the unit roundoff.
template <class T>
testing::AssertionResult agrees_with(tensor<T, 4> const& got, reference::kernel_result const& expected,
                                     double times = 1) {
  if (got.elements.size() != expected.output.size())
    return testing::AssertionFailure() << "expected " << expected.output.size() << " elements, got "
                                       << got.elements.size();
  double const lost =
      static_cast<double>(std::numeric_limits<accumulation_t<T>>::min()) / unit_roundoff<accumulation_t<T>>();
  for (std::size_t i = 0; i < got.elements.size(); ++i) {
    double const allowed =
        times * tolerance<accumulation_t<T>>(expected.magnitude[i]) +
        (std::same_as<T, accumulation_t<T>> ? 0 : unit_roundoff<T>() * std::abs(expected.output[i])) + lost;
    double const x = static_cast<double>(got.elements[i]);
    if (!(std::abs(x - expected.output[i]) <= allowed))
      return testing::AssertionFailure() << "at " << i << ": expected " << expected.output[i] << " within " << allowed
                                         << ", got " << x;
  }
  return testing::AssertionSuccess();
}

template <class T>
testing::AssertionResult agrees_with(sequence_inputs<T> const& in, tensor<T, 4> const& got,
                                     reference::kernel_options const& with, double times = 1) {
  return agrees_with(got, reference::kernel_attention<T>(in.query.view(), in.key.view(), in.value.view(), with), times);
}

/// Tokens [first, last) of all heads.
template <class T>
tensor_view<T, 4> tokens(tensor_view<T, 4> const& view, index_t first, index_t last) {
  return {view.data() + first * view.stride(2),
          {view.extent(0), view.extent(1), last - first, view.extent(3)},
          view.strides()};
}

inline double silu(double x) { return x / (1 + std::exp(-x)); }

inline reference::row softmax_of(reference::row x) {
  double sum = 0, largest = x.empty() ? 0 : *std::max_element(x.begin(), x.end());
  for (double& e : x) sum += e = std::exp(e - largest);
  for (double& e : x) e /= sum;
  return x;
}

template <class Elements>
bool all_finite(Elements const& elements) {
  return std::all_of(elements.begin(), elements.end(), [](auto x) { return std::isfinite(static_cast<double>(x)); });
}

}  // namespace attend::test
