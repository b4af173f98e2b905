// SPDX-License-Identifier: BSD-3-Clause
// Gradients of softmax attention beside those of the definition in double.
#pragma once

#include <attend/attention/softmax/softmax_attention_backward.hpp>
#include <attend/reference/softmax_backward.hpp>

#include "support/compare.hpp"

namespace attend::test {

template <class T>
struct gradient_tensors {
  tensor<T, 4> query, key, value;
};

template <class T>
tensor<T, 4> gradient_of_output(inputs<T> const& in, unsigned seed = 77) {
  sizes const& s = in.size;
  return normal<T, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, seed);
}

/// The output and the log-sum-exp are those of the definition.
template <class T, class... Options>
gradient_tensors<T> gradients_of(inputs<T> const& in, tensor<T, 4> const& of_output, reference::options const& with,
                                 Options const&... options) {
  using A = accumulation_t<T>;
  sizes const& s = in.size;
  auto const forward = reference::softmax_attention<T>(in.query.view(), in.key.view(), in.value.view(), with);
  auto output = filled<T, 4>(of_output.extents, T(0));
  auto lse = filled<A, 3>({s.batches, s.query_heads, s.queries}, A(0));
  std::transform(forward.output.begin(), forward.output.end(), output.elements.begin(),
                 [](double x) { return static_cast<T>(x); });
  std::transform(forward.log_sum_exp.begin(), forward.log_sum_exp.end(), lse.elements.begin(),
                 [](double x) { return static_cast<A>(x); });
  gradient_tensors<T> all{filled<T, 4>(in.query.extents, T(7)), filled<T, 4>(in.key.extents, T(7)),
                          filled<T, 4>(in.value.extents, T(7))};
  softmax_attention_backward(in.query.view(), in.key.view(), in.value.view(), output.view(), lse.view(),
                             of_output.view(), all.query.view(), all.key.view(), all.value.view(), options...);
  return all;
}

/// An element is a sum of products of numbers that were rounded once or twice each: of terms whose magnitudes add up to
/// `terms`.
template <class T, class... Options>
testing::AssertionResult agrees(inputs<T> const& in, tensor<T, 4> const& of_output, reference::options const& with,
                                double magnification, Options const&... options) {
  auto const got = gradients_of(in, of_output, with, options...);
  auto const expected = reference::softmax_backward<T>(in.query.view(), in.key.view(), in.value.view(),
                                                       std::as_const(of_output).view(), with);
  double const of_rounded_output = std::same_as<T, accumulation_t<T>> ? 1 : 2;
  if (auto result = near(got.query.elements, expected.query,
                         of_rounded_output * magnification * tolerance<T>(expected.query_terms));
      !result)
    return result << " (query)";
  if (auto result =
          near(got.key.elements, expected.key, of_rounded_output * magnification * tolerance<T>(expected.key_terms));
      !result)
    return result << " (key)";
  if (auto result = near(got.value.elements, expected.value, magnification * tolerance<T>(expected.value_terms));
      !result)
    return result << " (value)";
  return testing::AssertionSuccess();
}

}  // namespace attend::test
