// SPDX-License-Identifier: BSD-3-Clause
// Stores with different numbers of key heads and value heads: a key-value head has the rows of its key head and of its
// value head, as in a store that repeats them; each is stored once; wrong input.
#include <attend/cache/compensated.hpp>
#include <attend/cache/contiguous.hpp>
#include <attend/cache/head_policy.hpp>
#include <attend/cache/paged.hpp>
#include <attend/cache/sequences_of.hpp>
#include <attend/select/selected_rows.hpp>

#include "support/stores.hpp"

namespace attend {
using namespace caches;
using namespace extend;
using namespace options;
using namespace selection;

namespace {

using test::expect_error;
using test::stored_rows;

constexpr index_t key_dimension = 24, value_dimension = 10;

struct heads {
  index_t key, value, both;
};
constexpr heads unequal[] = {{4, 16, 16}, {6, 3, 6}, {1, 5, 5}, {4, 6, 12}, {3, 3, 3}};

cache_shape shape_of(heads const& count, index_t sequences = 2) {
  return {.sequences = sequences,
          .key_value_heads = count.both,
          .key_dimension = key_dimension,
          .value_dimension = value_dimension,
          .key_heads = count.key,
          .value_heads = count.value};
}

/// Rows [sequence, head, ...] of which each head is repeated for all key-value heads that it belongs to.
template <class T, int Rank>
test::tensor<T, Rank> repeated(test::tensor<T, Rank> const& rows, index_t both, int axis) {
  index_t outer = 1, inner = 1;
  for (int i = 0; i < axis; ++i) outer *= rows.extents[static_cast<std::size_t>(i)];
  for (int i = axis + 1; i < Rank; ++i) inner *= rows.extents[static_cast<std::size_t>(i)];
  index_t const own = rows.extents[static_cast<std::size_t>(axis)];
  test::tensor<T, Rank> all{rows.extents, {}};
  all.extents[static_cast<std::size_t>(axis)] = both;
  for (index_t i = 0; i < outer; ++i)
    for (index_t head = 0; head < both; ++head) {
      auto const from = rows.elements.begin() + (i * own + head / (both / own)) * inner;
      all.elements.insert(all.elements.end(), from, from + inner);
    }
  return all;
}

template <class Store, class Other>
void expect_same_rows(Store const& store, Other const& repeats) {
  ASSERT_EQ(store.key_value_heads(), repeats.key_value_heads());
  for (index_t s = 0; s < store.sequences(); ++s)
    for (index_t head = 0; head < store.key_value_heads(); ++head)
      EXPECT_EQ(stored_rows(store, s, head), stored_rows(repeats, s, head)) << "head " << head;
}

/// Fills a store made by make(shape, channel scales) in several ways, and beside it one with a head for each key-value
/// head.
template <class Key, class Make>
void expect_pairs(Make const& make, index_t most_at_a_time = 40) {
  for (heads const& count : unequal) {
    SCOPED_TRACE(testing::Message() << count.key << " key heads, " << count.value << " value heads");
    test::tensor<float, 2> channels{{count.key, key_dimension}, {}};
    for (index_t i = 0; i < count.key * key_dimension; ++i)
      channels.elements.push_back(1 + static_cast<float>(i % 7) / 4);
    auto const repeated_channels = repeated(channels, count.both, 0);
    auto const scales = [](test::tensor<float, 2> const& all) {
      return is_scaled<Key> ? all.view() : tensor_view<float const, 2>();
    };
    auto store = make(shape_of(count), scales(channels));
    auto repeats = make(shape_of({count.both, count.both, count.both}), scales(repeated_channels));
    EXPECT_EQ(store.key_heads(), count.key);
    EXPECT_EQ(store.value_heads(), count.value);
    EXPECT_LE(store.bytes(), repeats.bytes());

    unsigned seed = 1;
    auto const angles = rotary(rotary_frequencies(key_dimension));
    for (index_t const tokens : {1, 7, 30, 2}) {
      index_t const now = std::min(tokens, most_at_a_time);
      auto const key = test::normal<float, 4>({2, count.key, now, key_dimension}, ++seed);
      auto const value = test::normal<float, 4>({2, count.value, now, value_dimension}, ++seed);
      auto const all_keys = repeated(key, count.both, 1), all_values = repeated(value, count.both, 1);
      if (tokens == 7) {
        store.append(key.view(), value.view(), angles);
        repeats.append(all_keys.view(), all_values.view(), angles);
      } else {
        store.append(key.view(), value.view());
        repeats.append(all_keys.view(), all_values.view());
      }
      auto const one_key = test::normal<float, 3>({count.key, 1, key_dimension}, ++seed);
      auto const one_value = test::normal<float, 3>({count.value, 1, value_dimension}, ++seed);
      store.append(1, one_key.view(), one_value.view());
      repeats.append(1, repeated(one_key, count.both, 0).view(), repeated(one_value, count.both, 0).view());
      expect_same_rows(store, repeats);
    }
  }
}

template <class Key, class Value>
void expect_all_stores() {
  expect_pairs<Key>(
      [](cache_shape const& shape, auto const& scales) { return contiguous_cache<Key, Value>(shape, 70, scales); });
  expect_pairs<Key>([](cache_shape const& shape, auto const& scales) {
    return paged_cache<Key, Value>(shape, {.pages = 40, .page_tokens = 4}, scales);
  });
  expect_pairs<Key>(
      [](cache_shape const& shape, auto const& scales) { return rolling_cache<Key, Value>(shape, {3, 9}, 4, scales); });
  expect_pairs<Key>([](cache_shape const& shape,
                       auto const& scales) { return compensated_cache<Key, Value>(shape, {3, 9}, 4, scales); },
                    4);
}

TEST(UnequalHeads, OfFloat) { expect_all_stores<float, float>(); }
TEST(UnequalHeads, OfBfloat16AndHalf) { expect_all_stores<bfloat16, half>(); }
TEST(UnequalHeads, OfBytes) { expect_all_stores<std::int8_t, std::int8_t>(); }
TEST(UnequalHeads, OfFourBitsAndBytes) { expect_all_stores<int4_pair, std::int8_t>(); }
TEST(UnequalHeads, OfBytesAndFloat) { expect_all_stores<std::int8_t, float>(); }

TEST(UnequalHeads, OfDouble) {
  contiguous_cache<double> store(shape_of({2, 6, 6}, 1), 5);
  auto const key = test::normal<double, 3>({2, 5, key_dimension}, 1);
  auto const value = test::normal<double, 3>({6, 5, value_dimension}, 2);
  store.append(0, key.view(), value.view());
  auto const all_keys = repeated(key, 6, 0);
  key_value_tensors<double> const in_place({all_keys.elements.data(), {1, 6, 5, key_dimension}},
                                           {value.elements.data(), {1, 6, 5, value_dimension}});
  expect_same_rows(store, in_place);
}

TEST(UnequalHeads, AreStoredOnce) {
  index_t const tokens = 50, sizes = 2 * sizeof(index_t);
  index_t const fewer = contiguous_cache<bfloat16, std::int8_t>(shape_of({4, 16, 16}), tokens).bytes();
  EXPECT_EQ(fewer, 2 * tokens * (4 * key_dimension * 2 + 16 * (value_dimension + 4)) + sizes);
  index_t const reverse = contiguous_cache<std::int8_t, float>(shape_of({16, 4, 16}), tokens).bytes();
  EXPECT_EQ(reverse, 2 * tokens * (16 * (key_dimension + 4) + 4 * value_dimension * 4) + sizes);
  rolling_cache<float> const ring(shape_of({4, 16, 16}, 1), {2, 6}, 3);
  EXPECT_EQ(ring.bytes(), 11 * 4 * (4 * key_dimension + 16 * value_dimension) + 3 * sizes / 2);
}

TEST(UnequalHeads, CopyPagesOnWrite) {
  heads const count{2, 6, 6};
  paged_cache<float> pages(shape_of(count), {.pages = 8, .page_tokens = 4});
  contiguous_cache<float> expected(shape_of(count), 20);
  auto const append = [&](index_t sequence, index_t tokens, unsigned seed) {
    auto const key = test::normal<float, 3>({count.key, tokens, key_dimension}, seed);
    auto const value = test::normal<float, 3>({count.value, tokens, value_dimension}, seed + 1);
    if (sequence < 2) pages.append(sequence, key.view(), value.view());
    if (sequence != 0) expected.append(1, key.view(), value.view());
    if (sequence != 1) expected.append(0, key.view(), value.view());
  };
  append(2, 0, 1);
  auto const key = test::normal<float, 3>({count.key, 6, key_dimension}, 3);
  auto const value = test::normal<float, 3>({count.value, 6, value_dimension}, 4);
  pages.append(0, key.view(), value.view());
  pages.fork(0, 1);
  for (index_t s : {0, 1}) expected.append(s, key.view(), value.view());
  append(1, 3, 5);
  append(0, 1, 7);
  expect_same_rows(pages, expected);
  pages.truncate(1, 5);
  expected.truncate(1, 5);
  expect_same_rows(pages, expected);
}

TEST(UnequalHeads, AreWrittenApart) {
  heads const count{2, 6, 6};
  auto const key = test::normal<float, 3>({2, 4, key_dimension}, 1);
  auto const value = test::normal<float, 3>({6, 4, value_dimension}, 2);
  contiguous_cache<float> appended(shape_of(count, 1), 4), written(shape_of(count, 1), 4),
      in_pairs(shape_of(count, 1), 4);
  compensated_cache<float> compensated(shape_of(count, 1), {1, 8}, 4);
  appended.append(0, key.view(), value.view());
  auto const key_of = [&](index_t head, index_t first, index_t tokens) {
    return tensor_view<float const, 2>(&key.view()(head, first, 0), {tokens, key_dimension});
  };
  auto const value_of = [&](index_t head, index_t first, index_t tokens) {
    return tensor_view<float const, 2>(&value.view()(head, first, 0), {tokens, value_dimension});
  };
  written.make_room(0, 4);
  compensated.make_room(0, 4);
  for (index_t head = 0; head < 2; ++head) {
    written.write_keys(0, head, 3, key_of(head, 3, 1));
    written.write_keys(0, head, 0, key_of(head, 0, 3));
    compensated.write_keys(0, head, 0, key_of(head, 0, 4));
  }
  for (index_t head = 0; head < 6; ++head) {
    written.write_values(0, head, 0, value_of(head, 0, 4));
    compensated.write_values(0, head, 0, value_of(head, 0, 4));
  }
  expect_same_rows(written, appended);
  expect_same_rows(compensated, appended);
  in_pairs.make_room(0, 4);
  for (index_t head = 0; head < 6; ++head) in_pairs.write(0, head, 0, key_of(head / 3, 0, 4), value_of(head, 0, 4));
  expect_same_rows(in_pairs, appended);

  expect_error("head: expected from 0 to 1, got 2", [&] { written.write_keys(0, 2, 0, key_of(0, 0, 4)); });
  expect_error("head: expected from 0 to 5, got 6", [&] { written.write_values(0, 6, 0, value_of(0, 0, 4)); });
  expect_error("sequence: expected from 0 to 0, got 1", [&] { written.write_keys(1, 0, 0, key_of(0, 0, 4)); });
  expect_error("sequence: expected from 0 to 0, got -1", [&] { written.write_values(-1, 0, 0, value_of(0, 0, 4)); });
  expect_error("key: expected head dimension 24 (as the cache), got 10",
               [&] { written.write_keys(0, 0, 0, value_of(0, 0, 4)); });
  expect_error("value: expected head dimension 10 (as the cache), got 24",
               [&] { written.write_values(0, 0, 0, key_of(0, 0, 4)); });
  expect_error("position: expected 4 tokens within the 4 of sequence 0, got 1",
               [&] { written.write_keys(0, 0, 1, key_of(0, 0, 4)); });
  expect_error("position: expected 4 tokens within the 4 of sequence 0, got -1",
               [&] { written.write_values(0, 0, -1, value_of(0, 0, 4)); });
  expect_same_rows(written, appended);
}

TEST(UnequalHeads, AsTensors) {
  auto const key = test::normal<float, 4>({2, 4, 5, key_dimension}, 1);
  auto const value = test::normal<float, 4>({2, 6, 5, value_dimension}, 2);
  auto const all_keys = repeated(key, 12, 1), all_values = repeated(value, 12, 1);
  expect_same_rows(key_value_tensors<float>(key.view(), value.view()),
                   key_value_tensors<float>(all_keys.view(), all_values.view()));

  test::tensor<std::int8_t, 4> bytes{{2, 2, 5, 8}, {}}, more{{2, 6, 5, 8}, {}};
  for (index_t i = 0; i < 2 * 2 * 5 * 8; ++i) bytes.elements.push_back(static_cast<std::int8_t>(i % 100));
  for (index_t i = 0; i < 2 * 6 * 5 * 8; ++i) more.elements.push_back(static_cast<std::int8_t>(i % 90));
  auto const scales = test::normal<float, 3>({2, 2, 5}, 3), more_scales = test::normal<float, 3>({2, 6, 5}, 4);
  auto const channels = test::normal<float, 2>({2, 8}, 5);
  auto const all_bytes = repeated(bytes, 6, 1);
  auto const all_scales = repeated(scales, 6, 1);
  auto const all_channels = repeated(channels, 6, 0);
  key_value_tensors<std::int8_t> const views(bytes.view(), std::as_const(more).view());
  expect_same_rows(views.with_scales(scales.view(), more_scales.view()).with_channel_scales(channels.view()),
                   key_value_tensors<std::int8_t>(all_bytes.view(), std::as_const(more).view())
                       .with_scales(all_scales.view(), more_scales.view())
                       .with_channel_scales(all_channels.view()));
  expect_error("value_scale: expected heads 6 (as value), got 2",
               [&] { views.with_scales(scales.view(), scales.view()); });
  expect_error("key_scale: expected heads 2 (as key), got 6",
               [&] { views.with_scales(more_scales.view(), more_scales.view()); });
  expect_error("channel_scale: expected heads 2 (as key), got 6",
               [&] { views.with_channel_scales(all_channels.view()); });
  tensor_view<float const, 4> const none(nullptr, {2, 0, 5, value_dimension});
  expect_error("value: expected heads 4 (as key), got 0", [&] { key_value_tensors<float>(key.view(), none); });
}

TEST(UnequalHeads, OfViewsOfAStore) {
  contiguous_cache<float> store(shape_of({4, 16, 16}), 8);
  std::vector<std::int32_t> const order{1, 0, 1};
  sequences_of const some(store, tensor_view<std::int32_t const, 1>(order.data(), {3}));
  EXPECT_EQ(some.key_heads(), 4);
  EXPECT_EQ(some.value_heads(), 16);
  // Heads with lists of their own do not share the rows of their keys.
  for (auto const& [lists, keys, values] : {heads{1, 4, 16}, heads{4, 4, 16}, heads{8, 16, 16}, heads{16, 16, 16}}) {
    token_lists const own(2, lists, 8);
    selected_rows const chosen(store, own);
    EXPECT_EQ(chosen.key_value_heads(), 16);
    EXPECT_EQ(chosen.key_heads(), keys) << lists << " lists";
    EXPECT_EQ(chosen.value_heads(), values) << lists << " lists";
  }
  token_lists const of_queries(2, 32, 8);
  selected_rows const chosen(store, of_queries);
  EXPECT_EQ(chosen.key_heads(), 32);
  EXPECT_EQ(chosen.value_heads(), 32);
}

TEST(UnequalHeads, WrongInput) {
  auto const store = [](index_t both, index_t key, index_t value) {
    contiguous_cache<float>(shape_of({key, value, both}), 8);
  };
  expect_error("contiguous_cache: expected key heads that divide 16 (key_value_heads), got 5",
               [&] { store(16, 5, 16); });
  expect_error("contiguous_cache: expected value heads that divide 16 (key_value_heads), got -4",
               [&] { store(16, 4, -4); });
  expect_error("contiguous_cache: expected value heads that divide 4 (key_value_heads), got 16",
               [&] { store(4, 4, 16); });
  expect_error(
      "contiguous_cache: expected 12 key-value heads (the least common multiple of 4 key heads and 6 value heads), got "
      "24",
      [&] { store(24, 4, 6); });
  expect_error(
      "paged_cache: expected 4 key-value heads (the least common multiple of 4 key heads and 4 value heads), got 16",
      [&] { paged_cache<float>(shape_of({4, 4, 16}), {.pages = 1}); });
  auto const wrong = test::normal<float, 2>({16, key_dimension}, 1);
  expect_error("channel_scales: expected heads 4 (as the cache), got 16",
               [&] { rolling_cache<std::int8_t>(shape_of({4, 16, 16}), {1, 1}, 1, wrong.view()); });

  contiguous_cache<float> cache(shape_of({4, 16, 16}), 8);
  auto const key = test::normal<float, 4>({2, 4, 1, key_dimension}, 1);
  auto const keys = test::normal<float, 4>({2, 16, 1, key_dimension}, 1);
  auto const value = test::normal<float, 4>({2, 16, 1, value_dimension}, 1);
  auto const values = test::normal<float, 4>({2, 4, 1, value_dimension}, 1);
  expect_error("key: expected heads 4 (as the cache), got 16", [&] { cache.append(keys.view(), value.view()); });
  expect_error("value: expected heads 16 (as the cache), got 4", [&] { cache.append(key.view(), values.view()); });
  EXPECT_EQ(cache.size(0), 0);

  std::vector<std::int32_t> const kinds{0, 0, 0, 0, 1, 1};
  auto const joined = [&](heads const& full, heads const& streaming) {
    head_policy_cache(contiguous_cache<float>(shape_of(full), 8), rolling_cache<float>(shape_of(streaming), {1, 1}),
                      kinds);
  };
  joined({4, 4, 4}, {2, 2, 2});
  expect_error("full: expected key heads 4 (as the key-value heads), got 2", [&] { joined({2, 4, 4}, {2, 2, 2}); });
  expect_error("streaming: expected value heads 2 (as the key-value heads), got 1",
               [&] { joined({4, 4, 4}, {2, 1, 2}); });
}

}  // namespace
}  // namespace attend
