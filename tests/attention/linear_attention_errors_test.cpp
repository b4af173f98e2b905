// SPDX-License-Identifier: BSD-3-Clause
// Wrong arguments of linear attention: each is refused with a message that names it, and nothing is written.
#include <attend/policy/feature/relu.hpp>
#include <attend/policy/feature/rotation.hpp>
#include <attend/policy/feature/with_constant.hpp>

#include "support/expect_error.hpp"
#include "support/linear_problem.hpp"

namespace attend {
using namespace options;
using namespace linear;
using namespace extend;

namespace {

class LinearAttentionErrors : public testing::Test {
 protected:
  test::linear_inputs<float> in{{2, 4, 2, 2, 5, 5, 8, 6}, 1};
  test::tensor<float, 4> output = test::filled<float, 4>({2, 4, 5, 6}, 7),
                         state = test::filled<float, 4>({2, 2, 8, 6}, 7);
  test::tensor<float, 3> sum = test::filled<float, 3>({2, 2, 8}, 7);

  auto q() const { return in.query.view(); }
  auto k() const { return in.key.view(); }
  auto v() const { return in.value.view(); }
  auto o() { return output.view(); }

  template <class Call>
  void expect_error(std::string const& message, Call&& call) {
    test::expect_error(message, call);
    for (auto const* elements : {&output.elements, &state.elements, &sum.elements})
      EXPECT_TRUE(std::all_of(elements->begin(), elements->end(), [](float x) { return x == 7; })) << message;
  }
  template <class... Options>
  void expect_option_error(std::string const& message, Options const&... options) {
    expect_error(message, [&] { linear_attention(q(), k(), v(), o(), options...); });
  }

