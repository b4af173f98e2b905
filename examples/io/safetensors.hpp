// SPDX-License-Identifier: BSD-3-Clause
// Reads .safetensors, the file most published model weights come in: named tensors, one behind the other.
//
//     attend_io::safetensors const weights("model.safetensors");
//     for (auto const& [name, tensor] : weights.tensors()) std::cout << name << ' ' << tensor.dtype << '\n';
//     std::vector<float> const bias = weights.values<float>("pooler.dense.bias");
//
// The layout: eight bytes with the header's length, the header in JSON, then the data that the header points into.
// Reads the element types F64 F32 F16 BF16 I64 I32 U8 BOOL.
//
// A file is not trusted. Whatever is wrong with it is a std::runtime_error that names the file. Tensors have to
// cover the data without a gap and without an overlap, as the format demands.
#pragma once

#include <nlohmann/json.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bytes.hpp"
#include "elements.hpp"

namespace attend_io {

/// A whole file in memory, and the tensors in it.
class safetensors {
 public:
  /// One tensor in row-major order; a view that lives as long as the file it was taken from.
  struct tensor {
    std::string dtype;                 ///< F64, F32, F16, BF16, I64, I32, U8 or BOOL
    std::vector<std::int64_t> shape;   ///< empty for a single number
    std::span<std::byte const> bytes;  ///< not necessarily aligned for the element type
  };

  explicit safetensors(std::filesystem::path const& path);

  // The views point into bytes_, which moves along with them but would not be copied with them.
  safetensors(safetensors&&) = default;
  safetensors& operator=(safetensors&&) = default;

  std::map<std::string, tensor> const& tensors() const { return tensors_; }
  std::map<std::string, std::string> const& metadata() const { return metadata_; }
  std::string const& file() const { return file_; }

  bool contains(std::string const& name) const { return tensors_.contains(name); }
  tensor const& at(std::string const& name) const;

  /// The elements as T. Floating elements become float, double, Eigen::half or Eigen::bfloat16, rounded
  /// where T is narrower; integers and booleans become any integer type, and one that does not fit throws.
  template <class T>
  std::vector<T> values(std::string const& name) const;

 private:
  [[noreturn]] void fail(std::string const& message) const { throw std::runtime_error(file_ + ": " + message); }

  nlohmann::json parse_header(std::span<std::byte const> text) const;
  tensor parse_tensor(std::string const& name, nlohmann::json const& description,
                      std::span<std::byte const> data) const;
  void check_coverage(std::span<std::byte const> data) const;

