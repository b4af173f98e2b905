// SPDX-License-Identifier: BSD-3-Clause
// Problems of linear attention for tests: random tensors, what the kernel makes of them, and whether output and state
// are those of the definition.
#pragma once

#include <gtest/gtest.h>

#include <attend/attention/linear/linear_attention.hpp>
#include <attend/policy/decay/feature_decay.hpp>
#include <attend/policy/decay/head_decay.hpp>
#include <attend/policy/decay/token_decay.hpp>
#include <attend/reference/linear_attention.hpp>
#include <cmath>
#include <cstring>

#include "compare.hpp"
#include "random_tensor.hpp"

namespace attend::test {
using namespace linear;

struct linear_sizes {
  index_t batches = 1, query_heads = 1, key_heads = 1, value_heads = 1, queries = 1, keys = 1, key_dimension = 8,
          value_dimension = 8;
  index_t features = -1;  // as many as the key dimension

  index_t state_heads() const { return std::max(key_heads, value_heads); }
  index_t output_heads() const { return std::max(query_heads, state_heads()); }
  index_t state_rows() const { return features < 0 ? key_dimension : features; }

  friend std::ostream& operator<<(std::ostream& out, linear_sizes const& s) {
    return out << "b" << s.batches << " hq" << s.query_heads << " hk" << s.key_heads << " hv" << s.value_heads << " sq"
               << s.queries << " skv" << s.keys << " d" << s.key_dimension << " dv" << s.value_dimension;
  }
};

/// Keys have length about 1, as delta rules want them; decays are logarithms with the deviation given, at most 0; rates
/// lie between 0 and 1.
template <class T>
struct linear_inputs {
  using A = accumulation_t<T>;

  linear_sizes size;
  tensor<T, 4> query, key, value;
  tensor<A, 3> token_decays, rates;  // [batch, state head, token]
  tensor<A, 4> key_decays;           // [batch, state head, token, feature]
  tensor<A, 1> head_decays;          // [state head]
  tensor<A, 4> state;                // [batch, state head, feature, value dimension]
  tensor<A, 3> key_sum;              // [batch, state head, feature]

  linear_inputs(linear_sizes const& s, unsigned seed, double deviation = 0.1) : size(s) {
    double const length = 1 / std::sqrt(static_cast<double>(std::max<index_t>(s.key_dimension, 1)));
    query = normal<T, 4>({s.batches, s.query_heads, s.queries, s.key_dimension}, seed);
    key = normal<T, 4>({s.batches, s.key_heads, s.keys, s.key_dimension}, seed + 1, length);
    value = normal<T, 4>({s.batches, s.value_heads, s.keys, s.value_dimension}, seed + 2);
    token_decays = normal<A, 3>({s.batches, s.state_heads(), s.keys}, seed + 3, deviation);
    key_decays = normal<A, 4>({s.batches, s.state_heads(), s.keys, s.state_rows()}, seed + 4, deviation);
    head_decays = normal<A, 1>({s.state_heads()}, seed + 5, deviation);
    rates = normal<A, 3>({s.batches, s.state_heads(), s.keys}, seed + 6);
    state = normal<A, 4>({s.batches, s.state_heads(), s.state_rows(), s.value_dimension}, seed + 7);
    key_sum = normal<A, 3>({s.batches, s.state_heads(), s.state_rows()}, seed + 8);
    for (auto* decays : {&token_decays.elements, &key_decays.elements, &head_decays.elements})
      for (A& x : *decays) x = -std::abs(x);
    for (A& x : rates.elements) x = 1 / (1 + std::exp(-x));
    for (A& x : key_sum.elements) x = std::abs(x);
  }

