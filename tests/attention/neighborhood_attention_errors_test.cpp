// SPDX-License-Identifier: BSD-3-Clause
// Neighborhood attention refuses what does not fit before it writes, gives the same bits for any number of threads,
// and allocates nothing once it is warm.
#include <attend/attention/image/neighborhood_attention.hpp>

#include "support/argument_errors.hpp"

namespace attend {
using namespace grids;
using namespace runtime;

namespace {

class NeighborhoodErrors : public testing::Test {
 protected:
  test::inputs<float> const in = test::random_inputs<float>({.query_heads = 2, .queries = 20, .keys = 20}, 1);
  test::tensor<float, 4> output = test::filled<float, 4>({1, 2, 20, 8}, 7);

  template <class... Options>
  void call(std::array<index_t, 2> const& extents, std::array<neighborhood_axis, 2> const& axes,
            Options const&... options) {
    neighborhood_attention<2>(in.query.view(), in.key.view(), in.value.view(), output.view(), extents, axes,
                              options...);
  }
  template <class Call>
  void expect_error(std::string const& message, Call&& wrong) {
    test::expect_error(message, wrong);
    for (float x : output.elements) EXPECT_EQ(x, 7);
  }
};

TEST_F(NeighborhoodErrors, NameWhatIsWrong) {
  std::array<neighborhood_axis, 2> const axes{{{3}, {3}}};
  expect_error("query: expected tokens 24 (as extents), got 20", [&] { call({4, 6}, axes); });
  expect_error("query: expected tokens 9223372036854775807 (as extents), got 20",
               [&] { call({index_t{1} << 40, index_t{1} << 40}, axes); });
  expect_error("neighborhood: expected a window of at most 4 (the extent over the dilation), got 5 on axis 0",
               [&] { call({4, 5}, {{{5}, {3}}}); });
  expect_error("key: expected tokens 20 (as extents), got 19", [&] {
    tensor_view<float const, 4> const key(in.key.view().data(), {1, 1, 19, 8}),
        value(in.value.view().data(), {1, 1, 19, 8});
    neighborhood_attention<2>(in.query.view(), key, value, output.view(), std::array<index_t, 2>{4, 5}, axes);
  });
  expect_error("scale: expected a finite number, got inf", [&] { call({4, 5}, axes, scale(1e300)); });
  auto const table = test::filled<float, 3>({3, 5, 5}, 1.f);
  expect_error("relative_bias: expected shape [2, 5, 5] (query head or 1, 2 * window - 1), got [3, 5, 5]",
               [&] { call({4, 5}, axes, relative_bias(table.view())); });
  auto const far = index_t{1} << 31;
  expect_error(
      "relative_bias: expected strides that stay within 2147483647 elements, got [" + std::to_string(far) + ", 5, 1]",
      [&] {
        call({4, 5}, axes, relative_bias(tensor_view<float const, 3>(table.elements.data(), {2, 5, 5}, {far, 5, 1})));
      });
  auto const vectors = test::filled<float, 2>({5, 8}, 1.f), short_ones = test::filled<float, 2>({5, 7}, 1.f);
  expect_error("relative_embeddings: expected shape [5, 8] (2 * window - 1, key dimension) on axis 1, got [5, 7]",
               [&] { call({4, 5}, axes, relative_embeddings(vectors.view(), short_ones.view())); });
}

TEST_F(NeighborhoodErrors, WithoutTokensThereIsNothingToDo) {
  tensor_view<float, 4> const empty(nullptr, {1, 2, 0, 8});
  float beside = 7;
  tensor_view<float, 4> const output(&beside, {1, 2, 0, 8});
  EXPECT_NO_THROW(neighborhood_attention<2>(empty, empty, empty, output, std::array<index_t, 2>{0, 5},
                                            std::array<neighborhood_axis, 2>{{{3}, {3}}}));
  EXPECT_EQ(beside, 7);
}

TEST(NeighborhoodThreads, GiveTheSameBits) {
  auto const in = test::random_inputs<float>({.query_heads = 3, .queries = 40 * 50, .keys = 40 * 50}, 2);
  auto one = test::filled<float, 4>({1, 3, 2000, 8}, 7.f), four = one, again = one;
  std::array<index_t, 2> const extents{40, 50};
  std::array<neighborhood_axis, 2> const axes{{{9, 1, 2}, {11, 3}}};
  neighborhood_attention<2>(in.query.view(), in.key.view(), in.value.view(), one.view(), extents, axes);
  neighborhood_attention<2>(in.query.view(), in.key.view(), in.value.view(), four.view(), extents, axes, threads{4});
  EXPECT_TRUE(test::same_bits(one.elements, four.elements));
  index_t const kept = scratch_bytes();
  neighborhood_attention<2>(in.query.view(), in.key.view(), in.value.view(), again.view(), extents, axes);
  EXPECT_EQ(scratch_bytes(), kept);
  EXPECT_TRUE(test::same_bits(one.elements, again.elements));
}

}  // namespace
}  // namespace attend
