// SPDX-License-Identifier: BSD-3-Clause
// Gradients of linear attention with feature maps, divided by the sum of keys, and in every element type, against the
// recurrence backward through time.
#include <attend/policy/feature/elu.hpp>
#include <attend/policy/feature/exponential.hpp>
#include <attend/policy/feature/relu.hpp>
#include <attend/policy/feature/silu.hpp>
#include <attend/policy/feature/softmax_features.hpp>
#include <attend/policy/feature/standardized.hpp>
#include <attend/policy/feature/taylor.hpp>
#include <attend/policy/feature/with_constant.hpp>

#include "support/linear_gradients.hpp"

namespace attend {
using namespace extend;
using namespace linear;

namespace {

using reference::linear_options;
using reference::state_divisor;
using reference::state_update;
using row = std::vector<double>;

/// What a map makes of a row of numbers, in double.
template <class Map>
auto features_by(Map const& map) {
  return [map](row const& x, bool is_query, index_t batch, index_t head, index_t token) {
    index_t const d = static_cast<index_t>(x.size()), count = map.features(d);
    scratch memory;
    double *const from = memory.allocate<double>(round_up(d, simd::width<double>)), *const to = memory.allocate<double>(
                                                                                        round_up(count,
                                                                                                 simd::width<double>));
    std::copy(x.begin(), x.end(), from);
    map.fill(token_rows<double>{from, d, 1, d, is_query ? token_side::query : token_side::key, batch, head, token,
                                token, head, 1},
             to, round_up(count, simd::width<double>));
    return row(to, to + count);
  };
}

test::linear_inputs<float> problem(unsigned seed, index_t features = -1, index_t tokens = 70, index_t dimension = 9) {
  test::linear_sizes s{2, 4, 2, 2, tokens, tokens, dimension, 21};
  s.features = features;
  test::linear_inputs<float> in(s, seed);
  for (float& x : in.state.elements) x = std::abs(x);
  return in;
}

TEST(LinearFeaturesBackward, MapsHaveTheirDerivative) {
  auto const agree = [](auto const& map, index_t features, char const* name) {
    auto const in = problem(5, features);
    linear_options with;
    with.features = features_by(map);
    with.log_decay = in.token_logs();
    with.scale = 0.5;
    EXPECT_TRUE(test::gradients_agree(in, with, causal{}, map, scale(0.5), token_decay(in.token_decays.view()),
                                      chunk_length(32)))
        << name;
  };
  agree(silu_features{}, 9, "silu");
  agree(exponential_features{}, 9, "exponential");
  agree(softmax_features{}, 9, "softmax");
  agree(taylor_features{taylor_form::order_1}, 10, "taylor, order 1");
  agree(taylor_features{taylor_form::full, 0.3}, 91, "taylor, full");
  agree(taylor_features{}, 55, "taylor, packed");
  agree(with_constant(identity_features{}), 10, "with a constant");
  agree(standardized(elu_features{}), 9, "standardized");
  agree(elementwise_features([](auto x) { return x * x + 1; }, [](auto x) { return x + x; }), 9, "function");
}

TEST(LinearFeaturesBackward, AnUndefinedSlopeIsZero) {
  // relu at 0, and a row of equal numbers.
  auto in = problem(6);
  for (index_t c = 0; c < 9; ++c) in.key.view()(0, 0, 3, c) = 0;
  test::given_gradients<float> const given(in);
  auto const rectified = test::gradients_of(in, given, causal{}, relu_features{});
  auto const standard = test::gradients_of(in, given, causal{}, standardized(elu_features{}));
  for (index_t c = 0; c < 9; ++c) {
    EXPECT_EQ(rectified.key.view()(0, 0, 3, c), 0);
    EXPECT_EQ(standard.key.view()(0, 0, 3, c), 0);
  }
}

TEST(LinearFeaturesBackward, DividedByTheSumOfKeys) {
  auto const map = elu_features{};
  for (index_t const chunk : {16, 23, 64}) {
    auto const in = problem(7);
    linear_options with;
    with.features = features_by(map);
    with.divisor = state_divisor::key_sum;
    with.epsilon = 0.5;
    chunk_length const length(chunk);
    EXPECT_TRUE(test::gradients_agree(in, with, causal{}, map, key_sum{0.5}, length)) << chunk;
    with.scale = 2;
    with.causal = false;
    EXPECT_TRUE(test::gradients_agree(in, with, map, key_sum{0.5}, length, scale(2))) << chunk;
    with.causal = true;
    with.rate = in.by_token(in.rates);
    EXPECT_TRUE(
        test::gradients_agree(in, with, causal{}, map, key_sum{0.5}, length, scale(2), input_gates(in.rates.view())))
        << chunk;
    with.log_decay = in.head_logs();
    EXPECT_TRUE(test::gradients_agree(in, with, causal{}, map, key_sum{0.5}, length, scale(2),
                                      input_gates(in.rates.view()), head_decay(in.head_decays.view())))
        << chunk;
    with.log_decay = in.key_logs();
    EXPECT_TRUE(test::gradients_agree(in, with, causal{}, map, key_sum{0.5}, length, scale(2),
                                      input_gates(in.rates.view()), feature_decay(in.key_decays.view())))
        << chunk;
  }
}

template <class T>
class LinearBackwardTypes : public testing::Test {};
using element_types = testing::Types<double, half, bfloat16>;
TYPED_TEST_SUITE(LinearBackwardTypes, element_types);

TYPED_TEST(LinearBackwardTypes, GradientsAgree) {
  using T = TypeParam;
  // Shared queries, keys and values are summed up before they are rounded.
  for (auto const& s :
       {test::linear_sizes{2, 6, 2, 2, 33, 33, 20, 50}, {1, 2, 2, 6, 40, 40, 16, 20}, {1, 4, 1, 2, 5, 70, 9, 30}}) {
    test::linear_inputs<T> const in(s, 3);
    linear_options with;
    with.update = state_update::delta;
    with.rate = in.by_token(in.rates);
    with.log_decay = in.token_logs();
    EXPECT_TRUE(test::gradients_agree(in, with, causal{}, delta_rule(in.rates.view()),
                                      token_decay(in.token_decays.view()), chunk_length(16)));
    with.update = state_update::additive;
    with.log_decay = in.key_logs();
    EXPECT_TRUE(test::gradients_agree(in, with, causal{}, input_gates(in.rates.view()),
                                      feature_decay(in.key_decays.view()), chunk_length(23)));
  }
}

}  // namespace
}  // namespace attend
