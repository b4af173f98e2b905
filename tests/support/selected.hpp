// What the tests of attention to chosen keys share: a call's output and log-sum-exp against the definition's, the same
// bits for any number of threads, and all that a call of a function can be told.
#pragma once

#include "expect_error.hpp"
#include "problem.hpp"

namespace attend::test {

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

}  // namespace attend::test
