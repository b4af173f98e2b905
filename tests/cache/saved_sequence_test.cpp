// SPDX-License-Identifier: BSD-3-Clause
// Saved sequences: what is read has the rows and the bits of what was written, in any memory, and goes on as it would
// have; what was damaged or belongs elsewhere is refused, and nothing changes then.
#include <attend/attention/cached/razor_attention.hpp>
#include <attend/cache/evicting.hpp>
#include <attend/cache/latent.hpp>
#include <attend/cache/paged.hpp>
#include <attend/cache/saved_sequence.hpp>
#include <attend/cache/sequences_of.hpp>

#include "simd/end_of_memory.hpp"
#include "support/cached_tokens.hpp"

namespace attend {
using namespace caches;
using namespace extend;
using namespace systems;

namespace {

using test::expect_error;
using test::stored_rows;

constexpr index_t heads = 2, key_dimension = 7, value_dimension = 5;
constexpr cache_shape shape_of(index_t sequences) { return {sequences, heads, key_dimension, value_dimension}; }

template <class Store>
std::vector<std::byte> bytes_of(Store const& store, index_t sequence) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(saved_bytes(store, sequence)));
  EXPECT_EQ(save(store, sequence, bytes), std::ssize(bytes));
  return bytes;
}

template <class One, class Other>
void expect_same_rows(One const& one, Other const& other, index_t sequence) {
  ASSERT_EQ(one.size(sequence), other.size(sequence));
  for (index_t head = 0; head < one.key_value_heads(); ++head)
    ASSERT_EQ(stored_rows(one, sequence, head), stored_rows(other, sequence, head)) << "head " << head;
}

template <class Store>
std::vector<float> attention_to(Store const& store, index_t sequence, test::tensor<float, 4> const& query) {
  std::vector<index_t> const list{sequence};
  auto output = test::filled<float, 4>({1, 2 * heads, 1, value_dimension}, 7);
  decode_attention(query.view(), sequences_of(store, list), output.view());
  return output.elements;
}

