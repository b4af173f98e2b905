// SPDX-License-Identifier: BSD-3-Clause
// A tensor placed into a larger buffer with free strides, whose other elements must stay as they are.
#pragma once

#include <attend/core/tensor_view.hpp>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/random_tensor.hpp"

namespace attend::test {

/// An axis that is shared has stride 0: its elements are those at index 0. Bytes that hold no element, and elements
/// until they are written, are `untouched`.
template <class T, int Rank>
class placed {
 public:
  static constexpr unsigned char untouched = 0x5a;
  using extents_type = std::array<index_t, Rank>;

  template <class Choices>
  placed(extents_type const& extents, extents_type const& shared, Choices& choices) : extents_(extents) {
    extents_type order;  // of the axes in memory, the outermost first
    for (std::size_t axis = 0; axis < Rank; ++axis) order[axis] = static_cast<index_t>(axis);
    if (Rank > 2 && choices.chance(0.5)) std::swap(order[Rank - 2], order[Rank - 3]);
    index_t stride = 1;
    for (std::size_t i = Rank; i-- > 0;) {
      auto const axis = static_cast<std::size_t>(order[i]);
      strides_[axis] = shared[axis] ? 0 : stride;
      if (!shared[axis]) stride *= std::max<index_t>(extents[axis], 1);
      if (choices.chance(0.3)) stride += choices.from_to(1, 3);
    }
    first_ = choices.from_to(0, 3);
    index_t last = first_;
    for (std::size_t axis = 0; axis < Rank; ++axis) last += std::max<index_t>(extents[axis] - 1, 0) * strides_[axis];
    buffer_.resize(static_cast<std::size_t>(last + 1 + choices.from_to(0, 1)));
    std::memset(static_cast<void*>(buffer_.data()), untouched, buffer_.size() * sizeof(T));
  }

  template <class Choices>
  placed(extents_type const& extents, Choices& choices) : placed(extents, extents_type{}, choices) {}

  tensor_view<T, Rank> view() { return {buffer_.data() + first_, extents_, strides_}; }
  tensor_view<T const, Rank> view() const { return {buffer_.data() + first_, extents_, strides_}; }

  void write(tensor<T, Rank> const& from) {
    auto element = from.elements.begin();
    for_elements([&](std::size_t at) { buffer_[at] = *element++; });
  }
  tensor<T, Rank> read() const {
    tensor<T, Rank> result{extents_, {}};
    for_elements([&](std::size_t at) { result.elements.push_back(buffer_[at]); });
    return result;
  }

  bool is_untouched() const {
    return is_untouched([](std::size_t) { return false; });
  }
  bool is_untouched_around() const {
    std::vector<bool> elements(buffer_.size());
    for_elements([&](std::size_t at) { elements[at] = true; });
    return is_untouched([&](std::size_t at) { return elements[at]; });
  }

 private:
  template <class Skip>
  bool is_untouched(Skip const& skip) const {
    unsigned char expected[sizeof(T)];
    std::memset(expected, untouched, sizeof(T));
    for (std::size_t at = 0; at < buffer_.size(); ++at)
      if (!skip(at) && std::memcmp(&buffer_[at], expected, sizeof(T)) != 0) return false;
    return true;
  }

  template <class Visit>
  void for_elements(Visit const& visit) const {
    extents_type index{};
    for (std::size_t i = 0; i < count<Rank>(extents_); ++i) {
      index_t at = first_;
      for (std::size_t axis = 0; axis < Rank; ++axis) at += index[axis] * strides_[axis];
      visit(static_cast<std::size_t>(at));
      for (std::size_t axis = Rank; axis-- > 0 && ++index[axis] == extents_[axis];) index[axis] = 0;
    }
  }

  extents_type extents_, strides_{};
  index_t first_ = 0;
  std::vector<T> buffer_;
};

/// What a fuzz target says of an input that it found.
inline void require(bool holds, std::string const& what) {
  if (!holds) throw std::logic_error(what);
}

}  // namespace attend::test
