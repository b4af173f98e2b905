// SPDX-License-Identifier: BSD-3-Clause
// Context-aware cross-attention: a gate between attention to a window of the source and to all of it.
#include <attend/attention/softmax/context_aware_cross_attention.hpp>

#include "support/expect_error.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace systems;

namespace {

TEST(ContextAwareCrossAttention, MixesLocalAndGlobal) {
  for (auto [queries, keys] : {std::pair<index_t, index_t>{40, 70}, {1100, 30}, {1, 1}, {0, 5}}) {
    auto const in = test::random_inputs<float>({.batches = 2, .query_heads = 2, .queries = queries, .keys = keys}, 3);
    auto gates = test::normal<float, 3>({2, 1, queries}, 4);
    for (float& g : gates.elements) g = 1 / (1 + std::exp(-g));
    std::vector<float> centres;
    for (index_t i = 0; i < queries; ++i) centres.push_back(static_cast<float>(i * keys) / static_cast<float>(queries));
    auto out = test::filled<float, 4>({2, 2, queries, 8}, 7.f);
    context_aware_cross_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), gates.view(), centres,
                                  5.);

    reference::options with;
    auto const global = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), with);
    with.visible = [&](reference::place const& at) {
      return std::abs(static_cast<double>(at.key) - centres[static_cast<std::size_t>(at.query)]) <= 5;
    };
    auto const local = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), with);
    std::vector<double> expected;
    for (std::size_t i = 0; i < global.output.size(); ++i) {
      std::size_t const row = i / 8, batch = row / static_cast<std::size_t>(2 * queries);
      double const g =
          gates.elements[batch * static_cast<std::size_t>(queries) + row % static_cast<std::size_t>(queries)];
      expected.push_back(g * local.output[i] + (1 - g) * global.output[i]);
    }
    EXPECT_TRUE(
        test::near(out.elements, expected, 2 * test::tolerance<float>(test::largest_magnitude(in.value.elements))))
        << queries << " queries, " << keys << " keys";
  }
}

TEST(ContextAwareCrossAttention, RefusesWhatDoesNotFit) {
  auto const in = test::random_inputs<float>({.queries = 20, .keys = 20}, 3);
  auto out = test::filled<float, 4>({1, 1, 20, 8}, 7.f);
  std::vector<float> const good(20, 0.5f), few(19, 0.5f);
  auto const expect = [&](std::string const& message, auto const& gates, auto const& centres, double reach) {
    test::expect_error(message, [&] {
      context_aware_cross_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), gates, centres, reach);
    });
    for (float x : out.elements) EXPECT_EQ(x, 7);
  };
  std::string const shape =
      "expected shape [1, 1, 20] (batch, query head, query) with 1 for an axis that is shared, got [1, 1, 19]";
  expect("gates: " + shape, few, good, 1);
  expect("centred_window: " + shape, good, few, 1);
  expect("centred_window: expected a reach of at least 0, got -1", good, good, -1);
  test::expect_scale_error([&](scale const& factor) {
    context_aware_cross_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), good, good, 1, factor);
  });
  for (float x : out.elements) EXPECT_EQ(x, 7);
}

TEST(ContextAwareCrossAttention, RefusesMemoryThatAnyOfItsPartsReads) {
  // Longer than what is answered at a time.
  index_t const tokens = 1024;
  auto memory = test::filled<float, 4>({1, 2, tokens, 4}, 7.f);
  auto const in = test::normal<float, 4>({1, 1, tokens, 4}, 3);
  std::vector<float> const even(1024, 0.5f);
  auto const rows_from = [&](index_t first) {
    return tensor_view<float, 4>(memory.elements.data() + first * 4, {1, 1, tokens, 4});
  };
  auto const expect = [&](std::string const& input, auto const& q, auto const& k, auto const& gates,
                          auto const& centres) {
    test::expect_error("output: expected memory of its own, got memory that overlaps " + input, [&] {
      context_aware_cross_attention(q, k, tensor_view<float const, 4>(in.elements.data(), {1, 1, k.extent(2), 4}),
                                    rows_from(512), gates, centres, 5.);
    });
    for (float x : memory.elements) ASSERT_EQ(x, 7);
  };
  tensor_view<float, 1> const numbers(memory.elements.data() + 4 * 1500, {tokens});
  expect("query", rows_from(0), in.view(), even, even);
  expect("key", in.view(), tensor_view<float, 4>(memory.elements.data() + 4 * 1200, {1, 1, 100, 4}), even, even);
  expect("gates", in.view(), in.view(), numbers, even);
  expect("centres", in.view(), in.view(), even, numbers);
}

}  // namespace
}  // namespace attend