/// Sequences that move between two stores by being saved and read, under random events, and a store in which they stay:
/// all of them always have the same rows, the same attention and the same errors.
template <class One, class Other>
void expect_moving_changes_nothing(One stays, One first, Other second, unsigned seed, int steps = 1500) {
  index_t const sequences = stays.sequences(), all_tokens = 3000;
  using T = std::conditional_t<is_scaled<typename One::key_element>, float, typename One::key_element>;
  test::token_tensors<T> const tensors(heads, all_tokens, key_dimension, value_dimension, seed);
  std::vector<bool> in_second(static_cast<std::size_t>(sequences));
  std::mt19937 engine(seed);
  auto const up_to = [&](index_t most) { return std::uniform_int_distribution<index_t>(0, most)(engine); };
  auto const where = [&](index_t s, auto const& call) {
    if (in_second[static_cast<std::size_t>(s)])
      call(second);
    else
      call(first);
  };
  auto const move = [&](index_t s) {
    auto const from_to = [&](auto& from, auto& to) {
      auto const bytes = bytes_of(from, s);
      from.truncate(s, 0);
      EXPECT_EQ(load(to, s, bytes), std::ssize(bytes));
      EXPECT_EQ(bytes_of(to, s), bytes);
    };
    auto moved = in_second[static_cast<std::size_t>(s)];
    if (moved)
      from_to(second, first);
    else
      from_to(first, second);
    moved.flip();
  };
  auto const is_refused = [](auto const& call) {
    try {
      call();
      return false;
    } catch (argument_error const&) {
      return true;
    }
  };
  index_t moves = 0;
  for (int step = 0; step < steps; ++step) {
    index_t const s = up_to(sequences - 1);
    switch (up_to(5)) {
      case 0:
        move(s), ++moves;
        break;
      case 1: {
        index_t const size = std::max<index_t>(up_to(2) ? stays.size(s) - up_to(6) : up_to(stays.size(s)), 0);
        bool const refused = is_refused([&] { stays.truncate(s, size); });
        where(s, [&](auto& store) { EXPECT_EQ(is_refused([&] { store.truncate(s, size); }), refused); });
        break;
      }
      case 2:
        if constexpr (requires { stays.fork(0, 1, 0); }) {
          index_t const to = up_to(sequences - 1), kept = up_to(stays.size(s));
          if (to == s) break;
          if (in_second[static_cast<std::size_t>(to)] != in_second[static_cast<std::size_t>(s)]) move(to);
          stays.truncate(to, 0), stays.fork(s, to, kept);
          auto const fork = [&](auto& store) {
            store.truncate(to, 0);
            if constexpr (requires { store.fork(0, 1, 0); })
              store.fork(s, to, kept);
            else
              load(store, to, bytes_of(stays, to));
          };
          where(s, fork);
        }
        break;
      case 3:
        if constexpr (requires(std::vector<int> rows) { stays.evict(0, 0, rows); }) {
          index_t const head = up_to(heads - 1);
          std::vector<int> rows;
          for (index_t row = 0; row < stays.stored(s, head); ++row)
            if (up_to(3) == 0) rows.push_back(static_cast<int>(row));
          auto const evict = [&](auto& store) {
            for (index_t row = 0; row < store.stored(s, head); ++row) store.scores(s, head, row)[0] += 1;
            store.evict(s, head, rows);
          };
          evict(stays);
          where(s, evict);
          break;
        }
        [[fallthrough]];
      default: {
        index_t const count = std::min(up_to(5), 60 - std::min<index_t>(stays.size(s), 60)), at = up_to(all_tokens - 6);
        tensors.append_to(stays, s, at, count);
        where(s, [&](auto& store) { tensors.append_to(store, s, at, count); });
      }
    }
    auto const query = test::normal<float, 4>({1, 2 * heads, 1, key_dimension}, static_cast<unsigned>(step));
    for (index_t sequence = 0; sequence < sequences; ++sequence)
      where(sequence, [&](auto const& store) {
        expect_same_rows(stays, store, sequence);
        if constexpr (requires { store.scores(0, 0, 0); }) {
          for (index_t head = 0; head < heads; ++head)
            for (index_t row = 0; row < store.stored(sequence, head); ++row)
              ASSERT_EQ(store.scores(sequence, head, row)[0], std::as_const(stays).scores(sequence, head, row)[0]);
        }
        if (sequence != s) return;
        ASSERT_TRUE(test::same_bits(attention_to(stays, s, query), attention_to(store, s, query))) << "step " << step;
      });
    if (testing::Test::HasFailure()) return;
  }
  EXPECT_GT(moves, steps / 15);
}

TEST(SavedSequence, MovesBetweenPagesOfAnySize) {
  auto const pages = [](index_t tokens) {
    return paged_cache<float>(shape_of(5), {.pages = 5 * divide_up(66, tokens), .page_tokens = tokens});
  };
  expect_moving_changes_nothing(pages(16), pages(16), pages(128), 1);
  expect_moving_changes_nothing(pages(1), pages(3), contiguous_cache<float>(shape_of(5), 66), 2);
}

TEST(SavedSequence, KeepsEachTypeOfElements) {
  auto const scales = test::filled<float, 2>({heads, key_dimension}, 0.5f);
  auto const check = [&]<class Key, class Value>(Key, Value, tensor_view<float const, 2> channel_scales) {
    auto const pages = [&](index_t tokens) {
      return paged_cache<Key, Value>(shape_of(3), {.pages = 3 * divide_up(66, tokens), .page_tokens = tokens},
                                     channel_scales);
    };
    expect_moving_changes_nothing(pages(4), pages(16), contiguous_cache<Key, Value>(shape_of(3), 66, channel_scales),
                                  3);
  };
  check(bfloat16(), half(), {});
  check(std::int8_t(), int4_pair(), scales.view());
  check(int4_pair(), std::int8_t(), {});
}

TEST(SavedSequence, KeepsWhatHeadsKeep) {
  auto const kept = [](index_t tokens) {
    return evicting_cache<float>(shape_of(3), {.pages = 3 * heads * divide_up(66, tokens), .page_tokens = tokens});
  };
  expect_moving_changes_nothing(kept(3), kept(3), kept(16), 9, 500);
  expect_moving_changes_nothing(kept(1), kept(5), kept(1), 10, 300);
  auto const scales = test::filled<float, 2>({heads, key_dimension}, 0.5f);
  auto const quantized = [&](index_t tokens) {
    return evicting_cache<std::int8_t, int4_pair>(
        shape_of(3), {.pages = 3 * heads * divide_up(66, tokens), .page_tokens = tokens}, scales.view());
  };
  expect_moving_changes_nothing(quantized(4), quantized(4), quantized(7), 11, 300);
}

