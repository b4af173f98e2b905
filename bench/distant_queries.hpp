// SPDX-License-Identifier: BSD-3-Clause
// Queries and keys as attention has them: both come from hidden states of tokens, by different maps, so queries have
// another distribution than keys, and each other's nearest keys are far from them.
//
//   x = topic + noise, channels with standard deviation 2 / sqrt(channel), 64 tokens with a topic in a row
//   key = W_k x + b_k,  query of head h = W_h x + b_h        all W and b normal, W / sqrt(channels)
#pragma once

#include <Eigen/Core>

#include <attend/core/types.hpp>
#include <cmath>
#include <random>

#include "random_tensor.hpp"

namespace attend_bench {

using attend::index_t;

class distant_queries {
 public:
  using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

  distant_queries(index_t dimension, unsigned seed) : dimension_(dimension), engine_(seed), topics_(512, channels) {
    for (index_t c = 0; c < channels; ++c) topics_.col(c).setConstant(2 / std::sqrt(static_cast<float>(c + 1)));
    spread_ = topics_.row(0);
    for (index_t i = 0; i < topics_.size(); ++i) topics_.data()[i] *= normal_(engine_);
  }

  /// A map of hidden states, for keys or for the queries of a head.
  struct map {
    matrix weight;
    Eigen::RowVectorXf bias;
  };
  map make_map() {
    map to{matrix(channels, dimension_), Eigen::RowVectorXf(dimension_)};
    for (index_t i = 0; i < to.weight.size(); ++i)
      to.weight.data()[i] = normal_(engine_) / std::sqrt(static_cast<float>(channels));
    for (index_t i = 0; i < dimension_; ++i) to.bias[i] = normal_(engine_);
    return to;
  }

  /// Writes rows of `count` new tokens to `to`, [count][dimension], one of every `every` tokens.
  template <class T>
  void fill(map const& by, index_t count, T* to, index_t every = 1) {
    matrix state(count, channels);
    index_t topic = 0;
    for (index_t i = 0; i < count; ++i) {
      if (i * every % 64 == 0) topic = static_cast<index_t>(engine_() % 512);
      for (index_t c = 0; c < channels; ++c) state(i, c) = topics_(topic, c) + spread_[c] * normal_(engine_);
    }
    matrix const rows = (state * by.weight).rowwise() + by.bias;
    for (index_t i = 0; i < rows.size(); ++i) to[i] = static_cast<T>(rows.data()[i]);
  }

 private:
  static constexpr index_t channels = 256;

  index_t dimension_;
  std::mt19937 engine_;
  std::normal_distribution<float> normal_;
  matrix topics_;
  Eigen::RowVectorXf spread_;
};

}  // namespace attend_bench
