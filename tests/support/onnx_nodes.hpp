// SPDX-License-Identifier: BSD-3-Clause
// Node tests of ONNX's operators and outputs of ONNX Runtime, from files made by scripts in tests/data: tensors,
// attributes and expected outputs under the names of the operators' specifications.
#pragma once

#include <attend/core/tensor_view.hpp>
#include <memory>

#include "compare.hpp"
#include "safetensors.hpp"

namespace attend::test {

/// A tensor of a case with leading axes of extent 1 up to Rank.
template <class T, int Rank>
struct node_tensor {
  std::array<index_t, Rank> extents{};
  std::shared_ptr<T[]> elements;
  index_t count = 1;

  explicit node_tensor(std::array<index_t, Rank> const& sizes, T value = T(7)) : extents(sizes) {
    for (index_t extent : sizes) count *= extent;
    elements = std::shared_ptr<T[]>(new T[static_cast<std::size_t>(count)]);
    std::fill_n(elements.get(), count, value);
  }

  tensor_view<T, Rank> view() { return {elements.get(), extents}; }
  tensor_view<T const, Rank> view() const { return {elements.get(), extents}; }
};

/// One case.
class onnx_node {
 public:
  onnx_node(attend_io::safetensors const& file, nlohmann::json const& about) : file_(&file), about_(&about) {}

  std::string name() const { return about_->at("name"); }
  std::string type(std::string const& tensor) const { return file_->at(name() + '/' + tensor).dtype; }
  int axes(std::string const& tensor) const { return static_cast<int>(shape(tensor).size()); }
  std::vector<std::int64_t> const& shape(std::string const& tensor) const {
    return file_->at(name() + '/' + tensor).shape;
  }
  bool has(std::string const& tensor) const { return file_->contains(name() + '/' + tensor); }
  nlohmann::json const& modifiers() const { return about_->at("modifiers"); }

  template <class Number>
  Number attribute(std::string const& attribute, Number otherwise) const {
    return about_->at("attributes").value(attribute, otherwise);
  }
  template <class Number>
  std::optional<Number> attribute(std::string const& attribute) const {
    if (!about_->at("attributes").contains(attribute)) return std::nullopt;
    return about_->at("attributes").at(attribute).get<Number>();
  }

  template <class T, int Rank>
  node_tensor<T, Rank> read(std::string const& tensor) const {
    node_tensor<T, Rank> result = room<T, Rank>(tensor);
    auto const values = file_->values<T>(name() + '/' + tensor);
    std::copy(values.begin(), values.end(), result.elements.get());
    return result;
  }
  /// A tensor of the same shape to write to.
  template <class T, int Rank>
  node_tensor<T, Rank> room(std::string const& tensor) const {
    auto const& sizes = shape(tensor);
    std::array<index_t, Rank> extents;
    extents.fill(1);
    for (std::size_t axis = 0; axis < sizes.size(); ++axis) extents.at(Rank - sizes.size() + axis) = sizes[axis];
    return node_tensor<T, Rank>(extents);
  }

  /// What was written is what the case expects: within our tolerance, and the distance of the case's own expectation
  /// from the exact result.
  template <class T, int Rank>
  void expect(std::string const& tensor, node_tensor<T, Rank> const& written) const {
    auto const expected = file_->values<double>(name() + '/' + tensor);
    double largest = 1;
    for (double x : expected)
      if (std::isfinite(x)) largest = std::max(largest, std::abs(x));
    EXPECT_TRUE(near(std::span<T const>(written.elements.get(), static_cast<std::size_t>(written.count)), expected,
                     tolerance<T>(largest) + about_->at("errors").value(tensor, 0.0)))
        << tensor;
  }

 private:
  attend_io::safetensors const* file_;
  nlohmann::json const* about_;
};

/// Calls with every case of an operator whose tensor has that type ("F32", "F16", "BF16", "F64"), and says how many.
template <class Call>
int for_nodes(std::string const& file, std::string const& op, std::string const& tensor, std::string const& type,
              Call const& call) {
  attend_io::safetensors const cases(std::string(ATTEND_TEST_DATA) + "/" + file);
  auto const manifest = nlohmann::json::parse(cases.metadata().at("manifest"));
  int count = 0;
  for (auto const& about : manifest.at("cases")) {
    onnx_node const node(cases, about);
    if (about.at("operator") != op || node.type(tensor) != type) continue;
    SCOPED_TRACE(node.name());
    call(node);
    ++count;
  }
  return count;
}

}  // namespace attend::test
