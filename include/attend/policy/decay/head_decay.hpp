// SPDX-License-Identifier: BSD-3-Clause
// A constant decay for each head, log_decays [state head]:   S_t = a_h S_{t-1} + k_t v_t^T
//
//   retention_decays(heads)        log a_h = log(1 - 2^(-5 - h)), h = 0, 1, ...: Yutao Sun et al.: Retentive Network: A
//                                  Successor to Transformer for Large Language Models, 2023
//   lightning_decays(heads, l, L)  log a_h = -2^(-8 (h + 1) / heads) (1 - l / (L - 1) + 1e-5) for layer l of L: the
//                                  authors' code of Zhen Qin et al.: Various Lengths, Constant Speed: Efficient
//                                  Language Modeling with Lightning Attention, 2024. For a number of heads that is no
//                                  power of two the slopes are those of ALiBi.
//   transnormer_decays(heads, l, L)  log a_h = -(8 h / heads) (1 - l / L), h = 1, ..., heads: as Zhen Qin et al.:
//                                  TransNormerLLM: A Faster and Better Large Language Model with Improved TransNormer,
//                                  2023, print it; their released models use lightning_decays
#pragma once

#include <cmath>
#include <vector>

#include "../../core/scratch.hpp"
#include "../score/alibi.hpp"
#include "decay.hpp"

namespace attend::inline ATTEND_TARGET {

namespace linear {

/// Decays each head's state by a constant: natural logarithms, at most 0, [state head], in the accumulation type. A
/// call throws argument_error where there is not one for each head.
///
///     linear_attention(q, k, v, o, causal{}, head_decay(retention_decays(8)));
template <class Value>
struct head_decay : detail::token_tensor<Value> {
  using option_kind = option::decay;
  static constexpr extend::decay_kind kind = extend::decay_kind::scalar;
  static constexpr bool constant = true;

  template <TensorArgument Tensor>
  explicit head_decay(Tensor const& log_decays)
      : detail::token_tensor<Value>(detail::token_tensor<Value>::of_heads("head_decay", log_decays)) {}

  /// Gives the same for each state, where query heads that share keys have states of their own: the number of a shared
  /// head holds for all that share it.
  head_decay of_states(extend::state_shape const& shape, extend::scratch& memory) const {
    index_t const given = this->view().extent(1), states = shape.state_heads();
    if (given == states || given != shape.written_heads() || given == 0 || !this->view().data()) return *this;
    Value* const logs = memory.allocate<Value>(states);
    for (index_t h = 0; h < states; ++h) logs[h] = this->view()(0, h * given / states, 0);
    return head_decay(tensor_view<Value const, 1>(logs, {states}));
  }
};
template <class Tensor>
head_decay(Tensor const&) -> head_decay<element_of_t<Tensor const>>;

}  // namespace linear

namespace systems {

/// Gives the logarithms of retention's decays, one for each head.
///
///     std::vector<float> const decays = retention_decays(8);
inline std::vector<float> retention_decays(index_t heads) {
  extend::arithmetic_mode const arithmetic;
  detail::check_heads(heads);
  std::vector<float> logs;
  for (index_t h = 0; h < heads; ++h)
    logs.push_back(static_cast<float>(std::log1p(-std::exp2(-5.0 - static_cast<double>(h)))));
  return logs;
}

/// Gives the logarithms of Lightning Attention's decays for layer `layer`, counted from 0, of `layers`, one for each
/// head.
///
///     std::vector<float> const decays = lightning_decays(8, 0, 24);  // heads, layer, layers
inline std::vector<float> lightning_decays(index_t heads, index_t layer, index_t layers) {
  extend::arithmetic_mode const arithmetic;
  if (layer < 0 || layer >= layers) extend::fail("layer", "expected a layer of ", layers, ", got ", layer);
  double const depth = layers > 1 ? static_cast<double>(layer) / static_cast<double>(layers - 1) : 0.0;
  std::vector<float> logs;
  for (float slope : alibi_slopes(heads))
    logs.push_back(static_cast<float>(-static_cast<double>(slope) * (1 - depth + 1e-5)));
  return logs;
}

/// Gives the logarithms of TransNormerLLM's decays for layer `layer`, counted from 0, of `layers`, one for each head.
///
///     std::vector<float> const decays = transnormer_decays(8, 0, 24);  // heads, layer, layers
inline std::vector<float> transnormer_decays(index_t heads, index_t layer, index_t layers) {
  extend::arithmetic_mode const arithmetic;
  if (layer < 0 || layer >= layers) extend::fail("layer", "expected a layer of ", layers, ", got ", layer);
  detail::check_heads(heads);
  double const depth = static_cast<double>(layer) / static_cast<double>(layers);
  std::vector<float> logs;
  for (index_t h = 1; h <= heads; ++h)
    logs.push_back(static_cast<float>(-8.0 * static_cast<double>(h) / static_cast<double>(heads) * (1 - depth)));
  return logs;
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