  static tensor_view<float const, 4> shaped(test::tensor<float, 4> const& t, std::array<index_t, 4> const& extents) {
    return {t.elements.data(), extents};
  }
};

TEST_F(LinearAttentionErrors, Shapes) {
  auto const call = [&](auto query, auto key, auto value, auto written) {
    return [=] { linear_attention(query, key, value, written, causal{}); };
  };
  expect_error("key: expected batch 2 (as query), got 1", call(q(), shaped(in.key, {1, 2, 5, 8}), v(), o()));
  expect_error("key: expected head dimension 8 (as query), got 7", call(q(), shaped(in.key, {2, 2, 5, 7}), v(), o()));
  expect_error("value: expected batch 2 (as query), got 1", call(q(), k(), shaped(in.value, {1, 2, 5, 6}), o()));
  expect_error("value: expected tokens 5 (as key), got 4", call(q(), k(), shaped(in.value, {2, 2, 4, 6}), o()));
  expect_error("value: expected a head count that divides 4 (query), got 3",
               call(q(), shaped(in.key, {2, 1, 5, 8}), shaped(in.key, {2, 3, 5, 6}), o()));
  expect_error("key: expected a head count that divides 3 (value), got 2",
               call(q(), k(), shaped(in.query, {2, 3, 5, 6}), o()));
  expect_error("value: expected a head count that divides 3 (key), got 2",
               call(q(), shaped(in.query, {2, 3, 5, 8}), v(), o()));
  expect_error("query: expected a head count that divides 4 (key and value), got 3",
               call(shaped(in.query, {2, 3, 5, 8}), k(), shaped(in.query, {2, 4, 5, 6}), o()));
  expect_error("query: expected at most as many tokens as the key's 4 (causal), got 5",
               call(q(), shaped(in.key, {2, 2, 4, 8}), shaped(in.value, {2, 2, 4, 6}), o()));
  expect_error("output: expected heads 4 (as query, key and value), got 2",
               call(q(), k(), v(), tensor_view<float, 4>(output.elements.data(), {2, 2, 5, 6})));
  expect_error("output: expected tokens 5 (as query), got 4",
               call(q(), k(), v(), tensor_view<float, 4>(output.elements.data(), {2, 4, 4, 6})));
  expect_error("output: expected head dimension 6 (as value), got 5",
               call(q(), k(), v(), tensor_view<float, 4>(output.elements.data(), {2, 4, 5, 5})));
  expect_error("output: expected distinct elements, got stride 0 on axis 2 of extent 5",
               call(q(), k(), v(), tensor_view<float, 4>(output.elements.data(), {2, 4, 5, 6}, {120, 30, 0, 1})));
  expect_error("query: expected data for extents [2, 4, 5, 8], got null",
               call(tensor_view<float const, 4>(nullptr, {2, 4, 5, 8}), k(), v(), o()));
}

TEST_F(LinearAttentionErrors, Policies) {
  auto const short_decays = test::filled<float, 3>({2, 2, 4}, -1);
  auto const narrow_decays = test::filled<float, 4>({2, 2, 5, 7}, -1);
  auto const decays_of_heads = test::filled<float, 1>({4}, -1);
  expect_option_error(
      "token_decay: expected shape [2, 2, 5] (batch, state head, token) with 1 for a batch or head that is shared, got "
      "[2, 2, 4]",
      causal{}, token_decay(short_decays.view()));
  expect_option_error("head_decay: expected 1 or 2 numbers (for all or for each state head), got 4", causal{},
                      head_decay(decays_of_heads.view()));
  expect_option_error(
      "feature_decay: expected shape [2, 2, 5, 8] (batch, state head, token, feature) with 1 for a batch or head that "
      "is "
      "shared, got [2, 2, 5, 7]",
      causal{}, feature_decay(narrow_decays.view()));
  expect_option_error(
      "delta_rule: expected shape [2, 2, 5] (batch, state head, token) with 1 for a batch or head that is shared, got "
      "[2, 2, 4]",
      causal{}, delta_rule(short_decays.view()));
  expect_option_error(
      "input_gates: expected shape [2, 2, 5] (batch, state head, token) with 1 for a batch or head that is shared, got "
      "[2, 2, 4]",
      causal{}, input_gates(short_decays.view()));
  expect_option_error("key_sum: expected a finite number, got inf", causal{}, key_sum{infinity<double>});
  expect_option_error("rms_norm: expected an epsilon of at least 0, got -1", causal{}, rms_norm{-1});
  expect_option_error("scale: expected a finite number, got nan", causal{}, scale(std::nan("")));
  expect_option_error("scale: expected a finite number, got inf", causal{}, scale(1e300));
  expect_option_error("chunk_length: expected 1 to 256 tokens, got 0", causal{}, chunk_length(0));
  expect_option_error("chunk_length: expected 1 to 256 tokens, got 257", causal{}, chunk_length(257));
  expect_option_error("causal: expected the last query at the last key (offset 0), got offset 1", causal{offset(1)});
  expect_option_error("threads: expected a count of at least 0, got -1", causal{}, threads{-1});
}

TEST_F(LinearAttentionErrors, States) {
  tensor_view<float, 4> const narrow(state.elements.data(), {2, 2, 8, 5});
  tensor_view<float, 3> const narrow_sum(sum.elements.data(), {2, 2, 7});
  expect_option_error(
      "initial_state: expected shape [2, 2, 8, 6] (batch, state head, feature, value dimension), got [2, 2, 8, 5]",
      causal{}, initial_state(narrow));
  expect_option_error(
      "final_state: expected shape [2, 2, 8, 6] (batch, state head, feature, value dimension), got [2, 2, 8, 5]",
      causal{}, final_state(narrow));
  expect_option_error(
      "final_state: expected a sum of keys of shape [2, 2, 8] (batch, state head, feature), got [2, 2, 7]", causal{},
      key_sum{}, final_state(state.view(), narrow_sum));
  expect_option_error("initial_state: expected a sum of keys of shape [2, 2, 8] (batch, state head, feature), got none",
                      causal{}, key_sum{}, initial_state(state.view()));
  expect_option_error("initial_state: expected no sum of keys (the normalizer has none), got one of shape [2, 2, 8]",
                      causal{}, initial_state(state.view(), sum.view()));
}

TEST_F(LinearAttentionErrors, Memory) {
  tensor_view<float, 4> const over_query(in.query.elements.data(), {2, 4, 5, 6});
  expect_error("output: expected memory of its own, got memory that overlaps query",
               [&] { linear_attention(q(), k(), v(), over_query, causal{}); });
  tensor_view<float, 4> const over_output(output.elements.data(), {2, 2, 8, 6});
  expect_option_error("output: expected memory of its own, got memory that overlaps initial_state", causal{},
                      initial_state(over_output));
  expect_option_error("final_state: expected memory of its own, got memory that overlaps output", causal{},
                      final_state(over_output));
  test::tensor<float, 4> twice = test::filled<float, 4>({2, 2, 9, 6}, 7);
  tensor_view<float, 4> const first(twice.elements.data(), {2, 2, 8, 6}),
      shifted(twice.elements.data() + 6, {2, 2, 8, 6});
  expect_option_error("final_state: expected memory of its own, got memory that overlaps initial_state", causal{},
                      initial_state(first), final_state(shifted));
  tensor_view<float, 3> const over_state(state.elements.data(), {2, 2, 8});
  expect_option_error("final_state: expected memory of its own, got memory that overlaps the state", causal{},
                      key_sum{}, final_state(state.view(), over_state));
  auto decays = test::filled<float, 3>({2, 2, 5}, -1);
  tensor_view<float, 4> const over_decays(decays.elements.data(), {1, 1, 1, 20});
  test::linear_inputs<float> const one({1, 1, 1, 1, 1, 1, 20, 20}, 1);
  tensor_view<float const, 3> const logs(decays.elements.data(), {1, 1, 1});
  expect_error("output: expected memory of its own, got memory that overlaps token_decay", [&] {
    linear_attention(one.query.view(), one.key.view(), one.value.view(), over_decays, causal{}, token_decay(logs));
  });
  tensor_view<float const, 2> const angles(output.elements.data(), {1, 1});
  expect_option_error("output: expected memory of its own, got memory that overlaps rotated (angles)", causal{},
                      with_constant(rotated(relu_features{}, angles)));
}

}  // namespace
}  // namespace attend
