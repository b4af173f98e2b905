// SPDX-License-Identifier: BSD-3-Clause
// Cases of other implementations, from files made by the scripts in tests/data, said in this library's words: a causal
// mask at an explicit offset, a boolean mask or an additive bias, scale.
#pragma once

#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/mask/boolean_mask.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/score/bias.hpp>

#include <memory>

#include "compare.hpp"
#include "safetensors.hpp"

namespace attend::test {
using namespace options;
using namespace linear;
using namespace extend;

/// A file of cases and its list of them.
struct outside_cases {
  attend_io::safetensors file;
  nlohmann::json manifest;

  explicit outside_cases(std::string const& name)
      : file(std::string(ATTEND_TEST_DATA) + "/" + name),
        manifest(nlohmann::json::parse(file.metadata().at("manifest"))) {}
};

/// One tensor of a case, [batch, head, query or key, dimension or key], and the view of one of its batches.
template <class T>
struct outside_tensor {
  std::array<index_t, 4> extents{1, 1, 1, 1};
  std::unique_ptr<T[]> elements;

  outside_tensor(attend_io::safetensors const& file, std::string const& name) {
    auto const& shape = file.at(name).shape;
    for (std::size_t axis = 0; axis < 4; ++axis) extents[axis] = shape.at(axis);
    auto const values = file.values<T>(name);
    elements = std::make_unique<T[]>(values.size());
    std::copy(values.begin(), values.end(), elements.get());
  }
  explicit outside_tensor(T one) : elements(std::make_unique<T[]>(1)) { elements[0] = one; }

  tensor_view<T const, 4> batch(index_t b) const {
    index_t const size = extents[1] * extents[2] * extents[3];
    return {elements.get() + (extents[0] == 1 ? 0 : b * size), {1, extents[1], extents[2], extents[3]}};
  }
};

/// Runs a case of element type T batch by batch, because offsets may differ, and compares the output.
template <class T>
void expect_case(outside_cases const& cases, nlohmann::json const& about) {
  std::string const name = about.at("name");
  SCOPED_TRACE(name);
  auto const& file = cases.file;
  outside_tensor<T> const query(file, name + "/query"), key(file, name + "/key"), value(file, name + "/value");
  bool const boolean = about.at("mask") == "bool", additive = about.at("mask") == "float";
  outside_tensor<bool> const seen = boolean ? outside_tensor<bool>(file, name + "/mask") : outside_tensor<bool>(true);
  outside_tensor<T> const added = additive ? outside_tensor<T>(file, name + "/mask") : outside_tensor<T>(T(0));
  auto const offsets = file.values<std::int64_t>(name + "/offsets");
  index_t const heads = query.extents[1], queries = query.extents[2], dimension = value.extents[3];
  double const given = about.at("scale").is_null() ? 1 / std::sqrt(static_cast<double>(query.extents[3]))
                                                   : about.at("scale").get<double>();

  std::vector<T> output;
  for (index_t b = 0; b < query.extents[0]; ++b) {
    index_t const at = offsets[static_cast<std::size_t>(b)];
    std::vector<T> o(static_cast<std::size_t>(heads * queries * dimension), T(7));
    tensor_view<T, 4> const o_view(o.data(), {1, heads, queries, dimension});
    auto const mask =
        causal{about.at("causal").get<bool>() ? offset(at) : offset(token_limit - 1)} & boolean_mask(seen.batch(b));
    softmax_attention(query.batch(b), key.batch(b), value.batch(b), o_view, scale(given), bias(added.batch(b)), mask);
    output.insert(output.end(), o.begin(), o.end());
  }

  auto const expected = file.values<double>(name + "/output");
  double largest = 1;
  for (double x : expected) largest = std::max(largest, std::abs(x));
  EXPECT_TRUE(near(output, expected, tolerance<T>(largest)));
}

}  // namespace attend::test
