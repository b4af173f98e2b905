// SPDX-License-Identifier: BSD-3-Clause
// Some sequences of a store read as in the store, and attention to them has the same bits.
#include <attend/attention/cached/cached_attention.hpp>
#include <attend/cache/paged.hpp>
#include <attend/cache/rolling.hpp>
#include <attend/cache/sequences_of.hpp>

#include "support/stores.hpp"

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

}  // namespace
}  // namespace attend
