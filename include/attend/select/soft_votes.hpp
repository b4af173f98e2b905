// SPDX-License-Identifier: BSD-3-Clause
// Votes that heads, whose scores have different ranges, give to candidates: each head has as many votes as any other.
//
//   votes[j] += weight * softmax over j of scores[j]
//
// A score that is NaN gets the weight 0, and changes no other weight.
//
// Cost: an exponential for each score.
#pragma once

#include <algorithm>
#include <limits>
#include <numeric>

#include "../simd/math.hpp"
#include "page_kinds.hpp"

namespace attend::inline ATTEND_TARGET::detail {

/// Adds the votes of one head. `scores` is aligned, has room for whole vectors, and is overwritten.
inline void add_soft_votes(float* scores, index_t count, float weight, float* votes) {
  using namespace simd;
  using lanes = simd::vector<float>;
  constexpr float limit = std::numeric_limits<float>::max();
  constexpr index_t step = width<float>;
  if (count == 0) return;
  index_t const padded = round_up(count, step);
  std::fill(scores + count, scores + padded, -infinity<float>);
  lanes most(-infinity<float>), sum(0.f);
  for (index_t j = 0; j < padded; j += step) {
    lanes const score = load(scores + j);
    lanes const finite =
        simd::clamp<float>(simd::select(score == score, score, lanes(-limit)), lanes(-limit), lanes(limit));
    store(scores + j, finite);
    most = simd::max(most, finite);
  }
  alignas(64) float each[array_size(width<float>)];
  store(each, most);
  lanes const largest(*std::max_element(each, each + step));
  for (index_t j = 0; j < padded; j += step) {
    lanes const one = exp2<float>((load(scores + j) - largest) * lanes(static_cast<float>(log2_e)));
    store(scores + j, one);
    sum = sum + one;
  }
  store(each, sum);
  float const share = weight / std::accumulate(each, each + step, 0.f);
  combine_rows(votes, scores, count,
               [&](auto const& a, auto const& b) { return fused_multiply_add<float>(b, lanes(share), a); });
}

}  // namespace attend::inline ATTEND_TARGET::detail
