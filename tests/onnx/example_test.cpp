// SPDX-License-Identifier: BSD-3-Clause
// What docs/onnx.md shows compiles and runs as shown.
#include <gtest/gtest.h>
#include <attend/attend.hpp>
#include <attend/onnx.hpp>

#include <fstream>
#include <sstream>

namespace {

std::string text_of(std::string const& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(OnnxExample, StandsInTheDocumentation) {
  std::string const root = std::string(ATTEND_TEST_DATA) + "/../../";
  std::string const page = text_of(root + "docs/onnx.md"), source = text_of(root + "tests/onnx/example_test.cpp");
  std::string const begin = "// shown from here\n", end = "  // to here\n";
  std::size_t const first = source.find(begin, source.find("TEST(OnnxExample, Runs)")) + begin.size();
  std::istringstream shown(source.substr(first, source.find(end, first) - first));
  std::string block = "```cpp\n";
  for (std::string line; std::getline(shown, line);) block += (line.empty() ? line : line.substr(2)) + '\n';
  EXPECT_NE(page.find(block + "```"), std::string::npos) << block;
}

TEST(OnnxExample, Runs) {
  // shown from here
  using tensor3 = Eigen::Tensor<float, 3, Eigen::RowMajor>;
  using tensor4 = Eigen::Tensor<float, 4, Eigen::RowMajor>;
  int const heads = 8, groups = 2, dimension = 64, room = 32, prompt = 10;
  tensor3 q(1, prompt, heads * dimension), k(1, prompt, groups * dimension), v(1, prompt, groups * dimension), y = q;
  tensor4 keys(1, groups, room, dimension), values = keys;
  q.setRandom(), k.setRandom(), v.setRandom(), keys.setZero(), values.setZero();

  // ONNX's Attention: heads packed into the last axis, query i sees the keys up to i.
  attend::onnx::attention(q, k, v, y, {.is_causal = 1, .kv_num_heads = groups, .q_num_heads = heads});

  // ONNX Runtime's GroupQueryAttention: the same, and the cache takes keys and values.
  std::vector<std::int32_t> length{prompt - 1};
  attend::onnx::microsoft::group_query_attention(q, k, v, y, {.kv_num_heads = groups, .num_heads = heads},
                                                 {.seqlens_k = length, .total_sequence_length = prompt},
                                                 {.present_key = keys, .present_value = values});

  // One token more, the cache updated where it stands.
  tensor3 q1(1, 1, heads * dimension), k1(1, 1, groups * dimension), v1(1, 1, groups * dimension), y1 = q1;
  q1.setRandom(), k1.setRandom(), v1.setRandom();
  length[0] = prompt;
  attend::onnx::microsoft::group_query_attention(
      q1, k1, v1, y1, {.kv_num_heads = groups, .num_heads = heads},
      {.seqlens_k = length, .total_sequence_length = prompt + 1, .past_key = keys, .past_value = values},
      {.present_key = keys, .present_value = values}, attend::threads{2});
  // to here

  // The step attends to the prompt's keys and its own.
  tensor4 all_keys(1, groups, prompt + 1, dimension), all_values = all_keys, query(1, heads, 1, dimension);
  for (int g = 0; g < groups; ++g)
    for (int c = 0; c < dimension; ++c) {
      for (int t = 0; t < prompt; ++t) {
        all_keys(0, g, t, c) = k(0, t, g * dimension + c);
        all_values(0, g, t, c) = v(0, t, g * dimension + c);
      }
      all_keys(0, g, prompt, c) = k1(0, 0, g * dimension + c);
      all_values(0, g, prompt, c) = v1(0, 0, g * dimension + c);
    }
  for (int h = 0; h < heads; ++h)
    for (int c = 0; c < dimension; ++c) query(0, h, 0, c) = q1(0, 0, h * dimension + c);
  tensor4 const expected = attend::softmax_attention(query, all_keys, all_values);
  for (int h = 0; h < heads; ++h)
    for (int c = 0; c < dimension; ++c) EXPECT_NEAR(y1(0, 0, h * dimension + c), expected(0, h, 0, c), 1e-5);
}

}  // namespace
