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
// Cost: sorting the scores.
//
// Chao Lou, Zixia Jia, Zilong Zheng, Kewei Tu: Sparser is Faster and Less is More: Efficient Sparse Attention for
// Long-Range Transformers, 2024.
#pragma once

#include <algorithm>
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

}  // namespace attend
