// The one exception that bad arguments raise, and how its message is put together.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace attend {

/// Thrown before anything is written. The message names the argument, what was expected and what came:
/// `key: expected head dimension 128 (as query), got 96`.
class argument_error : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

/// Throws argument_error("<argument>: <parts, put one after the other>").
template <class... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void fail(char const* argument, Parts const&... parts) {
  std::ostringstream text;
  text << argument << ": ";
  (text << ... << parts);
  throw argument_error(text.str());
}

}  // namespace attend