TEST(SavedSequence, KeepsAllThatARollingCacheHas) {
  auto const rolling = [](index_t sinks, index_t window, index_t chunk) {
    return rolling_cache<float>(shape_of(3), {sinks, window}, chunk);
  };
  expect_moving_changes_nothing(rolling(3, 8, 5), rolling(3, 8, 5), rolling(3, 8, 5), 4);
  expect_moving_changes_nothing(rolling(0, 1, 1), rolling(0, 1, 1), rolling(0, 1, 1), 5);
  auto const quantized = [] { return rolling_cache<std::int8_t>(shape_of(3), {2, 20}, 7); };
  expect_moving_changes_nothing(quantized(), quantized(), quantized(), 6);
}

TEST(SavedSequence, KeepsBothStoresOfACacheByHeads) {
  std::vector<int> const kinds{1, 0};
  cache_shape const one_head{3, 1, key_dimension, value_dimension};
  auto const of_pages = [&](index_t tokens) {
    return head_policy_cache(paged_cache<float>(one_head, {.pages = 3 * divide_up(66, tokens), .page_tokens = tokens}),
                             rolling_cache<float>(one_head, {3, 8}, 5), kinds);
  };
  expect_moving_changes_nothing(of_pages(4), of_pages(4), of_pages(16), 7);
  expect_moving_changes_nothing(
      of_pages(4), of_pages(16),
      head_policy_cache(contiguous_cache<float>(one_head, 66), rolling_cache<float>(one_head, {3, 8}, 5), kinds), 8);
}

// What was dropped is in sums, which stand for it in attention.
TEST(SavedSequence, KeepsTheSumsOfACompensatedCache) {
  std::vector<int> const kinds{1, 0};
  cache_shape const one_head{1, 1, key_dimension, value_dimension};
  auto const make = [&] {
    return head_policy_cache(contiguous_cache<float>(one_head, 400), compensated_cache<float>(one_head, {2, 6}, 4),
                             kinds);
  };
  auto stays = make(), moves = make();
  std::mt19937 engine(1);
  auto const up_to = [&](index_t most) { return std::uniform_int_distribution<index_t>(0, most)(engine); };
  for (unsigned step = 0; step < 300; ++step) {
    test::sizes const s{.query_heads = 4,
                        .key_heads = 2,
                        .value_heads = 2,
                        .queries = up_to(3),
                        .keys = 0,
                        .key_dimension = key_dimension,
                        .value_dimension = value_dimension};
    auto sizes = s;
    sizes.keys = s.queries;
    auto const in = test::random_inputs<float>(sizes, step);
    auto one = test::filled<float, 4>({1, 4, s.queries, value_dimension}, 7), other = one;
    if (up_to(4) == 0) {
      index_t const size = std::max<index_t>(0, stays.size(0) - up_to(4));
      try {
        stays.truncate(0, size);
        moves.truncate(0, size);
      } catch (argument_error const&) {
        EXPECT_THROW(moves.truncate(0, size), argument_error);
      }
    }
    if (stays.size(0) > 300) stays.truncate(0, 1), moves.truncate(0, 1);
    razor_attention(stays, in.query.view(), in.key.view(), in.value.view(), one.view());
    razor_attention(moves, in.query.view(), in.key.view(), in.value.view(), other.view());
    ASSERT_TRUE(test::same_bits(one.elements, other.elements)) << step;
    auto const bytes = bytes_of(moves, 0);
    moves = make();
    load(moves, 0, bytes);
    expect_same_rows(stays, moves, 0);
  }
}

