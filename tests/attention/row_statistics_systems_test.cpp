// SPDX-License-Identifier: BSD-3-Clause
// Systems that read what rows of weights say: against their formulas, from stored weights in double.
#include <attend/attention/cached/retrieval_scores.hpp>
#include <attend/attention/softmax/attention_sorting.hpp>
#include <attend/attention/softmax/key_sums.hpp>
#include <attend/attention/softmax/lookback_lens.hpp>
#include <attend/attention/softmax/tag_map.hpp>
#include <attend/attention/sparse_prefill/seer_target.hpp>

#include "support/expect_error.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace systems;
using namespace extend;

namespace {

test::sizes const sizes{.query_heads = 4, .key_heads = 2, .value_heads = 2, .queries = 40, .keys = 100};

/// The causal weights of a problem by the definition.
std::vector<double> weights_of(test::inputs<float> const& in) {
  reference::options with;
  with.visible = reference::causal_with_offset(in.size.keys - in.size.queries);
  return reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), with).weights;
}
double weight(std::vector<double> const& p, index_t head, index_t query, index_t key) {
  return p[static_cast<std::size_t>((head * sizes.queries + query) * sizes.keys + key)];
}

/// A call of the problem with these options.
template <class... Options>
void attend_causally(test::inputs<float> const& in, Options const&... options) {
  attention_statistics(in.query.view(), in.key.view(), causal{}, options...);
}

TEST(RetrievalScores, AreSharesOfTheNeedleThatIsCopied) {
  retrieval_scores scores(4);
  std::vector<double> expected(4);
  for (unsigned sample = 0; sample < 6; ++sample) {
    auto const in = test::random_inputs<float>(sizes, sample, 2);
    // Few tokens, so that many are copied.
    std::vector<std::int64_t> prompt, generated;
    for (index_t j = 0; j < sizes.keys; ++j) prompt.push_back(j * 7 % 3);
    for (index_t t = 0; t < sizes.queries; ++t) generated.push_back(t * 5 % 3);
    key_range const needle{20 + static_cast<index_t>(sample), 60};
    auto keys = test::filled<std::int32_t, 4>({1, 4, 40, 1}, 7);
    auto largest = test::filled<float, 4>({1, 4, 40, 1}, 7);
    attend_causally(in, heaviest_keys(keys.view(), largest.view()));
    scores.add(keys.view(), prompt, generated, needle);
    auto const p = weights_of(in);
    for (index_t h = 0; h < 4; ++h) {
      std::vector<index_t> copied;
      for (index_t t = 0; t < sizes.queries; ++t) {
        index_t best = 0;
        for (index_t j = 0; j < sizes.keys; ++j)
          if (weight(p, h, t, j) > weight(p, h, t, best)) best = j;
        if (needle.contains(best) && prompt[static_cast<std::size_t>(best)] == generated[static_cast<std::size_t>(t)] &&
            std::find(copied.begin(), copied.end(), best) == copied.end())
          copied.push_back(best);
      }
      expected[static_cast<std::size_t>(h)] +=
          static_cast<double>(copied.size()) / static_cast<double>(needle.count()) / 6;
    }
  }
  EXPECT_EQ(scores.samples(), 6);
  for (index_t h = 0; h < 4; ++h) {
    EXPECT_GT(scores.score(h), 0);
    EXPECT_NEAR(scores.score(h), expected[static_cast<std::size_t>(h)], 1e-12);
  }
  // A key-value head is one if any of its query heads is.
  std::vector<std::int32_t> kinds(2, 7);
  double const between = std::nextafter(std::max(expected[0], expected[1]) + 1e-9, 1.0);
  scores.choose(kinds, between);
  EXPECT_EQ(kinds[0], 1);
  EXPECT_EQ(kinds[1], std::max(expected[2], expected[3]) >= between ? 0 : 1);
  scores.choose(kinds, 0);
  EXPECT_EQ(kinds[0], 0);
}

