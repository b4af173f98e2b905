// The SparseK operator: the nearest point to some scores whose elements are from 0 to 1 and sum up to k. It is a soft
// top-k with exact zeros and ones.
//
//   sparse_k(u, k) = argmin_p |p - u|^2 with 0 <= p <= 1, sum p = k  =  clip(u - tau, 0, 1)
//
// for the one tau at which the sum is k. k >= count gives all ones, where no such tau need exist.
//
// The sum is piecewise linear in tau. Its corners, u_j and u_j - 1, are walked downwards, those of both kinds in the
// order of one sort; with r elements above 0 and w of them at 1,
//
//   tau = (sum of the r - sum of the w - (k - w)) / (r - w)
//
// running_sparse_k takes the scores of a sequence one by one. tau never falls when a score comes, so what is at 0 once
// stays there, and the corners are walked upwards from where they were.
//
// Cost: sorting the scores; running, an insertion into the sorted scores above 0.
//
// Chao Lou, Zixia Jia, Zilong Zheng, Kewei Tu: Sparser is Faster and Less is More: Efficient Sparse Attention for
// Long-Range Transformers, 2024.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

#include "../core/error.hpp"
#include "../core/scratch.hpp"

namespace attend {

/// Writes `count` weights, of which the sum is k, or count where that is less. Throws argument_error for a negative
/// count or k. Scores are finite.
template <class A>
void sparse_k(A const* scores, index_t count, index_t k, A* weights) {
  if (count < 0) fail("count", "expected at least 0, got ", count);
  if (k < 0) fail("k", "expected at least 0, got ", k);
  if (k >= count || k == 0) {
    std::fill_n(weights, count, k == 0 ? A(0) : A(1));
    return;
  }
  scratch memory;
  A* const sorted = memory.take<A>(count);
  std::copy_n(scores, count, sorted);
  std::sort(sorted, sorted + count, std::greater<A>());
  // Sums in double: tau is a difference of two of them.
  double above = 0, full = 0, tau = 0;
  for (index_t r = 0, w = 0;;) {
    double const starts = r < count ? static_cast<double>(sorted[r]) : -infinity<double>;
    double const fills = w < r ? static_cast<double>(sorted[w]) - 1 : -infinity<double>;
    double const corner = std::max(starts, fills);
    double const sum = static_cast<double>(w) + (above - full) - static_cast<double>(r - w) * corner;
    if (sum >= static_cast<double>(k)) {
      tau = r > w ? (above - full - static_cast<double>(k - w)) / static_cast<double>(r - w) : corner;
      break;
    }
    if (starts >= fills)
      above += static_cast<double>(sorted[r++]);
    else
      full += static_cast<double>(sorted[w++]);
  }
  for (index_t j = 0; j < count; ++j)
    weights[j] = static_cast<A>(std::clamp(static_cast<double>(scores[j]) - tau, 0.0, 1.0));
}

/// The weights of a growing list of scores, and which of its tokens have the k largest of them.
template <class A>
class running_sparse_k {
 public:
  /// Room for `most` tokens.
  running_sparse_k(scratch& memory, index_t most, index_t k)
      : k_(k), score_(memory.take<A>(most)), token_(memory.take<std::int32_t>(most)) {}

  /// A token's weight is clip(score - tau, 0, 1). -inf as long as all are 1.
  double tau() const { return tau_; }

  /// Takes a token, and gives the one that is then no more among the k with the largest scores: one that was, or the
  /// token itself. -1: there was room. The later one of two equal scores goes.
  index_t add(index_t token, A score) {
    if (k_ == 0 || static_cast<double>(score) <= tau_) return token;
    index_t const at = std::upper_bound(score_, score_ + above_, score, std::greater<A>()) - score_;
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
      double const starts = full_ > 0 ? static_cast<double>(score_[full_ - 1]) - 1 : infinity<double>;
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
  A* score_;  // those above tau, falling
  std::int32_t* token_;
  index_t above_ = 0, full_ = 0;
  double sum_ = 0, tau_ = -infinity<double>;  // sum of the scores whose weights are between 0 and 1
};

}  // namespace attend