  // What the reference is told of them.
  auto by_token(tensor<A, 3> const& t) const {
    return [&t](index_t b, index_t h, index_t i) { return static_cast<double>(t.view()(b, h, i)); };
  }
  auto token_logs() const {
    return [read = by_token(token_decays)](index_t b, index_t h, index_t t, index_t) { return read(b, h, t); };
  }
  auto key_logs() const {
    return [this](index_t b, index_t h, index_t t, index_t f) {
      return static_cast<double>(key_decays.view()(b, h, t, f));
    };
  }
  auto head_logs() const {
    return [this](index_t, index_t h, index_t, index_t) { return static_cast<double>(head_decays.view()(h)); };
  }
};

template <class T>
struct linear_outputs {
  tensor<T, 4> output;
  tensor<accumulation_t<T>, 4> state;
  tensor<accumulation_t<T>, 3> key_sum;
};

namespace detail {
template <class... Options>
constexpr bool sums_keys = false;
template <class First, class... Rest>
constexpr bool sums_keys<First, Rest...> = std::same_as<First, attend::linear::key_sum> || sums_keys<Rest...>;
}  // namespace detail

/// Calls the kernel from the inputs' state on.
template <class T, class... Options>
linear_outputs<T> attend_linearly(linear_inputs<T> const& in, Options const&... options) {
  using A = accumulation_t<T>;
  linear_sizes const& s = in.size;
  linear_outputs<T> out{filled<T, 4>({s.batches, s.output_heads(), s.queries, s.value_dimension}, T(7)),
                        filled<A, 4>(in.state.extents, 7), filled<A, 3>(in.key_sum.extents, 7)};
  auto const call = [&](auto const&... states) {
    linear_attention(in.query.view(), in.key.view(), in.value.view(), out.output.view(), options..., states...);
  };
  if constexpr (detail::sums_keys<Options...>)
    call(initial_state(in.state.view(), in.key_sum.view()), final_state(out.state.view(), out.key_sum.view()));
  else
    call(initial_state(in.state.view()), final_state(out.state.view()));
  return out;
}

inline double largest_of(std::vector<double> const& numbers) {
  double largest = 1;
  for (double x : numbers)
    if (std::isfinite(x)) largest = std::max(largest, std::abs(x));
  return largest;
}

/// Whether output and final state are those of the definition, started from the inputs' state. Both are sums whose
/// terms have the size of the largest of them.
template <class T>
testing::AssertionResult agrees(linear_inputs<T> const& in, linear_outputs<T> const& got,
                                reference::linear_options with) {
  using A = accumulation_t<T>;
  with.state.assign(in.state.elements.begin(), in.state.elements.end());
  with.key_sum.assign(in.key_sum.elements.begin(), in.key_sum.elements.end());
  auto const expected = reference::linear_attention<T>(in.query.view(), in.key.view(), in.value.view(), with);
  if (auto result = near(got.output.elements, expected.output, tolerance<T>(largest_of(expected.output))); !result)
    return result << " (output, " << in.size << ")";
  if (auto result = near(got.state.elements, expected.state, tolerance<A>(largest_of(expected.state))); !result)
    return result << " (state, " << in.size << ")";
  if (with.divisor == reference::state_divisor::key_sum)
    if (auto result = near(got.key_sum.elements, expected.key_sum, tolerance<A>(largest_of(expected.key_sum))); !result)
      return result << " (key_sum, " << in.size << ")";
  return testing::AssertionSuccess();
}

/// Shapes that no tile, vector or chunk divides, and the smallest ones.
inline std::vector<linear_sizes> awkward_linear_sizes() {
  std::vector<linear_sizes> sizes;
  for (index_t tokens : {0, 1, 2, 7, 15, 16, 17, 63, 64, 65, 130}) {
    linear_sizes s;
    s.queries = s.keys = tokens;
    s.key_dimension = 1 + tokens * 7 % 37;
    s.value_dimension = 1 + tokens * 5 % 67;
    sizes.push_back(s);
  }
  sizes.push_back({2, 6, 2, 2, 33, 33, 20, 50});  // grouped queries
  sizes.push_back({1, 2, 2, 6, 40, 40, 16, 20});  // grouped keys
  sizes.push_back({2, 1, 1, 3, 21, 77, 24, 48});  // fewer queries than keys
  sizes.push_back({1, 4, 1, 2, 5, 70, 9, 130});   // both, and more columns than a register tile
  sizes.push_back({1, 1, 1, 1, 30, 30, 0, 5});
  sizes.push_back({1, 1, 1, 1, 30, 30, 5, 0});
  sizes.push_back({0, 1, 1, 1, 3, 3, 5, 5});
  sizes.push_back({1, 0, 0, 0, 3, 3, 5, 5});
  return sizes;
}

}  // namespace attend::test
