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
// stays 0, and tau is raised from corner to corner, beginning with its last value. An element leaves 1 once and becomes
// 0 once: three heaps, of the elements that are 1, of those between, and of the k largest, have in front what is next.
//
// How many elements are above 0 has no bound (of n equal scores all n are k / n), so a list of constant memory
// remembers the `most` largest scores alone: the operator's result on these, which is that on all of them as long as no
// more are above 0.
//
// Cost: sorting the scores; for running_sparse_k, O(log most) for each token.
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
  /// A token among the k with the largest scores, and its place, from 0 to k - 1, which it keeps as long as it is one.
  struct ranked {
    A score;
    std::int32_t token, place;
  };
  /// How many numbers a list needs for the scores.
  static constexpr index_t numbers(index_t most, index_t k) { return most + k + 2; }

  /// An empty list that remembers the `most` >= k largest scores above tau, in the caller's memory of
  /// numbers(most, k) scores and k ranked tokens.
  running_sparse_k(index_t most, index_t k, A* scores, ranked* best)
      : k_(k), most_(most), part_(scores), full_(scores + most + 1), best_(best) {}
  /// The same in scratch memory.
  running_sparse_k(extend::scratch& memory, index_t most, index_t k)
      : running_sparse_k(most, k, memory.allocate<A>(numbers(most, k)), memory.allocate<ranked>(k + 1)) {}

  /// The weight of a token is clip(score - tau, 0, 1). tau is -inf as long as all weights are 1.
  double tau() const { return tau_; }
  /// How many tokens have places: the places below are taken.
  index_t count() const { return count_; }
  /// Whether tau is that of all scores that were added: whether none above it had to be forgotten.
  bool is_exact() const { return exact_; }

  /// What adding a token changes: the token that is not among the k with the largest scores any more, or that never
  /// was, if it is the new one, -1 if there is none; and the place of the new token, -1 if it has none.
  struct change {
    index_t gone, place;
  };
  /// Adds a token, whose number is larger than those before. Of two equal scores the later one is dropped.
  change add(index_t token, A score) {
    extend::arithmetic_mode const arithmetic;
    if (k_ == 0 || !detail::is_score(score) || static_cast<double>(score) <= tau_) return {token, -1};
    score = detail::finite_score(score);
    if (full_count_ + part_count_ == most_ && !forget_smallest(score)) return {token, -1};
    if (static_cast<double>(score) - 1 >= tau_)
      push(full_, full_count_, score, detail::descending{});
    else
      push_part(score);
    change const result = rank(token, score);
    raise();
    return result;
  }

 private:
  struct better {
    bool operator()(ranked const& a, ranked const& b) const {
      return a.score > b.score || (a.score == b.score && a.token < b.token);
    }
  };

  // Heaps with the smallest number, or the worst token, in front.
  template <class T, class Order>
  static void push(T* heap, index_t& count, T const& one, Order const& order) {
    heap[count++] = one;
    std::push_heap(heap, heap + count, order);
  }
  template <class T, class Order>
  static T pop(T* heap, index_t& count, Order const& order) {
    std::pop_heap(heap, heap + count, order);
    return heap[--count];
  }
  void push_part(A score) {
    push(part_, part_count_, score, detail::descending{});
    sum_ += static_cast<double>(score);
  }
  void pop_part() {
    double const gone = static_cast<double>(pop(part_, part_count_, detail::descending{}));
    sum_ = part_count_ > 0 ? sum_ - gone : 0;
  }

  /// Makes room for a score, if the smallest one is below it. The scores that are left are larger one by one than those
  /// before, so that tau is not lowered.
  bool forget_smallest(A score) {
    exact_ = false;
    if (score <= (part_count_ > 0 ? part_[0] : full_[0])) return false;
    if (part_count_ > 0)
      pop_part();
    else
      pop(full_, full_count_, detail::descending{});
    return true;
  }

  change rank(index_t token, A score) {
    auto const number = static_cast<std::int32_t>(token);
    if (count_ < k_) {
      index_t const place = count_;
      push(best_, count_, {score, number, static_cast<std::int32_t>(place)}, better{});
      return {-1, place};
    }
    if (score <= best_[0].score) return {token, -1};
    ranked const worst = pop(best_, count_, better{});
    push(best_, count_, {score, number, worst.place}, better{});
    return {worst.token, worst.place};
  }

  void raise() {
    while (full_count_ + part_count_ > k_) {
      double const leaves = part_count_ > 0 ? static_cast<double>(part_[0]) : extend::infinity<double>;
      double const starts = full_count_ > 0 ? static_cast<double>(full_[0]) - 1 : extend::infinity<double>;
      double const corner = std::min(leaves, starts), between = static_cast<double>(part_count_);
      // The difference comes first: beside scores as large as a mask's -1e30 a count would vanish.
      if (part_count_ > 0 && full_count_ <= k_ && sum_ - between * corner <= static_cast<double>(k_ - full_count_)) {
        tau_ = (sum_ - static_cast<double>(k_ - full_count_)) / between;
        return;
      }
      tau_ = corner;
      if (starts <= leaves)
        push_part(pop(full_, full_count_, detail::descending{}));
      else
        pop_part();
    }
  }

  index_t k_, most_;
  A *part_, *full_;  // scores whose weights are between 0 and 1, and 1
  ranked* best_;
  index_t part_count_ = 0, full_count_ = 0, count_ = 0;
  double sum_ = 0, tau_ = -extend::infinity<double>;  // sum_ is that of part_
  bool exact_ = true;
};

}  // namespace selection

}  // namespace attend::inline ATTEND_TARGET
