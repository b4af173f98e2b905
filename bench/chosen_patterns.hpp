// SPDX-License-Identifier: BSD-3-Clause
// What the parts of attend_chosen share: a problem of one head, and a line of its table.
#pragma once

#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/mask/causal.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "random_tensor.hpp"

namespace attend_bench {

extern bool quick;

/// One head.
struct chosen_problem {
  attend::index_t tokens;
  random_tensor<float> query, key, value, output;

  explicit chosen_problem(attend::index_t tokens)
      : tokens(tokens),
        query({1, 1, tokens, 128}, 1),
        key({1, 1, tokens, 128}, 2),
        value({1, 1, tokens, 128}, 3),
        output({1, 1, tokens, 128}, 4) {}

  template <class Call>
  double once(Call const& call) {
    using clock = std::chrono::steady_clock;
    auto const begin = clock::now();
    call(query.view(), key.view(), value.view(), output.view());
    return std::chrono::duration<double>(clock::now() - begin).count();
  }

  /// The best of some runs.
  template <class Call>
  double seconds(Call const& call) {
    double best = once(call);
    for (int run = quick ? 2 : 0; run < 2; ++run) best = std::min(best, once(call));
    return best;
  }
};

/// One line: call(query, key, value, output) beside dense causal attention of as many pairs as `all`, or another that
/// stands for it, in turns, since a machine's speed changes.
template <class Call, class Dense>
void report_bound(chosen_problem& p, char const* name, double chosen, Call const& call, Dense const& dense_call,
                  double all) {
  double time = 1e9, dense = 1e9;
  for (int run = quick ? 2 : 0; run < 3; ++run) {
    for (int again = 0; again < 3; ++again) time = std::min(time, p.once(call));
    dense = std::min(dense, p.once(dense_call));
  }
  double const bound = all / chosen;
  std::printf("%-52s %8.1f ms   dense %8.1f ms   bound %6.2f   speed-up %6.2f   reached %5.2f\n", name, time * 1e3,
              dense * 1e3, bound, dense / time, dense / time / bound);
}
template <class Call>
void report_bound(chosen_problem& p, char const* name, double chosen, Call const& call) {
  report_bound(
      p, name, chosen, call, [](auto const&... tensors) { attend::softmax_attention(tensors..., attend::causal{}); },
      static_cast<double>(p.tokens) * static_cast<double>(p.tokens + 1) / 2);
}

// Parts in chosen_patterns.cpp, each at 8192 and 32768 tokens.
void strided();
void fixed();
void lsg();
void focus();
void axial();
void routing();

}  // namespace attend_bench
