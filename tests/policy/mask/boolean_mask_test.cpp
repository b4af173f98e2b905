// SPDX-License-Identifier: BSD-3-Clause
// Boolean masks: tensors [batch, query head, query, key] whose axes may be shared, and what they save.
#include <attend/policy/mask/boolean_mask.hpp>
#include <attend/policy/mask/causal.hpp>

#include "support/boolean_tensor.hpp"
#include "support/expect_error.hpp"
#include "support/mask_checks.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

reference::visible_function where(test::boolean_tensor<4> const& tensor) {
  return [tensor](reference::place const& at) {
    return test::shared_element<bool const>(tensor.view(), at.batch, at.head, at.query, at.key);
  };
}

// All sixteen choices of shared axes.
std::vector<std::array<index_t, 4>> shared_axes(std::array<index_t, 4> const& whole) {
  std::vector<std::array<index_t, 4>> all;
  for (int choice = 0; choice < 16; ++choice) {
    all.push_back(whole);
    for (int axis = 0; axis < 4; ++axis)
      if (choice >> axis & 1) all.back()[static_cast<std::size_t>(axis)] = 1;
  }
  return all;
}

TEST(BooleanMask, AnswersSoundly) {
  index_t const batches = 2, heads = 3, queries = 40, keys = 150;
  problem_shape const shape{batches, heads, 1, 1, queries, keys, 4, 4, batches};
  for (auto const& extents : shared_axes({batches, heads, queries, keys}))
    for (double probability : {0.0, 0.01, 0.5, 0.99, 1.0}) {
      auto const tensor = test::random_booleans<4>(extents, 3, probability);
      EXPECT_TRUE(test::is_sound(boolean_mask(tensor.view()), shape, where(tensor))) << probability;
    }
}

template <class T>
class BooleanMaskAttention : public testing::Test {};
using Elements = testing::Types<float, double>;
TYPED_TEST_SUITE(BooleanMaskAttention, Elements);

TYPED_TEST(BooleanMaskAttention, SeesWhatIsTrue) {
  auto const in = test::random_inputs<TypeParam>(
      {.batches = 2, .query_heads = 8, .key_heads = 4, .value_heads = 2, .queries = 37, .keys = 141}, 2);
  reference::options with;
  for (auto const& extents : shared_axes({2, 8, 37, 141})) {
    auto const tensor = test::random_booleans<4>(extents, 5, 0.3);
    with.visible = where(tensor);
    EXPECT_TRUE(test::agrees(in, test::attend_to(in, boolean_mask(tensor.view())), with))
        << attend::detail::shape_text<4>(extents);
  }
}

// Each of the key's heads for the query heads that share it; all choices of the other axes, and of the engines.
TYPED_TEST(BooleanMaskAttention, MayHaveTheKeysHeads) {
  for (index_t queries : {1, 37}) {
    auto const in = test::random_inputs<TypeParam>(
        {.batches = 2, .query_heads = 8, .key_heads = 4, .value_heads = 2, .queries = queries, .keys = 141}, 2);
    reference::options with;
    for (auto const& extents : shared_axes({2, 4, queries, 141})) {
      auto const tensor = test::random_booleans<4>(extents, 5, 0.3);
      with.visible = [&](reference::place const& at) {
        return test::shared_element<bool const>(tensor.view(), at.batch, at.head / 2, at.query, at.key);
      };
      EXPECT_TRUE(test::agrees(in, test::attend_to(in, boolean_mask(tensor.view())), with))
          << attend::detail::shape_text<4>(extents);
    }
  }
}

reference::visible_function within(test::boolean_tensor<4> const& tensor) {
  return [tensor](reference::place const& at) {
    return at.key < tensor.view().extent(3) &&
           test::shared_element<bool const>(tensor.view(), at.batch, at.head, at.query, at.key);
  };
}

// Shorter key axes, from none to all: what is past the end is hidden, and never read (for the address sanitizer).
TYPED_TEST(BooleanMaskAttention, MayBeShorterThanTheKeys) {
  auto const in = test::random_inputs<TypeParam>({.batches = 2, .query_heads = 3, .queries = 37, .keys = 301}, 2);
  auto const few = test::random_inputs<TypeParam>({.batches = 2, .query_heads = 3, .queries = 1, .keys = 301}, 2);
  reference::options with;
  for (index_t columns : {0, 1, 2, 7, 127, 128, 129, 300, 301}) {
    auto const tensor = test::random_booleans<4>({2, 1, 37, columns == 1 ? 2 : columns}, 5, 0.6);
    with.visible =
        columns == 1
            ? [&](reference::place const& at) { return at.key == 0 && tensor.view()(at.batch, 0, at.query, 0); }
            : within(tensor);
    tensor_view<bool const, 4> const some = attend::detail::part(tensor.view(), 3, 0, columns);
    EXPECT_TRUE(test::agrees(in, test::attend_to(in, boolean_mask(some).padded()), with)) << columns;
    EXPECT_TRUE(
        test::agrees(few, test::attend_to(few, boolean_mask(attend::detail::part(some, 2, 0, 1)).padded()), with))
        << columns;
  }
}

