// SPDX-License-Identifier: BSD-3-Clause
// A forward and a backward call of softmax attention on the same tensors, for tests.
#pragma once

#include <attend/attention/softmax/softmax_attention_backward.hpp>
#include <attend/reference/softmax_backward.hpp>

#include "support/compare.hpp"
#include "support/problem.hpp"

namespace attend::test {
using namespace options;

/// A forward call's inputs and outputs, and what a backward call writes.
template <class T>
struct training {
  using A = accumulation_t<T>;
  inputs<T> in;
  tensor<T, 4> of_output, output;
  tensor<A, 3> sums;
  tensor<T, 4> of_query, of_key, of_value;

  training(sizes const& s, unsigned seed)
      : in(random_inputs<T>(s, seed)),
        of_output(normal<T, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, seed + 100)),
        output(filled<T, 4>(of_output.extents, T(0))),
        sums(filled<A, 3>({s.batches, s.query_heads, s.queries}, A(0))),
        of_query(filled<T, 4>(in.query.extents, T(7))),
        of_key(filled<T, 4>(in.key.extents, T(7))),
        of_value(filled<T, 4>(in.value.extents, T(7))) {}

  template <class... Options>
  void forward(Options const&... options) {
    softmax_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), log_sum_exp(sums.view()),
                      options...);
  }
  template <class... Options>
  void backward(Options const&... options) {
    softmax_attention_backward(in.query.view(), in.key.view(), in.value.view(), output.view(), sums.view(),
                               of_output.view(), of_query.view(), of_key.view(), of_value.view(), options...);
  }

  /// The same with a normalizer that has no log-sum-exp.
  template <class... Options>
  void forward_without_sums(Options const&... options) {
    softmax_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), options...);
  }
  template <class... Options>
  void backward_without_sums(Options const&... options) {
    softmax_attention_backward(in.query.view(), in.key.view(), in.value.view(), output.view(), tensor_view<A, 3>(),
                               of_output.view(), of_query.view(), of_key.view(), of_value.view(), options...);
  }

  template <class... Given>
  reference::gradients expected(reference::options const& with, Given const&... of_log_sum_exp) const {
    return reference::softmax_backward<T>(in.query.view(), in.key.view(), in.value.view(), of_output.view(), with,
                                          of_log_sum_exp...);
  }
  void expect_tensors(reference::gradients const& expected, double magnification = 1) const {
    double const of_rounded_output = std::same_as<T, A> ? 1 : 2;
    EXPECT_TRUE(near(of_query.elements, expected.query,
                     of_rounded_output * magnification * tolerance<T>(expected.query_terms)));
    EXPECT_TRUE(
        near(of_key.elements, expected.key, of_rounded_output * magnification * tolerance<T>(expected.key_terms)));
    EXPECT_TRUE(near(of_value.elements, expected.value, magnification * tolerance<T>(expected.value_terms)));
  }
};

}  // namespace attend::test
