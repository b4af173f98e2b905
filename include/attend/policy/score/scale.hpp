// SPDX-License-Identifier: BSD-3-Clause
// The factor of q.k: 1 / sqrt(key dimension) unless a call says otherwise.
#pragma once

#include <cmath>
#include <type_traits>

#include "../../core/check.hpp"
#include "../../core/options.hpp"

namespace attend::inline ATTEND_TARGET {

/// Multiplies q . k by a factor, in place of 1/sqrt(key dimension). A call throws argument_error where it is not finite
/// in the accumulation type.
///
///     softmax_attention(q, k, v, o, scale{0.125});
struct scale {
  using option_kind = option::scale;
  double factor;
  template <class Number>
    requires std::is_arithmetic_v<Number>
  constexpr explicit scale(Number by) : factor(static_cast<double>(by)) {}
};

namespace detail {

/// Gives 1/sqrt(dimension), and 1 where there is nothing to sum over.
inline double usual_scale(index_t dimension) {
  return dimension > 0 ? 1 / std::sqrt(static_cast<double>(dimension)) : 1;
}

/// Gives the scale among the options, or `usual` where none is given. Throws argument_error where it is not finite in
/// the accumulation type A.
template <class A, class... Options>
A scale_or(double usual, Options&... options) {
  scale const fallback(usual);
  A const factor = static_cast<A>(find_option<option::scale>(fallback, options...).factor);
  check_finite("scale", static_cast<double>(factor));
  return factor;
}

}  // namespace detail
}  // namespace attend::inline ATTEND_TARGET
