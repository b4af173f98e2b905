// SPDX-License-Identifier: BSD-3-Clause
// Numbers for the tokens of each state head: a tensor [batch, head, token] whose batch and head axes may have extent 1
// and then hold for all; or one number for each head, which holds for all tokens.
#pragma once

#include "../../core/check.hpp"
#include "state_shape.hpp"

namespace attend::inline ATTEND_TARGET::detail {

template <class Value>
class token_tensor {
 public:
  void check(state_shape const& shape) const {
    check_view(name_, view_);
    index_t const expected[] = {shape.batches, shape.state_heads(), shape.keys};
    if (constant_) return check_head_numbers(name_, view_.extent(1), expected[1], "state head");
    for (int axis = 0; axis < 3; ++axis)
      if (view_.extent(axis) != expected[axis] && (axis == 2 || view_.extent(axis) != 1))
        fail(name_, "expected shape ", shape_text<3>({expected[0], expected[1], expected[2]}),
             " (batch, state head, token) with 1 for a batch or head that is shared, got ",
             shape_text<3>(view_.extents()));
  }

  /// to[i] = the number of token first + i, for `count` tokens.
  template <class A>
  void read(index_t batch, index_t head, index_t first, index_t count, A* to) const {
    Value const* const from = view_.data() + step(0) * batch + step(1) * head;
    index_t const stride = constant_ ? 0 : view_.stride(2);
    for (index_t i = 0; i < count; ++i) to[i] = static_cast<A>(from[(first + i) * stride]);
  }

  char const* name() const { return name_; }
  tensor_view<Value const, 3> const& view() const { return view_; }

 protected:
  /// [batch, head, token]; leading axes may be left out.
  template <class Tensor>
  static token_tensor of_tokens(char const* name, Tensor const& tensor) {
    return token_tensor(name, raise<3>(view_of(tensor)), false);
  }

  /// One number for each head.
  template <class Tensor>
  static token_tensor of_heads(char const* name, Tensor const& tensor) {
    auto const view = view_of(tensor);
    static_assert(decltype(view)::rank == 1, "attend: numbers for heads have one axis");
    return token_tensor(name, {view.data(), {1, view.extent(0), 1}, {0, view.stride(0), 0}}, true);
  }

 private:
  token_tensor(char const* name, tensor_view<Value const, 3> view, bool constant)
      : name_(name), view_(view), constant_(constant) {}
  index_t step(int axis) const { return view_.extent(axis) == 1 ? 0 : view_.stride(axis); }

  char const* name_;
  tensor_view<Value const, 3> view_;
  bool constant_;
};

}  // namespace attend::inline ATTEND_TARGET::detail
