// SPDX-License-Identifier: BSD-3-Clause
// Attention with decoupled embeddings: against its definition, for few targets and for many.
#include <attend/attention/softmax/decoupled_embedding_attention.hpp>
#include <attend/reference/decoupled_embedding_attention.hpp>

#include "support/selected.hpp"

namespace attend {
using namespace options;
using namespace systems;

namespace {

template <class T>
struct embeddings {
  test::tensor<T, 3> ta, ha, tr, hr;  // of targets and of the history: for attending, and for representing

  embeddings(index_t targets, index_t items, unsigned seed)
      : ta(test::normal<T, 3>({2, targets, 11}, seed)),
        ha(test::normal<T, 3>({2, items, 11}, seed + 1)),
        tr(test::normal<T, 3>({2, targets, 37}, seed + 2)),
        hr(test::normal<T, 3>({2, items, 37}, seed + 3)) {}
};

template <class T>
testing::AssertionResult follows(embeddings<T> const& in, index_t top) {
  auto const& [ta, ha, tr, hr] = in;
  index_t const targets = ta.extents[1];
  auto got = test::filled<T, 3>({2, targets, 37}, T(7)), again = got;
  decoupled_embedding_attention(ta.view(), ha.view(), tr.view(), hr.view(), got.view(), top);
  decoupled_embedding_attention(ta.view(), ha.view(), tr.view(), hr.view(), again.view(), top, threads{3});
  EXPECT_TRUE(test::same_bits(got.elements, again.elements));
  return test::near(got.elements,
                    reference::decoupled_embedding_attention<T>(ta.view(), ha.view(), tr.view(), hr.view(), top),
                    test::tolerance<T>(test::largest_magnitude(tr.elements) * test::largest_magnitude(hr.elements)));
}

template <class T>
testing::AssertionResult follows(index_t targets, index_t items, index_t top, unsigned seed) {
  return follows(embeddings<T>(targets, items, seed), top);
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

TEST(DecoupledEmbeddingAttention, TakesTheEarlierOfEqualItems) {
  embeddings<float> in(5, 200, 10);
  std::mt19937 engine(1);
  for (auto* all : {&in.ta, &in.ha})
    for (std::size_t i = 0; i < all->elements.size(); ++i)
      all->elements[i] = i % 11 < 3 ? static_cast<float>(engine() % 3) - 1 : 0;
  EXPECT_TRUE(follows(in, 30));
}

TEST(DecoupledEmbeddingAttention, ReadsNoRepresentationButThoseChosen) {
  embeddings<float> in(1, 200, 11);
  for (index_t j = 3; j < 200; j += 7)
    for (index_t c = 0; c < 37; ++c) in.hr.view()(j % 2, j, c) = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(follows(in, 4));
  EXPECT_TRUE(follows(in, 60));
}

// An item whose score is ln(items) + 1/2 + ln(99), what has 99% of the weight among normal ones.
TEST(DecoupledEmbeddingAttention, FindsNeedles) {
  int found = 0;
  for (unsigned trial = 0; trial < 100; ++trial) {
    embeddings<float> in(1, 2000, 20 + trial);
    index_t const needle = static_cast<index_t>(std::mt19937(trial)() % 2000);
    float const* const target = in.ta.elements.data();
    double const square = std::inner_product(target, target + 11, target, 0.0);
    double const times = (std::log(2000.0) + 0.5 + std::log(99.0)) * std::sqrt(11.0) / square;
    for (index_t c = 0; c < 11; ++c) in.ha.view()(0, needle, c) = static_cast<float>(times) * target[c];
    std::fill(in.tr.elements.begin(), in.tr.elements.end(), 1.f);
    std::fill(in.hr.elements.begin(), in.hr.elements.end(), 0.f);
    in.hr.view()(0, needle, 0) = 1;  // so that the output is its weight
    auto output = test::filled<float, 3>({2, 1, 37}, 7);
    decoupled_embedding_attention(std::as_const(in.ta).view(), std::as_const(in.ha).view(), std::as_const(in.tr).view(),
                                  std::as_const(in.hr).view(), output.view(), 100);
    found += output.elements[0] > 0;
  }
  EXPECT_GE(found, 99);
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
  auto const call = [&](auto const& ta, auto const& ha, auto const& tr, auto const& hr, auto const&... options) {
    decoupled_embedding_attention(ta.view(), ha.view(), tr.view(), hr.view(), output.view(), 2, options...);
  };
  auto const two = test::normal<float, 3>({2, 3, 4}, 3), four = test::normal<float, 3>({1, 4, 4}, 4);
  test::expect_error("history_attention: expected batch 1 (as target_attention), got 2",
                     [&] { call(three, two, three, two); });
  test::expect_error("target_representation: expected tokens 3 (as the attention embeddings), got 4",
                     [&] { call(three, four, four, four); });
  test::expect_error("history_representation: expected tokens 4 (as the attention embeddings), got 3",
                     [&] { call(three, four, three, three); });
  test::expect_error("history_representation: expected dimension 4 (as its counterpart), got 6",
                     [&] { call(three, test::normal<float, 3>({1, 5, 4}, 5), three, five); });
  test::expect_error("threads: expected a count of at least 0, got -1",
                     [&] { call(three, three, three, three, threads{-1}); });
  test::expect_scale_error([&](scale const& factor) {
    decoupled_embedding_attention(three.view(), three.view(), three.view(), three.view(), output.view(), 2, factor);
  });
  for (float x : output.elements) EXPECT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
