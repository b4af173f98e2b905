// SPDX-License-Identifier: BSD-3-Clause
// What the gradients of a call that carries a state are made of, besides the call (state_problem.hpp): the gradients
// that are given, and those that are asked for. Tensors that nobody gives or asks for are empty.
#pragma once

#include "state_problem.hpp"

namespace attend::inline ATTEND_TARGET::engine {

template <Element T>
struct state_gradients {
  using A = accumulation_t<T>;

  tensor_view<T const, 4> of_output;
  tensor_view<T, 4> of_query, of_key, of_value;
  tensor_view<A const, 4> of_final_state;
  tensor_view<A const, 3> of_final_sum;
  tensor_view<A, 4> of_initial_state;
  tensor_view<A, 3> of_initial_sum;
  /// By the logarithms: of a decay of features [batch, state head, token, feature]; of one of tokens with a last axis
  /// of 1; of one of heads [1, state head, 1, 1].
  tensor_view<A, 4> of_decay;
  tensor_view<A, 3> of_rates;  // [batch, state head, token]
};

/// The derivative of a feature map, for rows of any length.
template <class A>
class any_feature_slope {
 public:
  /// to_i = (d phi / d x)(rows, i)^T of_features_i
  virtual void pull(token_rows<A> const& rows, A const* of_features, index_t stride, A* to,
                    index_t to_stride) const = 0;

 protected:
  ~any_feature_slope() = default;
};

template <class A, class F>
class feature_slope final : public any_feature_slope<A> {
 public:
  explicit feature_slope(F const& map) : map_(map) {}
  void pull([[maybe_unused]] token_rows<A> const& rows, [[maybe_unused]] A const* of_features,
            [[maybe_unused]] index_t stride, [[maybe_unused]] A* to,
            [[maybe_unused]] index_t to_stride) const override {
    if constexpr (HasPull<F, A> && !std::same_as<F, identity_features>)
      map_.pull(rows, of_features, stride, to, to_stride);
  }

 private:
  F const& map_;
};

}  // namespace attend::inline ATTEND_TARGET::engine
