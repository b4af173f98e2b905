// SPDX-License-Identifier: BSD-3-Clause
// How a state forgets, and what a decay policy is. Before token t is written, the state is multiplied by a_t:
//
//   S_t = diag(a_t) S_{t-1} + k_t w_t^T          0 <= a_t <= 1
//
// Decays are given as natural logarithms, log a_t <= 0; -inf forgets everything. A decay policy says of what kind it
// is:
//
//   none      a_t = 1
//   scalar    one number for a token (or for all tokens): read(batch, head, first, count, to) writes count numbers
//   vector    one number for each feature: read(batch, head, first, count, to, stride) writes count rows
//
// and may say `constant` where all batches and tokens of a head have the same scalar. A logarithm above 0 makes the
// state grow, and is meant by no published system; it is computed as it stands.
#pragma once

#include "../../core/options.hpp"
#include "../state/token_tensor.hpp"

namespace attend::inline ATTEND_TARGET {

namespace extend {

enum class decay_kind { none, scalar, vector };

}  // namespace extend

namespace detail {

template <class D>
concept HasDecayKind = requires {
  { D::kind } -> std::convertible_to<extend::decay_kind>;
};
template <class D, class A>
concept HasReadDecays = D::kind == extend::decay_kind::none ||
                        (D::kind == extend::decay_kind::scalar &&
                         requires(D const& decay, index_t i, A* to) { decay.read(i, i, i, i, to); }) ||
                        (D::kind == extend::decay_kind::vector &&
                         requires(D const& decay, index_t i, A* to) { decay.read(i, i, i, i, to, i); });

/// Whether a decay has all members, for numbers of type A; an error names each one that is missing.
template <class D, class A>
consteval bool has_decay_members() {
  static_assert(HasCheck<D, extend::state_shape>, "attend: a decay needs check(shape) const");
  static_assert(HasDecayKind<D>, "attend: a decay needs kind, a static constexpr decay_kind");
  static_assert(HasReadDecays<D, A>,
                "attend: a decay needs read(batch, head, first, count, to) const, or with a stride for vectors");
  return true;
}

}  // namespace detail

namespace extend {

/// A type is a decay, in numbers of type A, where it has the members that stand at the beginning of this file.
template <class D, class A = float>
concept Decay = detail::has_kind<option::decay, D> && detail::HasCheck<D, extend::state_shape> &&
                detail::HasDecayKind<D> && detail::HasReadDecays<D, A>;

/// Whether all batches and tokens of a head have the same decay, as it says where they have.
template <class D>
inline constexpr bool is_constant = requires { requires D::constant; };

/// Forgets nothing. It is the default.
struct no_decay {
  using option_kind = option::decay;
  static constexpr decay_kind kind = decay_kind::none;

  void check(state_shape const&) const {}
};

}  // namespace extend

}  // namespace attend::inline ATTEND_TARGET