TEST(BooleanMask, AnswersSoundlyWhereItIsShorter) {
  problem_shape const shape{2, 3, 1, 1, 40, 150, 4, 4, 2};
  for (index_t columns : {0, 2, 70, 149, 150}) {
    auto const tensor = test::random_booleans<4>({2, 3, 40, columns}, 3, 0.9);
    EXPECT_TRUE(test::is_sound(boolean_mask(tensor.view()).padded(), shape, within(tensor))) << columns;
    // The keys that it hides are those that its complement shows.
    EXPECT_TRUE(test::is_sound(!boolean_mask(tensor.view()).padded(), shape, [&](reference::place const& at) {
      return !within(tensor)(at);
    })) << columns;
  }
}

TEST(BooleanMask, MustFit) {
  auto const in =
      test::random_inputs<float>({.batches = 2, .query_heads = 6, .key_heads = 3, .queries = 5, .keys = 9}, 2);
  auto const attempt = [&](std::array<index_t, 4> const& extents, auto change) {
    return [&in, tensor = test::boolean_tensor<4>(extents, true), change] {
      test::attend_to(in, change(boolean_mask(tensor.view())));
    };
  };
  auto const as_it_is = [](boolean_mask const& mask) { return mask; };
  auto const padded = [](boolean_mask const& mask) { return mask.padded(); };
  std::string const shape =
      "boolean_mask: expected shape [2, 6, 5, 9], or 3 heads (the key's), with 1 for an axis that is shared";
  test::expect_error((shape + ", got [2, 2, 5, 9]").c_str(), attempt({2, 2, 5, 9}, as_it_is));
  test::expect_error((shape + ", got [2, 6, 5, 8]").c_str(), attempt({2, 6, 5, 8}, as_it_is));
  test::expect_error((shape + " and at most as many keys, got [2, 6, 5, 10]").c_str(), attempt({2, 6, 5, 10}, padded));
  test::expect_error((shape + " and at most as many keys, got [2, 6, 4, 8]").c_str(), attempt({2, 6, 4, 8}, padded));
}

TEST(BooleanMask, MayLeaveOutLeadingAxes) {
  auto const in = test::random_inputs<float>({.batches = 2, .query_heads = 2, .queries = 20, .keys = 30}, 2);
  auto const pairs = test::random_booleans<2>({20, 30}, 1);
  auto const keys = test::random_booleans<1>({30}, 2);
  reference::options with;
  with.visible = [&](reference::place const& at) { return pairs.view()(at.query, at.key); };
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, boolean_mask(pairs.view())), with));
  with.visible = [&](reference::place const& at) { return keys.view()(at.key); };
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, boolean_mask(keys.view())), with));
}

TEST(BooleanMask, MayHaveStrides) {
  // Laid out [query, batch, head, key] with room between the rows, and batches in falling order.
  index_t const batches = 2, heads = 3, queries = 20, keys = 70, room = 80;
  auto const storage = test::random_booleans<4>({queries, batches, heads, room}, 4, 0.4);
  tensor_view<bool const, 4> const view(storage.view().data() + heads * room, {batches, heads, queries, keys},
                                        {-heads * room, room, batches * heads * room, 1});
  auto const in =
      test::random_inputs<float>({.batches = batches, .query_heads = heads, .queries = queries, .keys = keys}, 2);
  reference::options with;
  with.visible = [&](reference::place const& at) { return storage.view()(at.query, 1 - at.batch, at.head, at.key); };
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, boolean_mask(view)), with));
}

TEST(BooleanMask, GivesWhatTheNamedMaskGives) {
  auto const in = test::random_inputs<float>({.query_heads = 2, .queries = 130, .keys = 130}, 2);
  test::boolean_tensor<2> lower({130, 130});
  for (index_t i = 0; i < 130; ++i) std::fill_n(&lower.view()(i, 0), i + 1, true);
  auto const named = test::attend_to(in, causal{});
  EXPECT_TRUE(test::near(test::attend_to(in, boolean_mask(lower.view())).output.elements, named.output.elements,
                         test::tolerance<float>(test::largest_magnitude(in.value.elements))));
}

TEST(BooleanMask, SkipsWhatIsFalse) {
  test::sizes const s{.query_heads = 2, .queries = 500, .keys = 600};
  EXPECT_EQ(test::count_work(s, boolean_mask(test::boolean_tensor<2>({500, 600}, false).view())).pairs, 0);
  test::work const all = test::count_work(s, boolean_mask(test::boolean_tensor<2>({500, 600}, true).view()));
  EXPECT_EQ(all.pairs, 2 * 500 * 600);
  EXPECT_EQ(all.masked, 0);
  // One true element: one tile.
  test::boolean_tensor<2> one({500, 600});
  one.view()(250, 300) = true;
  test::work const little = test::count_work(s, boolean_mask(one.view()));
  EXPECT_EQ(little.masked, 1);
  EXPECT_EQ(little.full, 0);
  EXPECT_LE(little.pairs, simd::tile_lanes<float> * 128);
}

}  // namespace
}  // namespace attend
