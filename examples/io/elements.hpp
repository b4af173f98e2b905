// SPDX-License-Identifier: BSD-3-Clause
// The elements of a file as the numbers that a program asks for: floating ones rounded, whole ones only where they fit.
#pragma once

#include <Eigen/Core>

#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace attend_io::detail {

static_assert(std::endian::native == std::endian::little, "elements are copied from little-endian files as they are");

template <class T>
concept floating = std::floating_point<T> || std::same_as<T, Eigen::half> || std::same_as<T, Eigen::bfloat16>;

/// A piece of a file for a message, which a hostile file must not be able to flood.
inline std::string excerpt(std::string_view text, std::size_t longest) {
  return "'" + std::string(text.substr(0, longest)) + (text.size() > longest ? "...'" : "'");
}

/// convert(element) for each of the Stored elements in the bytes, which need not be aligned.
template <class T, class Stored, class Convert>
std::vector<T> converted(std::span<std::byte const> bytes, Convert const& convert) {
  std::vector<T> result;
  result.reserve(bytes.size() / sizeof(Stored));
  for (std::size_t offset = 0; offset + sizeof(Stored) <= bytes.size(); offset += sizeof(Stored)) {
    std::array<std::byte, sizeof(Stored)> raw;
    std::memcpy(raw.data(), bytes.data() + offset, sizeof(Stored));
    result.push_back(convert(std::bit_cast<Stored>(raw)));
  }
  return result;
}

template <class T, class Stored>
std::vector<T> rounded(std::span<std::byte const> bytes) {
  using wide = std::conditional_t<std::same_as<Stored, double>, double, float>;
  return converted<T, Stored>(bytes, [](Stored element) { return static_cast<T>(static_cast<wide>(element)); });
}

/// `where` begins the message for an element that does not fit.
template <class T, class Stored>
std::vector<T> exact(std::span<std::byte const> bytes, std::string const& where) {
  return converted<T, Stored>(bytes, [&](Stored element) {
    auto const original = static_cast<std::int64_t>(element);
    auto const narrowed = static_cast<T>(original);
    bool const same_sign = (original < 0) == (narrowed < T{});
    if (static_cast<std::int64_t>(narrowed) != original || !same_sign)
      throw std::runtime_error(where + "the element " + std::to_string(original) +
                               " does not fit the integer type asked for");
    return narrowed;
  });
}

}  // namespace attend_io::detail
