// SPDX-License-Identifier: BSD-3-Clause
// Some sequences of a store read as in the store, take tokens as the store does, and attention to them has the same
// bits, whoever else is in the batch.
#include <attend/attention/cached/cached_attention.hpp>
#include <attend/cache/head_policy.hpp>
#include <attend/cache/paged.hpp>
#include <attend/cache/rolling.hpp>
#include <attend/cache/sequences_of.hpp>

#include "support/cached_tokens.hpp"

namespace attend {
using namespace options;
using namespace caches;
using namespace extend;

namespace {

using test::expect_error;
using test::stored_rows;

static_assert(KeyValueSource<sequences_of<paged_cache<float>>>);
static_assert(KeyValueSource<sequences_of<sequences_of<rolling_cache<std::int8_t>>>>);

constexpr index_t heads = 2, sizes[] = {21, 0, 9, 40};

template <class Store>
void fill(Store& store) {
  for (index_t s = 0; s < 4; ++s) {
    test::token_tensors<float> const tensors(heads, 40, 5, 3, static_cast<unsigned>(2 * s));
    for (index_t size = 0; size < sizes[s]; ++size) tensors.append_to(store, s, size, 1);
  }
}

TEST(SequencesOf, HasTheRowsOfTheListedSequences) {
  std::vector<int> const list{3, 1, 0, 3};
  auto const check = [&](auto store) {
    fill(store);
    sequences_of const some(store, list);
    ASSERT_EQ(some.sequences(), 4);
    for (index_t s = 0; s < 4; ++s) {
      index_t const from = list[static_cast<std::size_t>(s)];
      EXPECT_EQ(some.size(s), sizes[from]);
      for (index_t head = 0; head < heads; ++head) {
        EXPECT_EQ(some.stored(s, head), store.stored(from, head));
        EXPECT_EQ(stored_rows(some, s, head), stored_rows(store, from, head)) << "sequence " << from;
      }
    }
  };
  check(paged_cache<float>({4, heads, 5, 3}, {.pages = 40, .page_tokens = 4}));
  check(rolling_cache<std::int8_t>({4, heads, 5, 3}, {2, 6}, 3));
}

// Continuous batching: 16 sequences of lengths of their own, of which some are in the batch of a step, join and leave.
// A model keeps each sequence in a store by itself, of one sequence.
template <class Store, class Make>
void expect_a_batch_is_its_sequences(Make const& make, bool decodes) {
  index_t const all = 16, all_tokens = 400;
  test::token_tensors<float> const tensors(heads, all_tokens, 5, 3, 1);
  auto const queries = test::normal<float, 4>({1, 4, all_tokens, 5}, 2);
  Store store = make(all);
  std::vector<Store> alone;
  for (index_t s = 0; s < all; ++s) alone.push_back(make(1));
  std::mt19937 engine(3);
  auto const up_to = [&](index_t most) { return std::uniform_int_distribution<index_t>(0, most)(engine); };
  for (int step = 0; step < 60; ++step) {
    std::vector<index_t> list(static_cast<std::size_t>(all));
    std::iota(list.begin(), list.end(), 0);
    std::shuffle(list.begin(), list.end(), engine);
    list.resize(static_cast<std::size_t>(up_to(6)));
    if (up_to(4) == 0 && !list.empty()) {
      store.truncate(list[0], 0);
      alone[static_cast<std::size_t>(list[0])].truncate(0, 0);
    }
    index_t const batch = std::ssize(list), count = up_to(3) == 0 ? 5 : 1, most = all_tokens - count;
    auto query = test::filled<float, 4>({batch, 4, count, 5}, 0),
         key = test::filled<float, 4>({batch, heads, count, 5}, 0),
         value = test::filled<float, 4>({batch, heads, count, 3}, 0),
         output = test::filled<float, 4>({batch, 4, count, 3}, 7), expected = output;
    for (index_t i = 0; i < batch; ++i) {
      index_t const first = up_to(most);
      auto const take = [&](auto const& from, auto& to, index_t of_heads, index_t dimension) {
        for (index_t head = 0; head < of_heads; ++head)
          std::copy_n(from(head, first), count * dimension, &to.view()(i, head, 0, 0));
      };
      take([&](index_t head, index_t t) { return &queries.view()(0, head, t, 0); }, query, 4, 5);
      take([&](index_t head, index_t t) { return &tensors.key.view()(head, t, 0); }, key, heads, 5);
      take([&](index_t head, index_t t) { return &tensors.value.view()(head, t, 0); }, value, heads, 3);
    }
    sequences_of active(store, list);
    if (decodes) {
      active.append(std::as_const(key).view(), std::as_const(value).view());
      decode_attention(query.view(), active, output.view(), causal{}, threads{2});
    } else {
      cached_attention(sequences_of(store, list), query.view(), key.view(), value.view(), output.view(), threads{2});
    }
    for (index_t i = 0; i < batch; ++i) {
      Store& own = alone[static_cast<std::size_t>(list[static_cast<std::size_t>(i)])];
      auto const row = [&](auto& of) { return attend::detail::part(of.view(), 0, i, 1); };
      if (decodes) {
        own.append(row(key), row(value));
        decode_attention(row(query), own, row(expected), causal{});
      } else {
        cached_attention(own, row(query), row(key), row(value), row(expected));
      }
    }
    ASSERT_TRUE(test::same_bits(output.elements, expected.elements)) << "step " << step;
    for (index_t s = 0; s < all; ++s)
      for (index_t head = 0; head < heads; ++head)
        ASSERT_EQ(stored_rows(store, s, head), stored_rows(alone[static_cast<std::size_t>(s)], 0, head));
  }
}

TEST(SequencesOf, JoinAndLeaveABatch) {
  for (bool decodes : {false, true}) {
    expect_a_batch_is_its_sequences<paged_cache<float>>(
        [](index_t sequences) {
          return paged_cache<float>({sequences, heads, 5, 3}, {.pages = 60 * sequences, .page_tokens = 3});
        },
        decodes);
    expect_a_batch_is_its_sequences<contiguous_cache<bfloat16>>(
        [](index_t sequences) { return contiguous_cache<bfloat16>({sequences, heads, 5, 3}, 300); }, decodes);
    expect_a_batch_is_its_sequences<rolling_cache<std::int8_t>>(
        [](index_t sequences) { return rolling_cache<std::int8_t>({sequences, heads, 5, 3}, {2, 6}, 5); }, decodes);
  }
  std::vector<int> const kinds{1, 0};
  expect_a_batch_is_its_sequences<head_policy_cache<contiguous_cache<float>, rolling_cache<float>>>(
      [&](index_t sequences) {
        return head_policy_cache(contiguous_cache<float>({sequences, 1, 5, 3}, 300),
                                 rolling_cache<float>({sequences, 1, 5, 3}, {2, 6}, 5), kinds);
      },
      false);
}

// A rolling cache takes a long prompt in chunks, also where it is a part of the cache.
TEST(SequencesOf, TakesAPromptInChunks) {
  test::sizes const s{.batches = 2,
                      .query_heads = 4,
                      .key_heads = 2,
                      .value_heads = 2,
                      .queries = 40,
                      .keys = 40,
                      .key_dimension = 5,
                      .value_dimension = 3};
  auto const in = test::random_inputs<float>(s, 1);
  auto whole = test::filled<float, 4>({2, 4, 40, 3}, 7), part = whole;
  rolling_cache<float> two({2, 2, 5, 3}, {2, 6}, 4), four({4, 2, 5, 3}, {2, 6}, 4);
  cached_attention(two, in.query.view(), in.key.view(), in.value.view(), whole.view());
  std::vector<int> const list{3, 1}, inner{1, 0};
  sequences_of listed(four, inner);
  EXPECT_EQ(listed.chunk(), 4);
  cached_attention(sequences_of(four, list), in.query.view(), in.key.view(), in.value.view(), part.view());
  EXPECT_TRUE(test::same_bits(whole.elements, part.elements));
  EXPECT_EQ(four.size(3), 40);
  EXPECT_EQ(four.size(0), 0);
  // Sequence 1 of the list of the list is sequence 3.
  sequences_of outer(four, list);
  sequences_of turned(outer, inner);
  turned.append(in.key.view(), in.value.view());
  turned.truncate(1, 79);
  EXPECT_EQ(four.size(3), 79);
  EXPECT_EQ(four.size(1), 80);
}

// Of a store that drops tokens: its sinks are blocks of their own, which the bits tell.
TEST(SequencesOf, AttentionHasTheBitsOfTheWholeBatch) {
  rolling_cache<float> store({4, heads, 5, 3}, {3, 20}, 3);
  fill(store);
  auto const all = test::normal<float, 4>({4, 4, 2, 5}, 20);
  auto whole = test::filled<float, 4>({4, 4, 2, 3}, 0);
  softmax_attention(all.view(), store, whole.view(), causal{}, chunk_invariant{});

  std::vector<std::int64_t> const list{2, 0};
  auto queries = test::filled<float, 4>({2, 4, 2, 5}, 0), output = test::filled<float, 4>({2, 4, 2, 3}, 0);
  for (index_t s = 0; s < 2; ++s)
    std::copy_n(&all.view()(list[static_cast<std::size_t>(s)], 0, 0, 0), 4 * 2 * 5, &queries.view()(s, 0, 0, 0));
  softmax_attention(queries.view(), sequences_of(store, list), output.view(), causal{}, chunk_invariant{});
  for (index_t s = 0; s < 2; ++s)
    for (index_t i = 0; i < 4 * 2 * 3; ++i)
      EXPECT_EQ((&output.view()(s, 0, 0, 0))[i], (&whole.view()(list[static_cast<std::size_t>(s)], 0, 0, 0))[i]);
}

TEST(SequencesOf, RefusesWhatTheStoreHasNot) {
  paged_cache<float> const store({4, heads, 5, 3}, {.pages = 40, .page_tokens = 4});
  std::vector<int> const past{0, 4}, negative{-1};
  expect_error("sequences_of: expected from 0 to 3, got 4 at 1", [&] { sequences_of(store, past); });
  expect_error("sequences_of: expected from 0 to 3, got -1 at 0", [&] { sequences_of(store, negative); });

  auto const query = test::normal<float, 4>({2, 4, 1, 5}, 1);
  auto output = test::filled<float, 4>({2, 4, 1, 3}, 0);
  std::vector<int> const three{0, 1, 2};
  expect_error("query: expected sequences 3 (as the cache), got 2",
               [&] { softmax_attention(query.view(), sequences_of(store, three), output.view(), causal{}); });

  // Memory that the store only borrows is known to it.
  auto keys = test::filled<float, 4>({2, 4, 6, 3}, 0);
  key_value_tensors<float> const borrowed(std::as_const(keys).view(), std::as_const(keys).view());
  std::vector<int> const both{1, 0};
  auto const narrow = test::normal<float, 4>({2, 4, 6, 3}, 1);
  EXPECT_THROW(softmax_attention(narrow.view(), sequences_of(borrowed, both), keys.view(), causal{}), argument_error);
}

TEST(SequencesOf, AppendsToAllOfTheListOrToNone) {
  test::token_tensors<float> const tensors(1, 40, 2, 2, 1);
  auto const key = test::normal<float, 4>({2, 1, 3, 2}, 1), value = test::normal<float, 4>({2, 1, 3, 2}, 2);
  paged_cache<float> pages({4, 1, 2, 2}, {.pages = 4, .page_tokens = 4});
  tensors.append_to(pages, 2, 0, 6);
  pages.fork(2, 1);
  // The page that both end in is copied once, and then one page is free for the next tokens of each.
  std::vector<int> const both{2, 1}, twice{3, 3}, third{1, 0};
  std::vector<index_t> const wrong{0, 2, 4};
  EXPECT_THROW(sequences_of(pages, wrong), argument_error);
  expect_error("sequences_of: expected each sequence once, since it takes tokens, got 3 again at 1", [&] {
    sequences_of one(pages, twice);
    one.append(key.view(), value.view());
  });
  EXPECT_EQ(pages.size(3), 0);
  expect_error("key: expected at most 2 more tokens (sequence 1 has 6, 0 of 4 pages of 4 tokens are free), got 3", [&] {
    sequences_of listed(pages, both);
    listed.append(key.view(), value.view());
  });
  EXPECT_EQ(pages.size(2), 6);
  EXPECT_EQ(pages.free_pages(), 2);

  contiguous_cache<float> whole({4, 1, 2, 2}, 8);
  tensors.append_to(whole, 0, 0, 6);
  sequences_of listed(whole, third);
  expect_error("key: expected at most 2 more tokens (sequence 0 has 6 of 8), got 3",
               [&] { listed.append(key.view(), value.view()); });
  EXPECT_EQ(whole.size(1), 0);
  expect_error("key: expected sequences 2 (as the cache), got 1",
               [&] { listed.append(attend::detail::part(key.view(), 0, 0, 1), value.view()); });
  expect_error("sequence: expected from 0 to 1, got 2", [&] { tensors.append_to(listed, 2, 0, 1); });
  expect_error("sequence: expected from 0 to 1, got -1", [&] { listed.truncate(-1, 0); });
  expect_error("size: expected from 0 to 6 (the tokens), got 7", [&] { listed.truncate(1, 7); });
  expect_error("sequence: expected from 0 to 1, got 2", [&] {
    listed.write(2, 0, 0, tensor_view<float const, 2>(key.elements.data(), {1, 2}),
                 tensor_view<float const, 2>(value.elements.data(), {1, 2}));
  });
  listed.truncate(1, 5);
  EXPECT_EQ(whole.size(0), 5);
}

}  // namespace
}  // namespace attend
