// SPDX-License-Identifier: BSD-3-Clause
// The calls that the README shows compile and run as shown, and its first program is the example.
#include <gtest/gtest.h>
#include <attend/attend.hpp>

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

TEST(Readme, FirstProgramIsTheExample) {
  std::string const root = std::string(ATTEND_TEST_DATA) + "/../../";
  // The README leaves out the license's line.
  std::string const example = text_of(root + "examples/quickstart.cpp");
  std::string const program = example.substr(example.find('\n') + 1);
  EXPECT_NE(text_of(root + "README.md").find("```cpp\n" + program + "```"), std::string::npos);
}

TEST(Readme, CallsRunAsShown) {
  Eigen::Tensor<float, 4, Eigen::RowMajor> q(1, 32, 48, 16), k(1, 8, 48, 16), v(1, 8, 48, 16), o(1, 32, 48, 16);
  q.setRandom(), k.setRandom(), v.setRandom();
  std::vector<float> const slopes = attend::alibi_slopes(32);
  Eigen::Tensor<float, 3, Eigen::RowMajor> lse(1, 32, 48);

  attend::softmax_attention(q, k, v, o);
  attend::softmax_attention(q, k, v, o, attend::causal{}, attend::threads{2});
  attend::softmax_attention(q, k, v, o, attend::causal{} & attend::window{4096, 0}, attend::softcap{50.f},
                            attend::alibi{slopes});
  attend::softmax_attention(q, k, v, o, attend::mask([](auto query, auto key) { return query / 64 == key / 64; }));
  attend::softmax_attention(q, k, v, o,
                            attend::score([=](auto s, auto const& at) { return s - 0.1f * (at.query - at.key); }));
  attend::softmax_attention(q, k, v, o, attend::causal{}, attend::log_sum_exp{lse});
  attend::softmax_attention(q, k, v, o);
  auto output = attend::softmax_attention(q, k, v);
  for (Eigen::Index i = 0; i < o.size(); ++i) ASSERT_EQ(output.data()[i], o.data()[i]);
}

TEST(Readme, CallsWithAStateRunAsShown) {
  Eigen::Tensor<float, 4, Eigen::RowMajor> q(1, 32, 48, 16), k(1, 8, 48, 16), v(1, 8, 48, 16), o(1, 32, 48, 16),
      s(1, 8, 16, 16);
  Eigen::Tensor<float, 3, Eigen::RowMajor> rates(1, 8, 48), logs(1, 8, 48);
  q.setRandom(), k.setRandom(), v.setRandom(), s.setRandom(), rates.setRandom(), logs.setConstant(-0.1f);
  std::vector<float> const log_decays = attend::retention_decays(8);

  attend::linear_attention(q, k, v, o, attend::causal{}, attend::head_decay(log_decays));
  auto output = attend::linear_attention(q, k, v, attend::causal{}, attend::head_decay(log_decays));
  for (Eigen::Index i = 0; i < o.size(); ++i) ASSERT_EQ(output.data()[i], o.data()[i]);
  attend::linear_attention(q, k, v, o, attend::causal{}, attend::delta_rule(rates), attend::token_decay(logs),
                           attend::initial_state(s), attend::final_state(s));
}

TEST(Readme, SystemsRunAsShown) {
  using namespace attend;
  Eigen::Tensor<float, 4, Eigen::RowMajor> q(1, 4, 48, 16), k(1, 4, 48, 16), v(1, 4, 48, 16), o(1, 4, 48, 16);
  q.setRandom(), k.setRandom(), v.setRandom();
  block_grid const grid{.heads = 4, .queries = 48, .keys = 48, .query_block = 16, .key_block = 16};
  auto table = sharded_blocks(grid, sharding{});
  softmax_attention(q, k, v, o, block_sparse{table} & causal{});
  std::vector<float> const gates(4, 0.5f);
  index_t const segment = 16;
  infini_attention(q, k, v, o, infini_memory<float>{segment, gates});
}

TEST(Readme, ErrorsReadAsShown) {
  Eigen::Tensor<float, 4, Eigen::RowMajor> q(1, 1, 2, 128), k(1, 1, 2, 96), v(1, 1, 2, 8), o(1, 1, 2, 8);
  try {
    attend::softmax_attention(q, k, v, o);
    FAIL();
  } catch (attend::argument_error const& error) {
    EXPECT_STREQ(error.what(), "key: expected head dimension 128 (as query), got 96");
  }
}

TEST(Embedding, PointersRunAsShown) {
  attend::index_t const heads = 2, tokens = 5, dimension = 8, width = heads * dimension;
  std::vector<float> numbers(static_cast<std::size_t>(3 * tokens * width));
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i * 37 % 101) / 101;
  float const* const packed = numbers.data();
  std::vector<float> query, key, value, output(numbers.size() / 3), expected(output);
  for (std::vector<float>* const to : {&query, &key, &value}) {
    float const* const from = packed + (to == &query ? 0 : to == &key ? width : 2 * width);
    for (attend::index_t head = 0; head < heads; ++head)
      for (attend::index_t token = 0; token < tokens; ++token)
        for (attend::index_t i = 0; i < dimension; ++i) to->push_back(from[token * 3 * width + head * dimension + i]);
  }

  attend::tensor_view q(query.data(), {1, heads, tokens, dimension});
  attend::tensor_view k(key.data(), {1, heads, tokens, dimension});
  attend::tensor_view v(value.data(), {1, heads, tokens, dimension});
  attend::softmax_attention(q, k, v, attend::tensor_view(expected.data(), {1, heads, tokens, dimension}));

  attend::tensor_view o(output.data(), {1, heads, tokens, dimension});
  auto part = [&](attend::index_t which) {
    return attend::tensor_view(packed + which * width, {1, heads, tokens, dimension}, {0, dimension, 3 * width, 1});
  };
  attend::softmax_attention(part(0), part(1), part(2), o);
  EXPECT_EQ(output, expected);
}

}  // namespace
