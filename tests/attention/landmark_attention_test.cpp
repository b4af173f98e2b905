// SPDX-License-Identifier: BSD-3-Clause
// Landmark attention at a decoding step: against the grouped softmax over all blocks, and over those chosen.
#include <attend/attention/sparse_decode/landmark_attention.hpp>
#include <attend/reference/landmark_attention.hpp>

#include "support/chosen_inputs.hpp"
#include "support/count_allocations.hpp"
#include "support/selection.hpp"

namespace attend {
using namespace caches;
using namespace systems;

namespace {

using test::expect_error;
using test::shape_of;
using test::sizes;

template <class T>
void expect_definition(test::inputs<T> const& in, index_t block, index_t blocks) {
  sizes const& s = in.size;
  index_t const tokens = s.keys;
  auto const cache = test::filled_cache<T>(in);
  auto const expected =
      reference::landmark_attention<T>(in.query.view(), in.key.view(), in.value.view(), block, blocks);
  landmark_selector<T> selector(shape_of(s), 6, tokens, blocks, block);
  selector.update(cache);
  auto output = test::filled<T, 4>({s.batches, 6, 1, s.value_dimension}, T(7)), threaded = output;
  landmark_attention(in.query.view(), cache, selector, output.view());
  double const largest = test::largest_magnitude(in.value.elements);
  // Blocks are merged after each was rounded to T.
  double const merged = std::same_as<T, accumulation_t<T>> ? 0 : test::unit_roundoff<T>() * largest;
  EXPECT_TRUE(test::near(output.elements, expected, test::tolerance<T>(largest) + merged))
      << tokens << " tokens, " << blocks << " blocks";
  landmark_attention(in.query.view(), cache, selector, threaded.view(), threads{2});
  EXPECT_TRUE(test::same_bits(output.elements, threaded.elements));
}
template <class T>
void expect_definition(index_t tokens, index_t block, index_t blocks, unsigned seed) {
  expect_definition(test::random_inputs<T>({2, 6, 2, 2, 1, tokens, 20, 13}, seed), block, blocks);
}

TEST(LandmarkAttention, TakesTheLowerOfEqualLandmarks) {
  expect_definition(test::whole_number_inputs<float>({2, 6, 2, 2, 1, 200, 3, 13}, 20), 5, 9);
}

TEST(LandmarkAttention, ShowsAValueToThoseThatChoseItsBlock) {
  expect_definition(test::with_nan_values(test::random_inputs<float>({2, 6, 2, 2, 1, 200, 20, 13}, 21)), 7, 6);
}

// A landmark stands for its block: it is what is looked for.
TEST(LandmarkAttention, FindsLandmarks) {
  sizes const s{1, 4, 2, 2, 1, 2000, 64, 16};
  EXPECT_GE(test::needles_found(
                s, 100, [&] { return landmark_selector<float>(shape_of(s), 4, s.keys, 9, 10); },
                [](index_t token) { return token / 10 * 10 + 9; }),
            0.99);
}

TEST(LandmarkAttention, ForgetsWhatIsTakenBack) {
  sizes const s{2, 6, 2, 2, 1, 100, 20, 13};
  auto const in = test::random_inputs<float>(s, 22);
  auto cache = test::filled_cache<float>(in);
  landmark_selector<float> selector(shape_of(s), 6, 100, 3, 11), fresh(shape_of(s), 6, 100, 3, 11);
  selector.update(cache);
  for (index_t b : {0, 1}) {
    selector.truncate(cache, b, 58 - b);
    cache.truncate(b, 58 - b);
  }
  fresh.update(cache);
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7), expected = output;
  landmark_attention(in.query.view(), cache, selector, output.view());
  landmark_attention(in.query.view(), cache, fresh, expected.view());
  EXPECT_TRUE(test::same_bits(output.elements, expected.elements));
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
  EXPECT_TRUE(
      test::near(output.elements, dense.elements, test::tolerance<float>(test::largest_magnitude(in.value.elements))));
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

TEST(LandmarkAttention, TakesNoMemoryForBlocksThatCannotBe) {
  sizes const s{1, 4, 2, 2, 1, 30, 20, 13};
  auto const in = test::random_inputs<float>(s, 6);
  auto const cache = test::filled_cache<float>(in);
  auto output = test::filled<float, 4>({1, 4, 1, 13}, 7), expected = output;
  for (index_t blocks : {index_t{3}, index_t{1000000}, std::numeric_limits<index_t>::max()}) {
    landmark_selector<float> selector(shape_of(s), 4, 30, blocks, 10);
    EXPECT_EQ(selector.blocks(), 3);
    selector.update(cache);
    landmark_attention(in.query.view(), cache, selector, output.view());
    if (blocks == 3) expected = output;
    EXPECT_TRUE(test::same_bits(output.elements, expected.elements));
  }
  // Blocks that are longer than the sequences.
  EXPECT_EQ(landmark_selector<float>(shape_of(s), 4, 30, 1, 1 << 28).bytes(),
            landmark_selector<float>(shape_of(s), 4, 30, 1, 30).bytes());
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
  auto values = in.value;
  key_value_tensors<float> const in_place(in.key.view(), std::as_const(values).view());
  expect_error("output: expected memory of its own, got memory that overlaps the cache's values", [&] {
    landmark_attention(in.query.view(), in_place, selector,
                       tensor_view<float, 4>(values.elements.data(), {1, 4, 1, 13}));
  });
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
