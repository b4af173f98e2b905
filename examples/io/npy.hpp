// SPDX-License-Identifier: BSD-3-Clause
// Reads and writes .npy, NumPy's file for one array: a short header, then the elements.
//
//     attend_io::array const logits = attend_io::load_npy("logits.npy");
//     std::vector<float> const numbers = logits.values<float>();
//     attend_io::save_npy("copy.npy", logits.shape, numbers);
//
// Reads versions 1, 2 and 3, little-endian, C order, elements f2 f4 f8 i4 i8 u1 b1. Writes version 1.
//
// A file is not trusted. Whatever is wrong with it is a std::runtime_error that names the file, and
// nothing is allocated that the file is not long enough to fill.
#pragma once

#include <array>
#include <charconv>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "elements.hpp"

namespace attend_io {

/// One array, its elements in row-major order.
struct array {
  std::string dtype;                ///< f2, f4, f8, i4, i8, u1 or b1: NumPy's name, without the byte order
  std::vector<std::int64_t> shape;  ///< empty for a single number
  std::vector<std::byte> bytes;
  std::string file = {};  ///< where it came from, for messages

  /// The elements as T. Floating elements become float, double, Eigen::half or Eigen::bfloat16, rounded
  /// where T is narrower; integers and booleans become any integer type, and one that does not fit throws.
  template <class T>
  std::vector<T> values() const;
};

namespace npy_detail {

inline constexpr std::string_view magic = "\x93NUMPY";
inline constexpr std::size_t maximal_rank = 64;  // NumPy's own

[[noreturn]] inline void fail(std::string const& file, std::string const& message) {
  throw std::runtime_error(file + ": " + message);
}

inline std::string excerpt(std::string_view text) { return detail::excerpt(text, 40); }

inline std::size_t element_size(std::string const& dtype) {
  if (dtype == "f8" || dtype == "i8") return 8;
  if (dtype == "f4" || dtype == "i4") return 4;
  if (dtype == "f2") return 2;
  if (dtype == "u1" || dtype == "b1") return 1;
  return 0;
}

inline std::size_t byte_count(std::vector<std::int64_t> const& shape, std::size_t element_size,
                              std::string const& file) {
  std::size_t count = element_size;
  for (std::int64_t const extent : shape) {
    if (extent < 0) fail(file, "expected extents of at least 0, got " + std::to_string(extent));
    auto const factor = static_cast<std::size_t>(extent);
    if (factor != 0 && count > std::numeric_limits<std::size_t>::max() / factor)
      fail(file, "the product of the shape's extents overflows");
    count *= factor;
  }
  return count;
}

struct header {
  std::string dtype;
  std::vector<std::int64_t> shape;
};

/// The header is the text of a Python dictionary:
///     {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
class header_parser {
 public:
  header_parser(std::string_view text, std::string const& file) : text_(text), file_(file) {}

  header parse() {
    std::optional<std::string> dtype;
    std::optional<std::vector<std::int64_t>> shape;
    std::optional<bool> fortran_order;

    expect("{");
    while (!accept("}")) {
      std::string_view const key = parse_string();
      expect(":");
      if (key == "descr" && !dtype)
        dtype = parse_dtype();
      else if (key == "fortran_order" && !fortran_order)
        fortran_order = parse_boolean();
      else if (key == "shape" && !shape)
        shape = parse_shape();
      else
        fail(file_, "header: expected descr, fortran_order and shape once each, got " + excerpt(key));
      if (!accept(",")) {
        expect("}");
        break;
      }
    }
    skip_space();
    if (position_ != text_.size()) fail(file_, "header: expected its end, got " + excerpt(rest()));
    if (!dtype || !fortran_order || !shape)
      fail(file_, "header: expected descr, fortran_order and shape, got " + excerpt(text_));
    if (*fortran_order) fail(file_, "expected C order, got Fortran order");
    return {*dtype, *shape};
  }

 private:
  std::string_view rest() const { return text_.substr(position_); }

  void skip_space() {
    while (position_ < text_.size() && (text_[position_] == ' ' || text_[position_] == '\n')) ++position_;
  }