TEST(SavedSequence, KeepsLatents) {
  latent_shape const shape{.sequences = 2, .latent_dimension = 12, .rotary_dimension = 5, .shards = 2};
  latent_cache<bfloat16> whole(shape, 30);
  paged_latent_cache<bfloat16> pages(shape, paging{.pages = 20, .page_tokens = 4});
  auto const latent = test::normal<float, 2>({25, 12}, 1), key = test::normal<float, 2>({25, 5}, 2);
  pages.append(1, latent.view(), key.view());
  load(whole, 1, bytes_of(pages, 1));
  expect_same_rows(whole, pages, 1);
  load(pages, 0, bytes_of(whole, 1));
  EXPECT_EQ(stored_rows(pages, 0, 1), stored_rows(pages, 1, 1));

  // The rows are as long as those of other latents, and as those of keys without values.
  latent_cache<bfloat16> others({.sequences = 2, .latent_dimension = 14, .rotary_dimension = 4, .shards = 2}, 30);
  expect_error("saved: expected value dimension 7 (as the cache), got 6", [&] { load(others, 0, bytes_of(pages, 1)); });
  contiguous_cache<bfloat16, float> keys({2, 2, 11, 0}, 30);
  expect_error("saved: expected value elements float (as the cache), got bfloat16",
               [&] { load(keys, 0, bytes_of(pages, 1)); });
}

// Four key heads and two value heads: a head that several share is saved once.
TEST(SavedSequence, CountsHeadsOfKeysAndOfValuesApart) {
  cache_shape const fewer{
      .sequences = 2, .key_value_heads = 4, .key_dimension = 6, .value_dimension = 3, .value_heads = 2},
      all{.sequences = 2, .key_value_heads = 4, .key_dimension = 6, .value_dimension = 3};
  contiguous_cache<float> cache(fewer, 10), other(fewer, 20), full(all, 10);
  auto const key = test::normal<float, 3>({4, 10, 6}, 1), value = test::normal<float, 3>({2, 10, 3}, 2);
  index_t const empty = saved_bytes(cache, 1);
  cache.append(1, key.view(), value.view());
  EXPECT_EQ(saved_bytes(cache, 1) - empty, 4 * 10 * (4 * 6 + 2 * 3));
  load(other, 1, bytes_of(cache, 1));
  expect_same_rows(cache, other, 1);
  expect_error("saved: expected value heads 4 (as the cache), got 2", [&] { load(full, 1, bytes_of(cache, 1)); });
}

TEST(SavedCache, HasAllSequences) {
  test::token_tensors<float> const tensors(heads, 50, key_dimension, value_dimension, 1);
  paged_cache<float> pages(shape_of(4), {.pages = 20, .page_tokens = 4});
  contiguous_cache<float> whole(shape_of(4), 40);
  tensors.append_to(pages, 0, 0, 30);
  pages.fork(0, 2, 17);
  tensors.append_to(pages, 3, 30, 3);
  std::vector<std::byte> bytes(static_cast<std::size_t>(saved_bytes(pages)) + 5);
  EXPECT_EQ(save(pages, bytes), saved_bytes(pages));
  EXPECT_EQ(load(whole, bytes), saved_bytes(pages));
  for (index_t s = 0; s < 4; ++s) expect_same_rows(pages, whole, s);
  EXPECT_EQ(saved_bytes(whole), saved_bytes(pages));

  // One of them by itself.
  whole.truncate(1, 0);
  load(whole, 1, std::span(bytes).subspan(static_cast<std::size_t>(saved_bytes(pages, 0) + saved_bytes(pages, 1))));
  EXPECT_EQ(stored_rows(whole, 1, 0), stored_rows(whole, 2, 0));

  // All or none: without what they shared, the sequences need 8 + 5 + 1 pages, and the last one finds none.
  paged_cache<float> few(shape_of(4), {.pages = 13, .page_tokens = 4});
  expect_error("saved: expected at most 0 more tokens (sequence 3 has 0, 0 of 13 pages of 4 tokens are free), got 3",
               [&] { load(few, bytes); });
  EXPECT_EQ(few.free_pages(), 13);
  auto changed = bytes;
  changed[static_cast<std::size_t>(saved_bytes(pages)) - 1] ^= std::byte{1};
  whole.truncate(0, 0), whole.truncate(1, 0), whole.truncate(2, 0);
  expect_error("sequence: expected an empty sequence, got one of 3 tokens at 3", [&] { load(whole, bytes); });
  whole.truncate(3, 0);
  expect_error("saved: expected the bytes that save() wrote, got changed ones (by their checksum)",
               [&] { load(whole, changed); });
  for (index_t s = 0; s < 4; ++s) EXPECT_EQ(whole.size(s), 0);
  contiguous_cache<float> three(shape_of(3), 40);
  expect_error("saved: expected sequences 3 (as the cache), got 4", [&] { load(three, bytes); });
  expect_error("saved: expected sequences 3 (as the cache), got 1", [&] { load(three, bytes_of(pages, 0)); });
  expect_error("to: expected at least " + std::to_string(saved_bytes(pages)) + " bytes, got 3",
               [&] { save(pages, std::span(bytes).first(3)); });
  contiguous_cache<float> none(shape_of(0), 40);
  EXPECT_EQ(saved_bytes(none), 0);
  EXPECT_EQ(load(none, bytes), 0);
}

