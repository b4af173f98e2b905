// SPDX-License-Identifier: BSD-3-Clause
// Extra key-value slots: seen by everybody, hidden by no mask, changed by no score, counted by the normalizer.
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/normalizer/relu.hpp>
#include <attend/policy/normalizer/sinks.hpp>
#include <attend/policy/score/score.hpp>
#include <attend/policy/slots.hpp>

#include "support/problem.hpp"

namespace attend {
using namespace options;

namespace {

test::sizes const grouped{.batches = 2,
                          .query_heads = 8,
                          .key_heads = 4,
                          .value_heads = 2,
                          .queries = 37,
                          .keys = 141,
                          .key_dimension = 8,
                          .value_dimension = 11};

template <class T>
test::tensor<double, 4> in_double(test::tensor<T, 4> const& tensor) {
  return {tensor.extents, std::vector<double>(tensor.elements.begin(), tensor.elements.end())};
}

template <class T>
struct slots {
  test::tensor<T, 4> key, value;
  test::tensor<double, 4> exact_key, exact_value;
};

template <class T>
slots<T> random_slots(test::sizes const& s, index_t batches, index_t count, unsigned seed) {
  slots<T> result{test::normal<T, 4>({batches, s.key_heads, count, s.key_dimension}, seed),
                  test::normal<T, 4>({batches, s.value_heads, count, s.value_dimension}, seed + 1),
                  {},
                  {}};
  result.exact_key = in_double(result.key);
  result.exact_value = in_double(result.value);
  return result;
}

template <class T>
class SlotsAttention : public testing::Test {};
using Elements = testing::Types<float, double, bfloat16>;
TYPED_TEST_SUITE(SlotsAttention, Elements);

TYPED_TEST(SlotsAttention, AreSeenBesideTheKeys) {
  auto const in = test::random_inputs<TypeParam>(grouped, 1);
  for (index_t batches : {index_t{1}, grouped.batches})
    for (index_t count : {0, 1, 2, 9, 150}) {
      auto const extra = random_slots<TypeParam>(grouped, batches, count, 5);
      reference::options with;
      with.slot_key = extra.exact_key.view();
      with.slot_value = extra.exact_value.view();
      EXPECT_TRUE(test::agrees(in, test::attend_to(in, prefix_key_values(extra.key.view(), extra.value.view())), with))
          << batches << ' ' << count;
      with.slot_value = {};
      EXPECT_TRUE(test::agrees(in, test::attend_to(in, key_bias(extra.key.view())), with)) << batches << ' ' << count;
    }
}

// More queries than keys: the first see nothing but the slots.
TYPED_TEST(SlotsAttention, AreHiddenByNoMask) {
  auto const in = test::random_inputs<TypeParam>({.query_heads = 2, .queries = 90, .keys = 60}, 1);
  auto const extra = random_slots<TypeParam>(in.size, 1, 3, 5);
  reference::options with;
  with.slot_key = extra.exact_key.view();
  with.slot_value = extra.exact_value.view();
  with.visible = reference::causal_bottom_right();
  auto const out = test::attend_to(in, prefix_key_values(extra.key.view(), extra.value.view()), causal{});
  EXPECT_TRUE(test::agrees(in, out, with));
  EXPECT_TRUE(std::isfinite(out.log_sum_exp.view()(0, 0, 0)));
}

TEST(Slots, MayLeaveOutTheBatch) {
  auto const in = test::random_inputs<float>(grouped, 1);
  auto const extra = random_slots<float>(grouped, 1, 4, 5);
  tensor_view<float const, 3> const key(extra.key.view().data(), {4, 4, 8}),
      value(extra.value.view().data(), {2, 4, 11});
  reference::options with;
  with.slot_key = extra.exact_key.view();
  with.slot_value = extra.exact_value.view();
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, prefix_key_values(key, value)), with));
}

TEST(Slots, AreAllThereIsWithoutKeys) {
  auto const in = test::random_inputs<float>({.queries = 20, .keys = 0}, 1);
  auto const extra = random_slots<float>(in.size, 1, 5, 5);
  reference::options with;
  with.slot_key = extra.exact_key.view();
  with.slot_value = extra.exact_value.view();
  auto const out = test::attend_to(in, prefix_key_values(extra.key.view(), extra.value.view()));
  auto const expected = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), with);
  EXPECT_TRUE(test::near(out.output.elements, expected.output,
                         test::tolerance<float>(test::largest_magnitude(extra.value.elements))));
  EXPECT_TRUE(test::near(out.log_sum_exp.elements, expected.log_sum_exp, test::tolerance<float>(4)));
}

TEST(Slots, AreChangedByNoScore) {
  auto const in = test::random_inputs<float>(grouped, 1);
  auto const extra = random_slots<float>(grouped, 2, 9, 5);
  reference::options with;
  with.slot_key = extra.exact_key.view();
  with.slot_value = extra.exact_value.view();
  with.scores = {[](double s, reference::place const&) { return 3 * s - 1; }};
  EXPECT_TRUE(test::agrees(in,
                           test::attend_to(in, prefix_key_values(extra.key.view(), extra.value.view()),
                                           score([](auto s, auto const&) { return 3.f * s - 1.f; })),
                           with));
}

TEST(Slots, AreCountedByOtherNormalizers) {
  auto const in = test::random_inputs<float>(grouped, 1);
  auto const extra = random_slots<float>(grouped, 2, 9, 5);
  reference::options with;
  with.slot_key = extra.exact_key.view();
  with.slot_value = extra.exact_value.view();
  auto const prefix = prefix_key_values(extra.key.view(), extra.value.view());
  with.sink = [](index_t) { return 1.25; };
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, prefix, sinks(1.25)), with));
  with.sink = {};
  with.settings = reference::normalizer::relu_by_count;
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, prefix, relu_weights{relu_scaling::count}), with));
}

double logistic(double x) { return 1 / (1 + std::exp(-x)); }

// A key without a value scales the plain output by sigmoid(log-sum-exp - q.k'); one with a value mixes it in.
TEST(Slots, OfOneKeyGateThePlainOutput) {
  auto const in =
      test::random_inputs<float>({.query_heads = 2, .key_heads = 2, .value_heads = 2, .queries = 45, .keys = 130}, 1);
  auto const extra = random_slots<float>(in.size, 1, 1, 5);
  auto const plain = test::attend_to(in);
  auto const biased = test::attend_to(in, key_bias(extra.key.view()));
  auto const mixed = test::attend_to(in, prefix_key_values(extra.key.view(), extra.value.view()));
  double const allowed = test::tolerance<float>(
      std::max(test::largest_magnitude(in.value.elements), test::largest_magnitude(extra.value.elements)));
  for (index_t head = 0; head < 2; ++head)
    for (index_t query = 0; query < 45; ++query) {
      double logit = 0;
      for (index_t c = 0; c < 8; ++c)
        logit += static_cast<double>(in.query.view()(0, head, query, c)) * extra.exact_key.view()(0, head, 0, c);
      logit /= std::sqrt(8.0);
      double const kept = logistic(static_cast<double>(plain.log_sum_exp.view()(0, head, query)) - logit);
      for (index_t c = 0; c < 8; ++c) {
        double const o = plain.output.view()(0, head, query, c), v = extra.exact_value.view()(0, head, 0, c);
        EXPECT_NEAR(biased.output.view()(0, head, query, c), kept * o, allowed);
        EXPECT_NEAR(mixed.output.view()(0, head, query, c), kept * o + (1 - kept) * v, allowed);
      }
    }
}

}  // namespace
}  // namespace attend
