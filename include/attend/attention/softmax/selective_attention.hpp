// SPDX-License-Identifier: BSD-3-Clause
// Selective self-attention: the temperature of each query and the gain of each value depend on its token and position.
//
//   o_i = sum_j softmax_j(t_i * scale * q_i . k_j) g_j v_j
//   t_i = tanh(f(x_i)) + 1 + sigmoid(a) ln(i)        i = 1, 2, ...: the position, counted from 1
//   g_j = the same, from a function and a number of its own
//
// f is a small function of the token (a linear layer or a perceptron on x, q or k) that the caller evaluates; a is one
// learned number for each head. Both parts of a temperature are optional: without f the tanh is 0, without a the
// logarithm is.
//
// Cost: that of causal attention; nothing of size queries * keys, no copy of the values.
//
// Xuechen Zhang, Xiangyu Chang, Mingchen Li, Amit Roy-Chowdhury, Jiasi Chen, Samet Oymak: Selective Attention:
// Enhancing Transformer through Principled Context Control, 2024. The position term as in the authors' code; the token
// term as in the text, tanh without a scale of its own.
#pragma once

#include "../../policy/mask/causal.hpp"
#include "../../policy/score/logit_scale.hpp"
#include "softmax_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Holds what a temperature is made of, in the accumulation type: f(x) for each token, [batch, head, token], and a for
/// each head, [head]. Either may be empty, and then adds nothing.
template <class T>
struct selective_temperature {
  tensor_view<T const, 3> token;
  tensor_view<T const, 1> position;
};

}  // namespace systems

namespace detail {

template <class T>
tensor_view<T, 3> temperatures(char const* argument, selective_temperature<T> const& from,
                               std::array<index_t, 3> const& extents, scratch& memory) {
  if (from.token.data()) {
    check_view(argument, from.token);
    if (from.token.extents() != extents)
      fail(argument, "expected token shape ", shape_text<3>(extents), ", got ", shape_text<3>(from.token.extents()));
  }
  if (from.position.data()) {
    check_view(argument, from.position);
    check_extent(argument, "position numbers", from.position.extent(0), extents[1], "heads");
  }
  tensor_view<T, 3> const result(memory.allocate<T>(extents[0] * extents[1] * extents[2]), extents);
  for (index_t b = 0; b < extents[0]; ++b)
    for (index_t h = 0; h < extents[1]; ++h) {
      T const slope = from.position.data() ? 1 / (1 + std::exp(-from.position(h))) : T(0);
      for (index_t i = 0; i < extents[2]; ++i)
        result(b, h, i) =
            (from.token.data() ? std::tanh(from.token(b, h, i)) : T(0)) + 1 + slope * std::log(static_cast<T>(i + 1));
    }
  return result;
}

}  // namespace detail

namespace systems {

/// Causal selective self-attention. Query, key, value and output have the shapes of softmax_attention, with as many
/// queries as keys. The query's temperatures are for query heads, the value's for value heads. Further options are
/// those of softmax_attention but for the mask, query_logit_scale and value_gain.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     selective_temperature<float> const of_queries{view_of(tokens), {}};
///     selective_attention(q, k, v, o, of_queries, selective_temperature<float>{});  // no gains of values
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class A,
          class... Options>
void selective_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                         selective_temperature<A> const& query_temperatures,
                         selective_temperature<A> const& value_temperatures, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  static_assert(std::same_as<A, accumulation_t<T>>,
                "attend: temperatures hold the accumulation type: float, or double for tensors of double");
  auto const q = raise<4>(view_of(query));
  auto const v = raise<4>(view_of(value));
  detail::check_view("query", q);
  detail::check_view("value", v);
  detail::check_extent("value", "tokens", v.extent(2), q.extent(2), "query");
  scratch memory;
  auto const t = detail::temperatures<A>("query_temperatures", query_temperatures,
                                         {q.extent(0), q.extent(1), q.extent(2)}, memory);
  auto const g = detail::temperatures<A>("value_temperatures", value_temperatures,
                                         {v.extent(0), v.extent(1), v.extent(2)}, memory);
  softmax_attention(query, key, value, output, causal{}, query_logit_scale(t), value_gain(g),
                    std::forward<Options>(options)...);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
