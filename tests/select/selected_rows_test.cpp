// SPDX-License-Identifier: BSD-3-Clause
// Selected rows of a store: what a reader sees of them, and attention to them by both engines, against the definition
// with all other keys hidden.
#include <attend/attention/cached/cached_attention.hpp>
#include <attend/cache/paged.hpp>
#include <attend/select/selected_rows.hpp>

#include "support/cached_tokens.hpp"

namespace attend {
using namespace options;
using namespace selection;
using namespace extend;

namespace {

using test::expect_error;
using test::sizes;

static_assert(KeyValueSource<selected_rows<paged_cache<float>>>);

/// Each list has random runs, some of single rows, some longer than a block.
token_lists random_lists(index_t sequences, index_t heads, index_t rows, unsigned seed) {
  token_lists lists(sequences, heads, rows);
  std::mt19937 engine(seed);
  for (index_t s = 0; s < sequences; ++s)
    for (index_t h = 0; h < heads; ++h)
      for (index_t first = 0; first < rows;) {
        first += static_cast<index_t>(engine() % 5);
        index_t const count =
            engine() % 4 ? 1 + static_cast<index_t>(engine() % 3) : static_cast<index_t>(engine() % 90);
        lists.add(s, h, first, std::min(first + count, rows));
        first += count;
      }
  return lists;
}

bool has(token_lists const& lists, index_t sequence, index_t head, index_t row) {
  auto const list = lists(sequence, head);
  return std::binary_search(list.begin(), list.end(), static_cast<std::int32_t>(row));
}

TEST(SelectedRows, AreThoseOfTheSource) {
  test::token_tensors<float> const tokens(2, 150, 5, 3, 1);
  paged_cache<float> cache({2, 2, 5, 3}, {.pages = 100, .page_tokens = 7});
  for (index_t s : {0, 1})
    for (index_t first = 0; first < 150; first += 10) tokens.append_to(cache, s, first, 10);
  token_lists const lists = random_lists(2, 4, 150, 2);
  selected_rows const selected(cache, lists);
  EXPECT_EQ(selected.key_value_heads(), 4);
  EXPECT_EQ(selected.size(0), 150);
  for (index_t s : {0, 1})
    for (index_t h = 0; h < 4; ++h) {
      auto const rows = test::stored_rows(selected, s, h);
      ASSERT_EQ(static_cast<index_t>(rows.size()), lists.size(s, h));
      for (std::size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(rows[i], tokens.row(h / 2, lists(s, h)[i]));
    }
}

TEST(SelectedRows, JoinRowsUpToABlock) {
  contiguous_cache<float> cache({1, 1, 4, 4}, 300);
  test::token_tensors<float>(1, 300, 4, 4, 1).append_to(cache, 0, 0, 300);
  token_lists lists(1, 1, 300);
  lists.add(0, 0, 3, 4);
  lists.add(0, 0, 10, 12);
  lists.add(0, 0, 20, 120);
  selected_rows const selected(cache, lists);
  EXPECT_EQ(selected.rows(0, 0, 0).count, 1);
  EXPECT_EQ(selected.rows(0, 0, 1).count, 2);
  EXPECT_EQ(selected.rows(0, 0, 2).count, 1);
  EXPECT_EQ(selected.rows(0, 0, 3).count, 64);
  EXPECT_EQ(selected.rows(0, 0, 3).position, 20);
  EXPECT_EQ(selected.rows(0, 0, 102).count, 1);
}

/// Lists of one for all heads, one for each key-value head, one for each query head.
template <class T, class S>
void expect_only_selected(sizes const& s, index_t list_heads, unsigned seed) {
  auto const in = test::random_inputs<T>(s, seed);
  paged_cache<S> cache({s.batches, s.key_heads, s.key_dimension, s.value_dimension},
                       {.pages = s.batches * s.keys, .page_tokens = 16});
  cache.append(in.key.view(), in.value.view());
  auto const stored = test::as_stored(cache, in);
  token_lists const lists = random_lists(s.batches, list_heads, s.keys, seed);
  selected_rows const selected(cache, lists);
  auto const expect = [&](auto const& what, reference::options with, auto const&... options) {
    with.visible = [&, before = with.visible](reference::place const& at) {
      return before(at) && has(lists, at.batch, at.head * list_heads / s.query_heads, at.key);
    };
    auto const expected =
        reference::softmax_attention<double>(stored.query.view(), stored.key.view(), stored.value.view(), with);
    auto output = test::filled<T, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, T(7));
    auto rows = test::filled<accumulation_t<T>, 3>({s.batches, s.query_heads, s.queries}, 7);
    what(in.query.view(), selected, output.view(), log_sum_exp(rows.view()), options...);
    EXPECT_TRUE(test::near(output.elements, expected.output,
                           test::tolerance<T>(test::largest_magnitude(stored.value.elements))));
    EXPECT_TRUE(test::near(rows.elements, expected.log_sum_exp,
                           test::tolerance<accumulation_t<T>>(test::largest_magnitude(expected.log_sum_exp))));
  };
  auto const split = [](auto const&... arguments) { decode_attention(arguments...); };
  auto const any = [](auto const&... arguments) { softmax_attention(arguments...); };
  reference::options const none;
  reference::options past;
  past.visible = reference::causal_bottom_right();
  expect(split, none);
  expect(split, none, threads{2});
  expect(split, past, causal{});
  expect(any, none);
  expect(any, past, causal{});
}

TEST(SelectedRows, AreAllThatIsSeen) {
  sizes const one{2, 4, 2, 2, 1, 333, 40, 24}, few{1, 4, 2, 2, 3, 200, 32, 33}, many{1, 4, 2, 2, 40, 200, 20, 20};
  for (index_t heads : {1, 2, 4}) {
    expect_only_selected<float, float>(one, heads, 1);
    expect_only_selected<float, float>(few, heads, 2);
    expect_only_selected<float, float>(many, heads, 3);
  }
}

TEST(SelectedRows, MayBeQuantised) {
  sizes const one{2, 4, 2, 2, 1, 333, 40, 24};
  expect_only_selected<bfloat16, bfloat16>(one, 2, 4);
  expect_only_selected<bfloat16, std::int8_t>(one, 4, 5);
}

TEST(SelectedRows, ReadFullBlocksWhereverRowsLie) {
  contiguous_cache<float> cache({1, 1, 16, 16}, 1000);
  test::token_tensors<float> const tokens(1, 1000, 16, 16, 1);
  tokens.append_to(cache, 0, 0, 1000);
  token_lists lists(1, 1, 1000);
  for (index_t row = 1; row < 1000; row += 5) lists.add(0, 0, row, row + 1);
  auto const query = test::normal<float, 4>({1, 1, 1, 16}, 2);
  auto output = test::filled<float, 4>({1, 1, 1, 16}, 7);
  tile_counts counts;
  decode_attention(query.view(), selected_rows(cache, lists), output.view(), count_tiles(counts));
  EXPECT_EQ(counts.full, divide_up(200, engine::split_block_keys));
  EXPECT_EQ(counts.pairs, 200);
}

TEST(SelectedRows, OfNothingGiveNothing) {
  contiguous_cache<float> cache({1, 1, 16, 16}, 10);
  test::token_tensors<float>(1, 10, 16, 16, 1).append_to(cache, 0, 0, 10);
  token_lists const lists(1, 1, 10);
  auto const query = test::normal<float, 4>({1, 1, 1, 16}, 2);
  auto output = test::filled<float, 4>({1, 1, 1, 16}, 7);
  decode_attention(query.view(), selected_rows(cache, lists), output.view());
  for (float x : output.elements) EXPECT_EQ(x, 0);
}

TEST(SelectedRows, AreThereWhenTheyAreRead) {
  contiguous_cache<float> cache({1, 2, 16, 16}, 10);
  test::token_tensors<float>(2, 10, 16, 16, 1).append_to(cache, 0, 0, 10);
  token_lists lists(1, 2, 20);
  lists.add(0, 1, 3, 8);
  auto const query = test::normal<float, 4>({1, 2, 1, 16}, 2);
  auto output = test::filled<float, 4>({1, 2, 1, 16}, 7);
  selected_rows const selected(cache, lists);
  cache.truncate(0, 7);
  expect_error("lists: expected rows below 7 (the source), got 7",
               [&] { decode_attention(query.view(), selected, output.view()); });
  expect_error("lists: expected rows below 7 (the source), got 7",
               [&] { softmax_attention(query.view(), selected, output.view()); });
  for (float x : output.elements) EXPECT_EQ(x, 7);
  lists.erase(0, 1, 7);
  decode_attention(query.view(), selected, output.view());
}

TEST(SelectedRows, SayWhatIsWrong) {
  contiguous_cache<float> cache({2, 4, 16, 16}, 10);
  token_lists const sequences(1, 4, 10), heads(2, 3, 10), none(2, 0, 10);
  expect_error("lists: expected sequences 2 (as the source), got 1", [&] { selected_rows(cache, sequences); });
  expect_error("lists: expected a multiple or a divisor of 4 heads (the source), got 3",
               [&] { selected_rows(cache, heads); });
  expect_error("lists: expected a multiple or a divisor of 4 heads (the source), got 0",
               [&] { selected_rows(cache, none); });
}

}  // namespace
}  // namespace attend
