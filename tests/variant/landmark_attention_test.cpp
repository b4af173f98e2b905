// Landmark attention at a decoding step: against the grouped softmax over all blocks, and over those chosen.
#include <attend/reference/landmark_attention.hpp>
#include <attend/variant/landmark_attention.hpp>

#include "support/count_allocations.hpp"
#include "support/selection.hpp"

namespace attend {
namespace {

using test::expect_error;
using test::shape_of;
using test::sizes;

template <class T>
void expect_definition(index_t tokens, index_t block, index_t blocks, unsigned seed) {
  sizes const s{2, 6, 2, 2, 1, tokens, 20, 13};
  auto const in = test::random_inputs<T>(s, seed);
  auto const cache = test::filled_cache<T>(in);
  auto const expected =
      reference::landmark_attention<T>(in.query.view(), in.key.view(), in.value.view(), block, blocks);
  landmark_selector<T> selector(shape_of(s), 6, tokens, blocks, block);
  selector.update(cache);
  auto output = test::filled<T, 4>({2, 6, 1, 13}, T(7)), threaded = output;
  landmark_attention(in.query.view(), cache, selector, output.view());
  double const largest = test::largest_magnitude(in.value.elements);
  // Blocks are merged after each was rounded to T.
  double const merged = std::same_as<T, accumulation_t<T>> ? 0 : test::unit_roundoff<T>() * largest;
  EXPECT_TRUE(test::near(output.elements, expected, test::tolerance<T>(largest) + merged))
      << tokens << " tokens, " << blocks << " blocks";
  landmark_attention(in.query.view(), cache, selector, threaded.view(), threads{2});
  EXPECT_TRUE(test::same_bits(output.elements, threaded.elements));
}

TEST(LandmarkAttention, IsTheGroupedSoftmaxOfTheChosenBlocks) {
  for (index_t tokens : {1, 6, 7, 8, 62, 63, 64, 200})
    for (index_t blocks : {0, 1, 3, 40}) expect_definition<float>(tokens, 7, blocks, static_cast<unsigned>(tokens));
  expect_definition<bfloat16>(100, 11, 4, 3);
}

TEST(LandmarkAttention, OfOneBlockIsSoftmaxAttention) {
  sizes const s{1, 4, 2, 2, 1, 30, 20, 13};
  auto const in = test::random_inputs<float>(s, 4);
  auto const cache = test::filled_cache<float>(in);
  landmark_selector<float> selector(shape_of(s), 4, 30, 2, 31);
  selector.update(cache);
  auto output = test::filled<float, 4>({1, 4, 1, 13}, 7), dense = output;
  landmark_attention(in.query.view(), cache, selector, output.view());
  decode_attention(in.query.view(), cache, dense.view());
  EXPECT_TRUE(test::near(output.elements, dense.elements, 1e-5));
}

TEST(LandmarkAttention, AllocatesNothingOnceWarm) {
  sizes const s{2, 6, 2, 2, 1, 100, 20, 13};
  auto const in = test::random_inputs<float>(s, 6);
  auto const cache = test::filled_cache<float>(in);
  landmark_selector<float> selector(shape_of(s), 6, 100, 3, 11);
  selector.update(cache);
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7);
  auto const step = [&] { landmark_attention(in.query.view(), cache, selector, output.view()); };
  step();
  EXPECT_EQ(test::allocations_of_two(step).second, 0);
}

TEST(LandmarkAttention, SaysWhatIsWrong) {
  sizes const s{1, 4, 2, 2, 1, 30, 20, 13};
  expect_error("blocks: expected at least 0, got -1", [&] { landmark_selector<float>(shape_of(s), 4, 30, -1); });
  expect_error("block_tokens: expected at least 2, a landmark among them, got 1",
               [&] { landmark_selector<float>(shape_of(s), 4, 30, 1, 1); });
  auto const in = test::random_inputs<float>(s, 5);
  auto const cache = test::filled_cache<float>(in);
  landmark_selector<float> selector(shape_of(s), 4, 30, 2, 10);
  auto output = test::filled<float, 4>({1, 4, 1, 13}, 7), wide = test::filled<float, 4>({1, 4, 1, 14}, 7);
  expect_error("cache: expected tokens 0 (as the selector was told), got 30",
               [&] { landmark_attention(in.query.view(), cache, selector, output.view()); });
  selector.update(cache);
  expect_error("output: expected head dimension 13 (as the cache), got 14",
               [&] { landmark_attention(in.query.view(), cache, selector, wide.view()); });
  test::expect_scale_error(
      [&](scale const& factor) { landmark_attention(in.query.view(), cache, selector, output.view(), factor); });
  auto const two = test::normal<float, 4>({1, 4, 2, 20}, 1);
  auto both = test::filled<float, 4>({1, 4, 2, 13}, 7);
  expect_error("query: expected tokens 1 (as a decoding step), got 2",
               [&] { landmark_attention(two.view(), cache, selector, both.view()); });
  for (float x : output.elements) EXPECT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
