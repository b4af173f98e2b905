// SPDX-License-Identifier: BSD-3-Clause
// Temperatures: the logits of a row are multiplied by a number.
//
//   head_logit_scale     one for each query head. Jie Wang et al.: Length Generalization of Causal Transformers without
//                        Position Encoding, 2024 (HeadScale; the same number for all heads is its UniformScale)
//   query_logit_scale    [batch, query head, query], leading axes may be left out, any axis may be 1. Xuechen Zhang et
//                        al.: Selective Attention: Enhancing Transformer through Principled Context Control, 2024
#pragma once

#include "../row_tensor.hpp"
#include "score.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

template <class Value>
class temperature {
 public:
  using option_kind = option::score;
  using gradient_kind = option::gradient_of_logit_scale;
  static constexpr bool may_hide = false;

  explicit temperature(detail::row_tensor<Value> const& factors, char const* name) : factors_(factors), name_(name) {}

  void check(extend::problem_shape const& shape) const { factors_.check(name_, shape); }
  detail::row_tensor<Value> const& factors() const { return factors_; }
  template <class T>
  auto bind(extend::tile_rows<T> const& rows, extend::key_range) const {
    return [factor = extend::lane_values<T>([&](int lane) { return factors_.at(rows, lane); })](
               simd::vector<T> const& s, extend::score_place<T> const& place) { return s * factor.at(place.lane); };
  }
  template <class T>
  auto bind_slope(extend::tile_rows<T> const& rows, extend::key_range) const {
    return [factor = extend::lane_values<T>([&](int lane) { return factors_.at(rows, lane); })](
               simd::vector<T> const&, extend::score_place<T> const& place) { return factor.at(place.lane); };
  }

 private:
  detail::row_tensor<Value> factors_;
  char const* name_;
};

/// Multiplies the logits of each query head by a number: the factors are [query head], in the accumulation type.
///
///     softmax_attention(q, k, v, o, causal{}, head_logit_scale(numbers));
template <TensorArgument Tensor>
auto head_logit_scale(Tensor const& factors) {
  using Value = element_of_t<Tensor const>;
  return temperature<Value>(detail::row_tensor<Value>::of_heads(factors), "head_logit_scale");
}

/// Multiplies the logits of each query by a number: the factors are [batch, query head, query], in the accumulation
/// type.
///
///     softmax_attention(q, k, v, o, causal{}, query_logit_scale(tokens));
template <TensorArgument Tensor>
auto query_logit_scale(Tensor const& factors) {
  using Value = element_of_t<Tensor const>;
  return temperature<Value>(detail::row_tensor<Value>::of_queries(factors), "query_logit_scale");
}

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
