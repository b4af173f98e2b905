// SPDX-License-Identifier: BSD-3-Clause
// Additive bias: s -> s + bias[batch, query head, query, key]. Any axis may have extent 1 and then holds for all;
// leading axes may be left out; the heads may also be the key's, each then holds for the query heads that share it. A
// bias of -inf hides the key, whatever the key holds.
//
//   bias{tensor}             its key axis is that of the keys, or 1
//   bias{tensor}.padded()    its key axis may be shorter, and the keys past its end are hidden
#pragma once

#include "../pair_tensor.hpp"
#include "score.hpp"

namespace attend::inline ATTEND_TARGET {

/// Adds a tensor of the accumulation type to the logits. A call throws argument_error where the tensor's extents are
/// neither 1 nor those of the call.
///
///     softmax_attention(q, k, v, o, bias(pairs));
template <extend::Element Value>
class bias {
 public:
  using option_kind = option::score;
  using gradient_kind = option::gradient_of_bias;
  static constexpr bool may_hide = true, keeps_slope = true;

  template <extend::TensorArgument Tensor>
  explicit bias(Tensor const& tensor) : tensor_(tensor) {}

  /// Gives the same for a tensor of the first keys alone: the others are hidden.
  bias padded() const {
    bias shorter(*this);
    shorter.tensor_ = tensor_.padded(static_cast<Value>(-extend::infinity<float>));
    return shorter;
  }

  void check(extend::problem_shape const& shape) const { tensor_.check("bias", shape); }
  /// Gives the numbers, [batch, head, query, key] with 1 for an axis that is shared.
  tensor_view<Value const, 4> const& pairs() const { return tensor_.view(); }
  /// Says whether keys behind the last column are hidden.
  bool is_padded() const { return tensor_.is_padded(); }
  template <class T>
  auto bind(extend::tile_rows<T> const& rows, extend::key_range range) const {
    struct bound {
      index_t first;
      // Uninitialised beyond the range: it is never read there.
      alignas(64) T added[extend::max_block_keys][extend::tile_rows<T>::lanes];
      simd::vector<T> operator()(simd::vector<T> const& s, extend::score_place<T> const& place) const {
        simd::vector<T> const b = simd::load(added[place.key_index - first] + place.lane);
        simd::vector<T> const hidden(-extend::infinity<T>);
        return simd::select(b == hidden, hidden, s + b);
      }
    };
    bound result;
    result.first = range.first;
    tensor_.read(rows, range, result.added);
    return result;
  }

 private:
  detail::pair_tensor<Value> tensor_;
};
template <class Tensor>
bias(Tensor const&) -> bias<extend::element_of_t<Tensor const>>;

}  // namespace attend::inline ATTEND_TARGET