TEST(RetrievalScores, RefuseWhatDoesNotFit) {
  retrieval_scores scores(2);
  auto const keys = test::filled<std::int32_t, 3>({2, 3, 1}, 0);
  std::vector<std::int64_t> const prompt(9), three(3), four(4);
  test::expect_error("keys: expected steps 4 (as generated), got 3",
                     [&] { scores.add(keys.view(), prompt, four, {0, 2}); });
  test::expect_error("needle: expected keys within 9 tokens, got [4, 10]",
                     [&] { scores.add(keys.view(), prompt, three, {4, 10}); });
  test::expect_error("needle: expected keys within 9 tokens, got [4, 4]",
                     [&] { scores.add(keys.view(), prompt, three, {4, 4}); });
  std::vector<std::int32_t> streams(3);
  test::expect_error("streams: expected a divisor of 2 heads, got 3", [&] { scores.choose(streams); });
  streams.resize(1);
  test::expect_error("threshold: expected a share from 0 to 1, got 2", [&] { scores.choose(streams, 2); });
  test::expect_error("heads: expected at least 0, got -1", [] { retrieval_scores none(-1); });
  EXPECT_EQ(scores.samples(), 0);
  EXPECT_EQ(scores.score(1), 0);
}

// Documents of random keys; a model whose weights do not depend on places puts that of most weight last at once.
TEST(AttentionSorting, PutsTheDocumentOfMostWeightLast) {
  index_t const documents = 5, of_document = 20;
  test::sizes const s{.query_heads = 4, .key_heads = 2, .value_heads = 2, .queries = 1, .keys = 100};
  auto const in = test::random_inputs<float>(s, 3, 2);
  auto const p = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), {}).weights;
  std::vector<double> mass(5);
  for (std::size_t h = 0; h < 4; ++h)
    for (std::size_t j = 0; j < 100; ++j) mass[j / 20] += p[h * 100 + j] / 4;
  std::vector<index_t> expected(5);
  std::iota(expected.begin(), expected.end(), 0);
  std::sort(expected.begin(), expected.end(), [&](index_t a, index_t b) {
    return mass[static_cast<std::size_t>(a)] < mass[static_cast<std::size_t>(b)];
  });
  int calls = 0;
  auto const order = attention_sorting(documents, 4, [&](std::span<index_t const> places, document_masses& got) {
    ++calls;
    auto keys = in.key;
    std::vector<key_range> ranges;
    for (index_t place = 0; place < documents; ++place) {
      ranges.push_back({place * of_document, (place + 1) * of_document});
      for (index_t h = 0; h < 2; ++h)
        std::copy_n(&in.key.view()(0, h, places[static_cast<std::size_t>(place)] * of_document, 0), of_document * 8,
                    &keys.view()(0, h, place * of_document, 0));
    }
    auto masses = test::filled<float, 4>({1, 4, 1, 5}, 7);
    attention_statistics(in.query.view(), keys.view(), range_mass(ranges, masses.view()));
    got.add(masses.view());
    for (index_t place = 0; place < documents; ++place)
      EXPECT_NEAR(got.mean(place), mass[static_cast<std::size_t>(places[static_cast<std::size_t>(place)])], 1e-5);
  });
  EXPECT_EQ(order, expected);
  EXPECT_EQ(calls, 2);  // the second finds them in order
}

TEST(AttentionSorting, AveragesOverLayersAndKeepsEqualDocuments) {
  document_masses got(3);
  EXPECT_EQ(got.order(), (std::vector<index_t>{0, 1, 2}));
  auto first = test::filled<float, 4>({1, 2, 1, 3}, 0.25f), second = first;
  second.elements = {0.5f, 0.125f, 0.25f, 0.5f, 0.125f, 0.25f};
  got.add(first.view());
  got.add(second.view());
  EXPECT_EQ(got.mean(0), 0.375);
  EXPECT_EQ(got.order(), (std::vector<index_t>{1, 2, 0}));
  second.elements[2] = std::numeric_limits<float>::quiet_NaN();
  got.add(second.view());
  EXPECT_EQ(got.order(), (std::vector<index_t>{2, 1, 0}));
  auto const wrong = test::filled<float, 4>({1, 2, 1, 4}, 0);
  test::expect_error("masses: expected documents 3 (as document_masses), got 4", [&] { got.add(wrong.view()); });
  test::expect_error("documents: expected at least 0, got -1", [] { document_masses none(-1); });
  test::expect_error("rounds: expected at least 0, got -1",
                     [] { attention_sorting(3, -1, [](auto const&, auto const&) {}); });
}

