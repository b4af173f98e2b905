// SPDX-License-Identifier: BSD-3-Clause
#include "text_table.hpp"

#include <algorithm>

namespace attend_bench {

std::string milliseconds_text(double milliseconds) {
  int const decimals = milliseconds < 0.1   ? 5
                       : milliseconds < 1   ? 4
                       : milliseconds < 10  ? 3
                       : milliseconds < 100 ? 2
                                            : 1;
  return text("%.*f", decimals, milliseconds);
}

void print_lines(std::ostream& out, std::vector<std::vector<std::string>> const& lines, std::size_t text_columns) {
  std::vector<std::size_t> widths(lines.front().size(), 0);
  for (auto const& cells : lines)
    for (std::size_t column = 0; column < cells.size(); ++column)
      widths[column] = std::max(widths[column], cells[column].size());
  for (auto const& cells : lines) {
    std::string whole;
    for (std::size_t column = 0; column < cells.size(); ++column) {
      std::string const padding(widths[column] - cells[column].size(), ' ');
      bool const is_text = column < text_columns || column + 1 == cells.size();
      whole += (column ? "  " : "") + (is_text ? cells[column] + padding : padding + cells[column]);
    }
    out << whole.substr(0, whole.find_last_not_of(' ') + 1) << '\n';
  }
}

}  // namespace attend_bench