  bool accept(std::string_view token) {
    skip_space();
    if (!rest().starts_with(token)) return false;
    position_ += token.size();
    return true;
  }

  void expect(std::string_view token) {
    if (!accept(token)) fail(file_, "header: expected " + excerpt(token) + ", got " + excerpt(rest()));
  }

  std::string_view parse_string() {
    skip_space();
    char const quote = rest().empty() ? '\0' : rest().front();
    if (quote != '\'' && quote != '"') fail(file_, "header: expected a string, got " + excerpt(rest()));
    std::size_t const end = text_.find(quote, position_ + 1);
    if (end == std::string_view::npos) fail(file_, "header: expected the end of the string " + excerpt(rest()));
    std::string_view const content = text_.substr(position_ + 1, end - position_ - 1);
    position_ = end + 1;
    return content;
  }

  std::string parse_dtype() {
    std::string_view const descr = parse_string();
    // '|' says that a type of one byte has no order.
    std::string const dtype(descr.empty() ? descr : descr.substr(1));
    std::size_t const size = element_size(dtype);
    bool const ordered = descr.starts_with('<') || (descr.starts_with('|') && size == 1);
    if (size == 0 || !ordered) fail(file_, "expected dtype <f2, <f4, <f8, <i4, <i8, |u1 or |b1, got " + excerpt(descr));
    return dtype;
  }

  bool parse_boolean() {
    if (accept("True")) return true;
    if (accept("False")) return false;
    fail(file_, "header: expected True or False, got " + excerpt(rest()));
  }

  std::vector<std::int64_t> parse_shape() {
    std::vector<std::int64_t> shape;
    expect("(");
    while (!accept(")")) {
      skip_space();
      std::int64_t extent = 0;
      auto const [end, error] = std::from_chars(rest().data(), rest().data() + rest().size(), extent);
      if (error != std::errc{}) fail(file_, "header: expected an extent, got " + excerpt(rest()));
      position_ = static_cast<std::size_t>(end - text_.data());
      shape.push_back(extent);
      if (shape.size() > maximal_rank)
        fail(file_, "expected at most " + std::to_string(maximal_rank) + " extents, got more");
      if (accept(",")) continue;
      expect(")");
      // In Python (3) is a number, and only (3,) a tuple.
      if (shape.size() == 1) fail(file_, "header: expected a tuple for the shape, got a number in brackets");
      break;
    }
    return shape;
  }

