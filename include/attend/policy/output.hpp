// SPDX-License-Identifier: BSD-3-Clause
// What a call can give besides its output.
//
//   log_sum_exp{t}       [batch, query head, query]: ln of the row's denominator, of the final logits; -inf where the
//                        row sees nothing. Partial results over disjoint keys are merged by it.
//   weights{t}           [batch, query head, query, key]: the weights p, before gains. Its size is queries * keys.
//   logits{t}            [batch, query head, query, key]: what the normalizer takes: scale * q.k after the scores, and
//                        -inf where the mask hides. As large as the weights.
//   count_tiles{c}       how much work was done, for tests and benchmarks.
//
// Tensors hold the accumulation type: float, or double for tensors of double. Leading axes may be left out.
#pragma once

#include <atomic>

#include "../core/options.hpp"
#include "../core/tensor_view.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {
/// A tensor that a call writes, of so many axes.
template <class Kind, class T, int Axes>
struct output_tensor {
  using option_kind = Kind;
  tensor_view<T, Axes> rows;

  template <TensorArgument Tensor>
  explicit output_tensor(Tensor&& tensor) : rows(raise<Axes>(view_of(tensor))) {}
};
}  // namespace detail

namespace options {

/// Writes ln of each row's denominator to a tensor [batch, query head, query] of the accumulation type. A call throws
/// argument_error where its shape or memory does not fit.
///
///     softmax_attention(q, k, v, o, log_sum_exp(lse));
template <class T>
struct log_sum_exp : detail::output_tensor<option::log_sum_exp, T, 3> {
  using detail::output_tensor<option::log_sum_exp, T, 3>::output_tensor;
};
template <class Tensor>
log_sum_exp(Tensor&&) -> log_sum_exp<element_of_t<Tensor>>;

/// Writes the weights to a tensor [batch, query head, query, key] of the accumulation type. A call throws
/// argument_error where its shape or memory does not fit.
///
///     softmax_attention(q, k, v, o, causal{}, weights(pairs));
template <class T>
struct weights : detail::output_tensor<option::weights, T, 4> {
  using detail::output_tensor<option::weights, T, 4>::output_tensor;
};
template <class Tensor>
weights(Tensor&&) -> weights<element_of_t<Tensor>>;

/// Writes the final logits to a tensor [batch, query head, query, key] of the accumulation type. A call throws
/// argument_error where its shape or memory does not fit.
///
///     softmax_attention(q, k, v, o, causal{}, logits(pairs));
template <class T>
struct logits : detail::output_tensor<option::logits, T, 4> {
  using detail::output_tensor<option::logits, T, 4>::output_tensor;
};
template <class Tensor>
logits(Tensor&&) -> logits<element_of_t<Tensor>>;

/// Counts the work that calls have done.
struct tile_counts {
  /// Tiles that were computed, without and with masking code.
  std::atomic<index_t> full{0}, masked{0};
  /// (query head, query, key) triples in them, padding not counted.
  std::atomic<index_t> pairs{0};
  /// The same with padding: a tile works on whole vectors of rows.
  std::atomic<index_t> padded_pairs{0};
};

/// Adds the work of a call to counts that outlive it.
///
///     tile_counts counts;
///     softmax_attention(q, k, v, o, causal{}, count_tiles(counts));
struct count_tiles {
  using option_kind = option::tile_counts;
  tile_counts* counts;
  explicit count_tiles(tile_counts& to) : counts(&to) {}
};

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
