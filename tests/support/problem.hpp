// SPDX-License-Identifier: BSD-3-Clause
// A problem for tests: random tensors, what the kernel makes of them, and whether that is what the definition says.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/sequence/sequences.hpp>
#include <attend/reference/softmax_attention.hpp>
#include <cmath>
#include <cstring>

#include "compare.hpp"
#include "random_tensor.hpp"

namespace attend::test {
using namespace options;
using namespace extend;

struct sizes {
  index_t batches = 1, query_heads = 1, key_heads = 1, value_heads = 1, queries = 1, keys = 1, key_dimension = 8,
          value_dimension = 8;

  problem_shape shape() const {
    return {batches, query_heads, key_heads, value_heads, queries, keys, key_dimension, value_dimension, batches};
  }
};

template <class T>
struct inputs {
  sizes size;
  tensor<T, 4> query, key, value;
};

/// Normal numbers; those of queries and keys have the deviation given.
template <class T>
inputs<T> random_inputs(sizes const& s, unsigned seed, double deviation = 1) {
  return {s, normal<T, 4>({s.batches, s.query_heads, s.queries, s.key_dimension}, seed, deviation),
          normal<T, 4>({s.batches, s.key_heads, s.keys, s.key_dimension}, seed + 1000, deviation),
          normal<T, 4>({s.batches, s.value_heads, s.keys, s.value_dimension}, seed + 2000)};
}

template <class T>
struct outputs {
  tensor<T, 4> output;
  tensor<accumulation_t<T>, 3> log_sum_exp;  // no elements where the normalizer has none
  tensor<accumulation_t<T>, 4> weights;      // no elements where sequences are packed
};

template <class T>
bool same_bits(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

namespace detail {
template <class Option>
constexpr bool is_not_softmax = false;
template <class Option>
  requires requires { Option::keeps_maximum; }
constexpr bool is_not_softmax<Option> = !Option::keeps_maximum;
}  // namespace detail

/// Calls the kernel for the output alone, and again for all that it can give: the output must be the same bits.
template <class T, class... Options>
outputs<T> attend_to(inputs<T> const& in, Options const&... options) {
  using A = accumulation_t<T>;
  constexpr bool packed = (std::same_as<Options, ragged> || ...);
  constexpr bool has_log_sum_exp = !(detail::is_not_softmax<Options> || ...);
  sizes const& s = in.size;
  auto alone = filled<T, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, T(7));
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), alone.view(), options...);

  outputs<T> all{filled<T, 4>(alone.extents, T(9)), {}, {}};
  if constexpr (has_log_sum_exp) all.log_sum_exp = filled<A, 3>({s.batches, s.query_heads, s.queries}, A(7));
  if constexpr (!packed) all.weights = filled<A, 4>({s.batches, s.query_heads, s.queries, s.keys}, A(7));
  auto const call = [&](auto const&... wanted) {
    softmax_attention(in.query.view(), in.key.view(), in.value.view(), all.output.view(), options..., wanted...);
  };
  if constexpr (has_log_sum_exp && !packed)
    call(log_sum_exp(all.log_sum_exp.view()), weights(all.weights.view()));
  else if constexpr (has_log_sum_exp)
    call(log_sum_exp(all.log_sum_exp.view()));
  else if constexpr (!packed)
    call(weights(all.weights.view()));
  else
    call();
  EXPECT_TRUE(same_bits(alone.elements, all.output.elements)) << "asking for more outputs changed the first";
  return all;
}

struct work {
  index_t full, masked, pairs;
};

/// How much of a problem the kernel computes.
template <class T = float, class... Options>
work count_work(sizes const& s, Options const&... options) {
  auto const in = random_inputs<T>(s, 1);
  auto out = filled<T, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, T(7));
  tile_counts counts;
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), options..., count_tiles(counts));
  return {counts.full, counts.masked, counts.pairs};
}

/// The largest magnitude among the finite elements.
template <class Elements>
double largest_magnitude(Elements const& elements) {
  double largest = 0;
  for (auto const& element : elements)
    if (double const x = static_cast<double>(element); std::isfinite(x)) largest = std::max(largest, std::abs(x));
  return largest;
}

/// Whether the outputs are those of the definition. An output's error is at most that of a sum of weights times the
/// largest value; `magnification` is the largest product of gains and gates, where there are some, and `largest_logit`
/// the magnitude of a logit's terms, to be given where they are larger than those of normal numbers: for a logit has
/// the error of its terms, and a weight that of two logits. Each product of a weight and a value may become zero where
/// it is below the normal range, in the unit of weights (policy/normalizer/softmax.hpp).
template <class T>
testing::AssertionResult agrees(inputs<T> const& in, outputs<T> const& got, reference::options const& with,
                                double magnification = 1, double largest_logit = 1) {
  using A = accumulation_t<T>;
  reference::result const expected =
      reference::softmax_attention<T>(in.query.view(), in.key.view(), in.value.view(), with);
  double max_weight = 1;
  for (std::size_t row = 0; row < expected.log_sum_exp.size(); ++row) {
    double sum = 0;
    for (std::size_t j = 0; j < static_cast<std::size_t>(in.size.keys); ++j)
      if (double const w = expected.weights[row * static_cast<std::size_t>(in.size.keys) + j]; std::isfinite(w))
        sum += w;
    max_weight = std::max(max_weight, sum);
  }
  // A rectified logit has the error of the logit, whatever its size: it counts as a weight of at least 1.
  if (with.settings == reference::normalizer::relu)
    max_weight = std::max(max_weight, static_cast<double>(in.size.keys));
  double largest_value = largest_magnitude(in.value.elements);
  for (index_t j = 0; with.slot_value.data() && j < with.slot_value.extent(0) * with.slot_value.stride(0); ++j)
    largest_value = std::max(largest_value, std::abs(with.slot_value.data()[j]));

  double const lost = static_cast<double>(std::numeric_limits<A>::min()) / attend::detail::weight_unit<double>;
  largest_value =
      std::max({largest_value, lost / unit_roundoff<A>(), static_cast<double>(std::numeric_limits<T>::min())});

  if (auto result = near(got.output.elements, expected.output,
                         tolerance<T>(magnification * max_weight * largest_logit * largest_value));
      !result)
    return result << " (output)";
  if (!got.log_sum_exp.elements.empty())
    if (auto result = near(got.log_sum_exp.elements, expected.log_sum_exp,
                           tolerance<A>(std::max(largest_logit, largest_magnitude(expected.log_sum_exp))));
        !result)
      return result << " (log_sum_exp)";
  if (!got.weights.elements.empty())
    if (auto result = near(got.weights.elements, expected.weights,
                           tolerance<A>(largest_logit * std::max(1.0, largest_magnitude(expected.weights))));
        !result)
      return result << " (weights)";
  return testing::AssertionSuccess();
}

/// The element of a tensor whose axes of extent 1 hold for all.
template <class T>
T shared_element(tensor_view<T const, 4> const& tensor, index_t batch, index_t head, index_t query, index_t key) {
  auto const along = [&](int axis, index_t index) { return tensor.extent(axis) == 1 ? 0 : index; };
  return tensor(along(0, batch), along(1, head), along(2, query), along(3, key));
}

/// The same, read as a reference reads it.
template <class T>
double shared_element(tensor<T, 4> const& t, reference::place const& at) {
  return static_cast<double>(shared_element<T>(t.view(), at.batch, at.head, at.query, at.key));
}

}  // namespace attend::test
