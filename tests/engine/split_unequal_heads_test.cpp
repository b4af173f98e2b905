// SPDX-License-Identifier: BSD-3-Clause
// Decoding where keys and values have different numbers of heads: against the definition, against a store that repeats
// heads, in turns over one block of keys, for any number of threads and any batch; and prompts over such stores.
#include <attend/attention/cached/cached_attention.hpp>
#include <attend/attention/cached/decode_attention.hpp>
#include <attend/cache/paged.hpp>
#include <attend/cache/sequences_of.hpp>
#include <attend/policy/mask/window.hpp>
#include <attend/select/selected_rows.hpp>

#include <utility>

#include "support/expect_error.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace caches;
using namespace extend;
using namespace options;
using namespace selection;

namespace {

using test::expect_error;

struct heads {
  index_t query, key, value, both;
};
constexpr heads unequal[] = {{32, 4, 16, 16}, {16, 4, 2, 4}, {9, 1, 3, 3}, {8, 8, 1, 8}, {24, 4, 6, 12}, {6, 3, 3, 3}};

cache_shape shape_of(test::sizes const& s, heads const& count) {
  return {.sequences = s.batches,
          .key_value_heads = count.both,
          .key_dimension = s.key_dimension,
          .value_dimension = s.value_dimension,
          .key_heads = count.key,
          .value_heads = count.value};
}

test::sizes sizes_of(heads const& count, index_t batches, index_t queries, index_t keys, index_t key_dimension,
                     index_t value_dimension) {
  return {batches, count.query, count.key, count.value, queries, keys, key_dimension, value_dimension};
}

template <class T>
test::outputs<T> outputs_of(test::sizes const& s) {
  using A = accumulation_t<T>;
  return {test::filled<T, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, T(7)),
          test::filled<A, 3>({s.batches, s.query_heads, s.queries}, A(7)),
          {}};
}

template <class T, class Store, class... Options>
test::outputs<T> decoded(test::inputs<T> const& in, Store const& store, Options const&... options) {
  auto out = outputs_of<T>(in.size);
  decode_attention(in.query.view(), store, out.output.view(), log_sum_exp(out.log_sum_exp.view()), options...);
  return out;
}

template <class T>
void expect_same(test::outputs<T> const& a, test::outputs<T> const& b) {
  EXPECT_TRUE(test::same_bits(a.output.elements, b.output.elements));
  EXPECT_TRUE(test::same_bits(a.log_sum_exp.elements, b.log_sum_exp.elements));
}

/// Against the definition, as tensors and in two stores, with so many keys that they are split.
template <class T>
void expect_defined() {
  unsigned seed = 1;
  for (heads const& count : unequal)
    for (auto const& s :
         {sizes_of(count, 2, 1, 77, 24, 13), sizes_of(count, 1, 3, 64, 64, 64), sizes_of(count, 1, 1, 0, 8, 8),
          sizes_of(count, 1, 2, 1, 40, 8), sizes_of(count, 1, 1, 3333, 128, 64)}) {
      SCOPED_TRACE(testing::Message() << count.query << ' ' << count.key << ' ' << count.value << ' ' << s.keys);
      auto const in = test::random_inputs<T>(s, ++seed);
      reference::options with;
      with.visible = reference::causal_bottom_right();
      auto out = outputs_of<T>(s);
      decode_attention(in.query.view(), in.key.view(), in.value.view(), out.output.view(),
                       log_sum_exp(out.log_sum_exp.view()), causal{}, threads{3});
      EXPECT_TRUE(test::agrees(in, out, with));
      auto alone = outputs_of<T>(s);
      decode_attention(in.query.view(), in.key.view(), in.value.view(), alone.output.view(),
                       log_sum_exp(alone.log_sum_exp.view()), causal{});
      expect_same(out, alone);

      contiguous_cache<T> store(shape_of(s, count), s.keys);
      store.append(in.key.view(), in.value.view());
      expect_same(decoded(in, store, causal{}, threads{2}), out);
      paged_cache<T> pages(shape_of(s, count), {.pages = 2 * (s.keys / 16 + 1), .page_tokens = 16});
      pages.append(in.key.view(), in.value.view());
      EXPECT_TRUE(test::agrees(in, decoded(in, pages, causal{}), with));
      // A mask by positions, which blocks of one run serve alone.
      with.visible = [](reference::place const& at) { return at.key <= at.position() && at.key >= at.position() - 29; };
      EXPECT_TRUE(test::agrees(in, decoded(in, pages, causal{} & window{29, 0}), with));
    }
}