/// A sequence that is saved, and a store that must stay as it is.
class SavedSequenceErrors : public testing::Test {
 protected:
  SavedSequenceErrors() {
    tensors.append_to(from, 1, 0, 9);
    tensors.append_to(to, 0, 10, 6);
    bytes = bytes_of(from, 1);
    before = bytes_of(to, 0);
  }
  ~SavedSequenceErrors() override {
    EXPECT_EQ(to.size(1), 0);
    EXPECT_EQ(to.free_pages(), 3);
    EXPECT_EQ(bytes_of(to, 0), before);
  }

  /// The bytes with a number changed, and the checksum of these.
  template <class T>
  std::vector<std::byte> with(std::size_t offset, T number) const {
    auto changed = bytes;
    std::memcpy(changed.data() + offset, &number, sizeof(number));
    std::size_t const summed = offsetof(attend::detail::saved_header, bytes);
    std::uint64_t const sum = attend::detail::checksum(std::span(changed).subspan(summed));
    std::memcpy(changed.data() + offsetof(attend::detail::saved_header, checksum), &sum, sizeof(sum));
    return changed;
  }

  test::token_tensors<float> tensors{heads, 20, key_dimension, value_dimension, 1};
  contiguous_cache<float> from{shape_of(2), 20};
  paged_cache<float> to{shape_of(2), {.pages = 5, .page_tokens = 4}};
  std::vector<std::byte> bytes, before;
};

// The bytes end where memory ends.
TEST_F(SavedSequenceErrors, EveryShorterPart) {
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    test::end_of_memory<std::byte> const part(
        std::vector<std::byte>(bytes.begin(), bytes.begin() + std::ptrdiff_t(size)));
    EXPECT_THROW(load(to, 1, std::span<std::byte const>(part.data(), size)), argument_error) << size;
  }
  expect_error("saved: expected " + std::to_string(bytes.size()) + " bytes (as the header says), got " +
                   std::to_string(bytes.size() - 1),
               [&] { load(to, 1, std::span(bytes).first(bytes.size() - 1)); });
  expect_error("saved: expected at least " + std::to_string(sizeof(attend::detail::saved_header)) +
                   " bytes (those of a header), got 0",
               [&] { load(to, 1, {}); });
}

TEST_F(SavedSequenceErrors, EveryChangedByte) {
  for (std::size_t at = 0; at < bytes.size(); ++at)
    for (int bit = 0; bit < 8; ++bit) {
      bytes[at] ^= std::byte(1 << bit);
      EXPECT_THROW(load(to, 1, bytes), argument_error) << at;
      bytes[at] ^= std::byte(1 << bit);
    }
}

// Two sign bits: products of 64 bits leave the highest bit where it is.
TEST_F(SavedSequenceErrors, TwoChangedBits) {
  for (std::size_t at = bytes.size() - 1; at > 300; at -= 4)
    for (std::size_t other = at - 4; other > 300; other -= 4) {
      bytes[at] ^= std::byte{128}, bytes[other] ^= std::byte{128};
      EXPECT_THROW(load(to, 1, bytes), argument_error) << at << " " << other;
      bytes[at] ^= std::byte{128}, bytes[other] ^= std::byte{128};
    }
}

