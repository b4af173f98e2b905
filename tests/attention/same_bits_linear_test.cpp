// SPDX-License-Identifier: BSD-3-Clause
// The systems that carry a state: a sequence has the same bits alone and in any batch, for any executor, with every
// decay and update; and a token has the same bits whether or not anybody asks for the state before it or after it.
#include <attend/attention/linear/aaren_attention.hpp>
#include <attend/policy/feature/elu.hpp>

#include "support/executors.hpp"
#include "support/linear_problem.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace linear;
using namespace extend;
using namespace systems;

namespace {

/// One batch of a tensor [batch, ...].
template <class T, int Axes>
tensor_view<T const, Axes> at(test::tensor<T, Axes> const& all, index_t batch) {
  auto const view = all.view();
  auto extents = view.extents();
  extents[0] = 1;
  return {view.data() + batch * view.stride(0), extents, view.strides()};
}

/// with(select) gives the options that hold a tensor, select(tensor) its part for the batches at hand.
template <class With>
void expect_same_bits(test::linear_inputs<float> const& in, With const& with) {
  auto const& s = in.size;
  std::array const extents{s.batches, s.output_heads(), s.queries, s.value_dimension};
  auto one_extents = extents;
  one_extents[0] = 1;
  std::vector<test::tensor<float, 4>> alone;
  for (index_t b = 0; b < s.batches; ++b) {
    alone.push_back(test::filled<float, 4>(one_extents, 7));
    with([&](auto const& tensor) { return at(tensor, b); },
         [&](auto const&... options) {
           linear_attention(at(in.query, b), at(in.key, b), at(in.value, b), alone.back().view(), causal{}, options...);
         });
  }
  test::for_executors([&](auto const& executor, std::string const& name) {
    auto group_size = test::filled<float, 4>(extents, 7);
    with([](auto const& tensor) { return tensor.view(); },
         [&](auto const&... options) {
           linear_attention(in.query.view(), in.key.view(), in.value.view(), group_size.view(), causal{}, executor,
                            options...);
         });
    for (index_t b = 0; b < s.batches; ++b) {
      auto const& one = alone[static_cast<std::size_t>(b)].elements;
      EXPECT_EQ(std::memcmp(&group_size.view()(b, 0, 0, 0), one.data(), one.size() * sizeof(float)), 0)
          << name << ", batch " << b;
    }
  });
}

/// Every decay with every update that goes with it.
void expect_same_bits_of_all(test::linear_sizes const& s) {
  SCOPED_TRACE(testing::Message() << s);
  test::linear_inputs<float> const in(s, 3);
  auto const expect = [&](auto const& options) {
    expect_same_bits(in, [&](auto const& select, auto const& call) { std::apply(call, options(select)); });
  };
  expect([](auto const&) { return std::tuple(); });
  expect([](auto const&) { return std::tuple(elu_features{}, key_sum{}); });
  expect([&](auto const&) { return std::tuple(head_decay(in.head_decays.view())); });
  expect([&](auto const& select) { return std::tuple(token_decay(select(in.token_decays))); });
  expect([&](auto const& select) { return std::tuple(feature_decay(select(in.key_decays))); });
  expect([&](auto const& select) { return std::tuple(input_gates(select(in.rates)), key_sum{}); });
  expect([&](auto const& select) { return std::tuple(delta_rule(select(in.rates))); });
  expect([&](auto const& select) {
    return std::tuple(delta_rule(select(in.rates)), token_decay(select(in.token_decays)));
  });
}

TEST(SameBitsOfStates, OfManyTokens) {
  expect_same_bits_of_all({.batches = 3,
                           .query_heads = 4,
                           .key_heads = 2,
                           .value_heads = 2,
                           .queries = 150,
                           .keys = 150,
                           .key_dimension = 24,
                           .value_dimension = 100});
}

TEST(SameBitsOfStates, OfOneToken) {
  expect_same_bits_of_all({.batches = 3,
                           .query_heads = 64,
                           .key_heads = 32,
                           .value_heads = 32,
                           .queries = 1,
                           .keys = 1,
                           .key_dimension = 24,
                           .value_dimension = 100});
}

template <class... Options>
void expect_same_bits_without_states(test::linear_inputs<float> const& in, bool sums, Options const&... options) {
  auto const& s = in.size;
  auto const call = [&](auto const&... states) {
    auto output = test::filled<float, 4>({s.batches, s.output_heads(), s.queries, s.value_dimension}, 7);
    linear_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), causal{}, options..., states...);
    return output.elements;
  };
  auto last = in.state, none = test::filled<float, 4>(in.state.extents, 0);
  auto last_sum = in.key_sum, no_sum = test::filled<float, 3>(in.key_sum.extents, 0);
  auto const from = [&](auto const& state, auto const& sum) {
    return sums ? initial_state(state.view(), sum.view()) : initial_state(state.view());
  };
  auto const to = sums ? final_state(last.view(), last_sum.view()) : final_state(last.view());
  EXPECT_TRUE(test::same_bits(call(from(in.state, in.key_sum)), call(from(in.state, in.key_sum), to)));
  EXPECT_TRUE(test::same_bits(call(), call(to)));
  EXPECT_TRUE(test::same_bits(call(), call(from(none, no_sum), to)));
}

TEST(SameBitsOfStates, WhetherOrNotAStateIsAskedFor) {
  for (test::linear_sizes const& s :
       {test::linear_sizes{2, 6, 3, 3, 1, 1, 21, 37}, test::linear_sizes{1, 2, 1, 4, 1, 1, 5, 16}}) {
    test::linear_inputs<float> const in(s, 5);
    expect_same_bits_without_states(in, false);
    expect_same_bits_without_states(in, true, key_sum{});
    expect_same_bits_without_states(in, false, head_decay(in.head_decays.view()), rms_norm{});
    expect_same_bits_without_states(in, true, feature_decay(in.key_decays.view()), key_sum{});
    expect_same_bits_without_states(in, false, delta_rule(in.rates.view()), token_decay(in.token_decays.view()));
  }
}

TEST(SameBitsOfStates, OfPrefixes) {
  index_t const batches = 5, heads = 2, tokens = 4500, dimension = 8, columns = 20;
  auto const query = test::normal<float, 3>({batches, heads, dimension}, 1);
  auto const key = test::normal<float, 4>({batches, heads, tokens, dimension}, 2, 3),
             value = test::normal<float, 4>({batches, heads, tokens, columns}, 3);
  test::for_executors([&](auto const& executor, std::string const& name) {
    auto group_size = test::filled<float, 4>({batches, heads, tokens, columns}, 7);
    aaren_attention(query.view(), key.view(), value.view(), group_size.view(), executor);
    for (index_t b = 0; b < batches; ++b) {
      auto alone = test::filled<float, 4>({1, heads, tokens, columns}, 7);
      aaren_attention(at(query, b), at(key, b), at(value, b), alone.view());
      EXPECT_EQ(
          std::memcmp(&group_size.view()(b, 0, 0, 0), alone.elements.data(), alone.elements.size() * sizeof(float)), 0)
          << name << ", batch " << b;
    }
  });
}

}  // namespace
}  // namespace attend
