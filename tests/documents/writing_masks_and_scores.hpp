// SPDX-License-Identifier: BSD-3-Clause
// What the program of docs/writing_masks_and_scores.md has at hand: tensors, and what a rule written as a plain
// function gives for them.
#pragma once

#include <gmock/gmock.h>

#include <attend/attend.hpp>

#include "support/problem.hpp"

class page : public testing::Test {
 protected:
  using place = attend::reference::place;

  static constexpr int batches = 2, tokens = 150;
  attend::test::inputs<float> const in = attend::test::random_inputs<float>(
      {.batches = batches, .query_heads = 4, .key_heads = 2, .value_heads = 2, .queries = tokens, .keys = tokens}, 1);
  attend::test::tensor<float, 4> output =
      attend::test::filled<float, 4>({batches, 4, tokens, in.size.value_dimension}, 7);
  attend::tensor_view<float const, 4> const q = in.query.view(), k = in.key.view(), v = in.value.view();
  attend::tensor_view<float, 4> const o = output.view();

  /// What was computed last is what the definition gives.
  void expect(attend::reference::options const& with) {
    auto const expected = attend::reference::softmax_attention<float>(q, k, v, with);
    EXPECT_TRUE(attend::test::near(output.elements, expected.output, attend::test::tolerance<float>(8)));
  }
  void expect_mask(attend::reference::visible_function const& visible) {
    attend::reference::options with;
    with.visible = visible;
    expect(with);
  }
  void expect_score(bool causal, attend::reference::score_function const& score) {
    attend::reference::options with;
    with.scores = {score};
    if (causal) with.visible = [](auto const& at) { return at.key <= at.query; };
    expect(with);
  }
};
