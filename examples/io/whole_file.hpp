// SPDX-License-Identifier: BSD-3-Clause
// Writes files that are never seen half-written, whatever interrupts the program.
//
//     attend_io::write_whole("losses.csv", losses.csv());
#pragma once

#include <filesystem>
#include <fstream>
#include <ios>
#include <stdexcept>
#include <string_view>
#include <system_error>

namespace attend_io {

/// Writes the bytes to a neighbour of the file, which then takes the file's name: who reads the file finds these bytes
/// or those of before. Throws std::runtime_error that names the file where it cannot be written.
inline void write_whole(std::filesystem::path const& path, std::string_view bytes) {
  std::filesystem::path neighbour = path;
  neighbour += ".partial";
  std::ofstream stream(neighbour, std::ios::binary);
  stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  stream.close();
  std::error_code error, ignored;
  if (stream) std::filesystem::rename(neighbour, path, error);
  if (stream && !error) return;
  std::filesystem::remove(neighbour, ignored);
  throw std::runtime_error(path.string() + ": cannot be written" + (error ? ": " + error.message() : ""));
}

}  // namespace attend_io
