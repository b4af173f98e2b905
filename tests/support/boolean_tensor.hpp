// SPDX-License-Identifier: BSD-3-Clause
// Tensors of bool for tests: std::vector<bool> has none to point to.
#pragma once

#include <algorithm>
#include <attend/core/tensor_view.hpp>
#include <memory>
#include <random>

#include "random_tensor.hpp"

namespace attend::test {

template <int Rank>
class boolean_tensor {
 public:
  explicit boolean_tensor(std::array<index_t, Rank> const& extents, bool value = false)
      : extents_(extents), elements_(new bool[count<Rank>(extents)]) {
    std::fill_n(elements_.get(), count<Rank>(extents), value);
  }

  tensor_view<bool, Rank> view() { return {elements_.get(), extents_}; }
  tensor_view<bool const, Rank> view() const { return {elements_.get(), extents_}; }
  bool* begin() { return elements_.get(); }
  bool* end() { return elements_.get() + count<Rank>(extents_); }

 private:
  std::array<index_t, Rank> extents_;
  std::shared_ptr<bool[]> elements_;
};

/// True with the probability given.
template <int Rank>
boolean_tensor<Rank> random_booleans(std::array<index_t, Rank> const& extents, unsigned seed,
                                     double probability = 0.5) {
  std::mt19937 engine(seed);
  std::bernoulli_distribution distribution(probability);
  boolean_tensor<Rank> result(extents);
  for (bool& element : result) element = distribution(engine);
  return result;
}

}  // namespace attend::test