TEST(LookbackLens, RatiosAreThoseOfTheFormula) {
  auto const in = test::random_inputs<float>(sizes, 5);
  auto const p = weights_of(in);
  // The first queries are the last tokens of the context.
  for (index_t n : {70, 60, 0}) {
    std::vector<std::int64_t> const context{n}, keys{sizes.keys};
    auto masses = test::filled<float, 4>({1, 4, 40, 2}, 7);
    auto ratios = test::filled<float, 3>({1, 4, 40}, 7);
    auto const ranges = lookback_ranges(context);
    attend_causally(in, range_mass(ranges, masses.view()));
    lookback_ratios(masses.view(), context, keys, ratios.view());
    for (index_t h = 0; h < 4; ++h)
      for (index_t i = 0; i < 40; ++i) {
        double of_context = 0, of_new = 0;
        index_t const position = 60 + i, written = std::max<index_t>(position + 1 - n, 0);
        for (index_t j = 0; j < n; ++j) of_context += weight(p, h, i, j) / static_cast<double>(n);
        for (index_t j = n; j <= position; ++j) of_new += weight(p, h, i, j) / static_cast<double>(written);
        EXPECT_NEAR(ratios.view()(0, h, i), of_context / (of_context + of_new), 1e-5);
      }
  }
  auto masses = test::filled<float, 4>({1, 4, 40, 2}, 0);
  auto ratios = test::filled<float, 3>({1, 4, 40}, 7);
  std::vector<std::int64_t> const context{3}, keys{100}, few{39}, negative{-1};
  lookback_ratios(masses.view(), context, keys, ratios.view());
  EXPECT_EQ(ratios.elements[0], 0);
  test::expect_error("keys: expected at least 40 tokens (as queries), got 39 at 0",
                     [&] { lookback_ratios(masses.view(), context, few, ratios.view()); });
  test::expect_error("context: expected at least 0 tokens, got -1 at 0",
                     [&] { lookback_ratios(masses.view(), negative, keys, ratios.view()); });
  auto const three = test::filled<float, 4>({1, 4, 40, 3}, 0);
  test::expect_error("masses: expected ranges 2 (as lookback_ranges), got 3",
                     [&] { lookback_ratios(three.view(), context, keys, ratios.view()); });
  test::expect_error("context: expected from 0 to " + std::to_string(token_limit - 1) + " tokens, got -1 at 0",
                     [&] { lookback_ranges(negative); });
}

TEST(SeerTarget, IsTheNormalizedMapOfLargestWeights) {
  auto const in = test::random_inputs<float>(sizes, 6, 2);
  auto const p = weights_of(in);
  auto maxima = test::filled<float, 4>({1, 4, 3, 7}, 7), gate = test::filled<float, 4>({1, 4, 3, 7}, 1.f / 7);
  attend_causally(in, block_maxima(maxima.view(), {.queries = 16, .keys = 16}));
  seer_target(maxima.view());
  double loss = 0;
  for (index_t h = 0; h < 4; ++h)
    for (index_t block = 0; block < 3; ++block) {
      std::vector<double> row(7);
      for (index_t i = 16 * block; i < std::min<index_t>(16 * block + 16, 40); ++i)
        for (std::size_t j = 0; j < 100; ++j)
          row[j / 16] = std::max(row[j / 16], weight(p, h, i, static_cast<index_t>(j)));
      double const sum = std::accumulate(row.begin(), row.end(), 0.0);
      for (std::size_t j = 0; j < 7; ++j) {
        EXPECT_NEAR(maxima.view()(0, h, block, static_cast<index_t>(j)), row[j] / sum, 1e-5);
        if (row[j] > 0) loss += row[j] / sum * std::log(7 * row[j] / sum) / 12;
      }
    }
  EXPECT_NEAR(seer_loss(maxima.view(), gate.view()), loss, 1e-5);
  EXPECT_NEAR(seer_loss(maxima.view(), maxima.view()), 0, 1e-12);
  std::fill(gate.elements.begin(), gate.elements.end(), 0.f);
  EXPECT_EQ(seer_loss(maxima.view(), gate.view()), infinity<double>);
  // Rows of nothing stay so, and have no part in the loss.
  seer_target(gate.view());
  EXPECT_EQ(gate.elements[0], 0);
  EXPECT_EQ(seer_loss(gate.view(), maxima.view()), 0);
  auto const other = test::filled<float, 4>({1, 4, 3, 6}, 0);
  test::expect_error("gate: expected shape [1, 4, 3, 7] (as target), got [1, 4, 3, 6]",
                     [&] { seer_loss(maxima.view(), other.view()); });
}

