// SPDX-License-Identifier: BSD-3-Clause
// A selector takes its memory when it is made, as many bytes as it says, and a step takes none once the longest one has
// been made. This program counts all bytes.
#include <attend/attention/sparse_decode/landmark_attention.hpp>
#include <attend/attention/sparse_decode/loki_selector.hpp>
#include <attend/attention/sparse_decode/long_heads_selector.hpp>
#include <attend/attention/sparse_decode/mean_page_selector.hpp>
#include <attend/attention/sparse_decode/quest_selector.hpp>
#include <attend/attention/sparse_decode/recycled_attention.hpp>
#include <attend/attention/sparse_decode/retrieval_attention.hpp>
#include <attend/attention/sparse_decode/seer_attention.hpp>
#include <attend/attention/sparse_prefill/routing_attention.hpp>
#include <attend/attention/sparse_prefill/seer_prefill_attention.hpp>
#include <attend/select/vote_selector.hpp>

#include "support/count_allocations.hpp"
#include "support/selection.hpp"

namespace attend {
using namespace options;
using namespace caches;
using namespace selection;
using namespace extend;
using namespace systems;

namespace {

using test::sizes;

sizes const s{.batches = 2,
              .query_heads = 4,
              .key_heads = 2,
              .value_heads = 2,
              .queries = 1,
              .keys = 150,
              .key_dimension = 16,
              .value_dimension = 16};
cache_shape const shape{2, 2, 16, 16};

struct plain_call {
  template <class... Arguments>
  void operator()(Arguments&&... arguments) const {
    selected_attention(arguments...);
  }
};

/// Steps that append a token, and attend: the first ones to the longest sequence that there will be. `besides` are
/// bytes that making a selector takes for what it is told by value.
template <class Make, class Call = plain_call>
void expect_memory(Make const& make, Call const& call = {}, std::ptrdiff_t besides = 0) {
  auto const in = test::random_inputs<float>(s, 1);
  auto output = test::filled<float, 4>({2, 4, 1, 16}, 7);
  contiguous_cache<float> cache(shape, s.keys);
  std::ptrdiff_t const before = test::allocated_bytes;
  auto selector = make();
  EXPECT_EQ(test::allocated_bytes - before, selector.bytes() + besides);
  auto const steps = [&](auto& chooser, index_t from) {
    for (index_t b : {0, 1}) cache.truncate(b, 0);
    cache.append(test::tokens_of(in.key, 0, from), test::tokens_of(in.value, 0, from));
    for (index_t size = from; size < s.keys; ++size) {
      cache.append(test::tokens_of(in.key, size, 1), test::tokens_of(in.value, size, 1));
      if constexpr (requires { chooser.update(cache); }) chooser.update(cache);
      call(in.query.view(), cache, chooser, output.view());
    }
  };
  auto warm = make();
  steps(warm, s.keys - 3);
  long const allocations = test::allocations;
  steps(selector, 100);
  EXPECT_EQ(test::allocations - allocations, 0);
}

TEST(SelectorMemory, OfPages) {
  expect_memory([] { return quest_selector<float>(shape, 4, s.keys, quest_pages({.tokens = 40}, 8)); });
  expect_memory(
      [] { return quest_selector<float>(shape, 4, s.keys, quest_pages({.tokens = 40}, 8, list_of::query_head)); });
  expect_memory([] { return mean_page_selector<bfloat16>(shape, 4, s.keys, moba_blocks({.tokens = 32}, 16)); });
  expect_memory([] {
    return mean_page_selector<float>(shape, 4, s.keys, kinetics_blocks({.tokens = 40, .first = 4, .last = 9}, 8));
  });
  expect_memory([] { return loki_selector<float>(shape, 4, s.keys, loki_tokens({.tokens = 20}), {4}); });
}

TEST(SelectorMemory, OfGatedBlocks) {
  auto const w_q = test::normal<float, 3>({1, 16, 8}, 4), w_k = test::normal<float, 3>({2, 48, 8}, 5);
  seer_gate const gate(w_q.view(), w_k.view(), rotary(rotary_frequencies(8)), 8);
  auto const make = [&] { return seer_selector<float>(shape, 4, s.keys, seer_blocks({.tokens = 24}, 8), gate); };
  // The copy of the gate that it keeps has frequencies of its own.
  std::ptrdiff_t const before = test::allocated_bytes;
  {
    [[maybe_unused]] auto const copy = gate;
  }
  std::ptrdiff_t const of_a_copy = test::allocated_bytes - before;
  expect_memory(make, plain_call{}, of_a_copy);
}

TEST(SelectorMemory, OfLandmarkBlocks) {
  expect_memory([] { return landmark_selector<float>(shape, 4, s.keys, 3, 8); },
                [](auto&&... all) { landmark_attention(all...); });
}

TEST(SelectorMemory, OfVotes) {
  for (double similarity : {0.9, 2.0})
    expect_memory([=] {
      return vote_selector<float>(
          shape, 4, s.keys,
          {.budget = {.tokens = 20, .first = 2, .last = 6}, .neighbours = 3, .similarity = similarity});
    });
}

TEST(SelectorMemory, OfAFlatIndex) {
  expect_memory([] { return retrieval_selector<>(shape, 4, s.keys, {.first = 2, .last = 6, .tokens = 12}); },
                [](auto&&... all) { retrieval_attention(all...); });
}

TEST(SelectorMemory, OfRecycledSteps) {
  expect_memory([] { return recycled_selector<float>(shape, 4, s.keys, {.budget = {.tokens = 20}}, {.every = 4}); },
                [](auto&&... all) { recycled_attention(all...); });
}

TEST(SelectorMemory, OfReusedLayers) {
  int layer = 0;
  expect_memory([] { return weight_selector<float>(shape, 4, s.keys, {.budget = {.tokens = 20}}); },
                [&](auto const& query, auto const& cache, auto& selector, auto const& output) {
                  hylra_attention(query, cache, selector, layer++ % 3 == 0, output);
                });
}

TEST(SelectorMemory, OfRepresentedChunks) {
  auto const in = test::random_inputs<float>({2, 4, 2, 2, 1, 150, 16, 16}, 1);
  auto const queries = test::normal<float, 3>({4, 10, 16}, 2);
  auto const cache = test::filled_cache<float>(in);
  auto output = test::filled<float, 4>({2, 4, 1, 16}, 7);
  std::ptrdiff_t const before = test::allocated_bytes;
  long_heads_selector<float> selector(shape, 4, s.keys, 4, 10);
  EXPECT_EQ(test::allocated_bytes - before, selector.bytes());
  auto const represent = [&](index_t sequence, index_t chunk) {
    auto const part = [&](test::tensor<float, 4> const& rows) {
      return tensor_view<float const, 3>(&rows.view()(sequence, 0, 10 * chunk, 0), {2, 10, 16},
                                         {rows.view().stride(1), rows.view().stride(2), 1});
    };
    selector.represent(sequence, queries.view(), part(in.key), part(in.value));
  };
  represent(0, 0);
  long const allocations = test::allocations;
  for (index_t chunk = 1; chunk < 15; ++chunk) represent(0, chunk);
  for (index_t chunk = 0; chunk < 15; ++chunk) represent(1, chunk);
  EXPECT_EQ(test::allocations - allocations, 0);
  auto const step = [&] {
    selector.update(cache);
    selected_attention(in.query.view(), cache, selector, output.view(), rotary(rotary_frequencies(16)));
  };
  auto const frequencies = test::allocations_of_two([&] { rotary(rotary_frequencies(16)); }).second;
  step();
  EXPECT_EQ(test::allocations_of_two(step).second, frequencies);
}

TEST(SelectorMemory, OfTheGateOfPrompts) {
  auto const in = test::random_inputs<float>({1, 2, 1, 1, 130, 150, 16, 8}, 1);
  auto const w_q = test::normal<float, 3>({2, 16, 8}, 2), w_k = test::normal<float, 3>({1, 48, 8}, 3);
  rotary const turn{rotary_frequencies(8)};
  block_table table;
  EXPECT_EQ(test::allocations_of_two([&] {
              seer_prefill_blocks(in.query.view(), in.key.view(), w_q.view(), w_k.view(), turn, table, {16, 4});
            }).second,
            0);
}

TEST(SelectorMemory, OfCentroids) {
  auto const in = test::random_inputs<float>({1, 2, 1, 1, 130, 150, 16, 8}, 1);
  auto centroids = test::normal<float, 3>({2, 9, 16}, 2);
  EXPECT_EQ(
      test::allocations_of_two([&] { update_centroids(centroids.view(), in.query.view(), in.key.view(), 0.9); }).second,
      0);
}

}  // namespace
}  // namespace attend