TEST_F(SavedSequenceErrors, WhatIsNoSavedSequence) {
  using attend::detail::saved_header;
  expect_error("saved: expected bytes that save() wrote, got others", [&] { load(to, 1, with(0, 'A')); });
  expect_error("saved: expected the byte order of this machine, got that of another one",
               [&] { load(to, 1, with(offsetof(saved_header, byte_order), 0x04030201)); });
  expect_error("saved: expected version 2, got 3", [&] { load(to, 1, with(offsetof(saved_header, version), 3)); });
  for (std::int64_t wrong : {std::int64_t{0}, std::int64_t{-1}, std::numeric_limits<std::int64_t>::max()})
    expect_error(
        "saved: expected " + std::to_string(wrong) + " bytes (as the header says), got " + std::to_string(bytes.size()),
        [&] { load(to, 1, with(offsetof(saved_header, bytes), wrong)); });
  expect_error("saved: expected from 0 to 536870911 tokens, got -1",
               [&] { load(to, 1, with(offsetof(saved_header, size), std::int64_t{-1})); });
  // Fewer tokens than there are rows, and more.
  EXPECT_THROW(load(to, 1, with(offsetof(saved_header, size), std::int64_t{8})), argument_error);
  EXPECT_THROW(load(to, 1, with(offsetof(saved_header, size), std::int64_t{1} << 28)), argument_error);
}

TEST_F(SavedSequenceErrors, AnotherShape) {
  auto const refuses = [&](char const* message, auto store) {
    expect_error(std::string("saved: expected ") + message, [&] { load(store, 1, bytes); });
    for (index_t s = 0; s < store.sequences(); ++s) EXPECT_EQ(store.size(s), 0);
  };
  refuses("key elements half (as the cache), got float", contiguous_cache<half>(shape_of(2), 20));
  refuses("value elements int4_pair (as the cache), got float", contiguous_cache<float, int4_pair>(shape_of(2), 20));
  refuses("key heads 3 (as the cache), got 2", contiguous_cache<float>({2, 3, key_dimension, value_dimension}, 20));
  refuses("key dimension 8 (as the cache), got 7", contiguous_cache<float>({2, heads, 8, value_dimension}, 20));
  refuses("value dimension 4 (as the cache), got 5", contiguous_cache<float>({2, heads, key_dimension, 4}, 20));
  refuses("sinks 2 (as the cache), got 0", rolling_cache<float>(shape_of(2), {2, 20}, 8));
  refuses("window 20 (as the cache), got 0", rolling_cache<float>(shape_of(2), {0, 20}, 8));
  refuses("at most 8 more tokens (sequence 1 has 0 of 8), got 9", contiguous_cache<float>(shape_of(2), 8));
  refuses("at most 8 more tokens (sequence 1 has 0, 2 of 2 pages of 4 tokens are free), got 9",
          paged_cache<float>(shape_of(2), {.pages = 2, .page_tokens = 4}));

  std::vector<int> const kinds{0, 1}, others{1, 0};
  cache_shape const one_head{2, 1, key_dimension, value_dimension};
  auto const by_heads = [&](std::vector<int> const& of, index_t window, index_t chunk) {
    return head_policy_cache(contiguous_cache<float>(one_head, 20), rolling_cache<float>(one_head, {2, window}, chunk),
                             of);
  };
  refuses("stores of heads 2 (as the cache), got 1", by_heads(kinds, 8, 4));
  auto mixed = by_heads(kinds, 8, 4);
  tensors.append_to(mixed, 0, 0, 13);
  bytes = bytes_of(mixed, 0);
  refuses("a streaming head (as the cache), got another one at 0", by_heads(others, 8, 4));
  refuses("window 9 (as the cache), got 8", by_heads(kinds, 9, 4));
  refuses("chunk 5 (as the cache), got 4", by_heads(kinds, 8, 5));
  refuses("stores of heads 1 (as the cache), got 2", contiguous_cache<float>(shape_of(2), 20));

  auto const scales = test::filled<float, 2>({heads, key_dimension}, 0.5f);
  auto other_scales = scales;
  other_scales.elements.back() = 0.25f;
  auto const quantized = [&](tensor_view<float const, 2> channel_scales) {
    return contiguous_cache<std::int8_t>(shape_of(2), 20, channel_scales);
  };
  auto scaled = quantized(scales.view());
  tensors.append_to(scaled, 0, 0, 5);
  bytes = bytes_of(scaled, 0);
  refuses("the channel scales of the cache, got others", quantized(other_scales.view()));
  refuses("channel scales 0 (as the cache), got 1", quantized({}));
  bytes = bytes_of(from, 1);
}

