// Results that a call returns rather than writes: Eigen tensors. The one header that needs Eigen's tensor module.
#pragma once

#include <unsupported/Eigen/CXX11/Tensor>

#include "tensor_view.hpp"

namespace attend::inline ATTEND_TARGET::detail {

template <class T, int Rank>
struct owned_tensor {
  using type = Eigen::Tensor<T, Rank, Eigen::RowMajor>;

  static type with_extents(std::array<index_t, Rank> const& extents) {
    Eigen::array<Eigen::Index, Rank> sizes;
    for (int axis = 0; axis < Rank; ++axis) sizes[axis] = extents[axis];
    return type(sizes);
  }
};

}  // namespace attend::inline ATTEND_TARGET::detail