TEST(SplitUnequalHeads, OfFloat) { expect_defined<float>(); }
TEST(SplitUnequalHeads, OfBfloat16) { expect_defined<bfloat16>(); }
TEST(SplitUnequalHeads, OfDouble) { expect_defined<double>(); }

/// Rows with each head as often as there are key-value heads that have it.
template <class T>
test::tensor<T, 4> repeated(test::tensor<T, 4> const& rows, index_t both) {
  auto const [batches, own, tokens, dimension] = rows.extents;
  test::tensor<T, 4> all{{batches, both, tokens, dimension}, {}};
  for (index_t b = 0; b < batches; ++b)
    for (index_t head = 0; head < both; ++head) {
      auto const from = rows.elements.begin() + (b * own + head / (both / own)) * tokens * dimension;
      all.elements.insert(all.elements.end(), from, from + tokens * dimension);
    }
  return all;
}

/// The bits of a head are those that it has in a store that repeats keys and values, whatever their storage.
template <class T, class Key, class Value>
void expect_as_repeated() {
  unsigned seed = 100;
  for (heads const& count : unequal)
    for (auto const& s : {sizes_of(count, 2, 1, 200, 64, 128), sizes_of(count, 1, 4, 90, 32, 40)}) {
      SCOPED_TRACE(testing::Message() << count.query << ' ' << count.key << ' ' << count.value << ' ' << s.keys);
      auto const in = test::random_inputs<T>(s, ++seed);
      contiguous_cache<Key, Value> store(shape_of(s, count), s.keys);
      store.append(in.key.view(), in.value.view());
      contiguous_cache<Key, Value> repeats(shape_of(s, {count.query, count.both, count.both, count.both}), s.keys);
      repeats.append(repeated(in.key, count.both).view(), repeated(in.value, count.both).view());
      expect_same(decoded(in, store, causal{}), decoded(in, repeats, causal{}));
    }
}

TEST(SplitUnequalHeads, AsRepeatedInBytes) { expect_as_repeated<bfloat16, std::int8_t, std::int8_t>(); }
TEST(SplitUnequalHeads, AsRepeatedInFourBits) { expect_as_repeated<float, int4_pair, std::int8_t>(); }
TEST(SplitUnequalHeads, AsRepeatedInHalf) { expect_as_repeated<half, half, bfloat16>(); }

/// Tokens in a store whose reads are written down.
struct watched {
  using key_element = float;
  using value_element = float;

  contiguous_cache<float> const& store;
  std::vector<std::pair<index_t, index_t>>& reads;  // the head, and the first row

  index_t sequences() const { return store.sequences(); }
  index_t key_value_heads() const { return store.key_value_heads(); }
  index_t key_heads() const { return store.key_heads(); }
  index_t value_heads() const { return store.value_heads(); }
  index_t key_dimension() const { return store.key_dimension(); }
  index_t value_dimension() const { return store.value_dimension(); }
  index_t size(index_t sequence) const { return store.size(sequence); }
  index_t stored(index_t sequence, index_t head) const { return store.stored(sequence, head); }
  key_value_rows<float> rows(index_t sequence, index_t head, index_t first) const {
    reads.emplace_back(head, first);
    return store.rows(sequence, head, first);
  }
};

TEST(SplitUnequalHeads, TakeTurnsOverEachBlock) {
  for (heads const& count : {heads{16, 2, 4, 4}, heads{8, 4, 2, 4}, heads{12, 4, 6, 12}, heads{8, 2, 2, 2}}) {
    auto const s = sizes_of(count, 1, 1, 5 * engine::split_block_keys, 16, 16);
    auto const in = test::random_inputs<float>(s, 1);
    contiguous_cache<float> store(shape_of(s, count), s.keys);
    store.append(in.key.view(), in.value.view());
    std::vector<std::pair<index_t, index_t>> reads;
    decoded(in, watched{store, reads});
    // Each block once for each head; and all heads that share rows read a block before any reads the next.
    std::vector<index_t> expected;
    index_t const of_set = count.both / std::gcd(count.key, count.value);
    for (index_t set = 0; set < count.both; set += of_set)
      for (index_t first = 0; first < s.keys; first += engine::split_block_keys)
        for (index_t head = set; head < set + of_set; ++head) expected.push_back(head * s.keys + first);
    std::vector<index_t> got;
    for (auto const& [head, first] : reads)
      if (first % engine::split_block_keys == 0 &&
          (got.empty() || std::find(got.begin(), got.end(), head * s.keys + first) == got.end()))
        got.push_back(head * s.keys + first);
    EXPECT_EQ(got, expected) << count.key << " key heads, " << count.value << " value heads";
  }
}

