// SPDX-License-Identifier: BSD-3-Clause
// A decay of the user's own, with no member but those that a decay needs.
#include <attend/attention/linear/linear_attention.hpp>

#include "support/linear_problem.hpp"

namespace attend {
using namespace extend;

namespace {

/// Forgets more with each token of a head.
double log_decay(index_t batch, index_t head, index_t token) {
  return -0.01 * static_cast<double>(batch + 2 * head + token % 7);
}

struct growing {
  using option_kind = option::decay;
  static constexpr extend::decay_kind kind = extend::decay_kind::scalar;

  void check(extend::state_shape const&) const {}
  template <class A>
  void read(index_t batch, index_t head, index_t first, index_t count, A* to) const {
    for (index_t i = 0; i < count; ++i) to[i] = static_cast<A>(log_decay(batch, head, first + i));
  }
};
static_assert(Decay<growing> && Decay<growing, double>);

/// The same for each feature.
struct growing_rows {
  using option_kind = option::decay;
  static constexpr extend::decay_kind kind = extend::decay_kind::vector;

  index_t features;
  void check(extend::state_shape const&) const {}
  template <class A>
  void read(index_t batch, index_t head, index_t first, index_t count, A* to, index_t stride) const {
    for (index_t i = 0; i < count; ++i)
      std::fill_n(to + i * stride, features, static_cast<A>(log_decay(batch, head, first + i)));
  }
};
static_assert(Decay<growing_rows> && Decay<growing_rows, double>);

TEST(Decay, NeedsNoMoreThanItsMembers) {
  for (index_t tokens : {1, 2, 200}) {
    test::linear_inputs<float> const in({2, 4, 2, 2, tokens, tokens, 12, 20}, 1);
    reference::linear_options with;
    with.log_decay = [](index_t b, index_t h, index_t t, index_t) { return log_decay(b, h, t); };
    EXPECT_TRUE(test::agrees(in, test::attend_linearly(in, causal{}, growing{}), with));
    EXPECT_TRUE(test::agrees(in, test::attend_linearly(in, causal{}, growing_rows{12}), with));
  }
}

}  // namespace
}  // namespace attend
