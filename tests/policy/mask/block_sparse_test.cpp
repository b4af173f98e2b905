// SPDX-License-Identifier: BSD-3-Clause
// Block-sparse attention: a query sees the key blocks that the table lists for its block; no other block is visited.
#include <attend/attention/cached/decode_attention.hpp>
#include <attend/cache/contiguous.hpp>
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

/// What an older table shows: blocks that have got keys since, and of the others those of the query's position, or of
/// the last query.
reference::visible_function listed_or_newer(block_table const& table, index_t query_heads, index_t keys) {
  return [&table, query_heads, keys](reference::place const& at) {
    block_grid const& grid = table.grid();
    index_t const block = at.key / grid.key_block;
    if (keys > grid.keys && (block + 1) * grid.key_block > grid.keys) return true;
    index_t const query = std::min(at.position() - (grid.keys - grid.queries), grid.queries - 1);
    auto const list = table.list(table.row(at.batch, at.head / (query_heads / grid.heads), query / grid.query_block));
    return std::find(list.begin(), list.end(), block) != list.end();
  };
}

TEST(BlockSparse, ShowsTokensThatAreNewer) {
  unsigned seed = 300;
  for (auto [queries, keys, query_block, key_block] : all_lengths)
    for (index_t growth : {0, 1, 30, 200}) {
      index_t const heads = ++seed % 2 == 0 ? 1 : 6;
      index_t const asked = std::array{index_t{1}, std::min(growth + 2, queries + growth), queries + growth}[seed % 3];
      block_table const table = random_table({2, heads, queries, keys, query_block, key_block}, 0.4, seed);
      problem_shape const shape{2, 6, 2, 2, asked, keys + growth, 4, 4, 2};
      auto const text = testing::Message()
                        << queries << " queries, " << keys << " keys, blocks of " << query_block << " and " << key_block
                        << ", " << heads << " lists, " << growth << " tokens later, " << asked << " queries";
      auto const seen = listed_or_newer(table, 6, keys + growth);
      if (seed % 4 < 2)
        EXPECT_TRUE(test::is_sound(block_sparse{table, newer_tokens::seen}, shape, seen, seed)) << text;
      else
        EXPECT_TRUE(test::is_sound(
            block_sparse{table, newer_tokens::seen} & causal{}, shape,
            [&](reference::place const& at) { return seen(at) && at.key <= at.position(); }, seed))
            << text;
    }
}

// A table of a prompt, and some steps after it over a cache, in which one sequence is shorter.
TEST(BlockSparse, ServesStepsOfDecoding) {
  test::sizes const s{.batches = 2,
                      .query_heads = 4,
                      .key_heads = 2,
                      .value_heads = 2,
                      .queries = 1,
                      .keys = 75,
                      .key_dimension = 9,
                      .value_dimension = 6};
  auto const in = test::random_inputs<float>(s, 400);
  std::vector<std::int64_t> const short_by{0, 13};
  index_t const prompt = 60;
  block_table const table = random_table({2, 4, prompt, prompt, 16, 8}, 0.3, 401);
  caches::cache_shape const shape{2, 2, 9, 6};
  contiguous_cache<float> cache(shape, 75);
  for (index_t b : {0, 1}) {
    auto const part = [&](auto const& all) {
      auto const view = all.view();
      return tensor_view<float const, 3>(&view(b, 0, 0, 0),
                                         {2, 75 - short_by[static_cast<std::size_t>(b)], view.extent(3)},
                                         {view.stride(1), view.stride(2), 1});
    };
    cache.append(b, part(in.key), part(in.value));
  }
  auto output = test::filled<float, 4>({2, 4, 1, 6}, 7.f);
  decode_attention(in.query.view(), cache, output.view(), block_sparse{table, newer_tokens::seen});
  reference::options with;
  with.visible = [&](reference::place const& at) {
    index_t const known = prompt - short_by[static_cast<std::size_t>(at.batch)], size = known + 15;
    if (at.key >= size) return false;
    if (at.key / 8 >= known / 8) return true;
    auto const list = table.list(table.row(at.batch, at.head, (prompt - 1) / 16));
    return std::find(list.begin(), list.end(), at.key / 8) != list.end();
  };
  auto const expected = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), with);
  EXPECT_TRUE(test::near(output.elements, expected.output, test::tolerance<float>(5)));
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
  auto const expect_newer = [&](std::string const& message, block_grid const& grid) {
    block_table const table = table_of_blocks(grid, everything);
    expect_option_error(message, block_sparse{table, newer_tokens::seen});
  };
  expect_newer("block_sparse: expected a table of at most 9 keys, got 10", {1, 1, 5, 10, 4, 4});
  expect_newer("block_sparse: expected a table of at least 1 query, got 0", {1, 1, 0, 9, 4, 4});
  expect_newer("block_sparse: expected a table that begins at or before position 4 (query), got 6", {1, 1, 2, 8, 4, 4});
  block_table unfinished(block_grid{1, 1, 5, 9, 4, 4});
  expect_option_error("block_table: expected 2 rows, got 0", block_sparse{unfinished});
}

}  // namespace
}  // namespace attend
