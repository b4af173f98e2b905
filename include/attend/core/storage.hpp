// SPDX-License-Identifier: BSD-3-Clause
// What keys and values may be stored as: the element types of tensors, and two that are narrower and have scales.
#pragma once

#include <cstdint>

#include "types.hpp"

namespace attend::inline ATTEND_TARGET {

namespace caches {

/// Two 4-bit numbers: element 2c of a row is in the low half of its byte c, element 2c + 1 in the high half. Each is
/// stored plus 8. The half that a row with an odd dimension leaves over is not read as an element.
struct int4_pair {
  std::uint8_t bits;
};

}  // namespace caches

namespace extend {

/// What keys and values may be stored as.
template <class T>
concept StorageElement = Element<T> || std::same_as<T, std::int8_t> || std::same_as<T, caches::int4_pair>;

/// The number of elements of a row that one T holds.
template <StorageElement T>
inline constexpr index_t elements_in = std::same_as<T, caches::int4_pair> ? 2 : 1;

/// Whether rows of T have a scale.
template <StorageElement T>
inline constexpr bool is_scaled = !Element<T>;

/// The type in which sums over stored elements are formed: double for double, float for all others.
template <StorageElement T>
using storage_accumulation_t = std::conditional_t<std::same_as<T, double>, double, float>;

}  // namespace extend

}  // namespace attend::inline ATTEND_TARGET
