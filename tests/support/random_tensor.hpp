// SPDX-License-Identifier: BSD-3-Clause
// Tensors for tests: random numbers from a fixed seed, in any element type, and their views.
#pragma once

#include <attend/core/tensor_view.hpp>
#include <random>
#include <vector>

namespace attend::test {

template <class T, int Rank>
struct tensor {
  std::array<index_t, Rank> extents{};
  std::vector<T> elements;

  tensor_view<T, Rank> view() { return {elements.data(), extents}; }
  tensor_view<T const, Rank> view() const { return {elements.data(), extents}; }
};

template <int Rank>
std::size_t count(std::array<index_t, Rank> const& extents) {
  std::size_t product = 1;
  for (index_t extent : extents) product *= static_cast<std::size_t>(extent);
  return product;
}

/// Filled with one number.
template <class T, int Rank>
tensor<T, Rank> filled(std::array<index_t, Rank> const& extents, T value) {
  return {extents, std::vector<T>(count<Rank>(extents), value)};
}

/// Normal numbers with mean 0 and the deviation given, rounded to T.
template <class T, int Rank>
tensor<T, Rank> normal(std::array<index_t, Rank> const& extents, unsigned seed, double deviation = 1) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> distribution(0, deviation);
  tensor<T, Rank> result{extents, {}};
  result.elements.reserve(count<Rank>(extents));
  for (std::size_t i = 0; i < count<Rank>(extents); ++i)
    result.elements.push_back(static_cast<T>(distribution(engine)));
  return result;
}

}  // namespace attend::test