  std::string_view text_;
  std::string const& file_;
  std::size_t position_ = 0;
};

template <std::floating_point T>
void save(std::filesystem::path const& path, std::vector<std::int64_t> const& shape, std::span<T const> values) {
  std::string const file = path.string();
  if (shape.size() > maximal_rank)
    fail(file, "expected at most " + std::to_string(maximal_rank) + " extents, got " + std::to_string(shape.size()));
  std::size_t const expected = byte_count(shape, sizeof(T), file) / sizeof(T);
  if (values.size() != expected)
    fail(file, "expected " + std::to_string(expected) + " values for the shape, got " + std::to_string(values.size()));

  std::string tuple;
  for (std::int64_t const extent : shape) tuple += (tuple.empty() ? "" : ", ") + std::to_string(extent);
  if (shape.size() == 1) tuple += ",";
  std::string dictionary =
      "{'descr': '<f" + std::to_string(sizeof(T)) + "', 'fortran_order': False, 'shape': (" + tuple + "), }";

  // Spaces and a newline fill the header, so that the elements start at a multiple of 64 bytes and can be mapped.
  std::size_t const prefix = magic.size() + 4;
  while ((prefix + dictionary.size() + 1) % 64 != 0) dictionary += ' ';
  dictionary += '\n';

  std::ofstream stream(path, std::ios::binary);
  std::array<char, 4> const version_and_length = {1, 0, static_cast<char>(dictionary.size() & 0xff),
                                                  static_cast<char>(dictionary.size() >> 8)};
  stream.write(magic.data(), static_cast<std::streamsize>(magic.size()));
  stream.write(version_and_length.data(), version_and_length.size());
  stream.write(dictionary.data(), static_cast<std::streamsize>(dictionary.size()));
  stream.write(reinterpret_cast<char const*>(values.data()), static_cast<std::streamsize>(values.size_bytes()));
  stream.close();
  if (!stream) fail(file, "could not be written");
}

}  // namespace npy_detail

template <class T>
std::vector<T> array::values() const {
  using namespace npy_detail;
  if constexpr (detail::floating<T>) {
    if (dtype == "f2") return detail::rounded<T, Eigen::half>(bytes);
    if (dtype == "f4") return detail::rounded<T, float>(bytes);
    if (dtype == "f8") return detail::rounded<T, double>(bytes);
    fail(file, "expected a floating dtype (f2, f4, f8), got " + excerpt(dtype));
  } else {
    static_assert(std::integral<T>);
    if (dtype == "i4") return detail::exact<T, std::int32_t>(bytes, file + ": ");
    if (dtype == "i8") return detail::exact<T, std::int64_t>(bytes, file + ": ");
    if (dtype == "u1" || dtype == "b1") return detail::exact<T, std::uint8_t>(bytes, file + ": ");
    fail(file, "expected an integer dtype (i4, i8, u1, b1), got " + excerpt(dtype));
  }
}

inline array load_npy(std::filesystem::path const& path) {
  using npy_detail::fail;
  std::string const file = path.string();
  std::error_code error;
  std::uintmax_t remaining = std::filesystem::file_size(path, error);
  std::ifstream stream(path, std::ios::binary);
  if (error || !stream) fail(file, "cannot be read" + (error ? ": " + error.message() : std::string()));

  // Every read goes through here, so that no length out of the file is believed before it is compared with the file.
  auto const read = [&](char* destination, std::size_t size, char const* part) {
    if (size > remaining)
      fail(file, std::string("truncated: expected ") + std::to_string(size) + " bytes of " + part + ", got " +
                     std::to_string(remaining));
    if (!stream.read(destination, static_cast<std::streamsize>(size)))
      fail(file, std::string("cannot be read: ") + part);
    remaining -= size;
  };

  std::array<char, npy_detail::magic.size()> magic;
  read(magic.data(), magic.size(), "magic");
  if (std::string_view(magic.data(), magic.size()) != npy_detail::magic)
    fail(file, "expected a .npy file, got other first bytes");

  std::array<std::uint8_t, 2> version;
  read(reinterpret_cast<char*>(version.data()), version.size(), "version");
  if (version[0] < 1 || version[0] > 3 || version[1] != 0)
    fail(file,
         "expected version 1.0, 2.0 or 3.0, got " + std::to_string(version[0]) + "." + std::to_string(version[1]));

  std::uint32_t header_length = 0;
  read(reinterpret_cast<char*>(&header_length), version[0] == 1 ? 2 : 4, "header length");
  if (header_length > remaining)
    fail(file, "truncated: expected a header of " + std::to_string(header_length) + " bytes, got " +
                   std::to_string(remaining));
  std::string text(header_length, '\0');
  read(text.data(), text.size(), "header");

  npy_detail::header const header = npy_detail::header_parser(text, file).parse();
  std::size_t const size = npy_detail::byte_count(header.shape, npy_detail::element_size(header.dtype), file);
  if (size != remaining)
    fail(file,
         "expected " + std::to_string(size) + " bytes of elements for the shape, got " + std::to_string(remaining));

  array result{header.dtype, header.shape, std::vector<std::byte>(size), file};
  read(reinterpret_cast<char*>(result.bytes.data()), size, "elements");
  return result;
}

inline void save_npy(std::filesystem::path const& path, std::vector<std::int64_t> const& shape,
                     std::span<float const> values) {
  npy_detail::save(path, shape, values);
}

inline void save_npy(std::filesystem::path const& path, std::vector<std::int64_t> const& shape,
                     std::span<double const> values) {
  npy_detail::save(path, shape, values);
}

}  // namespace attend_io
