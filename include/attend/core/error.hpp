// SPDX-License-Identifier: BSD-3-Clause
// Argument errors: the one exception that bad arguments raise, or, in programs without exceptions, the handler that
// they call; and how the message is put together.
#pragma once

#include <atomic>
#include <concepts>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include "target.hpp"

namespace attend::shared {

// The whole program has one handler, whatever instruction sets its parts are compiled for: so it stands outside the
// namespace that is named after the instruction set. Only set_error_handler and code that is compiled without
// exceptions refer to it.
inline std::atomic<void (*)(char const*)> error_handler = nullptr;

}  // namespace attend::shared

namespace attend::inline ATTEND_TARGET {

/// Thrown before anything is written. The message names the argument, what was expected and what came:
/// `key: expected head dimension 128 (as query), got 96`.
class argument_error : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

namespace runtime {

/// Called with the message of an argument error in code that is compiled without exceptions (ATTEND_NO_EXCEPTIONS is
/// 1), before anything is written, on the thread that made the call. It is not meant to return; where it does, the
/// program aborts.
using error_handler = void (*)(char const* message);

/// Sets the handler for the whole program and returns the previous one. The default is nullptr: the message is then
/// printed to the standard error stream, and the program aborts. Code that is compiled with exceptions calls no
/// handler.
///
///     set_error_handler([](char const* message) { std::puts(message), std::exit(1); });
inline error_handler set_error_handler(error_handler handler) { return shared::error_handler.exchange(handler); }

}  // namespace runtime

namespace detail {

[[noreturn]] inline void end_with_error(char const* message) {
  if (runtime::error_handler const handler = shared::error_handler.load())
    handler(message);
  else
    std::fprintf(stderr, "attend: %s\n", message);
  std::abort();
}

inline void append(std::string& text, std::string_view part) { text += part; }
inline void append(std::string& text, char part) { text += part; }
inline void append(std::string& text, double part) {
  char digits[32];
  std::snprintf(digits, sizeof(digits), "%g", part);
  text += digits;
}
inline void append(std::string& text, float part) { append(text, static_cast<double>(part)); }
template <std::integral Integer>
void append(std::string& text, Integer part) {
  text += std::to_string(part);
}

}  // namespace detail

namespace extend {

/// Throws argument_error("<argument>: <parts, put one after the other>"), or ends the program with that message where
/// there are no exceptions.
template <class... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void fail(char const* argument, Parts const&... parts) {
  std::string text(argument);
  text += ": ";
  (detail::append(text, parts), ...);
#if ATTEND_NO_EXCEPTIONS
  detail::end_with_error(text.c_str());
#else
  throw argument_error(text);
#endif
}

}  // namespace extend

}  // namespace attend::inline ATTEND_TARGET
