// The one exception that bad arguments raise, and how its message is put together.
#pragma once

#include <concepts>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>

#include "target.hpp"

namespace attend::inline ATTEND_TARGET {

/// Thrown before anything is written. The message names the argument, what was expected and what came:
/// `key: expected head dimension 128 (as query), got 96`.
class argument_error : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

namespace detail {

inline void append(std::string& text, std::string_view part) { text += part; }
inline void append(std::string& text, char part) { text += part; }
inline void append(std::string& text, double part) {
  char digits[32];
  std::snprintf(digits, sizeof(digits), "%g", part);
  text += digits;
}
template <std::integral Integer>
void append(std::string& text, Integer part) {
  text += std::to_string(part);
}

}  // namespace detail

/// Throws argument_error("<argument>: <parts, put one after the other>").
template <class... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void fail(char const* argument, Parts const&... parts) {
  std::string text(argument);
  text += ": ";
  (detail::append(text, parts), ...);
  throw argument_error(text);
}

}  // namespace attend::inline ATTEND_TARGET
