// SPDX-License-Identifier: BSD-3-Clause
// What a decoder's logits say of the next token: which is the likeliest, and how likely one is.
#pragma once

#include <Eigen/Core>

#include <cmath>

namespace attend_io {

/// The first of those of the largest logit.
inline int likeliest(Eigen::RowVectorXf const& logits) {
  Eigen::Index best = 0;
  logits.maxCoeff(&best);
  return static_cast<int>(best);
}

/// ln softmax(logits)[token], in double. A logit of -inf is a token that cannot come.
inline double log_probability(Eigen::RowVectorXf const& logits, int token) {
  Eigen::RowVectorXd const wide = logits.cast<double>();
  double const most = wide.maxCoeff();
  return wide[token] - most - std::log((wide.array() - most).exp().sum());
}

}  // namespace attend_io
