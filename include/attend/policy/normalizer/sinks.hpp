// SPDX-License-Identifier: BSD-3-Clause
// Softmax with an attention sink: one more term in the denominator, which has no value.
//
//   p_j = exp(s_j) / (exp(sink[head]) + sum_j exp(s_j))
//
// sinks{logits}: a learned logit for each query head. sinks{0}: the zero slot (a zero key with a zero value), also
// known as softmax plus one. The log-sum-exp of a row counts the sink.
//
// Xiangming Gu et al.: When Attention Sink Emerges in Language Models: An Empirical View, 2024 (a key bias without a
// value; where it depends on the query, see key_bias). Guangxuan Xiao et al.: Efficient Streaming Language Models with
// Attention Sinks, 2023 (the zero slot).
#pragma once

#include <cmath>
#include <type_traits>

#include "../row_tensor.hpp"
#include "softmax.hpp"

namespace attend::inline ATTEND_TARGET::options {

/// Makes softmax weights with one more term in the denominator: a logit for all query heads, or one for each, in the
/// accumulation type. A call throws argument_error where there is not one for each query head.
///
///     softmax_attention(q, k, v, o, causal{}, sinks(numbers));
template <class Value>
class sinks : public options::softmax {
 public:
  template <class Logits>
    requires TensorArgument<Logits>
  explicit sinks(Logits const& logits) : logits_(detail::row_tensor<Value>::of_heads(logits)) {}
  explicit sinks(Value logit) : one_(logit), shared_(true) {}

  void check(problem_shape const& shape) const {
    if (!shared_) return logits_.check("sinks", shape);
    if (std::isnan(one_) || one_ == infinity<Value>) fail("sinks", "expected a number below infinity, got ", one_);
  }

  /// Gives how many logits there are, and these; there are none in memory where one number was given.
  index_t count() const { return shared_ ? 1 : logits_.view().extent(1); }
  tensor_view<Value const, 3> const& logits() const { return logits_.view(); }

  /// The natural logit of a row's sink.
  template <class T>
  T sink(tile_rows<T> const& rows, int lane) const {
    return shared_ ? static_cast<T>(one_) : logits_.at(rows, lane);
  }

 private:
  detail::row_tensor<Value> logits_;
  Value one_{};
  bool shared_ = false;
};
template <class Logits>
  requires TensorArgument<Logits>
sinks(Logits const&) -> sinks<element_of_t<Logits const>>;
template <class Number>
  requires std::is_arithmetic_v<Number>
sinks(Number) -> sinks<double>;

}  // namespace attend::inline ATTEND_TARGET::options
