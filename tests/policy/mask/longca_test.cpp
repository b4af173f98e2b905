// SPDX-License-Identifier: BSD-3-Clause
// The fourteen patterns of LongCA-bench, as its benchmark makes them, each against the rule that its definition gives
// for one query and one key; and the pairs that the benchmark counts, which its operations are counted from.
#include "../../../bench/longca_masks.hpp"

#include <map>
#include <set>

#include "support/compare.hpp"
#include "support/pattern_masks.hpp"

namespace attend {
using namespace options;

namespace {

attend_bench::longca_sizes const sizes{{11, 40, 43, 90, 150}, 9, 16, 12};
constexpr index_t tokens = 150, first_end = 11, last_begin = 90;

using rule = std::function<bool(index_t query, index_t key)>;

index_t document(index_t token) { return token < 11 ? 0 : token < 40 ? 1 : token < 43 ? 2 : token < 90 ? 3 : 4; }
index_t begin(index_t token) { return std::array{0, 11, 40, 43, 90}[std::size_t(document(token))]; }
bool same(index_t i, index_t j) { return document(i) == document(j); }

std::map<std::string, rule> const rules{
    {"full", [](index_t, index_t) { return true; }},
    {"causal", [](index_t i, index_t j) { return j <= i; }},
    {"full_document", [](index_t i, index_t j) { return same(i, j); }},
    {"causal_document", [](index_t i, index_t j) { return same(i, j) && j <= i; }},
    {"sliding_window", [](index_t i, index_t j) { return std::abs(i - j) <= 9; }},
    {"sliding_window_causal", [](index_t i, index_t j) { return j <= i && i - j <= 9; }},
    // The first tokens see all and are seen by all.
    {"global_sliding", [](index_t i, index_t j) { return std::abs(i - j) <= 9 || i < 18 || j < 18; }},
    // The first document is a question that all answers behind it share.
    {"share_question", [](index_t i, index_t j) { return j <= i && (same(i, j) || j < first_end); }},
    // The last document sees all, the others themselves.
    {"causal_blockwise", [](index_t i, index_t j) { return j <= i && (same(i, j) || i >= last_begin); }},
    {"prefix_lm_causal", [](index_t i, index_t j) { return j <= i || j <= 12; }},
    {"prefix_lm_document", [](index_t i, index_t j) { return same(i, j) && (j <= i || j - begin(i) <= 12); }},
    {"block_causal_document", [](index_t i, index_t j) { return same(i, j) && j / 16 <= i / 16; }},
};

double pairs_of(rule const& sees) {
  double pairs = 0;
  for (index_t i = 0; i < tokens; ++i)
    for (index_t j = 0; j < tokens; ++j) pairs += sees(i, j);
  return pairs;
}

TEST(LongCaMasks, SayWhatTheirDefinitionsSay) {
  std::size_t visited = 0;
  attend_bench::for_longca_masks(
      sizes, [&](std::string const& name, auto const& mask, double area, std::shared_ptr<void const> const&) {
        ++visited;
        ASSERT_EQ(rules.count(name), 1u) << name;
        rule const& sees = rules.at(name);
        EXPECT_TRUE(test::is_sound(mask, test::shape_of(tokens, tokens), [&](reference::place const& at) {
          return sees(at.query, at.key);
        })) << name;
        EXPECT_EQ(area, pairs_of(sees)) << name;
      });
  EXPECT_EQ(visited, rules.size());
}

TEST(LongCaMasks, ListTheBlocksThatAreKept) {
  for (auto [size, length] : {std::pair<index_t, index_t>{8, 144}, {24, 144}, {0, 400}}) {
    double most = 0;
    for (double kept : {0.1, 0.5, 1.0}) {
      auto const blocks = attend_bench::random_longca_blocks(length, size, kept);
      EXPECT_TRUE(test::is_sound(block_sparse(blocks.table), test::shape_of(length, length),
                                 [&](reference::place const& at) { return blocks.sees(at.query, at.key); }))
          << size << ", " << kept;
      double pairs = 0;
      for (index_t i = 0; i < length; ++i) {
        EXPECT_TRUE(blocks.sees(i, i));
        for (index_t j = 0; j < length; ++j) pairs += blocks.sees(i, j);
      }
      EXPECT_NEAR(blocks.table.density() * double(length * length), pairs, 2 * test::unit_roundoff<double>() * pairs);
      EXPECT_GT(pairs, most);
      most = pairs;
    }
    EXPECT_EQ(most, double(length * length));
  }
}

// Blocks of their own sizes: 32 to 192 tokens, but for the last.
TEST(LongCaMasks, HaveBlocksOfTheirSizes) {
  for (index_t size : {0, 64}) {
    auto const blocks = attend_bench::random_longca_blocks(1024, size, 0.2);
    std::vector<index_t> length(std::size_t(blocks.block_of.back() + 1));
    for (index_t block : blocks.block_of) ++length[std::size_t(block)];
    std::set<index_t> different(length.begin(), length.end() - 1);
    EXPECT_EQ(different.size() > 1, size == 0);
    for (index_t one : different) {
      EXPECT_GE(one, size > 0 ? size : 32);
      EXPECT_LE(one, size > 0 ? size : 192);
      EXPECT_EQ(one % 16, 0);
    }
  }
}

}  // namespace
}  // namespace attend
