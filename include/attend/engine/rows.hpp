// SPDX-License-Identifier: BSD-3-Clause
// The rows of one head of a tensor [batch, head, token, dimension], at a constant stride.
#pragma once

#include "../core/tensor_view.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Rows of one head: row j at data + j * stride.
template <class T>
struct rows_of {
  T const* data = nullptr;
  index_t stride = 0;

  T const* row(index_t j) const { return data + j * stride; }
};

template <class T>
rows_of<T> rows_of_head(tensor_view<T const, 4> const& tensor, index_t batch, index_t head, index_t first) {
  index_t const b = tensor.extent(0) == 1 ? 0 : batch;
  return {tensor.data() + b * tensor.stride(0) + head * tensor.stride(1) + first * tensor.stride(2), tensor.stride(2)};
}

}  // namespace attend::inline ATTEND_TARGET::engine
