// SPDX-License-Identifier: BSD-3-Clause
// Strided views: the same numbers in other places give the same bits, and nothing else is read or written.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/mask/causal.hpp>

#include "support/problem.hpp"

namespace attend {
using namespace options;

namespace {

// A tensor's elements in a larger buffer of NaN, at the strides given.
template <class T>
struct placed {
  std::vector<T> storage;
  tensor_view<T, 4> view;
};

template <class T>
placed<T> place(test::tensor<T, 4> const& tensor, std::array<index_t, 4> const& strides, index_t start, index_t size) {
  placed<T> result{std::vector<T>(static_cast<std::size_t>(size), std::numeric_limits<T>::quiet_NaN()), {}};
  result.view = {result.storage.data() + start, tensor.extents, strides};
  for (index_t b = 0; b < tensor.extents[0]; ++b)
    for (index_t h = 0; h < tensor.extents[1]; ++h)
      for (index_t i = 0; i < tensor.extents[2]; ++i)
        for (index_t c = 0; c < tensor.extents[3]; ++c) result.view(b, h, i, c) = tensor.view()(b, h, i, c);
  return result;
}

template <class T>
std::vector<T> gathered(tensor_view<T, 4> const& view) {
  std::vector<T> elements;
  for (index_t b = 0; b < view.extent(0); ++b)
    for (index_t h = 0; h < view.extent(1); ++h)
      for (index_t i = 0; i < view.extent(2); ++i)
        for (index_t c = 0; c < view.extent(3); ++c) elements.push_back(view(b, h, i, c));
  return elements;
}

template <class T>
index_t count_nan(std::vector<T> const& elements) {
  return std::count_if(elements.begin(), elements.end(), [](T x) { return std::isnan(static_cast<float>(x)); });
}

test::sizes const grouped{.batches = 2,
                          .query_heads = 6,
                          .key_heads = 3,
                          .value_heads = 1,
                          .queries = 50,
                          .keys = 141,
                          .key_dimension = 24,
                          .value_dimension = 16};

template <class T>
class Layouts : public testing::Test {};
using Elements = testing::Types<float, double, half>;
TYPED_TEST_SUITE(Layouts, Elements);

// [batch, token, head, dimension] with room after each row and each batch. The distance of a head's rows is large
// enough for the kernel to treat it apart, so numbers may differ in their last bits from those of dense tensors.
TYPED_TEST(Layouts, MayHaveTokensOutsideOfHeads) {
  auto const in = test::random_inputs<TypeParam>(grouped, 1);
  reference::options with;
  with.visible = reference::causal_bottom_right();
  for (index_t room : {0, 5, 600}) {
    auto const outside = [&](test::tensor<TypeParam, 4> const& tensor) {
      auto const& [batches, heads, tokens, dimension] = tensor.extents;
      index_t const row = dimension + room, token = heads * row, batch = tokens * token + 3;
      return place(tensor, {batch, row, token, 1}, 2, batches * batch + 2);
    };
    auto const q = outside(in.query), k = outside(in.key), v = outside(in.value);
    auto o = outside(test::filled<TypeParam, 4>({2, 6, 50, 16}, TypeParam(7)));
    index_t const untouched = count_nan(o.storage);
    softmax_attention(q.view, k.view, v.view, o.view, causal{});
    test::outputs<TypeParam> out{{{2, 6, 50, 16}, gathered(o.view)}, {}, {}};
    EXPECT_TRUE(test::agrees(in, out, with)) << room;
    EXPECT_EQ(count_nan(o.storage), untouched) << room;
  }
}

// One buffer [batch, token, 3, head, dimension], as a fused projection writes it; the output is a fourth column.
TYPED_TEST(Layouts, MayBePackedInOneBuffer) {
  index_t const batches = 2, heads = 3, tokens = 70, dimension = 24;
  auto const in = test::random_inputs<TypeParam>({.batches = batches,
                                                  .query_heads = heads,
                                                  .key_heads = heads,
                                                  .value_heads = heads,
                                                  .queries = tokens,
                                                  .keys = tokens,
                                                  .key_dimension = dimension,
                                                  .value_dimension = dimension},
                                                 1);
  index_t const token = 4 * heads * dimension;
  std::vector<TypeParam> buffer(static_cast<std::size_t>(batches * tokens * token), TypeParam(0));
  auto const column = [&](index_t which) {
    return tensor_view<TypeParam, 4>(buffer.data() + which * heads * dimension, {batches, heads, tokens, dimension},
                                     {tokens * token, dimension, token, 1});
  };
  test::tensor<TypeParam, 4> const* const sources[] = {&in.query, &in.key, &in.value};
  for (index_t which = 0; which < 3; ++which)
    for (index_t b = 0; b < batches; ++b)
      for (index_t h = 0; h < heads; ++h)
        for (index_t i = 0; i < tokens; ++i)
          for (index_t c = 0; c < dimension; ++c) column(which)(b, h, i, c) = sources[which]->view()(b, h, i, c);
  softmax_attention(column(0), column(1), column(2), column(3), causal{});
  test::outputs<TypeParam> out{{{batches, heads, tokens, dimension}, gathered(column(3))}, {}, {}};
  reference::options with;
  with.visible = reference::causal_bottom_right();
  EXPECT_TRUE(test::agrees(in, out, with));
  // The inputs are as they were.
  EXPECT_TRUE(test::same_bits(gathered(column(0)), in.query.elements));
  EXPECT_TRUE(test::same_bits(gathered(column(2)), in.value.elements));
}

TEST(Layouts, MayShareABatchWithStrideZero) {
  auto const one = test::random_inputs<float>({.query_heads = 2, .queries = 20, .keys = 50}, 1);
  auto const many = test::normal<float, 4>({3, 2, 20, 8}, 9);
  tensor_view<float const, 4> const k(one.key.elements.data(), {3, 1, 50, 8}, {0, 0, 8, 1});
  tensor_view<float const, 4> const v(one.value.elements.data(), {3, 1, 50, 8}, {0, 0, 8, 1});
  auto group_size = test::filled<float, 4>({3, 2, 20, 8}, 7), apart = group_size;
  softmax_attention(many.view(), k, v, group_size.view());
  for (index_t b = 0; b < 3; ++b) {
    tensor_view<float const, 3> const q(&many.view()(b, 0, 0, 0), {2, 20, 8});
    tensor_view<float, 3> const o(&apart.view()(b, 0, 0, 0), {2, 20, 8});
    softmax_attention(q, one.key.view(), one.value.view(), o);
  }
  EXPECT_TRUE(test::same_bits(group_size.elements, apart.elements));
}

// Stride zero along the tokens: one key and one value in many places.
TEST(Layouts, MayShareAToken) {
  auto const in = test::random_inputs<float>({.queries = 9, .keys = 1}, 1);
  tensor_view<float const, 4> const k(in.key.elements.data(), {1, 1, 60, 8}, {0, 0, 0, 1});
  tensor_view<float const, 4> const v(in.value.elements.data(), {1, 1, 60, 8}, {0, 0, 0, 1});
  auto o = test::filled<float, 4>({1, 1, 9, 8}, 7);
  softmax_attention(in.query.view(), k, v, o.view());
  for (index_t query = 0; query < 9; ++query)
    for (index_t c = 0; c < 8; ++c)
      EXPECT_NEAR(o.view()(0, 0, query, c), v(0, 0, 0, c),
                  test::tolerance<float>(test::largest_magnitude(in.value.elements)));
}

// The first columns of wider rows, and tokens in falling order.
TEST(Layouts, MayBeColumnsAndMayFall) {
  auto const in = test::random_inputs<float>(grouped, 1);
  auto const falling = [&](test::tensor<float, 4> const& tensor) {
    auto const& [batches, heads, tokens, dimension] = tensor.extents;
    index_t const row = dimension + 11, head = tokens * row, batch = heads * head;
    return place(tensor, {batch, head, -row, 1}, (tokens - 1) * row, batches * batch);
  };
  auto const q = falling(in.query), k = falling(in.key), v = falling(in.value);
  auto o = falling(test::filled<float, 4>({2, 6, 50, 16}, 7));
  index_t const untouched = count_nan(o.storage);
  softmax_attention(q.view, k.view, v.view, o.view, causal{});
  reference::options with;
  with.visible = reference::causal_bottom_right();
  EXPECT_TRUE(test::agrees(in, test::outputs<float>{{{2, 6, 50, 16}, gathered(o.view)}, {}, {}}, with));
  EXPECT_EQ(count_nan(o.storage), untouched);
}

// Unaligned by one element: every row begins in the middle of a vector.
TEST(Layouts, NeedNoAlignment) {
  auto const in = test::random_inputs<float>(grouped, 1);
  auto const shifted = [](test::tensor<float, 4> const& tensor) {
    auto const strides = tensor.view().strides();
    return place(tensor, strides, 1, tensor.extents[0] * strides[0] + 2);
  };
  auto const q = shifted(in.query), k = shifted(in.key), v = shifted(in.value);
  auto o = shifted(test::filled<float, 4>({2, 6, 50, 16}, 7));
  softmax_attention(q.view, k.view, v.view, o.view);
  EXPECT_TRUE(test::same_bits(gathered(o.view), test::attend_to(in).output.elements));
  EXPECT_EQ(count_nan(o.storage), 2);
}

}  // namespace
}  // namespace attend
