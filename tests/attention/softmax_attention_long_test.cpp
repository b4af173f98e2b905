// SPDX-License-Identifier: BSD-3-Clause
// Long sequences: as accurate as short ones, in memory that does not grow.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/mask/causal.hpp>

#include <thread>

#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace runtime;
using namespace extend;

namespace {

TEST(LongSequences, GiveWhatTheDefinitionSays) {
  auto const in = test::random_inputs<float>(
      {.query_heads = 2, .queries = 5, .keys = 131072, .key_dimension = 16, .value_dimension = 8}, 1);
  EXPECT_TRUE(test::agrees(in, test::attend_to(in), {}));
  reference::options with;
  with.visible = reference::causal_bottom_right();
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, causal{}), with));
}

// All keys alike: every weight is 1 / 131072, and the sum of so many has to be 1.
TEST(LongSequences, SumUpManySmallWeights) {
  auto in = test::random_inputs<float>({.queries = 3, .keys = 131072, .key_dimension = 1, .value_dimension = 1}, 1);
  std::fill(in.key.elements.begin(), in.key.elements.end(), 1.f);
  std::fill(in.value.elements.begin(), in.value.elements.end(), 1.f);
  for (float x : test::attend_to(in).output.elements) EXPECT_NEAR(x, 1, test::tolerance<float>(1));
}

// Bytes that a call keeps on a thread which made no other. Keys and values are `token_stride` elements apart: with 0
// they are one key and one value in all places, for which no memory is needed.
template <class T>
index_t scratch_of_call(test::sizes const& s, index_t token_stride = 0) {
  auto const query = test::normal<T, 4>({s.batches, s.query_heads, s.queries, s.key_dimension}, 1);
  auto const tokens = test::normal<T, 1>({s.keys * token_stride + std::max(s.key_dimension, s.value_dimension)}, 2);
  tensor_view<T const, 4> const keys(tokens.elements.data(), {1, s.key_heads, s.keys, s.key_dimension},
                                     {0, 0, token_stride, 1});
  tensor_view<T const, 4> const values(tokens.elements.data(), {1, s.value_heads, s.keys, s.value_dimension},
                                       {0, 0, token_stride, 1});
  auto out = test::filled<T, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, T(7));
  index_t bytes = 0;
  std::thread([&] {
    index_t const before = scratch_bytes();
    softmax_attention(query.view(), keys, values, out.view());
    bytes = scratch_bytes() - before;
  }).join();
  return bytes;
}

constexpr index_t mebibyte = index_t{1} << 20;

TEST(Scratch, StaysBelowAMebibyte) {
  test::sizes const wide{.query_heads = 8, .queries = 100, .keys = 300, .key_dimension = 576, .value_dimension = 576};
  test::sizes const usual{.query_heads = 4, .queries = 300, .keys = 300, .key_dimension = 128, .value_dimension = 128};
  test::sizes const odd{.query_heads = 4, .queries = 300, .keys = 300, .key_dimension = 127, .value_dimension = 129};
  for (test::sizes const& s : {wide, usual, odd})
    for (index_t stride : {index_t{0}, 4 * s.key_dimension})
      for (index_t bytes : {scratch_of_call<float>(s, stride), scratch_of_call<double>(s, stride),
                            scratch_of_call<bfloat16>(s, stride)}) {
        EXPECT_GT(bytes, 0) << s.key_dimension;
        EXPECT_LE(bytes, mebibyte) << s.key_dimension;
      }
}

TEST(Scratch, DoesNotGrowWithTheKeys) {
  // So many that they are split into as many parts as there ever are.
  test::sizes s{.queries = 7, .keys = 1 << 20, .key_dimension = 8, .value_dimension = 9};
  index_t const few = scratch_of_call<bfloat16>(s);
  s.keys = 1 << 21;
  EXPECT_EQ(scratch_of_call<bfloat16>(s), few);
  EXPECT_LE(few, mebibyte);
}

// The definition in float, as one would write it down.
std::vector<float> naive_in_float(test::inputs<float> const& in) {
  auto const& s = in.size;
  std::vector<float> output, weight(static_cast<std::size_t>(s.keys));
  float const scale = 1 / std::sqrt(static_cast<float>(s.key_dimension));
  for (index_t i = 0; i < s.queries; ++i) {
    float maximum = -infinity<float>, sum = 0;
    for (index_t j = 0; j < s.keys; ++j) {
      float logit = 0;
      for (index_t c = 0; c < s.key_dimension; ++c) logit += in.query.view()(0, 0, i, c) * in.key.view()(0, 0, j, c);
      weight[static_cast<std::size_t>(j)] = logit * scale;
      maximum = std::max(maximum, logit * scale);
    }
    for (float& w : weight) sum += w = std::exp(w - maximum);
    for (index_t c = 0; c < s.value_dimension; ++c) {
      float o = 0;
      for (index_t j = 0; j < s.keys; ++j) o += weight[static_cast<std::size_t>(j)] / sum * in.value.view()(0, 0, j, c);
      output.push_back(o);
    }
  }
  return output;
}

TEST(Accuracy, IsThatOfANaiveLoopInFloatOrBetter) {
  auto const in =
      test::random_inputs<float>({.queries = 24, .keys = 8192, .key_dimension = 128, .value_dimension = 32}, 5);
  auto const exact = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), {});
  auto const error = [&](std::vector<float> const& got) {
    double most = 0;
    for (std::size_t i = 0; i < got.size(); ++i)
      most = std::max(most, std::abs(static_cast<double>(got[i]) - exact.output[i]));
    return most;
  };
  double const naive = error(naive_in_float(in)), kernel = error(test::attend_to(in).output.elements);
  EXPECT_LE(kernel, 2 * naive);
  // Rows this long are means of many values: what they are sums of is as large as the mean of the values' magnitudes.
  auto magnitudes = in.value;
  for (float& x : magnitudes.elements) x = std::abs(x);
  auto const sums =
      reference::softmax_attention<float>(in.query.view(), in.key.view(), std::as_const(magnitudes).view(), {});
  EXPECT_LE(kernel, test::tolerance<float>(test::largest_magnitude(sums.output)));
}

}  // namespace
}  // namespace attend
