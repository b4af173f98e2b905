// SPDX-License-Identifier: BSD-3-Clause
// Additive bias: tensors [batch, query head, query, key] whose axes may be shared, in any element type; -inf hides.
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/score/bias.hpp>

#include "support/expect_error.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

template <class Value>
reference::score_function added(test::tensor<Value, 4> const& tensor) {
  return [&tensor](double s, reference::place const& at) { return s + test::shared_element(tensor, at); };
}

test::sizes const grouped{.batches = 2, .query_heads = 8, .key_heads = 4, .value_heads = 2, .queries = 37, .keys = 141};

// All sixteen choices of shared axes.
template <class T, class Value>
void expect_shared_axes() {
  auto const in = test::random_inputs<T>(grouped, 2);
  for (int choice = 0; choice < 16; ++choice) {
    std::array<index_t, 4> extents{grouped.batches, grouped.query_heads, grouped.queries, grouped.keys};
    for (int axis = 0; axis < 4; ++axis)
      if (choice >> axis & 1) extents[static_cast<std::size_t>(axis)] = 1;
    auto const tensor = test::normal<Value, 4>(extents, 3);
    reference::options with;
    with.scores = {added(tensor)};
    EXPECT_TRUE(test::agrees(in, test::attend_to(in, bias(tensor.view())), with)) << choice;
  }
}

TEST(Bias, MayShareAxes) { expect_shared_axes<float, float>(); }
TEST(Bias, MayShareAxesInDouble) { expect_shared_axes<double, double>(); }

TEST(Bias, MayBeOfAnotherType) {
  expect_shared_axes<float, half>();
  expect_shared_axes<float, bfloat16>();
  expect_shared_axes<float, double>();
  expect_shared_axes<double, float>();
}

// Each of the key's heads for the query heads that share it.
TEST(Bias, MayHaveTheKeysHeads) {
  for (index_t queries : {index_t{1}, grouped.queries}) {
    test::sizes sizes = grouped;
    sizes.queries = queries;
    auto const in = test::random_inputs<float>(sizes, 2);
    auto const tensor = test::normal<float, 4>({2, grouped.key_heads, queries, grouped.keys}, 3);
    reference::options with;
    with.scores = {[&](double s, reference::place const& at) {
      return s + tensor.view()(at.batch, at.head / 2, at.query, at.key);
    }};
    EXPECT_TRUE(test::agrees(in, test::attend_to(in, bias(tensor.view())), with));
  }
}

// What is past the end is hidden, and never read (for the address sanitizer).
template <class Value>
void expect_shorter() {
  for (index_t queries : {index_t{1}, grouped.queries})
    for (index_t columns : {0, 1, 64, 129, 140, 141}) {
      test::sizes sizes = grouped;
      sizes.queries = queries;
      auto const in = test::random_inputs<float>(sizes, 2);
      auto const tensor = test::normal<Value, 4>({2, 8, queries, columns}, 3);
      reference::options with;
      with.scores = {[&](double s, reference::place const& at) {
        if (at.key >= columns) return -infinity<double>;
        return s + static_cast<double>(tensor.view()(at.batch, at.head, at.query, at.key));
      }};
      EXPECT_TRUE(test::agrees(in, test::attend_to(in, bias(tensor.view()).padded()), with)) << columns;
    }
}

TEST(Bias, MayBeShorterThanTheKeys) { expect_shorter<float>(); }
TEST(Bias, OfAnotherTypeMayBeShorterThanTheKeys) { expect_shorter<half>(); }

TEST(Bias, OnlyWhereItSaysSoMayBeShorterThanTheKeys) {
  auto const in = test::random_inputs<float>(grouped, 2);
  auto const shorter = test::normal<float, 4>({2, 8, 37, 140}, 3), longer = test::normal<float, 4>({2, 8, 37, 142}, 3);
  std::string const shape =
      "bias: expected shape [2, 8, 37, 141], or 4 heads (the key's), with 1 for an axis that is shared";
  test::expect_error((shape + ", got [2, 8, 37, 140]").c_str(), [&] { test::attend_to(in, bias(shorter.view())); });
  test::expect_error((shape + " and at most as many keys, got [2, 8, 37, 142]").c_str(),
                     [&] { test::attend_to(in, bias(longer.view()).padded()); });
}

TEST(Bias, MayLeaveOutLeadingAxes) {
  auto const in = test::random_inputs<float>(grouped, 2);
  auto const pairs = test::normal<float, 2>({grouped.queries, grouped.keys}, 1);
  auto const keys = test::normal<float, 1>({grouped.keys}, 2);
  reference::options with;
  with.scores = {[&](double s, reference::place const& at) { return s + pairs.view()(at.query, at.key); }};
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, bias(pairs.view())), with));
  with.scores = {[&](double s, reference::place const& at) { return s + keys.view()(at.key); }};
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, bias(keys.view())), with));
}

TEST(Bias, MayHaveStrides) {
  // The middle of larger rows, one plane for two batches.
  index_t const batches = 2, heads = 2, queries = 30, keys = 70, row = 100;
  auto const storage = test::normal<float, 3>({queries, heads, row}, 1);
  tensor_view<float const, 4> const view(storage.view().data() + 11, {batches, heads, queries, keys},
                                         {0, row, heads * row, 1});
  auto const in =
      test::random_inputs<float>({.batches = batches, .query_heads = heads, .queries = queries, .keys = keys}, 2);
  reference::options with;
  with.scores = {
      [&](double s, reference::place const& at) { return s + storage.view()(at.query, at.head, at.key + 11); }};
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, bias(view)), with));
}

TEST(Bias, OfMinusInfinityHides) {
  auto const in = test::random_inputs<float>(grouped, 2);
  auto tensor = test::normal<float, 4>({1, grouped.query_heads, grouped.queries, grouped.keys}, 3);
  std::mt19937 engine(4);
  for (float& element : tensor.elements)
    if (engine() % 2) element = -infinity<float>;
  // One row of one head sees nothing at all.
  std::fill_n(&tensor.view()(0, 2, 5, 0), grouped.keys, -infinity<float>);
  reference::options with;
  with.scores = {added(tensor)};
  auto const out = test::attend_to(in, bias(tensor.view()));
  EXPECT_TRUE(test::agrees(in, out, with));
  EXPECT_EQ(out.log_sum_exp.view()(1, 2, 5), -infinity<float>);
  EXPECT_EQ(out.output.view()(1, 2, 5, 0), 0);
}

TEST(Bias, CombinesWithCausal) {
  auto const in = test::random_inputs<float>(grouped, 2);
  auto const tensor = test::normal<float, 4>({1, grouped.query_heads, grouped.queries, grouped.keys}, 3);
  reference::options with;
  with.scores = {added(tensor)};
  with.visible = [](reference::place const& at) { return at.key <= at.query; };
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, bias(tensor.view()), causal{top_left}), with));
}

}  // namespace
}  // namespace attend