// Chosen words of a text give their weight to an image's tokens, and these read the image's patches.
TEST(TagMap, SpreadsWeightsOfChosenTokensOverAnImage) {
  auto const in = test::random_inputs<float>(sizes, 8);
  auto const p = weights_of(in);
  std::vector<std::int64_t> const chosen{3, 4, 20};
  key_range const image{10, 58};
  auto masses = test::filled<float, 3>({1, 4, 100}, 7);
  attention_key_mass(in.query.view(), in.key.view(), tensor_view<float, 3>(),
                     key_mass(masses.view(), query_list{chosen}), causal{});
  tensor_view<float const, 2> const of_heads(masses.elements.data(), {4, 100});
  auto const heads = tag_heads(of_heads, image, 2);
  std::vector<double> sums(4);
  for (index_t h = 0; h < 4; ++h)
    for (index_t i : chosen)
      for (index_t j = image.first; j < image.last; ++j) sums[static_cast<std::size_t>(h)] += weight(p, h, i, j);
  ASSERT_EQ(heads.size(), 2u);
  EXPECT_LT(heads[0], heads[1]);
  std::vector<double> sorted = sums;
  std::sort(sorted.rbegin(), sorted.rend());
  for (index_t const h : heads) EXPECT_GE(sums[static_cast<std::size_t>(h)], sorted[1]);
  auto weights = test::filled<float, 1>({48}, 7);
  tag_weights(of_heads, image, heads, 3, weights.view());
  for (index_t j = 0; j < 48; ++j) {
    double expected = 0;
    for (index_t const h : heads)
      for (index_t i : chosen) expected += weight(p, h, i, 10 + j) / 6;
    EXPECT_NEAR(weights.view()(j), expected, 1e-6);
  }

  test::sizes const cross{.query_heads = 2, .key_heads = 2, .value_heads = 2, .queries = 48, .keys = 81};
  auto const patches = test::random_inputs<float>(cross, 9);
  auto map = test::filled<float, 4>({1, 1, 81, 1}, 7);
  // The same rows for both heads, whose sum is twice their mean.
  tensor_view<float const, 4> const rows(weights.elements.data(), {1, 2, 48, 1}, {0, 0, 1, 1});
  transposed_attention(patches.query.view(), patches.key.view(), tensor_view<float, 3>(), rows, map.view());
  auto const c =
      reference::softmax_attention<float>(patches.query.view(), patches.key.view(), patches.value.view(), {}).weights;
  double total = 0;
  for (std::size_t j = 0; j < 81; ++j) {
    double expected = 0;
    for (std::size_t h = 0; h < 2; ++h)
      for (std::size_t v = 0; v < 48; ++v)
        expected += static_cast<double>(weights.elements[v]) * c[(h * 48 + v) * 81 + j] / 2;
    EXPECT_NEAR(map.elements[j] / 2, expected, 1e-6);
    total += expected;
  }
  // What is spread is what was given.
  EXPECT_NEAR(total, std::accumulate(weights.elements.begin(), weights.elements.end(), 0.0), 1e-6);

  test::expect_error("image: expected keys within 100, got [90, 101]", [&] { tag_heads(of_heads, {90, 101}, 2); });
  test::expect_error("count: expected at least 0 heads, got -1", [&] { tag_heads(of_heads, image, -1); });
  test::expect_error("weights: expected tokens 47 (as image), got 48",
                     [&] { tag_weights(of_heads, {10, 57}, heads, 3, weights.view()); });
  test::expect_error("heads: expected at least 1 head, got none",
                     [&] { tag_weights(of_heads, image, std::span<index_t const>(), 3, weights.view()); });
  std::vector<index_t> const wrong{4};
  test::expect_error("heads: expected heads below 4, got 4",
                     [&] { tag_weights(of_heads, image, wrong, 3, weights.view()); });
  test::expect_error("tokens: expected at least 1, got 0",
                     [&] { tag_weights(of_heads, image, heads, 0, weights.view()); });
}

}  // namespace
}  // namespace attend
