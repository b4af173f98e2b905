// SPDX-License-Identifier: BSD-3-Clause
// Systems of fixed patterns that are said in options: each against its own formula.
#include <attend/policy/mask/boolean_mask.hpp>
#include <attend/policy/mask/patterns.hpp>
#include <attend/policy/score/bias.hpp>

#include "support/any_policy.hpp"
#include "support/boolean_tensor.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

TEST(PatternSystems, FocusIclCountsTheQuestionOncePerBatch) {
  // Each batch of demonstrations and the question have a softmax of their own; their outputs are weighted by the sums
  // of exponentials. That is one softmax in which the question's keys count as often as there are batches.
  index_t const batch = 40, batches = 3, question = 20, tokens = batch * batches + question, start = batch * batches;
  auto const in = test::random_inputs<float>({.query_heads = 2, .queries = tokens, .keys = tokens}, 3);
  std::vector<index_t> numbers;
  for (index_t t = 0; t < tokens; ++t) numbers.push_back(t / batch);
  auto out = test::filled<float, 4>({1, 2, tokens, 8}, 7.f);
  auto const counted = score([=](auto s, auto const& at) {
    return select((at.query_position >= float(start)) && (at.key_position >= float(start)),
                  s + std::log(float(batches)), s);
  });
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(),
                    (documents(numbers) | queries_in(start, tokens)) & causal{}, counted);

  for (index_t h = 0; h < 2; ++h)
    for (index_t i = start; i < tokens; ++i)
      for (index_t c = 0; c < 8; ++c) {
        double sum = 0, weight_sum = 0;
        for (index_t b = 0; b < batches; ++b)
          for (index_t j = 0; j <= i; ++j) {
            if (j < start && j / batch != b) continue;
            double s = 0;
            for (index_t d = 0; d < 8; ++d) s += double(in.query.view()(0, h, i, d)) * in.key.view()(0, 0, j, d);
            double const weight = std::exp(s / std::sqrt(8.));
            weight_sum += weight;
            sum += weight * in.value.view()(0, 0, j, c);
          }
        EXPECT_NEAR(out.view()(0, h, i, c), sum / weight_sum,
                    test::tolerance<float>(test::largest_magnitude(in.value.elements)));
      }
}

TEST(PatternSystems, DeepGraphLetsSubstructuresSeeTheirMembers) {
  // Nodes see everything; a substructure sees itself and its nodes. Logits have a bias by distance in the graph.
  index_t const nodes = 60, tokens = 75;
  auto const in = test::random_inputs<float>({.query_heads = 2, .queries = tokens, .keys = tokens}, 4);
  auto const member = [=](index_t i, index_t j) { return i == j || (j < nodes && j % 15 == i - nodes); };
  std::unique_ptr<bool[]> const members(new bool[tokens * tokens]);
  for (index_t i = 0; i < tokens; ++i)
    for (index_t j = 0; j < tokens; ++j) members[i * tokens + j] = member(i, j);
  tensor_view<bool const, 2> const view(members.get(), {tokens, tokens});
  auto const distances = test::normal<float, 4>({1, 2, tokens, tokens}, 5);
  reference::options with;
  with.visible = [=](reference::place const& at) { return at.query < nodes || member(at.query, at.key); };
  with.scores.push_back([&](double s, reference::place const& at) { return s + test::shared_element(distances, at); });
  EXPECT_TRUE(
      test::agrees(in, test::attend_to(in, queries_in(0, nodes) | boolean_mask(view), bias(distances.view())), with));
}

TEST(PatternSystems, LocalCrossAttention) {
  index_t const tokens = 170;
  auto const in = test::random_inputs<float>({.query_heads = 2, .queries = tokens, .keys = tokens}, 6);
  reference::options with;
  // UnifiedGesture: blocks of six frames see themselves and the block before, causally.
  with.visible = [](reference::place const& at) { return at.key <= at.query && at.query / 6 - at.key / 6 <= 1; };
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, test::any_mask(block_window(6, 6) & causal{})), with));
  // TKL: chunks of forty tokens with five more on either side.
  with.visible = [](reference::place const& at) {
    index_t const chunk = at.query / 40;
    return at.key >= chunk * 40 - 5 && at.key < chunk * 40 + 45;
  };
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, test::any_mask(block_window(40, 5, 5))), with));
  // Efficient-VQGAN: blocks come one after the other, and see all of themselves.
  with.visible = [](reference::place const& at) { return at.key / 32 <= at.query / 32; };
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, test::any_mask(block_window(32, -1))), with));
}

}  // namespace
}  // namespace attend