TEST(SplitUnequalHeads, SequencesDoNotNoticeEachOther) {
  heads const count{32, 4, 16, 16};
  auto const s = sizes_of(count, 3, 2, 1500, 64, 64);
  auto const in = test::random_inputs<float>(s, 5);
  contiguous_cache<float> store(shape_of(s, count), s.keys);
  store.append(in.key.view(), in.value.view());
  store.truncate(1, 70);
  auto const all = decoded(in, store, causal{}, threads{4});
  for (std::int32_t one : {0, 1, 2}) {
    std::vector<std::int32_t> const list{one};
    auto alone = outputs_of<float>(sizes_of(count, 1, 2, 1500, 64, 64));
    tensor_view<float const, 4> const query(&in.query.view()(one, 0, 0, 0), {1, 32, 2, 64});
    decode_attention(query, sequences_of(store, list), alone.output.view(), causal{});
    auto const rows = all.output.elements.begin() + one * 32 * 2 * 64;
    EXPECT_TRUE(test::same_bits(alone.output.elements, std::vector<float>(rows, rows + 32 * 2 * 64)));
  }
}

TEST(SplitUnequalHeads, OfChosenRows) {
  heads const count{32, 4, 16, 16};
  auto const s = sizes_of(count, 1, 1, 300, 32, 24);
  auto const in = test::random_inputs<float>(s, 9);
  contiguous_cache<float> store(shape_of(s, count), s.keys);
  store.append(in.key.view(), in.value.view());
  for (index_t const number : {1, 4, 8, 16, 32}) {
    token_lists lists(1, number, 300);
    for (index_t list = 0; list < number; ++list)
      for (index_t row = list; row < 300; row += 2 + (row * 7 + list) % 5) lists.add(0, list, row, row + 1);
    reference::options with;
    with.visible = [&](reference::place const& at) {
      auto const list = lists(0, at.head / (32 / number));
      return std::binary_search(list.begin(), list.end(), static_cast<std::int32_t>(at.key));
    };
    EXPECT_TRUE(test::agrees(in, decoded(in, selected_rows(store, lists), threads{2}), with)) << number << " lists";
  }
}

/// A prompt in two parts, and a token: the tiled engine and this one over one store.
TEST(SplitUnequalHeads, AfterAPrompt) {
  for (heads const& count : unequal) {
    auto const s = sizes_of(count, 2, 150, 150, 40, 24);
    auto const in = test::random_inputs<float>(s, 21);
    auto out = outputs_of<float>(s);
    contiguous_cache<float> store(shape_of(s, count), s.keys);
    index_t first = 0;
    for (index_t const tokens : {100, 49, 1}) {
      auto const part = [&](auto const& all) { return detail::part(all, 2, first, tokens); };
      cached_attention(store, part(in.query.view()), part(in.key.view()), part(in.value.view()),
                       part(out.output.view()), threads{2});
      first += tokens;
    }
    out.log_sum_exp.elements.clear();
    reference::options with;
    with.visible = reference::causal_bottom_right();
    EXPECT_TRUE(test::agrees(in, out, with)) << count.key << ' ' << count.value;
    auto at_once = outputs_of<float>(s);
    softmax_attention(in.query.view(), store, at_once.output.view(), log_sum_exp(at_once.log_sum_exp.view()), causal{});
    EXPECT_TRUE(test::agrees(in, at_once, with)) << count.key << ' ' << count.value;
  }
}

TEST(SplitUnequalHeads, WrongInput) {
  auto const s = sizes_of({24, 4, 6, 12}, 1, 1, 5, 8, 8);
  contiguous_cache<float> const store(shape_of(s, {24, 4, 6, 12}), 5);
  auto const query = test::normal<float, 4>({1, 8, 1, 8}, 1);
  auto out = test::filled<float, 4>({1, 8, 1, 8}, 7);
  expect_error("query: expected a multiple of 12 heads (the cache), got 8",
               [&] { decode_attention(query.view(), store, out.view()); });
  EXPECT_EQ(out.elements, std::vector<float>(64, 7.f));
}

}  // namespace
}  // namespace attend
