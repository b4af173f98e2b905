// SPDX-License-Identifier: BSD-3-Clause
// Sequences of different lengths, none among them: each is chosen from and attended to as if it were alone.
#include <attend/attention/sparse_decode/landmark_attention.hpp>
#include <attend/attention/sparse_decode/loki_selector.hpp>
#include <attend/attention/sparse_decode/long_heads_selector.hpp>
#include <attend/attention/sparse_decode/mean_page_selector.hpp>
#include <attend/attention/sparse_decode/quest_selector.hpp>
#include <attend/attention/sparse_decode/recycled_attention.hpp>
#include <attend/attention/sparse_decode/retrieval_attention.hpp>
#include <attend/attention/sparse_decode/seer_attention.hpp>
#include <attend/select/vote_selector.hpp>

#include "support/selection.hpp"

namespace attend {
using namespace options;
using namespace caches;
using namespace selection;
using namespace extend;
using namespace systems;

namespace {

constexpr index_t capacity = 140, dimension = 16, query_heads = 4;
constexpr std::array<index_t, 5> lengths{37, 0, 1, 130, 16};
constexpr index_t sequences = lengths.size();

test::token_tensors<float> tokens_of_sequence(index_t sequence) {
  return {2, lengths[static_cast<std::size_t>(sequence)], dimension, dimension, static_cast<unsigned>(10 * sequence)};
}

struct plain_call {
  template <class... Arguments>
  void operator()(Arguments&&... arguments) const {
    selected_attention(arguments...);
  }
};
struct no_preparation {
  template <class Selector>
  void operator()(Selector&, index_t, index_t) const {}
};

/// make(shape) gives a selector; call(query, cache, selector, output, executor) is two steps of a decoder;
/// prepare(selector, place, sequence) comes first.
template <class Make, class Call = plain_call, class Prepare = no_preparation>
void expect_each_alone(Make const& make, Call const& call = {}, Prepare const& prepare = {}) {
  auto const query = test::normal<float, 4>({sequences, query_heads, 1, dimension}, 1);
  auto const attend = [&](index_t first, index_t count, auto& output) {
    cache_shape const shape{count, 2, dimension, dimension};
    contiguous_cache<float> cache(shape, capacity);
    auto selector = make(shape);
    for (index_t s = 0; s < count; ++s) {
      prepare(selector, s, first + s);
      tokens_of_sequence(first + s).append_to(cache, s, 0, lengths[static_cast<std::size_t>(first + s)]);
    }
    if constexpr (requires { selector.update(cache); }) selector.update(cache);
    tensor_view<float const, 4> const some(&query.view()(first, 0, 0, 0), {count, query_heads, 1, dimension});
    for (int step = 0; step < 2; ++step) call(some, cache, selector, output.view(), threads{count == 1 ? 1 : 2});
    return selector;
  };
  auto group_size = test::filled<float, 4>({sequences, query_heads, 1, dimension}, 7);
  auto const chosen = attend(0, sequences, group_size);
  for (index_t s = 0; s < sequences; ++s) {
    auto output = test::filled<float, 4>({1, query_heads, 1, dimension}, 9);
    auto const alone = attend(s, 1, output);
    auto const row = group_size.elements.begin() + s * query_heads * dimension;
    EXPECT_TRUE(
        test::near(std::vector<float>(row, row + query_heads * dimension), output.elements, test::tolerance<float>(5)))
        << s;
    for (index_t list = 0; list < alone.lists().heads(); ++list) {
      auto const a = chosen.lists()(s, list), b = alone.lists()(0, list);
      EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end())) << s;
    }
    for (float x : output.elements) EXPECT_TRUE(lengths[static_cast<std::size_t>(s)] > 0 || x == 0) << x;
  }
}

TEST(RaggedSequences, OfPages) {
  expect_each_alone([](auto const& shape) {
    return quest_selector<float>(shape, query_heads, capacity, quest_pages({.fraction = 0.3}, 8));
  });
  expect_each_alone([](auto const& shape) {
    return mean_page_selector<float>(shape, query_heads, capacity, moba_blocks({.tokens = 32}, 16));
  });
  expect_each_alone([](auto const& shape) {
    return mean_page_selector<float>(shape, query_heads, capacity,
                                     kinetics_blocks({.tokens = 30, .first = 4, .last = 9}, 8));
  });
  expect_each_alone([](auto const& shape) {
    return loki_selector<float>(shape, query_heads, capacity, loki_tokens({.fraction = 0.2}), {4});
  });
}

TEST(RaggedSequences, OfGatedBlocks) {
  auto const w_q = test::normal<float, 3>({1, dimension, 8}, 4), w_k = test::normal<float, 3>({2, 3 * dimension, 8}, 5);
  expect_each_alone([&](auto const& shape) {
    return seer_selector<float>(shape, query_heads, capacity, seer_blocks({.tokens = 24}, 8),
                                seer_gate(w_q.view(), w_k.view(), rotary(rotary_frequencies(8)), 8));
  });
}

TEST(RaggedSequences, OfRepresentedChunks) {
  expect_each_alone(
      [](auto const& shape) { return long_heads_selector<float>(shape, query_heads, capacity, 4, 8); }, plain_call{},
      [](auto& selector, index_t place, index_t sequence) {
        auto const all = tokens_of_sequence(sequence);
        auto const queries = test::normal<float, 3>({query_heads, 8, dimension}, 6);
        for (index_t chunk = 0; 8 * (chunk + 1) <= lengths[static_cast<std::size_t>(sequence)]; ++chunk) {
          auto const part = [&](test::tensor<float, 3> const& rows) {
            return tensor_view<float const, 3>(&rows.view()(0, 8 * chunk, 0), {2, 8, dimension}, rows.view().strides());
          };
          selector.represent(place, queries.view(), part(all.key), part(all.value));
        }
      });
}

TEST(RaggedSequences, OfLandmarkBlocks) {
  expect_each_alone([](auto const& shape) { return landmark_selector<float>(shape, query_heads, capacity, 3, 8); },
                    [](auto&&... all) { landmark_attention(all...); });
}

TEST(RaggedSequences, OfVotes) {
  expect_each_alone([](auto const& shape) {
    return vote_selector<float>(shape, query_heads, capacity, {.budget = {.tokens = 20, .first = 2, .last = 6}});
  });
}

TEST(RaggedSequences, OfAFlatIndex) {
  expect_each_alone(
      [](auto const& shape) {
        return retrieval_selector<>(shape, query_heads, capacity, {.first = 2, .last = 6, .tokens = 12});
      },
      [](auto&&... all) { retrieval_attention(all...); });
}

TEST(RaggedSequences, OfRecycledSteps) {
  expect_each_alone(
      [](auto const& shape) {
        return recycled_selector<float>(shape, query_heads, capacity, {.budget = {.fraction = 0.3}});
      },
      [](auto&&... all) { recycled_attention(all...); });
}

}  // namespace
}  // namespace attend
