// SPDX-License-Identifier: BSD-3-Clause
// The element types that a benchmark can have, chosen while the program runs.
#pragma once

#include <attend/core/types.hpp>

#include <Eigen/Core>
#include <optional>
#include <string_view>

namespace attend_bench {

enum class element_type { f32, f64, f16, bf16 };

inline constexpr element_type element_types[] = {element_type::f32, element_type::f64, element_type::f16,
                                                 element_type::bf16};

constexpr char const* name_of(element_type type) {
  switch (type) {
    case element_type::f32:
      return "f32";
    case element_type::f64:
      return "f64";
    case element_type::f16:
      return "f16";
    default:
      return "bf16";
  }
}

constexpr std::optional<element_type> find_element_type(std::string_view name) {
  for (element_type type : element_types)
    if (name == name_of(type)) return type;
  return std::nullopt;
}

/// Calls function.template operator()<T>() with the C++ type.
template <class Function>
decltype(auto) with_element_type(element_type type, Function&& function) {
  switch (type) {
    case element_type::f32:
      return function.template operator()<float>();
    case element_type::f64:
      return function.template operator()<double>();
    case element_type::f16:
      return function.template operator()<attend::half>();
    default:
      return function.template operator()<attend::bfloat16>();
  }
}

}  // namespace attend_bench
