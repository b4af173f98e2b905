// SPDX-License-Identifier: BSD-3-Clause
// The Eigen tensors that calls return where the caller gives them no output tensor. Only this header needs Eigen's
// tensor module.
#pragma once

#include <unsupported/Eigen/CXX11/Tensor>

#include "tensor_view.hpp"

namespace attend::inline ATTEND_TARGET::detail {

static_assert(static_cast<int>(Eigen::RowMajor) == eigen_row_major);

template <class T, int Rank>
struct owned_tensor {
  using type = Eigen::Tensor<T, Rank, Eigen::RowMajor>;

  static type with_extents(typename tensor_view<T, Rank>::extents_type const& extents) {
    typename type::Dimensions sizes;
    std::copy(extents.begin(), extents.end(), sizes.begin());
    return type(sizes);
  }
};

}  // namespace attend::inline ATTEND_TARGET::detail
