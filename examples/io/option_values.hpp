// SPDX-License-Identifier: BSD-3-Clause
// What stands behind the options of a command line.
#pragma once

#include <charconv>
#include <stdexcept>
#include <string>
#include <system_error>

namespace attend_io {

/// A whole number from `least` to `most`. Throws std::invalid_argument, which names the option, where the text is none.
inline int parse_number(std::string const& name, std::string const& text, int least, int most) {
  int number = 0;
  auto const [after, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || after != text.data() + text.size() || number < least || number > most)
    throw std::invalid_argument(name + ": expected a number from " + std::to_string(least) + " to " +
                                std::to_string(most) + ", got '" + text + "'");
  return number;
}

}  // namespace attend_io
