// SPDX-License-Identifier: BSD-3-Clause
// Softmax attention as cascades of one, two and three passes over the keys of a query: three ways to the same numbers,
// which differ in what they keep. Oracles for the online softmax.
//
//   three passes   m = max_j s_j;  z = sum_j exp(s_j - m);  o = sum_j (exp(s_j - m) / z) v_j
//   two passes     m and z together, each chunk rescaling z;  then o
//   one pass       m, z and o together; one division at the end
//
// Nandeeka Nayak et al.: FuseMax: Leveraging Extended Einsums to Optimize Attention Accelerator Design, 2024.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "../core/types.hpp"

namespace attend::inline ATTEND_TARGET::reference {

using row = std::vector<double>;

/// logits [key], values [key][dimension] -> [dimension].
inline row three_pass(row const& logits, std::vector<row> const& values) {
  double m = -infinity<double>, z = 0;
  for (double s : logits) m = std::max(m, s);
  for (double s : logits) z += std::exp(s - m);
  row o(values.empty() ? 0 : values[0].size(), 0.0);
  for (std::size_t j = 0; j < logits.size(); ++j)
    for (std::size_t c = 0; c < o.size(); ++c) o[c] += std::exp(logits[j] - m) / z * values[j][c];
  return o;
}

/// The same, in chunks of `chunk` keys.
inline row two_pass(row const& logits, std::vector<row> const& values, std::size_t chunk) {
  double m = -infinity<double>, z = 0;
  for (std::size_t first = 0; first < logits.size(); first += chunk) {
    std::size_t const last = std::min(first + chunk, logits.size());
    double const risen = std::max(m, *std::max_element(logits.begin() + static_cast<std::ptrdiff_t>(first),
                                                       logits.begin() + static_cast<std::ptrdiff_t>(last)));
    z *= std::exp(m - risen);
    for (std::size_t j = first; j < last; ++j) z += std::exp(logits[j] - risen);
    m = risen;
  }
  row o(values.empty() ? 0 : values[0].size(), 0.0);
  for (std::size_t j = 0; j < logits.size(); ++j)
    for (std::size_t c = 0; c < o.size(); ++c) o[c] += std::exp(logits[j] - m) / z * values[j][c];
  return o;
}

/// The same, in chunks of `chunk` keys.
inline row one_pass(row const& logits, std::vector<row> const& values, std::size_t chunk) {
  double m = -infinity<double>, z = 0;
  row o(values.empty() ? 0 : values[0].size(), 0.0);
  for (std::size_t first = 0; first < logits.size(); first += chunk) {
    std::size_t const last = std::min(first + chunk, logits.size());
    double const risen = std::max(m, *std::max_element(logits.begin() + static_cast<std::ptrdiff_t>(first),
                                                       logits.begin() + static_cast<std::ptrdiff_t>(last)));
    double const shrink = std::exp(m - risen);
    z *= shrink;
    for (double& sum : o) sum *= shrink;
    for (std::size_t j = first; j < last; ++j) {
      double const weight = std::exp(logits[j] - risen);
      z += weight;
      for (std::size_t c = 0; c < o.size(); ++c) o[c] += weight * values[j][c];
    }
    m = risen;
  }
  for (double& sum : o) sum /= z;
  return o;
}

}  // namespace attend::inline ATTEND_TARGET::reference
