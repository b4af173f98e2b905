// SPDX-License-Identifier: BSD-3-Clause
// A table of words and numbers: in columns for a reader, or as CSV (RFC 4180) for a program.
//
//     attend_io::table results({"cache", "bytes"});
//     results.add({"paged, int8", std::to_string(bytes)});
//     std::cout << results.text();
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace attend_io {

/// A number with so many digits behind the point.
inline std::string fixed(double number, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, number);
  return text;
}

class table {
 public:
  using row = std::vector<std::string>;

  explicit table(row header) : rows_{std::move(header)} {}

  /// Throws std::invalid_argument where the row has another length than the header.
  void add(row cells) {
    if (cells.size() != rows_[0].size())
      throw std::invalid_argument("cells: expected " + std::to_string(rows_[0].size()) + " (the columns), got " +
                                  std::to_string(cells.size()));
    rows_.push_back(std::move(cells));
  }

  /// The first column to the left, the others to the right.
  std::string text() const {
    std::vector<std::size_t> widths(rows_[0].size(), 0);
    for (row const& cells : rows_)
      for (std::size_t i = 0; i < cells.size(); ++i) widths[i] = std::max(widths[i], cells[i].size());
    std::string result;
    for (row const& cells : rows_) {
      for (std::size_t i = 0; i < cells.size(); ++i) {
        std::string const space(widths[i] - cells[i].size(), ' ');
        result += i == 0 ? cells[i] + space : "  " + space + cells[i];
      }
      result += '\n';
    }
    return result;
  }

  std::string csv() const {
    std::string result;
    for (row const& cells : rows_) {
      for (std::size_t i = 0; i < cells.size(); ++i) result += (i == 0 ? "" : ",") + quoted(cells[i]);
      result += '\n';
    }
    return result;
  }

  /// Throws std::runtime_error that names the file where it cannot be written.
  void write_csv(std::filesystem::path const& path) const {
    std::ofstream stream(path, std::ios::binary);
    stream << csv() << std::flush;
    if (!stream) throw std::runtime_error(path.string() + ": cannot be written");
  }

 private:
  static std::string quoted(std::string const& cell) {
    if (cell.find_first_of(",\"\n\r") == std::string::npos) return cell;
    std::string result = "\"";
    for (char const character : cell) result += character == '"' ? "\"\"" : std::string(1, character);
    return result + '"';
  }

  std::vector<row> rows_;
};

}  // namespace attend_io
