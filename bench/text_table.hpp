// SPDX-License-Identifier: BSD-3-Clause
// Tables of text whose columns are as wide as what stands in them.
#pragma once

#include <cstdio>
#include <ostream>
#include <string>
#include <vector>

namespace attend_bench {

/// As std::printf would print it.
template <class... Numbers>
std::string text(char const* format, Numbers... numbers) {
  std::string buffer(64, '\0');
  buffer.resize(static_cast<std::size_t>(std::snprintf(buffer.data(), buffer.size(), format, numbers...)));
  return buffer;
}

/// About four digits.
std::string milliseconds_text(double milliseconds);

/// Lines of the same number of cells. The first `text_columns` and the last column are texts, which begin at the left;
/// the others are numbers.
void print_lines(std::ostream& out, std::vector<std::vector<std::string>> const& lines, std::size_t text_columns);

}  // namespace attend_bench
