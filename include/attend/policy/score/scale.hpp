// SPDX-License-Identifier: BSD-3-Clause
// The factor of q.k: 1 / sqrt(key dimension) unless a call says otherwise.
#pragma once

#include <cmath>
#include <type_traits>

#include "../../core/check.hpp"
#include "../../core/options.hpp"

namespace attend::inline ATTEND_TARGET {

/// The factor of q.k. Finite in the accumulation type.
struct scale {
  using option_kind = option::scale;
  double factor;
  template <class Number>
    requires std::is_arithmetic_v<Number>
  constexpr explicit scale(Number by) : factor(static_cast<double>(by)) {}
};

namespace detail {

/// 1 / sqrt(dimension), and 1 where there is nothing to sum over.
inline double usual_scale(index_t dimension) {
  return dimension > 0 ? 1 / std::sqrt(static_cast<double>(dimension)) : 1;
}

/// The scale among the options, or `usual` where none is given. Throws where it is not finite in the accumulation type
/// A.
template <class A, class... Options>
A scale_or(double usual, Options&... options) {
  scale const fallback(usual);
  A const factor = static_cast<A>(find_option<option::scale>(fallback, options...).factor);
  check_finite("scale", static_cast<double>(factor));
  return factor;
}

}  // namespace detail
}  // namespace attend::inline ATTEND_TARGET
