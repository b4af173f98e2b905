// Boolean masks: tensors [batch, query head, query, key] whose axes may be shared, and what they save.
#include <attend/policy/mask/boolean_mask.hpp>
#include <attend/policy/mask/causal.hpp>

#include "support/boolean_tensor.hpp"
#include "support/mask_checks.hpp"
#include "support/problem.hpp"

namespace attend {
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