  std::string file_;
  std::vector<std::byte> bytes_;
  std::map<std::string, tensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

namespace safetensors_detail {

// The limit of the format's own implementation: a larger header is an attack on the JSON parser.
inline constexpr std::uint64_t maximal_header_length = 100'000'000;

inline constexpr std::string_view metadata_key = "__metadata__";

inline std::size_t element_size(std::string const& dtype) {
  if (dtype == "F64" || dtype == "I64") return 8;
  if (dtype == "F32" || dtype == "I32") return 4;
  if (dtype == "F16" || dtype == "BF16") return 2;
  if (dtype == "U8" || dtype == "BOOL") return 1;
  return 0;
}

inline std::string excerpt(std::string_view text) { return detail::excerpt(text, 160); }

}  // namespace safetensors_detail

inline safetensors::safetensors(std::filesystem::path const& path)
    : file_(path.string()), bytes_(detail::read_file(path)) {
  std::uint64_t header_length = 0;
  if (bytes_.size() < sizeof header_length)
    fail("truncated: expected 8 bytes for the length of the header, got " + std::to_string(bytes_.size()));
  std::memcpy(&header_length, bytes_.data(), sizeof header_length);
  if (header_length > safetensors_detail::maximal_header_length)
    fail("expected a header of at most " + std::to_string(safetensors_detail::maximal_header_length) + " bytes, got " +
         std::to_string(header_length));
  auto const after_length = std::span<std::byte const>(bytes_).subspan(sizeof header_length);
  if (header_length > after_length.size())
    fail("truncated: expected a header of " + std::to_string(header_length) + " bytes, got " +
         std::to_string(after_length.size()));

  nlohmann::json const header = parse_header(after_length.first(header_length));
  auto const data = after_length.subspan(header_length);
  for (auto const& [name, description] : header.items()) {
    if (name == safetensors_detail::metadata_key) {
      if (!description.is_object()) fail("__metadata__: expected an object");
      for (auto const& [key, text] : description.items()) {
        if (!text.is_string()) fail("__metadata__: expected a string for " + safetensors_detail::excerpt(key));
        metadata_.emplace(key, text.get<std::string>());
      }
    } else {
      tensors_.emplace(name, parse_tensor(name, description, data));
    }
  }
  check_coverage(data);
}

inline nlohmann::json safetensors::parse_header(std::span<std::byte const> text) const {
  using event = nlohmann::json::parse_event_t;
  // The parser would keep the last of two tensors of one name without a word, and build whatever nesting it is given.
  std::set<std::string> names;
  int const deepest = 3;  // header, tensor, shape
  auto const check = [&](int depth, event what, nlohmann::json const& parsed) {
    if (what == event::key && depth == 1 && !names.insert(parsed.get<std::string>()).second)
      fail("header: expected each name once, got " + safetensors_detail::excerpt(parsed.get<std::string>()) + " twice");
    if ((what == event::object_start || what == event::array_start) && depth >= deepest)
      fail("header: expected at most " + std::to_string(deepest) + " levels of nesting");
    return true;
  };

  auto const* const begin = reinterpret_cast<char const*>(text.data());
  nlohmann::json header;
  try {
    header = nlohmann::json::parse(begin, begin + text.size(), check);
  } catch (nlohmann::json::exception const& error) {
    fail("header: expected JSON: " + safetensors_detail::excerpt(error.what()));
  }
  if (!header.is_object()) fail("header: expected a JSON object, got " + std::string(header.type_name()));
  return header;
}

inline safetensors::tensor safetensors::parse_tensor(std::string const& name, nlohmann::json const& description,
                                                     std::span<std::byte const> data) const {
  std::string const where = "tensor " + safetensors_detail::excerpt(name) + ": ";
  auto const member = [&](char const* key) -> nlohmann::json const& {
    if (!description.is_object() || !description.contains(key)) fail(where + "expected an object with " + key);
    return description.at(key);
  };
  // Negative numbers, fractions and integers of more than 64 bits have other JSON types, and end here too.
  auto const count = [&](nlohmann::json const& number, char const* what) {
    auto const largest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    if (!number.is_number_unsigned() || number.get<std::uint64_t>() > largest)
      fail(where + "expected an integer of at least 0 and below 2^63 in " + what + ", got " +
           safetensors_detail::excerpt(number.dump()));
    return number.get<std::uint64_t>();
  };

  tensor result;
  nlohmann::json const& dtype = member("dtype");
  if (dtype.is_string()) result.dtype = dtype.get<std::string>();
  std::size_t const element_size = safetensors_detail::element_size(result.dtype);
  if (element_size == 0)
    fail(where + "expected dtype F64, F32, F16, BF16, I64, I32, U8 or BOOL, got " +
         safetensors_detail::excerpt(dtype.dump()));

  nlohmann::json const& shape = member("shape");
  if (!shape.is_array()) fail(where + "expected an array for shape, got " + shape.type_name());
  std::uint64_t size = element_size;
  for (nlohmann::json const& extent : shape) {
    std::uint64_t const factor = count(extent, "shape");
    if (factor != 0 && size > std::numeric_limits<std::uint64_t>::max() / factor)
      fail(where + "the product of the shape's extents overflows");
    size *= factor;
    result.shape.push_back(static_cast<std::int64_t>(factor));
  }

  nlohmann::json const& offsets = member("data_offsets");
  if (!offsets.is_array() || offsets.size() != 2) fail(where + "expected two numbers for data_offsets");
  std::uint64_t const begin = count(offsets[0], "data_offsets");
  std::uint64_t const end = count(offsets[1], "data_offsets");
  if (begin > end || end > data.size())
    fail(where + "expected data_offsets in order and within " + std::to_string(data.size()) + " bytes of data, got " +
         std::to_string(begin) + " to " + std::to_string(end));
  if (end - begin != size)
    fail(where + "expected " + std::to_string(size) + " bytes for its shape and dtype, got " +
         std::to_string(end - begin));
  result.bytes = data.subspan(begin, size);
  return result;
}

inline void safetensors::check_coverage(std::span<std::byte const> data) const {
  std::vector<std::pair<std::size_t, std::size_t>> ranges;
  for (auto const& [name, view] : tensors_) {
    auto const begin = static_cast<std::size_t>(view.bytes.data() - data.data());
    ranges.emplace_back(begin, begin + view.bytes.size());
  }
  std::sort(ranges.begin(), ranges.end());
  std::size_t covered = 0;
  for (auto const& [begin, end] : ranges) {
    if (begin != covered)
      fail("expected a tensor to start at data offset " + std::to_string(covered) + ", got one that starts at " +
           std::to_string(begin));
    covered = end;
  }
  if (covered != data.size())
    fail("expected tensors for " + std::to_string(data.size()) + " bytes of data, got tensors for " +
         std::to_string(covered));
}

inline safetensors::tensor const& safetensors::at(std::string const& name) const {
  auto const found = tensors_.find(name);
  if (found == tensors_.end())
    fail("expected a tensor " + safetensors_detail::excerpt(name) + ", got none of that name");
  return found->second;
}

template <class T>
std::vector<T> safetensors::values(std::string const& name) const {
  tensor const& source = at(name);
  std::string const where = file_ + ": tensor " + safetensors_detail::excerpt(name) + ": ";
  if constexpr (detail::floating<T>) {
    if (source.dtype == "F64") return detail::rounded<T, double>(source.bytes);
    if (source.dtype == "F32") return detail::rounded<T, float>(source.bytes);
    if (source.dtype == "F16") return detail::rounded<T, Eigen::half>(source.bytes);
    if (source.dtype == "BF16") return detail::rounded<T, Eigen::bfloat16>(source.bytes);
    throw std::runtime_error(where + "expected a floating dtype, got " + source.dtype);
  } else {
    static_assert(std::integral<T>);
    if (source.dtype == "I64") return detail::exact<T, std::int64_t>(source.bytes, where);
    if (source.dtype == "I32") return detail::exact<T, std::int32_t>(source.bytes, where);
    if (source.dtype == "U8" || source.dtype == "BOOL") return detail::exact<T, std::uint8_t>(source.bytes, where);
    throw std::runtime_error(where + "expected an integer dtype, got " + source.dtype);
  }
}

}  // namespace attend_io
