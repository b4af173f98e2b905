// SPDX-License-Identifier: BSD-3-Clause
// What a call can give beside its output: the log-sum-exp and the weights, with or without values.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/score/softcap.hpp>
#include <attend/policy/sequence/sequences.hpp>

#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

test::sizes const grouped{.batches = 2,
                          .query_heads = 6,
                          .key_heads = 3,
                          .value_heads = 1,
                          .queries = 37,
                          .keys = 141,
                          .key_dimension = 12,
                          .value_dimension = 20};

template <class T>
class Outputs : public testing::Test {};
using Elements = testing::Types<float, double, half, bfloat16>;
TYPED_TEST_SUITE(Outputs, Elements);

TYPED_TEST(Outputs, LogSumExpAndWeightsHaveTheAccumulationType) {
  auto const in = test::random_inputs<TypeParam>(grouped, 1);
  EXPECT_TRUE(test::agrees(in, test::attend_to(in), {}));
}

TYPED_TEST(Outputs, WeightsNeedNoValues) {
  using A = accumulation_t<TypeParam>;
  auto const in = test::random_inputs<TypeParam>(grouped, 1);
  auto pairs = test::filled<A, 4>({2, 6, 37, 141}, A(7));
  auto lse = test::filled<A, 3>({2, 6, 37}, A(7));
  attention_weights(in.query.view(), in.key.view(), pairs.view(), log_sum_exp(lse.view()));
  auto const out = test::attend_to(in);
  EXPECT_TRUE(test::same_bits(pairs.elements, out.weights.elements));
  EXPECT_TRUE(test::same_bits(lse.elements, out.log_sum_exp.elements));
}

TEST(Outputs, WeightsTakeOptionsToo) {
  auto const in = test::random_inputs<float>(grouped, 1);
  auto pairs = test::filled<float, 4>({2, 6, 37, 141}, 7);
  std::vector<std::int64_t> const queries{37, 5}, keys{141, 20};
  attention_weights(in.query.view(), in.key.view(), pairs.view(), causal{top_left}, scale{0.5}, padded(queries, keys));
  reference::options with;
  with.visible = reference::causal_with_offset(0);
  with.scale = 0.5;
  with.query_length = [&](index_t b) { return queries[static_cast<std::size_t>(b)]; };
  with.key_length = [&](index_t b) { return keys[static_cast<std::size_t>(b)]; };
  auto const expected = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), with);
  EXPECT_TRUE(test::near(pairs.elements, expected.weights, test::tolerance<float>(1)));
}

TEST(Outputs, WeightsAndLogSumExpMayHaveStrides) {
  auto const in = test::random_inputs<float>({.query_heads = 2, .queries = 5, .keys = 21}, 1);
  // Rows of 30, of which 21 are the weights': the rest keeps what it holds. Heads stand in falling order.
  std::vector<float> storage(2 * 5 * 30, 7);
  tensor_view<float, 3> const pairs(storage.data() + 5 * 30, {2, 5, 21}, {-5 * 30, 30, 1});
  std::vector<float> lse_storage(2 * 10, 7);
  tensor_view<float, 2> const rows(lse_storage.data(), {2, 5}, {10, 1});
  auto output = test::filled<float, 4>({1, 2, 5, 8}, 7);
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), weights(pairs), log_sum_exp(rows));
  auto const out = test::attend_to(in);
  for (index_t head = 0; head < 2; ++head)
    for (index_t query = 0; query < 5; ++query) {
      EXPECT_EQ(rows(head, query), out.log_sum_exp.view()(0, head, query));
      for (index_t key = 0; key < 21; ++key)
        EXPECT_EQ(pairs(head, query, key), out.weights.view()(0, head, query, key));
      for (index_t key = 21; key < 30; ++key)
        EXPECT_EQ(storage[static_cast<std::size_t>((head * 5 + query) * 30 + key)], 7);
    }
  for (std::size_t i = 5; i < 10; ++i) EXPECT_EQ(lse_storage[i], 7);
}

/// scale * q.k + b where a rule shows the key, -inf where not.
template <class T>
std::vector<double> expected_logits(test::inputs<T> const& in, double factor,
                                    reference::visible_function const& visible) {
  std::vector<double> result;
  auto const q = in.query.view(), k = in.key.view();
  index_t const group = q.extent(1) / k.extent(1);
  for (index_t b = 0; b < q.extent(0); ++b)
    for (index_t h = 0; h < q.extent(1); ++h)
      for (index_t i = 0; i < q.extent(2); ++i)
        for (index_t j = 0; j < k.extent(2); ++j) {
          double sum = 0;
          for (index_t c = 0; c < q.extent(3); ++c)
            sum += static_cast<double>(q(b, h, i, c)) * static_cast<double>(k(b, h / group, j, c));
          result.push_back(visible({b, h, i, j, q.extent(2), k.extent(2)}) ? factor * sum : -infinity<double>);
        }
  return result;
}

