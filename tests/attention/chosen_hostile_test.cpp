// SPDX-License-Identifier: BSD-3-Clause
// What attention to chosen keys refuses: memory that is read and written, masks that would be taken for others; and
// what keys that are not finite cannot do.
#include <attend/attention/sparse_decode/landmark_attention.hpp>
#include <attend/attention/sparse_decode/quest_selector.hpp>
#include <attend/attention/sparse_decode/retrieval_attention.hpp>
#include <attend/attention/sparse_prefill/combiner_attention.hpp>
#include <attend/attention/sparse_prefill/hyper_attention.hpp>
#include <attend/attention/sparse_prefill/routing_attention.hpp>
#include <attend/attention/sparse_prefill/sparse_k_causal_attention.hpp>
#include <attend/select/vote_selector.hpp>

#include <gmock/gmock.h>

#include "support/selection.hpp"

namespace attend {
using namespace options;
using namespace caches;
using namespace selection;
using namespace extend;
using namespace systems;

namespace {

using test::expect_error;
using test::shape_of;
using test::sizes;

// The output is where the first keys are.
TEST(ChosenKeys, MayNotBeWrittenOver) {
  sizes const s{1, 2, 2, 2, 1, 40, 8, 8};
  auto in = test::random_inputs<float>(s, 1);
  auto const before = in.key.elements;
  key_value_tensors<float> const cache(in.key.view(), in.value.view());
  tensor_view<float, 4> const keys(in.key.elements.data(), {1, 2, 1, 8}),
      values(in.value.elements.data(), {1, 2, 1, 8});
  std::string const message = "output: expected memory of its own, got memory that overlaps the cache's ";
  quest_selector<float> quest(shape_of(s), 2, 40, quest_pages({.tokens = 16}, 4));
  quest.update(cache);
  expect_error(message + "keys", [&] { selected_attention(in.query.view(), cache, quest, keys); });
  landmark_selector<float> landmark(shape_of(s), 2, 40, 2, 8);
  landmark.update(cache);
  expect_error(message + "keys", [&] { landmark_attention(in.query.view(), cache, landmark, keys); });
  retrieval_selector<> retrieval(shape_of(s), 2, 40, {.first = 2, .last = 4, .tokens = 5});
  expect_error(message + "values", [&] { retrieval_attention(in.query.view(), cache, retrieval, values); });
  EXPECT_EQ(in.key.elements, before);
}

TEST(ChosenKeys, ScoresAndCentroidsMayNotBeWrittenOver) {
  auto in = test::random_inputs<float>({.queries = 9, .keys = 9}, 2);
  auto scores = test::normal<float, 3>({1, 1, 72}, 3);
  tensor_view<float, 4> const over(scores.elements.data(), {1, 1, 9, 8});
  tensor_view<float, 3> const nine(scores.elements.data(), {1, 1, 9});
  expect_error("output: expected memory of its own, got memory that overlaps scores",
               [&] { sparse_k_attention(in.query.view(), in.key.view(), in.value.view(), over, nine, 3); });
  expect_error("output: expected memory of its own, got memory that overlaps scores",
               [&] { sparse_k_causal_attention(in.query.view(), in.key.view(), in.value.view(), over, nine, 3, 2); });
  expect_error("output: expected memory of its own, got memory that overlaps key",
               [&] { sparse_k_attention(in.query.view(), in.key.view(), in.value.view(), in.key.view(), nine, 3); });
  tensor_view<float, 3> const centroids(in.query.elements.data(), {1, 2, 8});
  tensor_view<float, 3> const over_centroids(scores.elements.data() + 40, {1, 2, 8});
  expect_error("output: expected memory of its own, got memory that overlaps centroids",
               [&] { routing_attention(in.query.view(), in.key.view(), in.value.view(), over, over_centroids, 2); });
  expect_error("centroids: expected memory of its own, got memory that overlaps query",
               [&] { update_centroids(centroids, in.query.view(), in.key.view(), 0.9); });
}

// Queries and keys end together: another alignment is no other answer, but an error.
TEST(ChosenKeys, AreCausalAtTheEndAlone) {
  auto const in = test::random_inputs<float>({.queries = 9, .keys = 9}, 6);
  auto output = test::filled<float, 4>({1, 1, 9, 8}, 7);
  auto const centroids = test::normal<float, 3>({1, 2, 8}, 7);
  std::string const message = "causal: expected the last query at the last key (offset 0), got offset 5";
  causal const five{offset(5)};
  expect_error(message, [&] {
    routing_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), centroids.view(), 2, five);
  });
  expect_error(message, [&] {
    hyper_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), hash_directions(3, 8, 1),
                    hyper_options{}, five);
  });
  expect_error(message, [&] {
    combiner_fixed_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), 3, five);
  });
  for (float x : output.elements) EXPECT_EQ(x, 7);
  combiner_fixed_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), 3, causal{top_left});
  for (float x : output.elements) EXPECT_NE(x, 7);
}

// A key that is NaN has no say in who else is chosen.
TEST(ChosenKeys, AreChosenBesideThoseThatAreNotNumbers) {
  sizes const s{1, 2, 2, 2, 1, 300, 16, 8};
  auto in = test::random_inputs<float>(s, 8);
  for (index_t h = 0; h < 2; ++h) {
    in.key.view()(0, h, 11, 3) = std::nanf("");
    for (index_t c = 0; c < 16; ++c) in.key.view()(0, h, 200, c) = in.query.view()(0, h, 0, c);
  }
  auto const cache = test::filled_cache<float>(in);
  vote_selector<float> selector(shape_of(s), 2, s.keys, {.budget = {.tokens = 20, .first = 2, .last = 3}});
  selector.select(in.query.view(), cache);
  EXPECT_THAT(selector.lists()(0, 0), testing::Contains(200));
  EXPECT_THAT(selector.lists()(0, 0), testing::Not(testing::Contains(11)));
}

TEST(ChosenKeys, LandmarksAreNoMoreThanThereIsRoomFor) {
  sizes const s{1, 2, 2, 2, 1, 40, 8, 8};
  landmark_selector<float> const selector(shape_of(s), 2, 40, 1'000'000, 8);
  EXPECT_EQ(selector.blocks(), 5);
  EXPECT_LT(selector.bytes(), 10'000);
}

}  // namespace
}  // namespace attend
