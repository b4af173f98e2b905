// SPDX-License-Identifier: BSD-3-Clause
// What PyTorch's autograd, in double, says of scaled_dot_product_attention: forward and backward in float.
#include <attend/attention/softmax/softmax_attention_backward.hpp>

#include "support/outside_vectors.hpp"

namespace attend::test {
namespace {

void expect_gradients(outside_cases const& cases, nlohmann::json const& about) {
  std::string const name = about.at("name");
  SCOPED_TRACE(name);
  auto const& file = cases.file;
  auto const read = [&](char const* of) { return outside_tensor<float>(file, name + "/" + of); };
  auto const query = read("query"), key = read("key"), value = read("value"), of_output = read("of_output");
  bool const boolean = about.at("mask") == "bool", additive = about.at("mask") == "float";
  outside_tensor<bool> const seen = boolean ? outside_tensor<bool>(file, name + "/mask") : outside_tensor<bool>(true);
  outside_tensor<float> const added = additive ? read("mask") : outside_tensor<float>(0.f);
  double const given = about.at("scale").is_null() ? 1 / std::sqrt(static_cast<double>(query.extents[3]))
                                                   : about.at("scale").get<double>();
  auto const all = []<class T>(outside_tensor<T> const& tensor) {
    return tensor_view<T const, 4>(tensor.elements.get(), tensor.extents);
  };
  auto const zeros = [](outside_tensor<float> const& tensor) {
    auto const& e = tensor.extents;
    return std::vector<float>(static_cast<std::size_t>(e[0] * e[1] * e[2] * e[3]));
  };
  auto const& e = of_output.extents;
  auto output = zeros(of_output), of_query = zeros(query), of_key = zeros(key), of_value = zeros(value);
  std::vector<float> sums(static_cast<std::size_t>(e[0] * e[1] * e[2]));
  tensor_view<float, 3> const lse(sums.data(), {e[0], e[1], e[2]});
  tensor_view<float, 4> const o(output.data(), e);
  auto const call = [&](auto const& mask) {
    softmax_attention(all(query), all(key), all(value), o, mask, scale(given), bias(all(added)), log_sum_exp(lse));
    softmax_attention_backward(
        all(query), all(key), all(value), o, lse, all(of_output), tensor_view<float, 4>(of_query.data(), query.extents),
        tensor_view<float, 4>(of_key.data(), key.extents), tensor_view<float, 4>(of_value.data(), value.extents), mask,
        scale(given), bias(all(added)));
  };
  call(causal{about.at("causal").get<bool>() ? offset(0) : offset(token_limit - 1)} & boolean_mask(all(seen)));
  auto const expect = [&](char const* of, std::vector<float> const& got) {
    auto const expected = file.values<double>(name + "/" + of);
    double largest = 1;
    for (double x : expected) largest = std::max(largest, std::abs(x));
    EXPECT_TRUE(near(got, expected, tolerance<float>(largest))) << of;
  };
  expect("of_query", of_query);
  expect("of_key", of_key);
  expect("of_value", of_value);
}

TEST(TorchGradients, GradientsAgree) {
  outside_cases const cases("torch_gradients.safetensors");
  int count = 0;
  for (auto const& about : cases.manifest.at("cases")) expect_gradients(cases, about), ++count;
  EXPECT_EQ(count, 7);
}

}  // namespace
}  // namespace attend::test
