// RetrievalAttention with an approximate index: nearly all of what the exact one finds, and only that range.
#include <attend/select/hnsw_index.hpp>
#include <attend/variant/retrieval_attention.hpp>

#include "support/selection.hpp"

namespace attend {
namespace {

using test::shape_of;
using test::sizes;

sizes const some{1, 4, 2, 2, 1, 3000, 32, 16};

TEST(HnswIndex, FindsMostOfTheExactTokens) {
  auto const in = test::random_inputs<float>(some, 1);
  auto const cache = test::filled_cache<float>(in);
  retrieval_choice const choice{.first = 4, .last = 50, .tokens = 60};
  retrieval_selector<> exact(shape_of(some), 4, some.keys, choice);
  retrieval_selector<hnsw_index> selector(shape_of(some), 4, some.keys, choice,
                                          hnsw_index(shape_of(some), some.keys, {.beam = 400}));
  selector.update(cache, threads{2});
  auto output = test::filled<float, 4>({1, 4, 1, 16}, 7), expected = output;
  retrieval_attention(in.query.view(), cache, exact, expected.view());
  retrieval_attention(in.query.view(), cache, selector, output.view(), threads{2});
  for (index_t h = 0; h < 4; ++h) {
    auto const got = selector.lists()(0, h), all = exact.lists()(0, h);
    std::vector<std::int32_t> common;
    std::set_intersection(got.begin(), got.end(), all.begin(), all.end(), std::back_inserter(common));
    EXPECT_EQ(got.size(), 60u);
    EXPECT_GE(common.size(), 54u) << "nine of ten";
    EXPECT_GE(got.front(), 4);
    EXPECT_LT(got.back(), 2950);
  }
  EXPECT_TRUE(test::near(output.elements, expected.elements, 0.2));
}

TEST(HnswIndex, SaysWhatIsWrong) {
  test::expect_error("hnsw_graph: expected at least 1, got 0", [] { hnsw_index({1, 1, 8, 8}, 10, {.links = 0}); });
  auto const in = test::random_inputs<float>(some, 1);
  auto const cache = test::filled_cache<float>(in);
  hnsw_index small(shape_of(some), 100);
  test::expect_error("cache: expected from 0 to 100 tokens, got 3000", [&] { small.update(cache); });
  retrieval_selector<hnsw_index> untold(shape_of(some), 4, some.keys, {}, hnsw_index(shape_of(some), some.keys));
  test::expect_error("cache: expected tokens 0 (as the index was told), got 3000",
                     [&] { untold.select(in.query.view(), cache); });
}

}  // namespace
}  // namespace attend