TEST_F(SavedSequenceErrors, WrongArguments) {
  expect_error("sequence: expected from 0 to 1, got 2", [&] { saved_bytes(from, 2); });
  expect_error("sequence: expected from 0 to 1, got -1", [&] { save(from, -1, bytes); });
  expect_error("sequence: expected from 0 to 1, got 2", [&] { load(to, 2, bytes); });
  expect_error("sequence: expected an empty sequence, got one of 6 tokens at 0", [&] { load(to, 0, bytes); });
  expect_error(
      "to: expected at least " + std::to_string(bytes.size()) + " bytes, got " + std::to_string(bytes.size() - 1),
      [&] { save(from, 1, std::span(bytes).first(bytes.size() - 1)); });
  // Whole pages of the pool are missing, then it is enough.
  to.truncate(0, 6);
  tensors.append_to(to, 1, 0, 5);
  to.truncate(1, 0);
  test::end_of_memory<std::byte> const exact(bytes.size());
  EXPECT_EQ(save(from, 1, std::span(exact.data(), bytes.size())), std::ssize(bytes));
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), exact.data()));
  EXPECT_EQ(load(to, 1, std::span<std::byte const>(exact.data(), bytes.size())), std::ssize(bytes));
  to.truncate(1, 0);
}

// Numbers that no sequence of a rolling cache has, with the checksum that they would have.
TEST(SavedSequence, RefusesStatesThatCannotBe) {
  using attend::detail::saved_header, attend::detail::saved_part;
  test::token_tensors<float> const tensors(heads, 60, key_dimension, value_dimension, 1);
  auto const check = [&](auto store, auto empty, index_t least_summed, index_t most_summed) {
    for (index_t first = 0; first < 30; first += 3) tensors.append_to(store, 0, first, 3);
    auto const bytes = bytes_of(store, 0);
    std::size_t const part = sizeof(saved_header) + heads * sizeof(std::int64_t);
    auto const refused = [&](std::size_t offset, std::int64_t number) {
      auto changed = bytes;
      std::memcpy(changed.data() + part + offset, &number, sizeof(number));
      std::size_t const summed = offsetof(saved_header, bytes);
      std::uint64_t const sum = attend::detail::checksum(std::span(changed).subspan(summed));
      std::memcpy(changed.data() + offsetof(saved_header, checksum), &sum, sizeof(sum));
      try {
        load(empty, 0, changed);
        empty.truncate(0, 0);
        return false;
      } catch (argument_error const& error) {
        EXPECT_EQ(empty.size(0), 0);
        return true;
      }
    };
    // A window of 6 and a chunk of 4: from 6 to 9 rows are attended to, and the ring has 10, so that positions from 20
    // on are there. Another position for the oldest would need another number of rows.
    for (std::int64_t reach = -2; reach < 14; ++reach)
      EXPECT_EQ(refused(offsetof(saved_part, reach), reach), reach < 6 || reach > 9) << reach;
    for (std::int64_t oldest = -2; oldest < 40; ++oldest)
      EXPECT_EQ(refused(offsetof(saved_part, oldest), oldest), oldest != 20) << oldest;
    for (std::int64_t summed = -2; summed < 40; ++summed)
      EXPECT_EQ(refused(offsetof(saved_part, summed), summed), summed < least_summed || summed > most_summed) << summed;
    for (auto number : {std::numeric_limits<std::int64_t>::max(), std::numeric_limits<std::int64_t>::min()})
      for (std::size_t offset :
           {offsetof(saved_part, reach), offsetof(saved_part, oldest), offsetof(saved_part, summed)})
        EXPECT_TRUE(refused(offset, number));
  };
  auto const rolling = [] { return rolling_cache<float>(shape_of(1), {2, 6}, 4); };
  check(rolling(), rolling(), 0, 0);
  // The sums have at least what is dropped, and nothing of the window.
  auto const compensated = [] { return compensated_cache<float>(shape_of(1), {2, 6}, 4); };
  check(compensated(), compensated(), 18, 22);
}

}  // namespace
}  // namespace attend
