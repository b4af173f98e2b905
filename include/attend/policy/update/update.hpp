// What a state writes, and what an update policy is. With S' = diag(a_t) S_{t-1}, the state after its decay:
//
//   additive{}        S_t = S' + k_t v_t^T                            the default
//   input_gates{g}    S_t = S' + g_t k_t v_t^T
//   delta_rule{b}     S_t = S' + b_t k_t (v_t - S'^T k_t)^T           what stands under k_t moves towards v_t
//
// g and b are [batch, state head, token]; batch and head may be 1 or left out. An update policy has
// rates(batch, head, first, count, to), which writes the numbers of some tokens, unless it has none (`has_rates`), and
// says by `reads_state` whether what is written depends on the state.
//
// Imanol Schlag, Kazuki Irie, Juergen Schmidhuber: Linear Transformers Are Secretly Fast Weight Programmers, 2021 (the
// delta rule); Songlin Yang et al.: Parallelizing Linear Transformers with the Delta Rule over Sequence Length, 2024.
#pragma once

#include "../../core/options.hpp"
#include "../state/token_tensor.hpp"

namespace attend {

template <class U>
concept Update = detail::has_kind<option::update, U>;

struct additive {
  using option_kind = option::update;
  static constexpr bool reads_state = false, has_rates = false;

  void check(state_shape const&) const {}
};

template <class Value>
class input_gates {
 public:
  using option_kind = option::update;
  static constexpr bool reads_state = false, has_rates = true;

  template <TensorLike Tensor>
  explicit input_gates(Tensor const& gates) : gates_(detail::token_tensor<Value>::of_tokens(gates)) {}

  void check(state_shape const& shape) const { gates_.check("input_gates", shape); }
  template <class A>
  void rates(index_t batch, index_t head, index_t first, index_t count, A* to) const {
    gates_.read(batch, head, first, count, to);
  }
  auto const& view() const { return gates_.view(); }

 private:
  detail::token_tensor<Value> gates_;
};
template <class Tensor>
input_gates(Tensor const&) -> input_gates<element_of_t<Tensor const>>;

template <class Value>
class delta_rule {
 public:
  using option_kind = option::update;
  static constexpr bool reads_state = true, has_rates = true;

  template <TensorLike Tensor>
  explicit delta_rule(Tensor const& rates) : rates_(detail::token_tensor<Value>::of_tokens(rates)) {}

  void check(state_shape const& shape) const { rates_.check("delta_rule", shape); }
  template <class A>
  void rates(index_t batch, index_t head, index_t first, index_t count, A* to) const {
    rates_.read(batch, head, first, count, to);
  }
  auto const& view() const { return rates_.view(); }

 private:
  detail::token_tensor<Value> rates_;
};
template <class Tensor>
delta_rule(Tensor const&) -> delta_rule<element_of_t<Tensor const>>;

}  // namespace attend
