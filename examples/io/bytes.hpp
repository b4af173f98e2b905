// SPDX-License-Identifier: BSD-3-Clause
// The bytes of a file, and numbers taken from them one behind the other, none of them beyond the end.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <ios>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace attend_io::detail {

static_assert(std::endian::native == std::endian::little, "numbers are copied from little-endian files as they are");

/// The whole file. Throws std::runtime_error that names it where it cannot be read.
inline std::vector<std::byte> read_file(std::filesystem::path const& path) {
  std::error_code error;
  std::uintmax_t const size = std::filesystem::file_size(path, error);
  std::ifstream stream(path, std::ios::binary);
  if (error || !stream)
    throw std::runtime_error(path.string() + ": cannot be read" + (error ? ": " + error.message() : std::string()));
  std::vector<std::byte> bytes(size);
  if (!stream.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size)))
    throw std::runtime_error(path.string() + ": cannot be read");
  return bytes;
}

/// A place in a file's bytes. What would be taken from beyond their end is a std::runtime_error that names the file.
class byte_reader {
 public:
  byte_reader(std::span<std::byte const> bytes, std::string file) : rest_(bytes), file_(std::move(file)) {}

  std::size_t left() const { return rest_.size(); }

  std::span<std::byte const> take(std::uint64_t count, std::string_view what) {
    if (count > rest_.size())
      throw std::runtime_error(file_ + ": truncated: expected " + std::to_string(count) + " bytes for " +
                               std::string(what) + ", got " + std::to_string(rest_.size()));
    auto const taken = rest_.first(static_cast<std::size_t>(count));
    rest_ = rest_.subspan(taken.size());
    return taken;
  }

  template <class T>
  T number(std::string_view what) {
    std::array<std::byte, sizeof(T)> raw;
    std::memcpy(raw.data(), take(sizeof(T), what).data(), sizeof(T));
    return std::bit_cast<T>(raw);
  }

  std::string_view text(std::uint64_t count, std::string_view what) {
    auto const taken = take(count, what);
    return {reinterpret_cast<char const*>(taken.data()), taken.size()};
  }

 private:
  std::span<std::byte const> rest_;
  std::string file_;
};

}  // namespace attend_io::detail
