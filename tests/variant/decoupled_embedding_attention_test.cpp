// Attention with decoupled embeddings: against its definition, for few targets and for many.
#include <attend/reference/decoupled_embedding_attention.hpp>
#include <attend/variant/decoupled_embedding_attention.hpp>

#include "support/selected.hpp"

namespace attend {
namespace {

template <class T>
testing::AssertionResult follows(index_t targets, index_t items, index_t top, unsigned seed) {
  auto const ta = test::normal<T, 3>({2, targets, 11}, seed), ha = test::normal<T, 3>({2, items, 11}, seed + 1);
  auto const tr = test::normal<T, 3>({2, targets, 37}, seed + 2), hr = test::normal<T, 3>({2, items, 37}, seed + 3);
  auto got = test::filled<T, 3>({2, targets, 37}, T(7)), again = got;
  decoupled_embedding_attention(ta.view(), ha.view(), tr.view(), hr.view(), got.view(), top);
  decoupled_embedding_attention(ta.view(), ha.view(), tr.view(), hr.view(), again.view(), top, threads{3});
  EXPECT_TRUE(test::same_bits(got.elements, again.elements));
  return test::near(got.elements,
                    reference::decoupled_embedding_attention<T>(ta.view(), ha.view(), tr.view(), hr.view(), top),
                    test::tolerance<T>(test::largest_magnitude(tr.elements) * test::largest_magnitude(hr.elements)));
}

TEST(DecoupledEmbeddingAttention, FollowsItsDefinition) {
  EXPECT_TRUE(follows<float>(1, 300, 20, 1));
  EXPECT_TRUE(follows<float>(100, 90, 7, 2));
  EXPECT_TRUE(follows<float>(5, 30, 30, 3));
  EXPECT_TRUE(follows<float>(5, 30, 400, 4));
  EXPECT_TRUE(follows<float>(3, 0, 4, 5));
  EXPECT_TRUE(follows<float>(0, 3, 4, 6));
  EXPECT_TRUE(follows<double>(3, 60, 9, 7));
  EXPECT_TRUE(follows<bfloat16>(3, 60, 9, 8));
}

TEST(DecoupledEmbeddingAttention, RefusesWhatDoesNotFit) {
  auto const three = test::normal<float, 3>({1, 3, 4}, 1), five = test::normal<float, 3>({1, 5, 6}, 2);
  auto output = test::filled<float, 3>({1, 3, 4}, 7);
  test::expect_error("history_attention: expected dimension 4 (as its counterpart), got 6", [&] {
    decoupled_embedding_attention(three.view(), five.view(), three.view(), five.view(), output.view(), 2);
  });
  test::expect_error("top: expected at least 1 item, got 0", [&] {
    decoupled_embedding_attention(three.view(), three.view(), three.view(), three.view(), output.view(), 0);
  });
  test::expect_scale_error([&](scale const& factor) {
    decoupled_embedding_attention(three.view(), three.view(), three.view(), three.view(), output.view(), 2, factor);
  });
  for (float x : output.elements) EXPECT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
