// SPDX-License-Identifier: BSD-3-Clause
// LongHeads: chunks by their representatives, at positions one after the other.
#include <attend/attention/sparse_decode/long_heads_selector.hpp>
#include <attend/policy/position/rotary.hpp>
#include <attend/reference/chunk_representatives.hpp>

#include "support/selection.hpp"

namespace attend {
using namespace options;
using namespace caches;
using namespace systems;

namespace {

using test::expect_error;
using test::sizes;

// Queries of all tokens, of which the last one decodes.
sizes const all{2, 4, 2, 2, 75, 75, 16, 16};
cache_shape const shape{2, 2, 16, 16};
constexpr index_t chunk = 8, chunks = 5;

template <class T>
tensor_view<T const, 3> chunk_of(test::tensor<T, 4> const& tensor, index_t sequence, index_t number) {
  auto const view = tensor.view();
  return {&view(sequence, 0, number * chunk, 0),
          {view.extent(1), chunk, view.extent(3)},
          {view.stride(1), view.stride(2), 1}};
}

template <class... Options>
void expect_definition(bool rotates, Options const&... options) {
  auto const in = test::random_inputs<float>(all, 1);
  auto const cache = test::filled_cache<float>(in);
  long_heads_selector<float> selector(shape, 4, all.keys, chunks, chunk);
  for (index_t s = 0; s < 2; ++s)
    for (index_t c = 0; c < all.keys / chunk; ++c)
      selector.represent(s, chunk_of(in.query, s, c), chunk_of(in.key, s, c), chunk_of(in.value, s, c), options...);
  selector.update(cache);

  test::inputs<double> stored = test::as_stored(cache, in);
  auto const row = [&](auto const& tensor, index_t b, index_t h, index_t t) {
    return reference::number_row(&tensor.view()(b, h, t, 0), &tensor.view()(b, h, t, 0) + 16);
  };
  test::inputs<float> step{{2, 4, 2, 2, 1, 75, 16, 16}, test::filled<float, 4>({2, 4, 1, 16}, 0), in.key, in.value};
  test::seen_tokens seen;
  std::vector<double> expected;
  for (index_t b = 0; b < 2; ++b) {
    seen.emplace_back();
    for (index_t h = 0; h < 4; ++h) {
      std::copy_n(&in.query.view()(b, h, 74, 0), 16, &step.query.view()(b, h, 0, 0));
      std::vector<std::pair<double, index_t>> others;
      for (index_t c = 1; c < 8; ++c) {
        std::vector<reference::number_row> q, k, v;
        for (index_t t = c * chunk; t < (c + 1) * chunk; ++t) {
          q.push_back(row(stored.query, b, h, t));
          k.push_back(row(stored.key, b, h / 2, t));
          v.push_back(row(stored.value, b, h / 2, t));
        }
        others.emplace_back(
            -reference::dot_product(row(stored.query, b, h, 74), reference::chunk_representative(q, k, v, rotates)), c);
      }
      std::sort(others.begin(), others.end());
      std::vector<bool> sees(75, false);
      for (index_t t = 0; t < 75; ++t) {
        index_t const c = t / chunk;
        sees[static_cast<std::size_t>(t)] = c == 0 || c >= 8 || c == others[0].second || c == others[1].second;
      }
      seen.back().push_back(sees);
    }
  }
  auto output = test::filled<float, 4>({2, 4, 1, 16}, 7), whole = output;
  selected_attention(std::as_const(step.query).view(), cache, selector, output.view(), options...);
  EXPECT_TRUE(test::lists_are(selector.lists(), seen));
  // The chosen tokens as a sequence of their own, one head at a time.
  index_t const count = selector.lists().size(0, 0);
  EXPECT_EQ(count, 4 * chunk + 3);
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 4; ++h) {
      auto key = test::filled<float, 4>({1, 1, count, 16}, 0), value = key;
      for (index_t i = 0; i < count; ++i) {
        index_t const token = selector.lists()(b, h)[static_cast<std::size_t>(i)];
        std::copy_n(&in.key.view()(b, h / 2, token, 0), 16, &key.view()(0, 0, i, 0));
        std::copy_n(&in.value.view()(b, h / 2, token, 0), 16, &value.view()(0, 0, i, 0));
      }
      tensor_view<float const, 4> const query(&step.query.view()(b, h, 0, 0), {1, 1, 1, 16});
      softmax_attention(query, std::as_const(key).view(), std::as_const(value).view(),
                        tensor_view<float, 4>(&whole.view()(b, h, 0, 0), {1, 1, 1, 16}), options...);
    }
  EXPECT_TRUE(
      test::near(output.elements, whole.elements, test::tolerance<float>(test::largest_magnitude(in.value.elements))));
}

TEST(LongHeadsAttention, TakesTheFirstTheLastAndTheBestChunks) {
  expect_definition(false);
  expect_definition(true, rotary(rotary_frequencies(16)));
}

TEST(LongHeadsAttention, OfAllChunksIsDense) {
  auto in = test::random_inputs<float>(all, 2);
  auto const cache = test::filled_cache<float>(in);
  long_heads_selector<float> selector(shape, 4, all.keys, 20, chunk);
  for (index_t s = 0; s < 2; ++s)
    for (index_t c = 0; c < 8; ++c)
      selector.represent(s, chunk_of(in.query, s, c), chunk_of(in.key, s, c), chunk_of(in.value, s, c), threads{2});
  selector.update(cache);
  test::inputs<float> const step{
      {2, 4, 2, 2, 1, 75, 16, 16}, test::normal<float, 4>({2, 4, 1, 16}, 3), in.key, in.value};
  test::expect_dense(step, cache, selector);
}

TEST(LongHeadsAttention, GivesTheSameBitsForAnyThreads) {
  auto const in = test::random_inputs<float>(all, 5);
  auto const cache = test::filled_cache<float>(in);
  rotary const turn{rotary_frequencies(16)};
  auto const query = test::normal<float, 4>({2, 4, 1, 16}, 6);
  auto const run = [&](auto executor) {
    long_heads_selector<float> selector(shape, 4, all.keys, chunks, chunk);
    for (index_t s = 0; s < 2; ++s)
      for (index_t c = 0; c < all.keys / chunk; ++c)
        selector.represent(s, chunk_of(in.query, s, c), chunk_of(in.key, s, c), chunk_of(in.value, s, c), turn,
                           executor);
    selector.update(cache, executor);
    auto output = test::filled<float, 4>({2, 4, 1, 16}, 7);
    selected_attention(query.view(), cache, selector, output.view(), turn, executor);
    return output.elements;
  };
  EXPECT_TRUE(test::same_bits(run(serial{}), run(threads{3})));
}

// Chunks of 4 tokens whose own attention finds nothing in particular: then a representative is the mean of their keys.
// A needle's product is divided by the tokens n of a chunk, the noise of the others by sqrt(n): chunks of 256 hide it.
TEST(LongHeadsAttention, FindsNeedlesInShortChunks) {
  sizes const s{1, 4, 2, 2, 1, 1200, 64, 64};
  auto const make = [&](test::inputs<float> in) {
    for (float& x : in.value.elements) x *= 0.01f;
    auto const queries = test::random_inputs<float>({1, 4, 2, 2, s.keys, 1, 64, 64}, 7);
    long_heads_selector<float> selector({1, 2, 64, 64}, 4, s.keys, 15, 4);
    auto const part = [](test::tensor<float, 4> const& rows, index_t number) {
      auto const view = rows.view();
      return tensor_view<float const, 3>(&view(0, 0, 4 * number, 0), {view.extent(1), 4, 64},
                                         {view.stride(1), view.stride(2), 1});
    };
    for (index_t number = 0; number < s.keys / 4; ++number)
      selector.represent(0, part(queries.query, number), part(in.key, number), part(in.value, number));
    return selector;
  };
  EXPECT_GE(test::needles_found(s, 100, make), 0.99);
}

TEST(LongHeadsAttention, ForgetsWhatIsTakenBack) {
  auto const in = test::random_inputs<float>(all, 8);
  auto cache = test::filled_cache<float>(in);
  long_heads_selector<float> selector(shape, 4, all.keys, chunks, chunk), fresh(shape, 4, all.keys, chunks, chunk);
  auto const represent = [&](auto& chooser, index_t s, index_t c) {
    chooser.represent(s, chunk_of(in.query, s, c), chunk_of(in.key, s, c), chunk_of(in.value, s, c));
  };
  for (index_t s : {0, 1}) {
    for (index_t c = 0; c < 9; ++c) represent(selector, s, c);
    for (index_t c = 0; c < 6; ++c) represent(fresh, s, c);
  }
  selector.update(cache);
  for (index_t s : {0, 1}) {
    selector.truncate(cache, s, 50);
    cache.truncate(s, 50);
    EXPECT_EQ(selector.represented(s), 6);
  }
  fresh.update(cache);
  auto const query = test::normal<float, 4>({2, 4, 1, 16}, 9);
  auto output = test::filled<float, 4>({2, 4, 1, 16}, 7), expected = output;
  selected_attention(query.view(), cache, selector, output.view());
  selected_attention(query.view(), cache, fresh, expected.view());
  EXPECT_TRUE(test::same_bits(output.elements, expected.elements));
}

TEST(LongHeadsAttention, SaysWhatIsWrong) {
  expect_error("chunks: expected at least 3, got 2", [] { long_heads_selector<float>(shape, 4, 75, 2); });
  expect_error("shape: expected value dimension 16 (as keys), got 8",
               [] { long_heads_selector<float>({2, 2, 16, 8}, 4, 75, 3); });
  auto const in = test::random_inputs<float>(all, 4);
  auto const cache = test::filled_cache<float>(in);
  long_heads_selector<float> selector(shape, 4, all.keys, chunks, chunk);
  expect_error("cache: expected at most 2 chunks (those represented, and two), got 10",
               [&] { selector.update(cache); });
  expect_error("query: expected tokens 8 (as a chunk), got 75",
               [&] { selector.represent(0, in.query.view(), in.key.view(), in.value.view()); });
  auto const wide = test::normal<float, 3>({2, 8, 17}, 5);
  expect_error("value: expected head dimension 16 (as key), got 17",
               [&] { selector.represent(0, chunk_of(in.query, 0, 0), chunk_of(in.key, 0, 0), wide.view()); });
  expect_error("sequence: expected from 0 to 1, got 2", [&] {
    selector.represent(2, chunk_of(in.query, 0, 0), chunk_of(in.key, 0, 0), chunk_of(in.value, 0, 0));
  });
  expect_error("query: expected heads 4 (as the selector), got 2", [&] {
    selector.represent(0, chunk_of(in.key, 0, 0), chunk_of(in.key, 0, 0), chunk_of(in.value, 0, 0));
  });
  expect_error("key: expected heads 2 (as the selector), got 4", [&] {
    selector.represent(0, chunk_of(in.query, 0, 0), chunk_of(in.query, 0, 0), chunk_of(in.value, 0, 0));
  });
  EXPECT_EQ(selector.represented(0), 0);
  long_heads_selector<float> small(shape, 4, 10, chunks, chunk);
  small.represent(0, chunk_of(in.query, 0, 0), chunk_of(in.key, 0, 0), chunk_of(in.value, 0, 0));
  expect_error("query: expected at most 1 chunks (the capacity), got one more",
               [&] { small.represent(0, chunk_of(in.query, 0, 1), chunk_of(in.key, 0, 1), chunk_of(in.value, 0, 1)); });
}

}  // namespace
}  // namespace attend
