// SPDX-License-Identifier: BSD-3-Clause
// What multiplies the output of linear attention, element by element, after the normalizer.
//
//   output_gate(u)   o_i = u_i * (what it is without a gate),   u [batch, output head, query, value dimension]
//
// u is given as it multiplies: swish(x W) for gated linear attention and retention behind rms_norm{}, sigmoid(x W) for
// TNL and x W for TransNormerLLM behind joined_rms_norm{}. A model that has it as [batch, token, heads * dimension]
// gives a view with strides. Elements of the output's type; the output is read and written once more.
//
// Zhen Qin et al.: TransNormerLLM, 2023 (a gate on the normalized output, in place of an activation).
#pragma once

#include "../../core/check.hpp"
#include "../../core/options.hpp"
#include "state_shape.hpp"

namespace attend::inline ATTEND_TARGET {

namespace linear {

/// Multiplies the output, element by element. A call throws argument_error where the gate's shape does not fit.
///
///     linear_attention(q, k, v, o, causal{}, rms_norm{}, output_gate(features));
template <class T>
class output_gate {
 public:
  using option_kind = option::output_gate;
  using value_type = T;

  /// Leading axes may be left out.
  template <TensorArgument Tensor>
  explicit output_gate(Tensor const& tensor) : gate_(extend::raise<4>(view_of(tensor))) {}

  void check(extend::state_shape const& shape) const {
    detail::check_view(name(), gate_);
    std::array<index_t, 4> const expected{shape.batches, shape.output_heads(), shape.queries, shape.value_dimension};
    if (gate_.extents() != expected)
      extend::fail(name(), "expected shape ", detail::shape_text<4>(expected),
                   " (batch, output head, query, value dimension), got ", detail::shape_text<4>(gate_.extents()));
  }
  static constexpr char const* name() { return "output_gate"; }
  tensor_view<T const, 4> const& view() const { return gate_; }

 private:
  tensor_view<T const, 4> gate_;
};
template <class Tensor>
output_gate(Tensor const&) -> output_gate<element_of_t<Tensor const>>;

}  // namespace linear

}  // namespace attend::inline ATTEND_TARGET
