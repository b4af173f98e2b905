// SPDX-License-Identifier: BSD-3-Clause
// One decay for each token and feature of the key, log_decays [batch, state head, token, feature]:
//
//   S_t = diag(a_t) S_{t-1} + k_t v_t^T
//
// Batch and head may be 1 or left out. Songlin Yang, Bailin Wang, Yikang Shen, Rameswar Panda, Yoon Kim: Gated Linear
// Attention Transformers with Hardware-Efficient Training, 2024.
#pragma once

#include "../../simd/convert.hpp"
#include "decay.hpp"

namespace attend::inline ATTEND_TARGET {

namespace linear {

/// Decays each feature of the state by a number of its own: natural logarithms, at most 0, [batch, state head, token,
/// feature], in the accumulation type. A call throws argument_error where their shape does not fit.
///
///     linear_attention(q, k, v, o, causal{}, feature_decay(features));
template <Element Value>
class feature_decay {
 public:
  using option_kind = option::decay;
  static constexpr extend::decay_kind kind = extend::decay_kind::vector;
  static constexpr bool constant = false;

  template <TensorArgument Tensor>
  explicit feature_decay(Tensor const& log_decays) : logs_(extend::raise<4>(view_of(log_decays))) {}

  void check(extend::state_shape const& shape) const {
    detail::check_view("feature_decay", logs_);
    index_t const expected[] = {shape.batches, shape.state_heads(), shape.keys, shape.features};
    for (int axis = 0; axis < 4; ++axis)
      if (logs_.extent(axis) != expected[axis] && (axis >= 2 || logs_.extent(axis) != 1))
        extend::fail("feature_decay", "expected shape ",
                     detail::shape_text<4>({expected[0], expected[1], expected[2], expected[3]}),
                     " (batch, state head, token, feature) with 1 for a batch or head that is shared, got ",
                     detail::shape_text<4>(logs_.extents()));
  }
  template <class A>
  void read(index_t batch, index_t head, index_t first, index_t count, A* to, index_t stride) const {
    static_assert(std::same_as<A, accumulation_t<Value>>,
                  "attend: decays of float or narrower go with tensors of float or narrower, of double with double");
    index_t const b = logs_.extent(0) == 1 ? 0 : batch, h = logs_.extent(1) == 1 ? 0 : head;
    Value const* from = logs_.data() + b * logs_.stride(0) + h * logs_.stride(1) + first * logs_.stride(2);
    for (index_t i = 0; i < count; ++i, from += logs_.stride(2), to += stride)
      simd::widen_row(from, to, logs_.extent(3));
  }
  static constexpr char const* name() { return "feature_decay"; }
  auto const& view() const { return logs_; }

 private:
  tensor_view<Value const, 4> logs_;
};
template <class Tensor>
feature_decay(Tensor const&) -> feature_decay<element_of_t<Tensor const>>;

}  // namespace linear

}  // namespace attend::inline ATTEND_TARGET
