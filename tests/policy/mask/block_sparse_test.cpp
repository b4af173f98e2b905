// SPDX-License-Identifier: BSD-3-Clause
// Block-sparse attention: a query sees the key blocks that the table lists for its block; no other block is visited.
#include <attend/policy/mask/block_builders.hpp>
#include <attend/policy/mask/block_sparse.hpp>
#include <attend/policy/mask/causal.hpp>

#include "support/argument_errors.hpp"
#include "support/mask_checks.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

/// Blocks listed at random with a probability; some rows stay empty.
block_table random_table(block_grid const& grid, double density, unsigned seed) {
  std::mt19937 engine(seed);
  std::bernoulli_distribution listed(density), any(0.9);
  bool row = true;
  return table_of_blocks(grid, [&](index_t, index_t, index_t, index_t key_block) {
    if (key_block == 0) row = any(engine);
    return row && listed(engine);
  });
}

/// The same, read from the table's lists one by one.
reference::visible_function listed_in(block_table const& table, index_t query_heads) {
  return [&table, query_heads](reference::place const& at) {
    block_grid const& grid = table.grid();
    for (index_t const block :
         table.list(table.row(at.batch, at.head / (query_heads / grid.heads), at.query / grid.query_block)))
      if (block == at.key / grid.key_block) return true;
    return false;
  };
}

struct lengths {
  index_t queries, keys, query_block, key_block;
};
std::vector<lengths> const all_lengths{{1, 1, 64, 64},    {200, 200, 64, 64},  {130, 257, 64, 128}, {300, 70, 128, 64},
                                       {90, 90, 16, 16},  {100, 100, 1, 1},    {77, 150, 5, 7},     {60, 300, 100, 200},
                                       {150, 20, 48, 20}, {257, 129, 33, 129}, {65, 200, 7, 1}};

TEST(BlockSparse, AnswersSoundly) {
  unsigned seed = 0;
  for (auto [queries, keys, query_block, key_block] : all_lengths)
    for (index_t heads : {1, 2, 6})
      for (double density : {0.1, 0.6, 1.0}) {
        block_table const table = random_table({2, heads, queries, keys, query_block, key_block}, density, ++seed);
        problem_shape const shape{2, 6, 2, 2, queries, keys, 4, 4, 2};
        auto const text = testing::Message() << queries << " queries, " << keys << " keys, blocks of " << query_block
                                             << " and " << key_block << ", " << heads << " lists, density " << density;
        EXPECT_TRUE(test::is_sound(block_sparse{table}, shape, listed_in(table, 6), seed)) << text;
        auto const listed_and_causal = [seen = listed_in(table, 6)](reference::place const& at) {
          return seen(at) && at.key <= at.position();
        };
        EXPECT_TRUE(test::is_sound(block_sparse{table} & causal{}, shape, listed_and_causal, seed)) << text;
        auto const listed_or_causal = [seen = listed_in(table, 6)](reference::place const& at) {
          return seen(at) || at.key <= at.position();
        };
        EXPECT_TRUE(test::is_sound(block_sparse{table} | causal{}, shape, listed_or_causal, seed)) << text;
      }
}

template <class T>
class BlockSparseAttention : public testing::Test {};
using Elements = testing::Types<float, double, bfloat16>;
TYPED_TEST_SUITE(BlockSparseAttention, Elements);

TYPED_TEST(BlockSparseAttention, SeesTheListedBlocks) {
  unsigned seed = 100;
  for (auto [queries, keys, query_block, key_block] : all_lengths)
    for (index_t heads : {1, 2, 4}) {
      block_table const table = random_table({1, heads, queries, keys, query_block, key_block}, 0.3, ++seed);
      auto const in = test::random_inputs<TypeParam>({.batches = 2,
                                                      .query_heads = 4,
                                                      .key_heads = 2,
                                                      .value_heads = 1,
                                                      .queries = queries,
                                                      .keys = keys,
                                                      .key_dimension = 9,
                                                      .value_dimension = 6},
                                                     seed);
      auto const text = testing::Message() << queries << " queries, " << keys << " keys, blocks of " << query_block
                                           << " and " << key_block << ", " << heads << " lists";
      reference::options with;
      with.visible = listed_in(table, 4);
      EXPECT_TRUE(test::agrees(in, test::attend_to(in, block_sparse{table}), with)) << text;
      with.visible = [seen = with.visible](reference::place const& at) { return seen(at) && at.key <= at.position(); };
      EXPECT_TRUE(test::agrees(in, test::attend_to(in, block_sparse{table} & causal{}), with)) << text;
    }
}

