// SPDX-License-Identifier: BSD-3-Clause
// Streaming: sinks and a window that ends at the query; for all heads, or for some.
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/streaming.hpp>
#include <attend/policy/mask/window.hpp>

#include "support/mask_checks.hpp"
#include "support/problem.hpp"
#include "support/stores.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

TEST(Streaming, AnswersSoundly) {
  std::vector<std::int32_t> const kinds{1, 0};
  for (auto [queries, keys] : {std::pair<index_t, index_t>{1, 1}, {40, 150}, {150, 40}, {90, 90}}) {
    problem_shape const shape{2, 4, 2, 2, queries, keys, 4, 4, 2};
    for (index_t sinks : {0, 1, 20})
      for (index_t window : {1, 7, 64, 1000}) {
        auto const streams = [=](reference::place const& at) {
          return at.key <= at.position() && (at.key < sinks || at.position() - at.key < window);
        };
        EXPECT_TRUE(test::is_sound(streaming{sinks, window}, shape, streams)) << sinks << ", " << window;
        EXPECT_TRUE(test::is_sound(
            streaming{sinks, window, kinds}, shape,
            [&](reference::place const& at) { return at.head < 2 ? streams(at) : at.key <= at.position(); }))
            << sinks << ", " << window;
      }
  }
}

TEST(Streaming, IsAWindowWithoutSinksAndCausalWithAll) {
  auto const in = test::random_inputs<float>({.query_heads = 2, .queries = 130, .keys = 150}, 2);
  EXPECT_TRUE(test::same_bits(test::attend_to(in, streaming{0, 20}).output.elements,
                              test::attend_to(in, window{19, 0}).output.elements));
  EXPECT_TRUE(test::same_bits(test::attend_to(in, streaming{0, 150}).output.elements,
                              test::attend_to(in, causal{}).output.elements));
}

TEST(Streaming, SeesSinksAndWindow) {
  std::vector<std::int32_t> const kinds{0, 1};
  auto const in = test::random_inputs<float>(
      {.batches = 2, .query_heads = 4, .key_heads = 2, .value_heads = 2, .queries = 100, .keys = 170}, 3);
  reference::options with;
  with.visible = [](reference::place const& at) {
    bool const near = at.key < 5 || at.position() - at.key < 30;
    return at.key <= at.position() && (near || at.head < 2);
  };
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, streaming{5, 30, kinds}), with));
}

// Between sinks and window nothing is computed: the work of a tile is its sinks, its window, and parts of blocks.
TEST(Streaming, ComputesLittleMoreThanItSees) {
  index_t const tokens = 4096, sinks = 64, window = 256;
  test::sizes const s{.queries = tokens, .keys = tokens, .key_dimension = 1, .value_dimension = 1};
  test::work const work = test::count_work(s, streaming{sinks, window});
  EXPECT_LT(work.pairs, tokens * (sinks + window + 3 * 128 + 2 * 48));
}

TEST(Streaming, SaysWhatIsWrong) {
  problem_shape const shape{1, 4, 2, 2, 8, 8, 4, 4, 1};
  std::vector<std::int32_t> const kinds{0, 1, 1};
  test::expect_error("streaming: expected from 0 to 536870911 sinks, got -1", [&] { streaming{-1, 4}.check(shape); });
  test::expect_error("streaming: expected a window from 1 to 536870911, got 0", [&] { streaming{1, 0}.check(shape); });
  test::expect_error("streaming: expected one number for each of 2 key heads, got 3",
                     [&] { streaming{1, 1, kinds}.check(shape); });
}

}  // namespace
}  // namespace attend