// Many queries and few, the tiled engine and the split one: in each stage, which is what the call's options say.
TYPED_TEST(Outputs, LogitsAreThoseOfTheOptionsGiven) {
  using A = accumulation_t<TypeParam>;
  for (index_t queries : {1, 37}) {
    test::sizes sizes = grouped;
    sizes.queries = queries;
    auto const in = test::random_inputs<TypeParam>(sizes, 1);
    auto const everything = [](reference::place const&) { return true; };
    auto pairs = test::filled<A, 4>({2, 6, queries, 141}, A(7));
    auto const expect = [&](auto const& expected) {
      double largest = 1;
      for (double s : expected)
        if (std::isfinite(s)) largest = std::max(largest, std::abs(s));
      EXPECT_TRUE(test::near(pairs.elements, expected, test::tolerance<A>(largest)));
      std::fill(pairs.elements.begin(), pairs.elements.end(), A(7));
    };
    attention_logits(in.query.view(), in.key.view(), pairs.view(), scale{0.5});
    auto const products = expected_logits(in, 0.5, everything);
    expect(products);
    auto capped = products;
    for (double& s : capped) s = 3 * std::tanh(s / 3);
    attention_logits(in.query.view(), in.key.view(), pairs.view(), scale{0.5}, softcap{3});
    expect(capped);
    auto seen = capped;
    for (std::size_t i = 0; i < seen.size(); ++i)
      if (static_cast<index_t>(i) % 141 > static_cast<index_t>(i) / 141 % queries + 20) seen[i] = -infinity<double>;
    auto output = test::filled<TypeParam, 4>({2, 6, queries, 20}, TypeParam(7));
    auto lse = test::filled<A, 3>({2, 6, queries}, A(7));
    auto weight = test::filled<A, 4>({2, 6, queries, 141}, A(7));
    softmax_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), logits(pairs.view()), scale{0.5},
                      softcap{3}, causal{offset(20)}, log_sum_exp(lse.view()), weights(weight.view()));
    // The other outputs say the same.
    for (std::size_t i = 0; i < seen.size(); ++i)
      EXPECT_NEAR(static_cast<double>(weight.elements[i]),
                  std::exp(seen[i] - static_cast<double>(lse.elements[i / 141])), test::tolerance<A>(4));
    expect(seen);
  }
}

TEST(Outputs, LogitsOfWhatIsPastALengthAreMinusInfinity) {
  for (index_t queries : {2, 37}) {
    test::sizes sizes = grouped;
    sizes.queries = queries;
    auto const in = test::random_inputs<float>(sizes, 1);
    auto pairs = test::filled<float, 4>({2, 6, queries, 141}, 7);
    std::vector<std::int64_t> const query_lengths{queries, 1}, key_lengths{0, 20};
    attention_logits(in.query.view(), in.key.view(), pairs.view(), padded(query_lengths, key_lengths));
    EXPECT_TRUE(test::near(
        pairs.elements,
        expected_logits(in, 1 / std::sqrt(12.0),
                        [](reference::place const& at) { return at.batch == 1 && at.query < 1 && at.key < 20; }),
        test::tolerance<float>(8)));
  }
}

// Outputs over disjoint keys are merged by their log-sum-exps.
TEST(Outputs, OfTwoHalvesOfTheKeysMergeIntoTheWhole) {
  auto const in =
      test::random_inputs<float>({.query_heads = 2, .key_heads = 2, .value_heads = 2, .queries = 37, .keys = 141}, 1);
  auto const whole = test::attend_to(in);
  auto const part = [&](index_t first, index_t count) {
    test::outputs<float> out{test::filled<float, 4>({1, 2, 37, 8}, 7), test::filled<float, 3>({1, 2, 37}, 7), {}};
    tensor_view<float const, 4> const k(&in.key.view()(0, 0, first, 0), {1, 2, count, 8}, in.key.view().strides());
    tensor_view<float const, 4> const v(&in.value.view()(0, 0, first, 0), {1, 2, count, 8}, in.value.view().strides());
    softmax_attention(in.query.view(), k, v, out.output.view(), log_sum_exp(out.log_sum_exp.view()));
    return out;
  };
  auto const left = part(0, 60), right = part(60, 81);
  double const allowed = test::tolerance<float>(test::largest_magnitude(in.value.elements));
  for (index_t head = 0; head < 2; ++head)
    for (index_t query = 0; query < 37; ++query) {
      double const a = left.log_sum_exp.view()(0, head, query), b = right.log_sum_exp.view()(0, head, query);
      double const group_size = std::log(std::exp(a) + std::exp(b));
      EXPECT_NEAR(whole.log_sum_exp.view()(0, head, query), group_size, test::tolerance<float>(8));
      for (index_t c = 0; c < 8; ++c)
        EXPECT_NEAR(whole.output.view()(0, head, query, c),
                    std::exp(a - group_size) * left.output.view()(0, head, query, c) +
                        std::exp(b - group_size) * right.output.view()(0, head, query, c),
                    allowed);
    }
}

}  // namespace
}  // namespace attend
