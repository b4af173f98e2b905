// SPDX-License-Identifier: BSD-3-Clause
// The paged cache: what is appended is what is read, whoever shares it; pages are taken, copied and given back one by
// one; wrong input is refused, and leaves everything as it was.
#include <attend/cache/paged.hpp>

#include "support/stores.hpp"

namespace attend {
using namespace caches;
using namespace extend;

namespace {

using test::expect_error;
using test::stored_rows;

static_assert(KeyValueSource<paged_cache<float>>);
static_assert(KeyValueSource<paged_cache<std::int8_t, int4_pair>>);

// A sequence as the test knows it: token t is token tokens[t] of the tensors.
using model = std::vector<index_t>;

template <class T>
void expect_sequence(paged_cache<T> const& cache, index_t sequence, test::token_tensors<T> const& tensors,
                     model const& tokens) {
  ASSERT_EQ(cache.size(sequence), static_cast<index_t>(tokens.size()));
  for (index_t head = 0; head < cache.key_value_heads(); ++head) {
    auto const rows = stored_rows(cache, sequence, head);
    ASSERT_EQ(rows.size(), tokens.size());
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      auto expected = tensors.row(head, tokens[t]);
      expected.position = static_cast<index_t>(t);
      EXPECT_EQ(rows[t], expected) << "sequence " << sequence << ", head " << head << ", token " << t;
    }
  }
}

// Pages in use, counted from what the sequences have in common.
TEST(PagedCache, AgreesWithAModelUnderRandomOperations) {
  for (index_t page_tokens : {1, 3, 16}) {
    index_t const sequences = 5, heads = 2, all_tokens = 4000;
    test::token_tensors<float> const tensors(heads, all_tokens, 3, 2, 1);
    paged_cache<float> cache({sequences, heads, 3, 2}, {.pages = 24 / page_tokens + 3, .page_tokens = page_tokens});
    std::vector<model> models(5);
    std::mt19937 engine(static_cast<unsigned>(page_tokens));
    auto const up_to = [&](index_t most) { return std::uniform_int_distribution<index_t>(0, most)(engine); };
    index_t next = 0, refused = 0;
    for (int step = 0; step < 1500; ++step) {
      index_t const s = up_to(sequences - 1);
      model& tokens = models[static_cast<std::size_t>(s)];
      switch (up_to(3)) {
        case 0: {
          index_t const count = up_to(9);
          if (next + count > all_tokens) break;
          index_t const free = cache.free_pages();
          try {
            tensors.append_to(cache, s, next, count);
            for (index_t t = 0; t < count; ++t) tokens.push_back(next++);
          } catch (argument_error const&) {
            ++refused;
            EXPECT_EQ(cache.free_pages(), free);
          }
          break;
        }
        case 1:
          cache.truncate(s, up_to(static_cast<index_t>(tokens.size())));
          tokens.resize(static_cast<std::size_t>(cache.size(s)));
          break;
        case 2: {
          index_t const to = up_to(sequences - 1);
          if (to == s) break;
          cache.truncate(to, 0);
          index_t const kept = up_to(static_cast<index_t>(tokens.size()));
          cache.fork(s, to, kept);
          models[static_cast<std::size_t>(to)] = model(tokens.begin(), tokens.begin() + kept);
          break;
        }
        default:
          expect_sequence(cache, s, tensors, tokens);
      }
    }
    for (index_t s = 0; s < sequences; ++s) expect_sequence(cache, s, tensors, models[static_cast<std::size_t>(s)]);
    EXPECT_GT(refused, 0);
    for (index_t s = 0; s < sequences; ++s) cache.truncate(s, 0);
    EXPECT_EQ(cache.free_pages(), cache.pages());
  }
}

TEST(PagedCache, SharesPagesUntilOneOfThemIsWritten) {
  test::token_tensors<half> const tensors(2, 40, 4, 4, 1);
  paged_cache<half> cache({3, 2, 4, 4}, {.pages = 10, .page_tokens = 4});
  tensors.append_to(cache, 0, 0, 10);
  EXPECT_EQ(cache.free_pages(), 7);
  cache.fork(0, 1);
  cache.fork(1, 2, 8);
  EXPECT_EQ(cache.free_pages(), 7);
  // The last page of sequence 1 is shared and not full: it is copied. That of sequence 2 is full.
  tensors.append_to(cache, 1, 20, 1);
  EXPECT_EQ(cache.free_pages(), 6);
  tensors.append_to(cache, 2, 30, 1);
  EXPECT_EQ(cache.free_pages(), 5);
  // Sequence 0 is the only one left with its last page.
  tensors.append_to(cache, 0, 10, 2);
  EXPECT_EQ(cache.free_pages(), 5);
  expect_sequence(cache, 0, tensors, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  expect_sequence(cache, 1, tensors, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 20});
  expect_sequence(cache, 2, tensors, {0, 1, 2, 3, 4, 5, 6, 7, 30});
}

TEST(PagedCache, ReadsPagesThatFollowEachOtherAsOneRun) {
  test::token_tensors<float> const tensors(1, 200, 2, 2, 1);
  paged_cache<float> cache({2, 1, 2, 2}, {.pages = 50, .page_tokens = 4});
  tensors.append_to(cache, 0, 0, 100);
  auto const run = cache.rows(0, 0, 3);
  EXPECT_EQ(run.position, 3);
  EXPECT_EQ(run.count, 8 * 4 - 3);
  EXPECT_EQ(cache.rows(0, 0, 98).count, 2);
  tensors.append_to(cache, 1, 100, 1);
  tensors.append_to(cache, 0, 101, 4);
  EXPECT_EQ(cache.rows(0, 0, 99).count, 1);
}

TEST(PagedCache, AppendsToAllSequencesOrToNone) {
  auto const key = test::normal<float, 4>({2, 1, 3, 2}, 1), value = test::normal<float, 4>({2, 1, 3, 2}, 2);
  paged_cache<float> cache({2, 1, 2, 2}, {.pages = 3, .page_tokens = 2});
  expect_error("key: expected at most 2 more tokens (sequence 1 has 0, 1 of 3 pages of 2 tokens are free), got 3",
               [&] { cache.append(key.view(), value.view()); });
  EXPECT_EQ(cache.size(0), 0);
  EXPECT_EQ(cache.free_pages(), 3);
}

// Pages that are copied as they are written to are counted beforehand.
TEST(PagedCache, CountsCopiesBeforeItAppendsToAllSequences) {
  test::token_tensors<float> const tensors(1, 40, 2, 2, 1);
  paged_cache<float> cache({4, 1, 2, 2}, {.pages = 6, .page_tokens = 4});
  tensors.append_to(cache, 0, 0, 8);
  cache.fork(0, 1, 6);
  cache.fork(1, 2);
  cache.fork(1, 3);
  EXPECT_EQ(cache.free_pages(), 4);
  auto const key = test::normal<float, 4>({4, 1, 3, 2}, 1), value = test::normal<float, 4>({4, 1, 3, 2}, 2);
  auto const append = [&](index_t count) {
    cache.append(tensor_view<float const, 4>(key.elements.data(), {4, 1, count, 2}),
                 tensor_view<float const, 4>(value.elements.data(), {4, 1, count, 2}));
  };
  // One page for sequence 0, whose page that the others end in is full; then a copy for each.
  expect_error("key: expected at most 2 more tokens (sequence 2 has 6, 1 of 6 pages of 4 tokens are free), got 3",
               [&] { append(3); });
  EXPECT_EQ(cache.free_pages(), 4);
  for (index_t s = 1; s < 4; ++s) expect_sequence(cache, s, tensors, {0, 1, 2, 3, 4, 5});
  append(1);
  EXPECT_EQ(cache.free_pages(), 0);
  // Without sequence 0, the last of the others keeps the page that they shared.
  for (index_t s = 0; s < 4; ++s) cache.truncate(s, 0);
  tensors.append_to(cache, 1, 0, 6);
  for (index_t s : {0, 2, 3}) cache.fork(1, s);
  append(2);
  EXPECT_EQ(cache.free_pages(), 6 - 5);
}

TEST(PagedCache, CountsItsBytes) {
  index_t const rows = 3 * 10 * 4, table = 2 * 10 * 4, lengths = 2 * sizeof(index_t), pool = 2 * 10 * 4;
  EXPECT_EQ(paged_cache<bfloat16>({2, 3, 5, 4}, {.pages = 10, .page_tokens = 4}).bytes(),
            rows * (5 + 4) * 2 + table + lengths + pool);
  EXPECT_EQ((paged_cache<int4_pair, std::int8_t>({2, 3, 5, 4}, {.pages = 10, .page_tokens = 4}).bytes()),
            rows * (3 + 4 + 2 * 4) + table + lengths + pool);
  // A sequence of at most 9 tokens has at most 3 pages.
  EXPECT_EQ(paged_cache<bfloat16>({2, 3, 5, 4}, {.pages = 10, .page_tokens = 4, .max_tokens = 9}).bytes(),
            rows * (5 + 4) * 2 + 2 * 3 * 4 + lengths + pool);
}

TEST(PagedCache, HasRoomForNothingWithoutPages) {
  paged_cache<float> cache({1, 0, 0, 0}, {.pages = 0, .page_tokens = 4});
  test::token_tensors<float> const tensors(0, 1, 0, 0, 1);
  tensors.append_to(cache, 0, 0, 0);
  expect_error("key: expected at most 0 more tokens (sequence 0 has 0, 0 of 0 pages of 4 tokens are free), got 1",
               [&] { tensors.append_to(cache, 0, 0, 1); });
}

TEST(PagedCache, SaysWhatIsWrong) {
  test::token_tensors<float> const tensors(2, 20, 4, 3, 1), wide(2, 20, 5, 3, 1);
  paged_cache<float> cache({2, 2, 4, 3}, {.pages = 4, .page_tokens = 4, .max_tokens = 9});
  tensors.append_to(cache, 0, 0, 7);
  expect_error("key: expected at most 2 more tokens (sequence 0 has 7, 2 of 4 pages of 4 tokens are free), got 3",
               [&] { tensors.append_to(cache, 0, 7, 3); });
  expect_error("key: expected head dimension 4 (as the cache), got 5", [&] { wide.append_to(cache, 0, 0, 1); });
  expect_error("sequence: expected from 0 to 1, got 2", [&] { tensors.append_to(cache, 2, 0, 1); });
  expect_error("size: expected from 0 to 7 (the tokens), got 8", [&] { cache.truncate(0, 8); });
  expect_error("sequence: expected from 0 to 1, got -1", [&] { cache.truncate(-1, 0); });
  expect_error("from: expected from 0 to 1, got 2", [&] { cache.fork(2, 0); });
  expect_error("to: expected from 0 to 1, got 3", [&] { cache.fork(0, 3); });
  expect_error("size: expected from 0 to 7 (the tokens), got 8", [&] { cache.fork(0, 1, 8); });
  expect_error("to: expected an empty sequence, got one of 7 tokens", [&] { cache.fork(1, 0); });
  expect_error("paged_cache: expected pages of 1 to 536870911 tokens, got 0",
               [] { paged_cache<float>({1, 1, 1, 1}, {.pages = 1, .page_tokens = 0}); });
  expect_error("paged_cache: expected a limit of at least 0 tokens, got -1",
               [] { paged_cache<float>({1, 1, 1, 1}, {.pages = 1, .max_tokens = -1}); });
  expect_error("paged_cache: expected pages of 1 to 536870911 tokens, got 9223372036854775807", [] {
    paged_cache<float>({1, 1, 0, 0}, {.pages = 1, .page_tokens = std::numeric_limits<index_t>::max()});
  });
  expect_error("paged_cache: expected from 0 to 2147483647 pages, got -1",
               [] { paged_cache<float>({1, 1, 1, 1}, {.pages = -1}); });
  expect_error("paged_cache: expected from 0 to 2147483647 pages, got 4611686018427387904",
               [] { paged_cache<float>({1, 1, 1, 1}, {.pages = index_t{1} << 62}); });
  expect_error("paged_cache: expected extents of at least 0, got [-1, 1, 1, 1]",
               [] { paged_cache<float>({-1, 1, 1, 1}, {.pages = 1}); });
}

TEST(PagedCache, ChecksChannelScales) {
  auto const make = [](auto element, test::tensor<float, 2> const& scales) {
    paged_cache<decltype(element)>({1, 2, 4, 4}, {.pages = 1}, scales.view());
  };
  using test::filled;
  make(std::int8_t(), filled<float, 2>({2, 4}, 0.5f));
  expect_error("channel_scales: expected heads 2 (as the cache), got 1",
               [&] { make(std::int8_t(), filled<float, 2>({1, 4}, 1.0f)); });
  expect_error("channel_scales: expected head dimension 4 (as the cache), got 3",
               [&] { make(std::int8_t(), filled<float, 2>({2, 3}, 1.0f)); });
  expect_error("channel_scales: expected numbers from 2^-40 to 2^40, got 0 at [0, 0]",
               [&] { make(int4_pair(), filled<float, 2>({2, 4}, 0.0f)); });
  expect_error("channel_scales: expected numbers from 2^-40 to 2^40, got 1e-29 at [0, 0]",
               [&] { make(std::int8_t(), filled<float, 2>({2, 4}, 1e-29f)); });
  expect_error("channel_scales: expected data for extents [2, 4], got null", [] {
    paged_cache<std::int8_t>({1, 2, 4, 4}, {.pages = 1}, tensor_view<float const, 2>(nullptr, {2, 4}));
  });
  expect_error("channel_scales: expected none, as keys are not quantized",
               [&] { make(float(), filled<float, 2>({2, 4}, 1.0f)); });
}

}  // namespace
}  // namespace attend
