// SPDX-License-Identifier: BSD-3-Clause
// Numeric types: what may be stored, and in which type it is accumulated.
//
//   stored              accumulated in
//   float               float
//   double              double
//   Eigen::half         float
//   Eigen::bfloat16     float
//
// Eigen's two types are only declared here, since its headers cost a compiler more than all of attend's that softmax
// attention needs: a program that makes such numbers includes <Eigen/Core>.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "target.hpp"

namespace Eigen {
struct half;
struct bfloat16;
}  // namespace Eigen

namespace attend::inline ATTEND_TARGET {

/// Extents, strides and counts.
using index_t = std::ptrdiff_t;

using half = Eigen::half;
using bfloat16 = Eigen::bfloat16;

namespace extend {

/// The element types that a tensor may have.
template <class T>
concept Element =
    std::same_as<T, float> || std::same_as<T, double> || std::same_as<T, half> || std::same_as<T, bfloat16>;

/// The type in which sums over elements of type T are formed.
template <Element T>
using accumulation_t = std::conditional_t<std::same_as<T, double>, double, float>;

/// Positions of queries and keys: integers as wide as the accumulation type, so that both fill the same lanes.
template <class Accumulation>
using position_t = std::conditional_t<std::same_as<Accumulation, double>, std::int64_t, std::int32_t>;

/// A sequence has fewer tokens than this, so that positions, their offsets and their differences fit in 32 bits.
inline constexpr index_t token_limit = index_t{1} << 29;

template <class T>
inline constexpr T infinity = std::numeric_limits<T>::infinity();

/// A count as the size of an array, in the type that sizes of arrays have.
constexpr std::size_t array_size(index_t count) { return static_cast<std::size_t>(count); }

constexpr index_t divide_up(index_t count, index_t by) { return (count + by - 1) / by; }
constexpr index_t round_up(index_t count, index_t to) { return divide_up(count, to) * to; }

}  // namespace extend

}  // namespace attend::inline ATTEND_TARGET
