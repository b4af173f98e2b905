// SPDX-License-Identifier: BSD-3-Clause
// Spans by triangles: against sums over each triangle and the best candidate at a time; maps with known blocks; what is
// between the spans; wrong input.
#include <gtest/gtest.h>

#include <attend/select/triangle_spans.hpp>
#include <random>
#include <vector>

#include "support/expect_error.hpp"

namespace attend {
using namespace selection;
using namespace extend;

namespace {

using test::expect_error;

using map_of_weights = std::vector<std::vector<double>>;

std::vector<token_span> spans_of(map_of_weights const& map, triangle_options const& options) {
  auto const n = static_cast<index_t>(map.size());
  // What is above the diagonal is not read.
  std::vector<float> flat(map.size() * map.size(), std::nanf(""));
  for (std::size_t i = 0; i < map.size(); ++i)
    for (std::size_t j = 0; j <= i; ++j) flat[i * map.size() + j] = static_cast<float>(map[i][j]);
  std::vector<token_span> spans(static_cast<std::size_t>(options.most_spans(n)));
  spans.resize(static_cast<std::size_t>(triangle_spans({flat.data(), {n, n}}, options, spans)));
  return spans;
}

double mass(map_of_weights const& map, index_t first, index_t last) {
  double sum = 0;
  for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(last); ++i)
    for (auto j = static_cast<std::size_t>(first); j <= i; ++j) sum += map[i][j];
  return sum;
}

/// The kept spans: as long as there is one, the best of those that overlap none.
std::vector<std::pair<index_t, index_t>> kept_spans(map_of_weights const& map, triangle_options const& options) {
  auto const n = static_cast<index_t>(map.size());
  std::vector<std::pair<index_t, index_t>> kept;
  for (;;) {
    float best = 0;
    std::pair<index_t, index_t> found{0, 0};
    for (index_t a = 0; a < n; ++a)
      for (index_t b = a + options.shortest; b <= std::min(n, a + options.longest); ++b) {
        double const length = static_cast<double>(b - a), area = length * (length + 1) / 2, sum = mass(map, a, b);
        auto const score = static_cast<float>(options.score == triangle_score::mean ? sum / area - options.threshold
                                                                                    : sum - options.threshold * area);
        bool const free =
            std::all_of(kept.begin(), kept.end(), [&](auto const& one) { return b <= one.first || a >= one.second; });
        if (free && score > best) {
          best = score;
          found = {a, b};
        }
      }
    if (found.second == 0) break;
    kept.push_back(found);
  }
  std::sort(kept.begin(), kept.end());
  return kept;
}

/// A causal map of multiples of 1/256, whose sums are exact.
map_of_weights random_map(index_t tokens, unsigned seed) {
  std::mt19937 engine(seed);
  map_of_weights map(static_cast<std::size_t>(tokens));
  for (std::size_t i = 0; i < map.size(); ++i) {
    map[i].resize(map.size());
    for (std::size_t j = 0; j <= i; ++j) map[i][j] = engine() % 4 == 0 ? static_cast<double>(engine() % 64) / 256 : 0;
  }
  return map;
}

TEST(TriangleSpans, KeepTheBestThatDoNotOverlap) {
  for (triangle_score const score : {triangle_score::excess, triangle_score::mean})
    for (unsigned seed = 0; seed < 20; ++seed) {
      index_t const tokens = 5 + 3 * static_cast<index_t>(seed);
      triangle_options const options{
          .threshold = seed % 2 ? 0.03125 : 0.0625, .shortest = 1 + seed % 4, .longest = 4 + seed % 7, .score = score};
      auto const map = random_map(tokens, seed);
      auto const kept = kept_spans(map, options);
      auto const spans = spans_of(map, options);
      // Each kept span begins one, but for tokens before the first one; between two of them are whole spans.
      index_t at = 0;
      for (token_span const& one : spans) {
        EXPECT_EQ(one.first, at);
        EXPECT_GE(one.last - one.first, std::min(options.shortest, tokens));
        EXPECT_FLOAT_EQ(one.confidence,
                        static_cast<float>(mass(map, one.first, one.last) / static_cast<double>(one.last - one.first)));
        at = one.last;
      }
      EXPECT_EQ(at, tokens);
      EXPECT_LE(static_cast<index_t>(spans.size()), options.most_spans(tokens));
      for (std::size_t i = 0; i < kept.size(); ++i) {
        auto const [first, last] = kept[i];
        index_t const before = i == 0 ? 0 : kept[i - 1].second,
                      behind = i + 1 == kept.size() ? tokens : kept[i + 1].first;
        index_t const begin = i == 0 && first - before < options.shortest ? before : first,
                      end = behind - last < options.shortest ? behind : last;
        EXPECT_TRUE(std::any_of(spans.begin(), spans.end(),
                                [&](token_span const& one) { return one.first == begin && one.last == end; }))
            << "seed " << seed << ": " << begin << " to " << end;
      }
      for (token_span const& one : spans) {
        bool const has_kept = std::any_of(kept.begin(), kept.end(), [&](auto const& span) {
          return span.first >= one.first && span.second <= one.last;
        });
        if (!has_kept) {
          EXPECT_LT(one.last - one.first, 2 * options.longest) << "a piece of what is between";
        }
      }
    }
}

// With the threshold at which spans of 16 tokens are best, between 16 and 17.
TEST(TriangleSpans, AreTheBlocksOfAMap) {
  triangle_options const options{.threshold = 1 / 16.5, .shortest = 4, .longest = 40};
  map_of_weights map(160, std::vector<double>(160, 0.0));
  for (std::size_t i = 0; i < 160; ++i)
    for (std::size_t j = i / 16 * 16; j <= i; ++j) map[i][j] = 1 / static_cast<double>(i % 16 + 1);
  auto const spans = spans_of(map, options);
  ASSERT_EQ(spans.size(), 10u);
  for (index_t block = 0; block < 10; ++block) {
    token_span const& one = spans[static_cast<std::size_t>(block)];
    EXPECT_EQ(one.first, 16 * block);
    EXPECT_EQ(one.last, 16 * (block + 1));
    EXPECT_FLOAT_EQ(one.confidence, 1);
  }
}

// Without weights there are no triangles, and the tokens are cut into equal pieces.
TEST(TriangleSpans, CutWhatHasNoWeights) {
  auto const spans = spans_of(map_of_weights(200, std::vector<double>(200, 0.0)), {.longest = 64});
  ASSERT_EQ(spans.size(), 3u);
  EXPECT_EQ(spans[1].first, 66);
  EXPECT_EQ(spans[2].first, 133);
  EXPECT_EQ(spans[2].last, 200);
  EXPECT_EQ(spans[2].confidence, 0);
  EXPECT_EQ(spans_of(map_of_weights(3, std::vector<double>(3, 0.0)), {}).size(), 1u);
  EXPECT_TRUE(spans_of({}, {}).empty());
}

TEST(TriangleSpans, SayWhatIsWrong) {
  std::vector<float> const map(100, 0.f);
  tensor_view<float const, 2> const square(map.data(), {10, 10});
  std::vector<token_span> spans(10), few(2);
  expect_error("weights: expected keys 10 (as its tokens), got 5",
               [&] { triangle_spans({map.data(), {10, 5}}, {}, spans); });
  expect_error("triangles: expected a threshold of at least 0, got nan",
               [&] { triangle_spans(square, {.threshold = std::nan("")}, spans); });
  expect_error("triangles: expected lengths that ascend from 1, got 4 and 3",
               [&] { triangle_spans(square, {.shortest = 4, .longest = 3}, spans); });
  expect_error("to: expected room for 3 spans, got 2",
               [&] { triangle_spans(square, {.shortest = 3, .longest = 5}, few); });
}

}  // namespace
}  // namespace attend