TEST(BlockSparse, WithAllBlocksIsDense) {
  auto const in = test::random_inputs<float>({.query_heads = 2, .queries = 150, .keys = 290}, 4);
  block_table const all = table_of_blocks(block_grid{1, 1, 150, 290, 48, 32}, [](auto...) { return true; });
  EXPECT_EQ(all.density(), 1);
  EXPECT_TRUE(
      test::same_bits(test::attend_to(in, block_sparse{all}).output.elements, test::attend_to(in).output.elements));
}

TEST(BlockSparse, VisitsNothingButItsBlocks) {
  // Tiles are cut at the blocks, so that what is computed is what is listed: no block too many, none missed, no
  // masking.
  for (index_t query_block : {16, 48, 64, 128, 200})
    for (index_t key_block : {16, 64, 100, 128})
      for (index_t heads : {1, 4}) {
        index_t const tokens = 1000;
        block_table const table = random_table({1, heads, tokens, tokens, query_block, key_block}, 0.2, 7);
        test::sizes const s{
            .query_heads = 4, .queries = tokens, .keys = tokens, .key_dimension = 1, .value_dimension = 1};
        index_t pairs = 0;
        for (index_t h = 0; h < 4; ++h)
          for (index_t q = 0; q < tokens; ++q)
            for (index_t const block : table.list(table.row(0, h * heads / 4, q / query_block)))
              pairs += std::min((block + 1) * key_block, tokens) - block * key_block;
        test::work const work = test::count_work(s, block_sparse{table});
        EXPECT_EQ(work.pairs, pairs) << query_block << ", " << key_block << ", " << heads;
        EXPECT_EQ(work.masked, 0) << query_block << ", " << key_block << ", " << heads;
      }
}

TEST(BlockSparse, KeepsHeadsApartThatHaveListsOfTheirOwn) {
  // Eight query heads share a key head, and each sees one block of its own.
  index_t const tokens = 512;
  block_table const table = table_of_blocks({1, 8, tokens, tokens, 64, 64},
                                            [](index_t, index_t head, index_t, index_t key) { return key == head; });
  test::sizes const s{.query_heads = 8, .queries = tokens, .keys = tokens, .key_dimension = 1, .value_dimension = 1};
  EXPECT_EQ(test::count_work(s, block_sparse{table}).pairs, 8 * tokens * 64);
}

class BlockSparseErrors : public test::argument_errors {};

TEST_F(BlockSparseErrors, NameTheTable) {
  auto const everything = [](auto...) { return true; };
  auto const expect = [&](std::string const& message, block_grid const& grid) {
    block_table const table = table_of_blocks(grid, everything);
    expect_option_error(message, block_sparse{table});
  };
  expect("block_sparse: expected a table of 1 or 2 batches, got 3", {3, 1, 5, 9, 4, 4});
  expect("block_sparse: expected a table whose heads divide 6 (query), got 4", {1, 4, 5, 9, 4, 4});
  expect("block_sparse: expected a table of 5 queries, got 6", {1, 1, 6, 9, 4, 4});
  expect("block_sparse: expected a table of 9 keys, got 8", {1, 1, 5, 8, 4, 4});
  block_table unfinished(block_grid{1, 1, 5, 9, 4, 4});
  expect_option_error("block_table: expected 2 rows, got 0", block_sparse{unfinished});
}

}  // namespace
}  // namespace attend
