// SPDX-License-Identifier: BSD-3-Clause
// RetrievalAttention with an approximate index: nearly all of what the exact one finds, and only that range.
#include <attend/attention/sparse_decode/retrieval_attention.hpp>
#include <attend/select/hnsw_index.hpp>

#include "support/selection.hpp"

namespace attend {
using namespace selection;
using namespace extend;
using namespace systems;

namespace {

using test::shape_of;
using test::sizes;

sizes const some{1, 4, 2, 2, 1, 3000, 32, 16};

TEST(HnswIndex, FindsMostOfTheExactTokens) {
  auto const in = test::random_inputs<float>(some, 1);
  auto const cache = test::filled_cache<float>(in);
  retrieval_options const choice{.first = 4, .last = 50, .tokens = 60};
  retrieval_selector<> exact(shape_of(some), 4, some.keys, choice);
  retrieval_selector<hnsw_index> selector(shape_of(some), 4, some.keys, choice,
                                          hnsw_index(shape_of(some), some.keys, {.beam = 400}));
  selector.update(cache, threads{2});
  auto output = test::filled<float, 4>({1, 4, 1, 16}, 7), of_exact = output;
  retrieval_attention(in.query.view(), cache, exact, of_exact.view());
  retrieval_attention(in.query.view(), cache, selector, output.view(), threads{2});
  test::seen_tokens seen(1);
  for (index_t h = 0; h < 4; ++h) {
    auto const got = selector.lists()(0, h), all = exact.lists()(0, h);
    std::vector<std::int32_t> common;
    std::set_intersection(got.begin(), got.end(), all.begin(), all.end(), std::back_inserter(common));
    EXPECT_EQ(got.size(), 60u);
    EXPECT_GE(common.size(), 54u) << "nine of ten";
    EXPECT_GE(got.front(), 4);
    EXPECT_LT(got.back(), 2950);
    seen[0].emplace_back(3000, false);
    for (index_t t = 0; t < 3000; ++t) seen[0].back()[static_cast<std::size_t>(t)] = t < 4 || t >= 2950;
    for (index_t t : got) seen[0].back()[static_cast<std::size_t>(t)] = true;
  }
  EXPECT_TRUE(test::near(output.elements, test::attention_to(test::as_stored(cache, in), seen).output,
                         test::tolerance<float>(test::largest_magnitude(in.value.elements))));
}

// Each head's graph grows in the order of its tokens, whoever builds it.
TEST(HnswIndex, GivesTheSameBitsForAnyThreads) {
  sizes s = some;
  s.keys = 500;
  auto const in = test::random_inputs<float>(s, 2);
  auto const cache = test::filled_cache<float>(in);
  auto const run = [&](auto executor) {
    retrieval_selector<hnsw_index> selector(shape_of(s), 4, s.keys, {.first = 4, .last = 20, .tokens = 30},
                                            hnsw_index(shape_of(s), s.keys));
    selector.update(cache, executor);
    auto output = test::filled<float, 4>({1, 4, 1, 16}, 7);
    retrieval_attention(in.query.view(), cache, selector, output.view(), executor);
    return output.elements;
  };
  auto const alone = run(serial{});
  EXPECT_TRUE(test::same_bits(alone, run(threads{2})));
  EXPECT_TRUE(test::same_bits(alone, run(threads{3})));
}

TEST(HnswIndex, OfAllTokensIsDense) {
  sizes s = some;
  s.keys = 300;
  auto const in = test::random_inputs<float>(s, 3);
  auto const cache = test::filled_cache<float>(in);
  retrieval_selector<hnsw_index> selector(shape_of(s), 4, s.keys, {.first = 4, .last = 20, .tokens = 276},
                                          hnsw_index(shape_of(s), s.keys));
  selector.update(cache);
  auto output = test::filled<float, 4>({1, 4, 1, 16}, 7), dense = output;
  retrieval_attention(in.query.view(), cache, selector, output.view());
  decode_attention(in.query.view(), cache, dense.view());
  EXPECT_TRUE(test::near(output.elements, dense.elements, test::tolerance<float>(5)));
}

TEST(HnswIndex, FindsNeedles) {
  sizes const s{1, 4, 2, 2, 1, 600, 64, 16};
  EXPECT_EQ(test::needles_found(s, 20,
                                [&] {
                                  return retrieval_selector<hnsw_index>(shape_of(s), 4, s.keys,
                                                                        {.first = 0, .last = 0, .tokens = 30},
                                                                        hnsw_index(shape_of(s), s.keys));
                                }),
            1);
}

TEST(HnswIndex, MayHaveNothing) {
  for (index_t keys : {0, 1, 5}) {
    sizes s = some;
    s.keys = keys;
    auto const in = test::random_inputs<float>(s, 4);
    auto const cache = test::filled_cache<float>(in);
    retrieval_selector<hnsw_index> selector(shape_of(s), 4, 10, {.first = 1, .last = 1, .tokens = 2},
                                            hnsw_index(shape_of(s), 10));
    selector.update(cache);
    auto output = test::filled<float, 4>({1, 4, 1, 16}, 7);
    retrieval_attention(in.query.view(), cache, selector, output.view());
    for (index_t h = 0; h < 4; ++h) EXPECT_EQ(selector.lists().size(0, h), std::clamp<index_t>(keys - 2, 0, 2)) << keys;
    for (float x : output.elements) EXPECT_TRUE(keys > 0 || x == 0) << x;
  }
}

TEST(HnswIndex, SaysWhatIsWrong) {
  test::expect_error("hnsw_index: expected extents of at least 0, got -1", [] { hnsw_index({1, 1, 8, 8}, -1); });
  test::expect_error("hnsw_graph: expected at least 1, got -5", [] { hnsw_index({1, 1, 8, 8}, 10, {.beam = -5}); });
  test::expect_error("hnsw_graph: expected at least 1, got 0",
                     [] { hnsw_index({1, 1, 8, 8}, 10, {.building_beam = 0}); });
  test::expect_error("hnsw_graph: expected at least 1, got 0", [] { hnsw_index({1, 1, 8, 8}, 10, {.links = 0}); });
  auto const in = test::random_inputs<float>(some, 1);
  auto const cache = test::filled_cache<float>(in);
  hnsw_index small(shape_of(some), 100);
  test::expect_error("cache: expected from 0 to 100 tokens, got 3000", [&] { small.update(cache); });
  contiguous_cache<float> const narrow({1, 2, 31, 16}, 10), heads({1, 3, 32, 16}, 10), sequences({2, 2, 32, 16}, 10);
  test::expect_error("cache: expected head dimension 32 (as the index), got 31", [&] { small.update(narrow); });
  test::expect_error("cache: expected heads 2 (as the index), got 3", [&] { small.update(heads); });
  test::expect_error("cache: expected sequences 1 (as the index), got 2", [&] { small.update(sequences); });
  contiguous_cache<float> const empty(shape_of(some), 10);
  test::expect_error("threads: expected a count of at least 0, got -1", [&] { small.update(empty, threads{-1}); });
  retrieval_selector<hnsw_index> untold(shape_of(some), 4, some.keys, {}, hnsw_index(shape_of(some), some.keys));
  test::expect_error("cache: expected tokens 0 (as the index was told), got 3000",
                     [&] { untold.select(in.query.view(), cache); });
}

}  // namespace
}  // namespace attend
