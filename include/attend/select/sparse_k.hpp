// SPDX-License-Identifier: BSD-3-Clause
// The SparseK operator: the point that is nearest to a vector of scores among those with elements from 0 to 1 whose sum
// is k. It is a soft top-k with exact zeros and ones.
//
//   sparse_k(u, k) = argmin_p |p - u|^2 with 0 <= p <= 1, sum p = k  =  clip(u - tau, 0, 1)
//
// for the one tau at which the sum is k. For k >= count all elements are 1, and such a tau need not exist.
//
// The sum is piecewise linear in tau, with corners at u_j and u_j - 1. Starting at the largest score, tau is lowered
// from corner to corner; one sort gives the order of both kinds. With r elements above 0, of which w are 1, the sum
// grows by (r - w) times the decrease of tau. Nothing is ever subtracted from the sum, so scores may differ by any
// amount that floats can represent.
//
// running_sparse_k adds the scores of a sequence one by one. A new score never lowers tau, so an element that is 0
// stays 0, and tau is raised from corner to corner, beginning with its last value.
//
// Cost: sorting the scores; for running_sparse_k, an insertion into the sorted scores above 0 for each token.
//
// Chao Lou, Zixia Jia, Zilong Zheng, Kewei Tu: Sparser is Faster and Less is More: Efficient Sparse Attention for
// Long-Range Transformers, 2024.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "../core/arithmetic_mode.hpp"
#include "../core/error.hpp"
#include "../core/order.hpp"
#include "../core/scratch.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// Whether a score counts: -inf and NaN count as missing. In descending order they follow all other scores.
template <class A>
bool is_score(A score) {
  return score > -infinity<A>;
}
/// The score, or the largest finite number in place of infinity.
template <class A>
A finite_score(A score) {
  return std::min(score, std::numeric_limits<A>::max());
}

/// tau for scores in descending order, where 0 < k < count.
template <class A>
double sparse_k_threshold(A const* falling, index_t count, index_t k) {
  double const wanted = static_cast<double>(k);
  double tau = static_cast<double>(falling[0]), sum = 0;
  for (index_t r = 0, w = 0;;) {
    double const starts = r < count ? static_cast<double>(falling[r]) : -infinity<double>;
    double const fills = w < r ? static_cast<double>(falling[w]) - 1 : -infinity<double>;
    double const corner = std::max(starts, fills), between = static_cast<double>(r - w);
    double const grown = r > w ? sum + between * (tau - corner) : sum;
    if (grown >= wanted) return r > w ? tau - (wanted - sum) / between : tau;
    tau = corner;
    sum = grown;
    if (starts >= fills)
      ++r;
    else  // The element is 1 from this corner on, also where u - 1 was rounded.
      sum += 1 - (static_cast<double>(falling[w++]) - corner);
  }
}

}  // namespace detail

namespace selection {

/// Writes `count` weights, whose sum is k, or the number of scores where that is smaller. Scores that are -inf or NaN
/// count as missing: their weights are 0. Throws argument_error for a negative count or k.
///
///     float const scores[] = {3, 1, 2};
///     float weights_of_scores[3];
///     sparse_k(scores, 3, 2, weights_of_scores);
template <class A>
void sparse_k(A const* scores, index_t count, index_t k, A* weights) {
  extend::arithmetic_mode const arithmetic;
  if (count < 0) extend::fail("count", "expected at least 0, got ", count);
  if (k < 0) extend::fail("k", "expected at least 0, got ", k);
  extend::scratch memory;
  A* const sorted = memory.allocate<A>(count);
  index_t there = 0;
  for (index_t j = 0; j < count; ++j)
    if (detail::is_score(scores[j])) sorted[there++] = detail::finite_score(scores[j]);
  double tau = k == 0 ? extend::infinity<double> : -extend::infinity<double>;
  if (k > 0 && k < there) {
    std::sort(sorted, sorted + there, detail::descending{});
    tau = detail::sparse_k_threshold(sorted, there, k);
  }
  for (index_t j = 0; j < count; ++j)
    weights[j] = detail::is_score(scores[j])
                     ? static_cast<A>(std::clamp(static_cast<double>(detail::finite_score(scores[j])) - tau, 0.0, 1.0))
                     : A(0);
}

/// The weights of a growing list of scores, and those of its tokens that have the k largest scores.
template <class A>
class running_sparse_k {
 public:
  /// An empty list, with memory for `most` tokens.
  running_sparse_k(extend::scratch& memory, index_t most, index_t k)
      : k_(k), score_(memory.allocate<A>(most)), token_(memory.allocate<std::int32_t>(most)) {}

  /// The weight of a token is clip(score - tau, 0, 1). tau is -inf as long as all weights are 1.
  double tau() const { return tau_; }

  /// Adds a token, and returns the token that is then not among the k tokens with the largest scores: one that was
  /// among them before, or the new token itself; -1 if there were fewer than k. Of two equal scores the later one is
  /// dropped.
  index_t add(index_t token, A score) {
    extend::arithmetic_mode const arithmetic;
    if (k_ == 0 || !detail::is_score(score) || static_cast<double>(score) <= tau_) return token;
    score = detail::finite_score(score);
    index_t const at = std::upper_bound(score_, score_ + above_, score, detail::descending{}) - score_;
    std::copy_backward(score_ + at, score_ + above_, score_ + above_ + 1);
    std::copy_backward(token_ + at, token_ + above_, token_ + above_ + 1);
    score_[at] = score;
    token_[at] = static_cast<std::int32_t>(token);
    ++above_;
    if (static_cast<double>(score) - 1 >= tau_)
      ++full_;
    else
      sum_ += static_cast<double>(score);
    index_t const gone = above_ > k_ ? token_[k_] : -1;
    raise();
    return at >= k_ ? token : gone;
  }

 private:
  void raise() {
    while (above_ > k_) {
      double const leaves = static_cast<double>(score_[above_ - 1]);
      double const starts = full_ > 0 ? static_cast<double>(score_[full_ - 1]) - 1 : extend::infinity<double>;
      double const corner = std::min(leaves, starts), between = static_cast<double>(above_ - full_);
      if (static_cast<double>(full_) + sum_ - between * corner <= static_cast<double>(k_)) {
        if (above_ > full_) tau_ = (sum_ - static_cast<double>(k_ - full_)) / between;
        return;
      }
      tau_ = corner;
      if (starts <= leaves)
        sum_ += static_cast<double>(score_[--full_]);
      else
        sum_ -= static_cast<double>(score_[--above_]);
    }
  }

  index_t k_;
  A* score_;  // the scores above tau, in descending order
  std::int32_t* token_;
  index_t above_ = 0, full_ = 0;
  double sum_ = 0, tau_ = -extend::infinity<double>;  // sum_ is that of the scores whose weights are between 0 and 1
};

}  // namespace selection

}  // namespace attend::inline ATTEND_TARGET
