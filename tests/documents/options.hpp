// SPDX-License-Identifier: BSD-3-Clause
// What the program of docs/options.md has besides: calls with many masks or scores, for one instantiation of the
// engine.
#pragma once

#include "documents/page.hpp"
#include "support/any_policy.hpp"

template <class Tensor, class... Masks>
void run_masks(Tensor const& q, Tensor const& k, Tensor const& v, Tensor& o, Masks const&... masks) {
  for (attend::test::any_mask const& mask : {attend::test::any_mask(masks)...})
    attend::softmax_attention(q, k, v, o, mask);
}

template <class Tensor, class... Scores>
void run_scores(Tensor const& q, Tensor const& k, Tensor const& v, Tensor& o, Scores const&... scores) {
  for (attend::test::any_score const& score : {attend::test::any_score(scores)...})
    attend::softmax_attention(q, k, v, o, score);
}
