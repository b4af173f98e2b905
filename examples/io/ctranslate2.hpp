// SPDX-License-Identifier: BSD-3-Clause
// Reads model.bin, the file of a model in the format of CTranslate2: named arrays, one behind the other.
//
//     attend_io::ctranslate2_model const model("model.bin");
//     std::vector<float> const weight = model.values<float>("encoder/conv1/weight");
//
// The layout, version 6, all numbers little-endian and without padding:
//
//   uint32 version, string name of the specification, uint32 its revision
//   uint32 arrays,  of each: string name, uint8 axes, uint32 extent of each axis, uint8 type, uint32 bytes, the
//   elements uint32 aliases, of each: string alias, string name of an array string: uint16 length, the characters and a
//   zero, which the length counts
//
// Types are numbers in the order of `types` below.
//
// A file is not trusted. Whatever is wrong with it is a std::runtime_error that names the file; what it says about
// sizes is held against the bytes that are there before memory is taken for it.
#pragma once

#include <Eigen/Core>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bytes.hpp"
#include "elements.hpp"

namespace attend_io {

/// A whole file in memory, and the arrays in it.
class ctranslate2_model {
 public:
  /// One array in row-major order; a view that lives as long as the model it was taken from.
  struct array {
    std::string type;                  ///< float32, int8, int16, int32, float16 or bfloat16
    std::vector<std::int64_t> shape;   ///< empty for a single number
    std::span<std::byte const> bytes;  ///< not necessarily aligned for the element type
  };

  explicit ctranslate2_model(std::filesystem::path const& path)
      : file_(path.string()), bytes_(detail::read_file(path)) {
    detail::byte_reader reader(bytes_, file_);
    auto const version = reader.number<std::uint32_t>("the version");
    if (version != known_version)
      fail("expected version " + std::to_string(known_version) + " of CTranslate2's format, got " +
           std::to_string(version));
    specification_ = read_string(reader, "the name of the specification");
    reader.number<std::uint32_t>("the revision");
    for (auto left = reader.number<std::uint32_t>("the number of arrays"); left > 0; --left) {
      std::string const name = read_string(reader, "the name of an array");
      add(name, read_array(reader, "array " + excerpt(name) + ": "));
    }
    for (auto left = reader.number<std::uint32_t>("the number of aliases"); left > 0; --left) {
      std::string const alias = read_string(reader, "an alias");
      add(alias, at(read_string(reader, "the name behind an alias")));
    }
    if (reader.left() > 0) fail("expected nothing behind the aliases, got " + std::to_string(reader.left()) + " bytes");
  }

  // The views point into bytes_, which moves along with them but would not be copied with them.
  ctranslate2_model(ctranslate2_model&&) = default;
  ctranslate2_model& operator=(ctranslate2_model&&) = default;

  std::map<std::string, array> const& arrays() const { return arrays_; }
  std::string const& file() const { return file_; }
  /// What the arrays are the weights of, such as WhisperSpec.
  std::string const& specification() const { return specification_; }

  array const& at(std::string const& name) const {
    auto const found = arrays_.find(name);
    if (found == arrays_.end()) fail("expected an array " + excerpt(name) + ", got none of that name");
    return found->second;
  }

  /// The elements as T. Floating elements become float, double, Eigen::half or Eigen::bfloat16, rounded where T is
  /// narrower; integers become any integer type, and one that does not fit throws.
  template <class T>
  std::vector<T> values(std::string const& name) const {
    array const& source = at(name);
    std::string const where = file_ + ": array " + excerpt(name) + ": ";
    if constexpr (detail::floating<T>) {
      if (source.type == "float32") return detail::rounded<T, float>(source.bytes);
      if (source.type == "float16") return detail::rounded<T, Eigen::half>(source.bytes);
      if (source.type == "bfloat16") return detail::rounded<T, Eigen::bfloat16>(source.bytes);
      throw std::runtime_error(where + "expected floating elements, got " + source.type);
    } else {
      if (source.type == "int8") return detail::exact<T, std::int8_t>(source.bytes, where);
      if (source.type == "int16") return detail::exact<T, std::int16_t>(source.bytes, where);
      if (source.type == "int32") return detail::exact<T, std::int32_t>(source.bytes, where);
      throw std::runtime_error(where + "expected integers, got " + source.type);
    }
  }

 private:
  struct element_type {
    char const* name;
    std::uint64_t bytes;
  };
  static constexpr element_type types[] = {{"float32", 4}, {"int8", 1},    {"int16", 2},
                                           {"int32", 4},   {"float16", 2}, {"bfloat16", 2}};
  static constexpr std::uint32_t known_version = 6;

  [[noreturn]] void fail(std::string const& message) const { throw std::runtime_error(file_ + ": " + message); }

  static std::string excerpt(std::string_view text) { return detail::excerpt(text, 160); }

  void add(std::string const& name, array found) {
    if (!arrays_.emplace(name, std::move(found)).second)
      fail("expected each name once, got " + excerpt(name) + " twice");
  }

  std::string read_string(detail::byte_reader& reader, char const* what) const {
    auto const length = reader.number<std::uint16_t>(what);
    std::string_view const text = reader.text(length, what);
    if (text.find('\0') != text.size() - 1 || text.empty())
      fail("expected one zero at the end of " + std::string(what) + ", got " + excerpt(text));
    return std::string(text.substr(0, text.size() - 1));
  }

  array read_array(detail::byte_reader& reader, std::string const& where) const {
    array result;
    int const axes = reader.number<std::uint8_t>(where + "the number of axes");
    // No array has more elements than the file has bytes, which keeps the product below 2^64: an extent is below 2^32.
    std::uint64_t elements = 1;
    for (int axis = 0; axis < axes; ++axis) {
      auto const extent = reader.number<std::uint32_t>(where + "an extent");
      result.shape.push_back(extent);
      elements *= extent;
      if (elements > bytes_.size())
        fail(where + "expected at most " + std::to_string(bytes_.size()) + " elements (the bytes of the file), got " +
             std::to_string(elements) + " or more");
    }
    auto const number = reader.number<std::uint8_t>(where + "the type");
    if (number >= std::size(types))
      fail(where + "expected a type from 0 to " + std::to_string(std::size(types) - 1) + ", got " +
           std::to_string(number));
    auto const size = reader.number<std::uint32_t>(where + "the number of bytes");
    if (size != elements * types[number].bytes)
      fail(where + "expected " + std::to_string(elements * types[number].bytes) +
           " bytes for its shape and type, got " + std::to_string(size));
    result.type = types[number].name;
    result.bytes = reader.take(size, where + "the elements");
    return result;
  }

  std::string file_;
  std::vector<std::byte> bytes_;
  std::string specification_;
  std::map<std::string, array> arrays_;
};

}  // namespace attend_io
