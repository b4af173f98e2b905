// SPDX-License-Identifier: BSD-3-Clause
// What SeerAttention's gate learns: the largest true weights of blocks, as a distribution of each block of queries, and
// the loss by which it does.
//
//   M_IJ = max_{i in I, j in J} p_ij        the 2-D max-pooled attention map, block_maxima of the call
//   T_IJ = M_IJ / sum_J M_IJ                row-normalized
//   loss = mean_I KL(T_I || G_I) = mean_I sum_J T_IJ ln(T_IJ / G_IJ)        G the gate's softmax over blocks
//
// The map comes out of the pass that computes attention: the largest logit of each row and block of keys is rescaled by
// the row's log-sum-exp at its end, so that no map of queries x keys is stored.
//
// Yizhao Gao, Zhichen Zeng, Dayou Du, Shijie Cao, Hayden Kwok-Hay So, Ting Cao, Fan Yang, Mao Yang: SeerAttention:
// Learning Intrinsic Sparse Attention in Your LLMs, 2024.
#pragma once

#include <cmath>

#include "../../core/check.hpp"
#include "../../core/tensor_view.hpp"

namespace attend::inline ATTEND_TARGET::systems {

/// Makes a target of the maxima of blocks, [batch, query head, block of queries, block of keys], in place: each row is
/// divided by its sum. A row of zeros, whose queries see nothing, stays one. Throws argument_error where memory does
/// not fit.
///
///     tensor<4> maxima(1, 32, 8, 8);
///     softmax_attention(q, k, v, o, causal{}, block_maxima(maxima));
///     seer_target(maxima);
template <TensorArgument Maxima>
void seer_target(Maxima&& maxima) {
  using A = element_of_t<Maxima>;
  auto const rows = raise<4>(view_of(maxima));
  detail::check_output_view("maxima", rows);
  for (index_t b = 0; b < rows.extent(0); ++b)
    for (index_t h = 0; h < rows.extent(1); ++h)
      for (index_t i = 0; i < rows.extent(2); ++i) {
        double sum = 0;
        for (index_t j = 0; j < rows.extent(3); ++j) sum += static_cast<double>(rows(b, h, i, j));
        if (sum == 0) continue;
        for (index_t j = 0; j < rows.extent(3); ++j)
          rows(b, h, i, j) = static_cast<A>(static_cast<double>(rows(b, h, i, j)) / sum);
      }
}

/// The loss of a gate's distributions, of the target's shape: the divergence KL(target || gate), averaged over the rows
/// that have a target. It is infinite where the gate gives 0 to a block that has a target. Throws argument_error where
/// shapes do not fit.
///
///     double const loss = seer_loss(pairs, pairs2);
template <TensorArgument Target, TensorArgument Gate>
double seer_loss(Target const& target, Gate const& gate) {
  auto const wanted = raise<4>(view_of(target));
  auto const given = raise<4>(view_of(gate));
  detail::check_view("target", wanted);
  detail::check_view("gate", given);
  if (given.extents() != wanted.extents())
    fail("gate", "expected shape ", detail::shape_text<4>(wanted.extents()), " (as target), got ",
         detail::shape_text<4>(given.extents()));
  double sum = 0;
  index_t rows = 0;
  for (index_t b = 0; b < wanted.extent(0); ++b)
    for (index_t h = 0; h < wanted.extent(1); ++h)
      for (index_t i = 0; i < wanted.extent(2); ++i) {
        bool any = false;
        for (index_t j = 0; j < wanted.extent(3); ++j) {
          double const t = static_cast<double>(wanted(b, h, i, j));
          if (t == 0) continue;
          any = true;
          sum += t * (std::log(t) - std::log(static_cast<double>(given(b, h, i, j))));
        }
        rows += any;
      }
  return rows == 0 ? 0 : sum / static_cast<double>(rows);
}

}  // namespace attend::inline ATTEND_TARGET::systems
