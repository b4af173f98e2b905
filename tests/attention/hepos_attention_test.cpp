// SPDX-License-Identifier: BSD-3-Clause
// Head-wise positional strides: against the mask that they are; dense with a stride of 1.
#include <attend/attention/softmax/hepos_attention.hpp>

#include "support/chosen_inputs.hpp"
#include "support/selected.hpp"

namespace attend {
using namespace options;
using namespace systems;

namespace {

test::sizes of(index_t heads, index_t keys) {
  return {.batches = 2,
          .query_heads = heads,
          .key_heads = heads,
          .value_heads = heads,
          .queries = 60,
          .keys = keys,
          .key_dimension = 20,
          .value_dimension = 13};
}

template <class T>
testing::AssertionResult follows(test::inputs<T> const& in, index_t stride) {
  auto const got = test::attend_by(in, [&](auto q, auto k, auto v, auto o, auto const&... options) {
    hepos_attention(q, k, v, o, stride, options...);
  });
  reference::options with;
  with.visible = [=](reference::place const& at) { return at.key % stride == at.head % stride; };
  return test::agrees(in, got, with);
}
template <class T>
testing::AssertionResult follows(index_t heads, index_t keys, index_t stride, unsigned seed) {
  return follows(test::random_inputs<T>(of(heads, keys), seed), stride);
}

TEST(HeposAttention, FollowsItsDefinition) {
  EXPECT_TRUE(follows<float>(8, 103, 4, 1));
  EXPECT_TRUE(follows<float>(3, 103, 4, 2));
  EXPECT_TRUE(follows<float>(5, 3, 5, 3));
  EXPECT_TRUE(follows<float>(2, 0, 2, 4));
  EXPECT_TRUE(follows<float>(2, 50, 1, 5));
  EXPECT_TRUE(follows<bfloat16>(4, 80, 2, 6));
}

TEST(HeposAttention, ShowsAValueToTheHeadsOfItsClass) {
  EXPECT_TRUE(follows(test::with_nan_values(test::random_inputs<float>(of(5, 70), 20)), 3));
}

TEST(HeposAttention, IsDenseWithAStrideOfOne) {
  auto const in = test::random_inputs<float>(of(3, 70), 21);
  auto got = test::filled<float, 4>({2, 3, 60, 13}, 7), dense = got;
  hepos_attention(in.query.view(), in.key.view(), in.value.view(), got.view(), 1);
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), dense.view());
  EXPECT_TRUE(test::same_bits(got.elements, dense.elements));
}

TEST(HeposAttention, RefusesWhatDoesNotFit) {
  auto const in = test::random_inputs<float>({.query_heads = 2, .queries = 5, .keys = 9}, 7);
  auto output = test::filled<float, 4>({1, 2, 5, 8}, 7);
  test::expect_error("key: expected heads 2 (as query), got 1",
                     [&] { hepos_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), 2); });
  test::expect_error("stride: expected 1 to 536870911, got 0",
                     [&] { hepos_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), 0); });
  auto const two = test::random_inputs<float>({.query_heads = 2, .key_heads = 2, .queries = 5, .keys = 9}, 8);
  test::expect_error("value: expected heads 2 (as query), got 1",
                     [&] { hepos_attention(two.query.view(), two.key.view(), two.value.view(), output.view(), 2); });
  test::expect_scale_error([&](scale const& factor) {
    auto const q = in.query.view();
    hepos_attention(q, q, q, output.view(), 2, factor);
  });
  for (float x : output.elements) EXPECT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
