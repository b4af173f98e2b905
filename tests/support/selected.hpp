// SPDX-License-Identifier: BSD-3-Clause
// What the tests of attention to chosen keys share: a call's output and log-sum-exp against the definition's, the same
// bits for any number of threads, and all that a call of a function can be told.
#pragma once

#include <attend/policy/mask/causal.hpp>
#include <numeric>

#include "expect_error.hpp"
#include "problem.hpp"

namespace attend::test {
using namespace options;

/// Sizes that are multiples of nothing, grouped heads, and more keys than queries.
inline sizes const odd{.batches = 2,
                       .query_heads = 4,
                       .key_heads = 2,
                       .value_heads = 1,
                       .queries = 170,
                       .keys = 183,
                       .key_dimension = 20,
                       .value_dimension = 13};

/// call(query, key, value, output, options...) for a problem, with log-sum-exp, on one thread and on three.
template <class T, class Call>
outputs<T> attend_by(inputs<T> const& in, Call const& call) {
  using A = accumulation_t<T>;
  sizes const& s = in.size;
  outputs<T> got, again;
  for (auto* to : {&got, &again}) {
    to->output = filled<T, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, T(7));
    to->log_sum_exp = filled<A, 3>({s.batches, s.query_heads, s.queries}, A(7));
  }
  auto const run = [&](outputs<T>& to, auto executor) {
    call(in.query.view(), in.key.view(), in.value.view(), to.output.view(), log_sum_exp(to.log_sum_exp.view()),
         executor);
  };
  run(got, serial{});
  run(again, threads{3});
  EXPECT_TRUE(same_bits(got.output.elements, again.output.elements)) << "other bits on three threads";
  EXPECT_TRUE(same_bits(got.log_sum_exp.elements, again.log_sum_exp.elements)) << "other bits on three threads";
  return got;
}

/// One key among random ones is a multiple of the first head's last query, as long as it must be to have 99% of its
/// dense attention: its logit is ln(keys) + 1/2 (what the others sum up to) + ln(99). The other heads look for the same
/// key, each with a little of its own. The share of trials in which call(query, key, value, output, log_sum_exp) sees
/// nine tenths of the attention mass of the last query, in all heads.
template <class Call>
double mass_found(sizes const& s, int trials, Call const& call) {
  int found = 0;
  for (int trial = 0; trial < trials; ++trial) {
    auto in = random_inputs<float>(s, static_cast<unsigned>(trial));
    auto const needle =
        static_cast<index_t>(std::mt19937(static_cast<unsigned>(trial))() % static_cast<unsigned>(s.keys));
    auto const query = in.query.view();
    index_t const last = s.queries - 1;
    float* const first = &query(0, 0, last, 0);
    double const square = std::inner_product(first, first + s.key_dimension, first, 0.0);
    double const logit = std::log(static_cast<double>(s.keys)) + 0.5 + std::log(99.0);
    auto const times = static_cast<float>(logit * std::sqrt(static_cast<double>(s.key_dimension)) / square);
    for (index_t c = 0; c < s.key_dimension; ++c) {
      in.key.view()(0, 0, needle, c) = times * first[c];
      for (index_t h = 1; h < s.query_heads; ++h) query(0, h, last, c) = first[c] + 0.3f * query(0, h, last, c);
    }
    auto output = filled<float, 4>({1, s.query_heads, s.queries, s.value_dimension}, 0);
    auto seen = filled<float, 3>({1, s.query_heads, s.queries}, 0), all = seen;
    inputs<float> const& fixed = in;
    call(fixed.query.view(), fixed.key.view(), fixed.value.view(), output.view(), log_sum_exp(seen.view()));
    softmax_attention(fixed.query.view(), fixed.key.view(), fixed.value.view(), output.view(), causal{},
                      log_sum_exp(all.view()));
    bool every = true;
    for (index_t h = 0; h < s.query_heads; ++h)
      every = every && std::exp(seen.view()(0, h, last) - all.view()(0, h, last)) > 0.9;
    found += every;
  }
  return static_cast<double>(found) / trials;
}

}  // namespace attend::test
