// SPDX-License-Identifier: BSD-3-Clause
// What tests of argument errors share: good tensors, and a check of the message and of the outputs, which must be as
// they were.
#pragma once

#include <string>

#include "expect_error.hpp"
#include "problem.hpp"

namespace attend::test {
using namespace options;

using index_numbers = std::vector<std::int64_t>;
using read_view = tensor_view<float const, 4>;
using write_view = tensor_view<float, 4>;

/// Two batches of six heads on three key heads and two value heads; the outputs are full of sevens.
class argument_errors : public testing::Test {
 protected:
  inputs<float> const in = random_inputs<float>({.batches = 2,
                                                 .query_heads = 6,
                                                 .key_heads = 3,
                                                 .value_heads = 2,
                                                 .queries = 5,
                                                 .keys = 9,
                                                 .key_dimension = 8,
                                                 .value_dimension = 4},
                                                1);
  tensor<float, 4> output = filled<float, 4>({2, 6, 5, 4}, 7), pairs = filled<float, 4>({2, 6, 5, 9}, 7);
  tensor<float, 3> rows = filled<float, 3>({2, 6, 5}, 7);

  read_view q() const { return in.query.view(); }
  read_view k() const { return in.key.view(); }
  read_view v() const { return in.value.view(); }
  write_view o() { return output.view(); }

  template <class Call>
  void expect_error(std::string const& message, Call&& call) {
    test::expect_error(message, call);
    auto const untouched = [](std::vector<float> const& elements) {
      return std::all_of(elements.begin(), elements.end(), [](float x) { return x == 7; });
    };
    EXPECT_TRUE(untouched(output.elements) && untouched(pairs.elements) && untouched(rows.elements)) << message;
  }

  void expect_view_error(std::string const& message, read_view query, read_view key, read_view value,
                         write_view written) {
    expect_error(message, [&] { softmax_attention(query, key, value, written); });
  }

  /// With all outputs asked for: none of them may be touched.
  template <class... Options>
  void expect_option_error(std::string const& message, Options const&... options) {
    expect_error(message, [&] {
      softmax_attention(q(), k(), v(), o(), weights(pairs.view()), log_sum_exp(rows.view()), options...);
    });
  }
};

template <class T>
std::vector<T> several(int count) {
  return std::vector<T>(static_cast<std::size_t>(count), T(1));
}

}  // namespace attend::test
