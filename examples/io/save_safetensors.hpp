// SPDX-License-Identifier: BSD-3-Clause
// Writes .safetensors, which safetensors.hpp reads and describes.
//
//     attend_io::save_safetensors<float>("model.safetensors", {{"bias", {{3}, numbers}}}, {{"format", "mine"}});
#pragma once

#include <nlohmann/json.hpp>

#include <Eigen/Core>

#include <concepts>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "whole_file.hpp"

namespace attend_io {

/// An array in row-major order, whose numbers somebody else keeps.
template <class Element>
struct array_to_save {
  std::vector<std::int64_t> shape;
  std::span<Element const> values;
};

/// Writes arrays of float, double, Eigen::half or Eigen::bfloat16, and what is said about them, as one file that is
/// never seen half-written. Throws std::runtime_error that names the file where it cannot be written, or where an array
/// does not have as many numbers as its shape.
template <class Element>
void save_safetensors(std::filesystem::path const& path, std::map<std::string, array_to_save<Element>> const& arrays,
                      std::map<std::string, std::string> const& metadata) {
  constexpr char const* dtype = std::same_as<Element, double>        ? "F64"
                                : std::same_as<Element, float>       ? "F32"
                                : std::same_as<Element, Eigen::half> ? "F16"
                                                                     : "BF16";
  nlohmann::json header{{"__metadata__", metadata}};
  std::string data;
  for (auto const& [name, array] : arrays) {
    std::int64_t expected = 1;
    for (std::int64_t const extent : array.shape) expected *= extent;
    if (static_cast<std::size_t>(expected) != array.values.size())
      throw std::runtime_error(path.string() + ": " + name + ": expected " + std::to_string(expected) +
                               " numbers for its shape, got " + std::to_string(array.values.size()));
    std::size_t const begin = data.size();
    data.append(reinterpret_cast<char const*>(array.values.data()), array.values.size_bytes());
    header[name] = {{"dtype", dtype}, {"shape", array.shape}, {"data_offsets", {begin, data.size()}}};
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');  // the numbers begin where all types may
  std::uint64_t const length = text.size();
  std::string bytes(sizeof length, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  write_whole(path, bytes + text + data);
}

}  // namespace attend_io
