// SPDX-License-Identifier: BSD-3-Clause
// Four-axis tensors of random numbers for benchmarks, made quickly: some normal numbers, again and again. A row of one
// of the usual dimensions starts at another place each time, so that no two rows are the same.
#pragma once

#include <attend/core/buffer.hpp>
#include <attend/core/tensor_view.hpp>

#include <Eigen/Core>
#include <array>
#include <random>
#include <vector>

namespace attend_bench {

template <class T>
class random_tensor {
 public:
  random_tensor(std::array<attend::index_t, 4> const& extents, unsigned seed) : extents_(extents) {
    attend::index_t count = 1;
    for (attend::index_t extent : extents) count *= extent;
    std::mt19937 engine(seed);
    std::normal_distribution<float> distribution;
    std::vector<T> some(prime);
    for (T& element : some) element = static_cast<T>(distribution(engine));
    elements_.reserve(static_cast<std::size_t>(count));
    // As the library's own stores have, and the buffer that bandwidth is measured with.
    attend::detail::advise_large_pages(reinterpret_cast<std::byte*>(elements_.data()),
                                       count * static_cast<attend::index_t>(sizeof(T)));
    while (static_cast<attend::index_t>(elements_.size()) < count) {
      auto const wanted = std::min<attend::index_t>(prime, count - static_cast<attend::index_t>(elements_.size()));
      elements_.insert(elements_.end(), some.begin(), some.begin() + wanted);
    }
  }

  attend::tensor_view<T, 4> view() { return {elements_.data(), extents_}; }

 private:
  static constexpr attend::index_t prime = 65537;

  std::array<attend::index_t, 4> extents_;
  std::vector<T> elements_;
};

}  // namespace attend_bench
