// SPDX-License-Identifier: BSD-3-Clause
// Numbers for the rows of a tile: one for each query head, or a tensor [batch, query head, query] whose axes may have
// extent 1 and then hold for all.
#pragma once

#include "../core/check.hpp"
#include "tile.hpp"

namespace attend::inline ATTEND_TARGET::detail {

template <class Value>
class row_tensor {
 public:
  row_tensor() = default;

  /// One number for each query head, or one for all.
  template <class Tensor>
  static row_tensor of_heads(Tensor const& tensor) {
    auto const view = view_of(tensor);
    static_assert(decltype(view)::rank == 1, "attend: numbers for heads have one axis");
    return row_tensor({view.data(), {1, view.extent(0), 1}, {0, view.stride(0), 0}}, true);
  }

  /// [batch, query head, query]; leading axes may be left out.
  template <class Tensor>
  static row_tensor of_queries(Tensor const& tensor) {
    return row_tensor(raise<3>(view_of(tensor)), false);
  }

  void check(char const* argument, problem_shape const& shape) const {
    check_view(argument, view_);
    if (of_heads_) return check_head_numbers(argument, view_.extent(1), shape.query_heads, "query head");
    index_t const expected[] = {shape.batches, shape.query_heads, shape.queries};
    for (int axis = 0; axis < 3; ++axis)
      if (view_.extent(axis) != expected[axis] && view_.extent(axis) != 1)
        fail(argument, "expected shape ", shape_text<3>({expected[0], expected[1], expected[2]}),
             " (batch, query head, query) with 1 for an axis that is shared, got ", shape_text<3>(view_.extents()));
  }

  /// [batch, query head, query] with 1 for an axis that is shared.
  tensor_view<Value const, 3> const& view() const { return view_; }
  bool is_of_heads() const { return of_heads_; }

  template <class T>
  T at(tile_rows<T> const& rows, int lane) const {
    return static_cast<T>(
        view_.data()[step(0) * rows.batch + step(1) * rows.head[lane] + step(2) * rows.query_token(lane)]);
  }

 private:
  row_tensor(tensor_view<Value const, 3> view, bool of_heads) : view_(view), of_heads_(of_heads) {}
  index_t step(int axis) const { return view_.extent(axis) == 1 ? 0 : view_.stride(axis); }

  tensor_view<Value const, 3> view_;
  bool of_heads_ = false;
};

}  // namespace attend::inline ATTEND_TARGET::detail
