// SPDX-License-Identifier: BSD-3-Clause
// Arrays of a file of weights, by their names: of the shape that the program expects, and of finite numbers.
//
//     attend_io::matrix const weight = attend_io::read_matrix(weights, "layers.0.query", 128, 128);
//     auto const narrow = attend_io::read_matrix<Eigen::half>(weights, "layers.0.query", 128, 128);
//
// `weights` is any reader that has at(name).shape, values<Element>(name) and file(): safetensors, ctranslate2_model.
// What does not fit is a std::runtime_error that names the file and the array.
#pragma once

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace attend_io {

template <class Element>
using matrix_of = Eigen::Matrix<Element, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using matrix = matrix_of<float>;
using row_vector = Eigen::RowVectorXf;

template <class Element = float, class Weights>
std::vector<Element> read_array(Weights const& weights, std::string const& name,
                                std::vector<std::int64_t> const& shape) {
  auto const text = [](std::vector<std::int64_t> const& extents) {
    std::string result;
    for (std::int64_t const extent : extents) result += (result.empty() ? "[" : ", ") + std::to_string(extent);
    return result.empty() ? "[]" : result + "]";
  };
  if (auto const& stored = weights.at(name).shape; stored != shape)
    throw std::runtime_error(weights.file() + ": " + name + ": expected shape " + text(shape) + ", got " +
                             text(stored));
  std::vector<Element> values = weights.template values<Element>(name);
  auto const wrong = std::find_if(values.begin(), values.end(),
                                  [](Element value) { return !std::isfinite(static_cast<float>(value)); });
  if (wrong != values.end())
    throw std::runtime_error(weights.file() + ": " + name + ": expected finite numbers, got " +
                             std::to_string(static_cast<float>(*wrong)) + " at " +
                             std::to_string(wrong - values.begin()));
  return values;
}

template <class Element = float, class Weights>
matrix_of<Element> read_matrix(Weights const& weights, std::string const& name, Eigen::Index rows,
                               Eigen::Index columns) {
  return Eigen::Map<matrix_of<Element> const>(read_array<Element>(weights, name, {rows, columns}).data(), rows,
                                              columns);
}

template <class Weights>
row_vector read_vector(Weights const& weights, std::string const& name, Eigen::Index size) {
  return Eigen::Map<row_vector const>(read_array(weights, name, {size}).data(), size);
}

}  // namespace attend_io
