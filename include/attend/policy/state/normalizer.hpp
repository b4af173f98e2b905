// SPDX-License-Identifier: BSD-3-Clause
// What the numerator of linear attention, x_i = scale phi(q_i)^T S_i, is divided by.
//
//   unnormalized{}      o_i = x_i                                                        the default
//   key_sum{epsilon}    o_i = x_i / (scale phi(q_i) . z_i + epsilon),   z_i = sum of the keys, decayed and gated as S
//   rms_norm{epsilon}   o_i = x_i / sqrt(mean_c(x_ic^2) + epsilon),            over the columns of one head
//   joined_rms_norm{epsilon}   the same with the mean over all heads side by side: over every number that the token has
//
// The scale is in both: beside an epsilon it matters, without one it cancels. A row whose divisor is 0, as it is where
// there are no keys and epsilon is 0, becomes 0.
//
// A normalizer says whether it needs the sum of the keys (`sums_keys`, which is then a part of the state), or all value
// columns of a row at once (`whole_rows`), and gives factor(what it needs). One that needs all heads of a token
// (`joins_heads`) is applied when they are there (engine/chunked/finished_rows.hpp).
//
// Angelos Katharopoulos et al.: Transformers are RNNs, 2020 (the sum of keys); Zhen Qin et al.: TransNormerLLM, 2023
// (SRMSNorm: a root mean square without weights, in place of a denominator, over the model's whole width).
#pragma once

#include <cmath>

#include "../../core/check.hpp"
#include "../../core/options.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

template <class N>
concept HasSumsAndRows = requires {
  { N::sums_keys } -> std::convertible_to<bool>;
  { N::whole_rows } -> std::convertible_to<bool>;
};
template <class N, class A>
concept HasStateFactor = !(N::sums_keys || N::whole_rows) || requires(N const& normalizer, A number) {
  { normalizer.factor(number) } -> std::convertible_to<A>;
};

/// Whether a state's normalizer has all members, for numbers of type A; an error names each one that is missing.
template <class N, class A>
consteval bool has_state_normalizer_members() {
  static_assert(HasCheck<N>, "attend: a normalizer of a state needs check() const");
  static_assert(HasSumsAndRows<N>,
                "attend: a normalizer of a state needs sums_keys and whole_rows, each a static constexpr bool");
  static_assert(HasStateFactor<N, A>,
                "attend: a normalizer of a state that sums keys, or needs whole rows, needs factor(number) const");
  return true;
}

}  // namespace detail

namespace extend {

/// A type is a normalizer of a state, for numbers of type A, where it has the members that stand at the beginning of
/// this file.
template <class N, class A = float>
concept StateNormalizer = detail::has_kind<option::state_normalizer, N> && detail::HasCheck<N> &&
                          detail::HasSumsAndRows<N> && detail::HasStateFactor<N, A>;

/// Whether it needs all heads of a token, as it says where it does.
template <extend::StateNormalizer N>
inline constexpr bool joins_heads = requires { requires N::joins_heads; };

}  // namespace extend

namespace detail {
template <class A>
A inverse_or_zero(A divisor) {
  return divisor == 0 ? A(0) : 1 / divisor;
}

inline void check_norm_epsilon(char const* argument, double epsilon) {
  check_finite(argument, epsilon);
  if (epsilon < 0) fail(argument, "expected an epsilon of at least 0, got ", epsilon);
}
}  // namespace detail

namespace linear {

/// Divides by nothing. It is the default.
struct unnormalized {
  using option_kind = option::state_normalizer;
  static constexpr bool sums_keys = false, whole_rows = false;

  void check() const {}
};

/// Divides by the product of the query with the sum of the keys, to which epsilon is added.
///
///     linear_attention(q, k, v, o, elu_features{}, key_sum{1e-6});
struct key_sum {
  using option_kind = option::state_normalizer;
  static constexpr bool sums_keys = true, whole_rows = false;
  double epsilon = 1e-6;

  void check() const { detail::check_finite("key_sum", epsilon); }
  template <class A>
  A factor(A sum) const {
    return detail::inverse_or_zero(sum + static_cast<A>(epsilon));
  }
};

/// Divides by the root mean square of the head's columns.
///
///     linear_attention(q, k, v, o, causal{}, head_decay(retention_decays(8)), rms_norm{});
struct rms_norm {
  using option_kind = option::state_normalizer;
  static constexpr bool sums_keys = false, whole_rows = true;
  double epsilon = 1e-6;

  void check() const { detail::check_norm_epsilon("rms_norm", epsilon); }
  template <class A>
  A factor(A mean_square) const {
    return detail::inverse_or_zero(std::sqrt(mean_square + static_cast<A>(epsilon)));
  }
};

/// Divides by the root mean square of all heads' columns. Zhen Qin et al.: TransNormerLLM, 2023; Various Lengths,
/// Constant Speed (TNL), 2024. Their published code has the epsilon beside the mean, as here, or beside its root; the
/// two differ where a mean is as small as it.
///
///     linear_attention(q, k, v, o, causal{}, head_decay(lightning_decays(8, 0, 24)), joined_rms_norm{});
struct joined_rms_norm {
  using option_kind = option::state_normalizer;
  static constexpr bool sums_keys = false, whole_rows = true, joins_heads = true;
  double epsilon = 1e-6;

  void check() const { detail::check_norm_epsilon("joined_rms_norm", epsilon); }
  template <class A>
  A factor(A mean_square) const {
    return rms_norm{epsilon}.factor(mean_square);
  }
};

}  // namespace linear

}  // namespace attend::inline ATTEND_TARGET
