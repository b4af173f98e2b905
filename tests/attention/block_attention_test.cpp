// SPDX-License-Identifier: BSD-3-Clause
// Block-Attention: blocks that are encoded apart and moved into a prompt are what rotary attention under a block mask
// gives.
#include <attend/attention/cached/block_attention.hpp>
#include <attend/attention/softmax/rotary_embedding.hpp>
#include <attend/cache/paged.hpp>
#include <attend/cache/rolling.hpp>
#include <attend/reference/rotary_embedding.hpp>

#include "support/cached_tokens.hpp"

namespace attend {
using namespace options;
using namespace linear;
using namespace systems;

namespace {

using test::expect_error;

index_t const heads = 4, shared = 2, dimension = 24, values = 16;
std::vector<index_t> const lengths{17, 1, 40, 9};  // the last is the question

/// Keys and queries as they stand in the prompt: rotated at once by their positions there.
test::tensor<float, 4> rotated(test::tensor<float, 4> const& in, rotary<rotary_frequencies> const& position,
                               index_t first) {
  auto out = in;
  rotary_embedding(in.view(), position, out.view(), token_positions(first));
  return out;
}

TEST(BlockAttention, IsRotaryAttentionUnderABlockMask) {
  index_t const tokens = 17 + 1 + 40 + 9, question = 9;
  auto const in = test::random_inputs<float>({.query_heads = heads,
                                              .key_heads = shared,
                                              .value_heads = shared,
                                              .queries = tokens,
                                              .keys = tokens,
                                              .key_dimension = dimension,
                                              .value_dimension = values},
                                             1);
  rotary const position{rotary_frequencies(dimension)};
  auto const in_block = [&](index_t token) {
    index_t block = 0;
    for (index_t end = lengths[0]; token >= end; end += lengths[static_cast<std::size_t>(block)]) ++block;
    return block;
  };
  reference::options with;
  with.visible = [&](reference::place const& at) {
    return at.key <= at.query && (in_block(at.key) == in_block(at.query) || in_block(at.query) == 3);
  };
  auto const query = rotated(in.query, position, 0), key = rotated(in.key, position, 0);
  auto const expected = reference::softmax_attention<float>(query.view(), key.view(), in.value.view(), with);

  // The blocks in another order than the prompt has them, each rotated from 0 on.
  paged_cache<float> blocks({3, shared, dimension, values}, {.pages = 12, .page_tokens = 7});
  contiguous_cache<float> prompt({1, shared, dimension, values}, tokens);
  auto output = test::filled<float, 4>({1, heads, tokens, values}, 7);
  std::vector<index_t> const starts{0, 17, 18};
  for (index_t b : {2, 0, 1}) {
    index_t const first = starts[static_cast<std::size_t>(b)], count = lengths[static_cast<std::size_t>(b)];
    test::tensor<float, 4> local_keys{{1, shared, count, dimension}, {}};
    for (index_t head = 0; head < shared; ++head)
      local_keys.elements.insert(local_keys.elements.end(), &in.key.view()(0, head, first, 0),
                                 &in.key.view()(0, head, first, 0) + count * dimension);
    auto const local = rotated(local_keys, position, 0);
    blocks.append(b, local.view(), test::tokens_of(in.value, first, count));
  }
  for (index_t b : {0, 1, 2}) append_block(blocks, b, prompt, 0, position);
  EXPECT_EQ(prompt.size(0), tokens - question);
  cached_attention(
      prompt, test::tokens_of(query, tokens - question, question), test::tokens_of(key, tokens - question, question),
      test::tokens_of(in.value, tokens - question, question), test::tokens_of(output, tokens - question, question));
  // Two rotations in place of one: each rounds a key twice.
  double const allowed = 2 * test::tolerance<float>(test::largest_magnitude(in.value.elements));
  for (index_t head = 0; head < heads; ++head)
    for (index_t i = tokens - question; i < tokens; ++i)
      for (index_t c = 0; c < values; ++c)
        EXPECT_NEAR(output.view()(0, head, i, c),
                    expected.output[static_cast<std::size_t>((head * tokens + i) * values + c)], allowed);
}

TEST(BlockAttention, MovesQuantisedBlocksWithTheirValuesAsTheyAre) {
  test::token_tensors<float> const tensors(2, 30, 16, 10, 1);
  rotary const position{rotary_frequencies(16)};
  contiguous_cache<std::int8_t> blocks({1, 2, 16, 10}, 30);
  paged_cache<std::int8_t> prompt({1, 2, 16, 10}, {.pages = 10, .page_tokens = 8});
  tensors.append_to(blocks, 0, 0, 30);
  tensors.append_to(prompt, 0, 0, 5);
  append_block(blocks, 0, prompt, 0, position);
  for (index_t head = 0; head < 2; ++head) {
    auto const before = test::stored_rows(blocks, 0, head), after = test::stored_rows(prompt, 0, head);
    ASSERT_EQ(after.size(), 35u);
    for (std::size_t j = 0; j < 30; ++j)
      for (std::size_t c = 0; c < 10; ++c) EXPECT_FLOAT_EQ(before[j].value[c], after[j + 5].value[c]);
  }
}

TEST(BlockAttention, SaysWhatIsWrong) {
  test::token_tensors<float> const tensors(2, 30, 16, 10, 1);
  rotary const position{rotary_frequencies(16)}, wide{rotary_frequencies(18)};
  contiguous_cache<float> blocks({2, 2, 16, 10}, 30), prompt({1, 2, 16, 10}, 29), other({1, 2, 16, 9}, 30),
      one_head({1, 1, 16, 10}, 30), keys({1, 2, 14, 10}, 30);
  tensors.append_to(blocks, 1, 0, 30);
  expect_error("block: expected from 0 to 1, got 2", [&] { append_block(blocks, 2, prompt, 0, position); });
  expect_error("sequence: expected from 0 to 0, got 1", [&] { append_block(blocks, 1, prompt, 1, position); });
  expect_error("blocks: expected key heads 1 (as the cache), got 2",
               [&] { append_block(blocks, 1, one_head, 0, position); });
  expect_error("blocks: expected key dimension 14 (as the cache), got 16",
               [&] { append_block(blocks, 1, keys, 0, position); });
  expect_error("blocks: expected value dimension 9 (as the cache), got 10",
               [&] { append_block(blocks, 1, other, 0, position); });
  expect_error("rotary: expected at most 16 channels (the head dimension), got 18",
               [&] { append_block(blocks, 1, prompt, 0, wide); });
  expect_error("key: expected at most 29 more tokens (sequence 0 has 0 of 29), got 30",
               [&] { append_block(blocks, 1, prompt, 0, position); });
  EXPECT_EQ(prompt.size(0), 0);
  expect_error("block: expected another sequence than the one appended to, got 1 for both",
               [&] { append_block(blocks, 1, blocks, 1, position); });
  EXPECT_EQ(blocks.size(1), 30);
  rolling_cache<float> window({1, 2, 16, 10}, {1, 4});
  tensors.append_to(window, 0, 0, 30);
  expect_error("blocks: expected all 30 tokens of block 0, got 5",
               [&] { append_block(window, 0, prompt, 0, position); });
}

}  // namespace
}  // namespace attend
