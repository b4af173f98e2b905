// SPDX-License-Identifier: BSD-3-Clause
// Ltri-LLM: a stream in chunks against the same in double, choice by choice; causal attention at a budget of all
// tokens; what truncating leaves; same bits, allocations, wrong input.
#include <attend/attention/sparse_decode/ltri_attention.hpp>
#include <set>

#include "support/cached_tokens.hpp"
#include "support/count_allocations.hpp"

namespace attend {
using namespace options;
using namespace selection;
using namespace systems;
using namespace caches;
using namespace extend;

namespace {

using test::expect_error;
using test::shape_of;
using test::sizes;

/// Keys and queries drift, so that neighbours are alike and there are spans to be found.
template <class T>
test::inputs<T> drifting_inputs(sizes const& s, unsigned seed) {
  auto in = test::random_inputs<T>(s, seed, 0.7);
  auto const topics = test::normal<float, 4>({s.batches, s.key_heads, s.keys / 9 + 1, s.key_dimension}, seed + 5);
  for (index_t b = 0; b < s.batches; ++b)
    for (index_t h = 0; h < s.query_heads; ++h)
      for (index_t t = 0; t < s.keys; ++t)
        for (index_t c = 0; c < s.key_dimension; ++c) {
          float const topic = topics.view()(b, h * s.key_heads / s.query_heads, t / 9, c);
          T& x = in.query.view()(b, h, t, c);
          x = static_cast<T>(static_cast<float>(x) + topic);
          if (h < s.key_heads) {
            T& k = in.key.view()(b, h, t, c);
            k = static_cast<T>(static_cast<float>(k) + topics.view()(b, h, t / 9, c));
          }
        }
  return in;
}

/// The stream of one sequence in double.
struct stream {
  test::inputs<double> const& in;
  index_t batch;
  span_selector_options choice;
  std::vector<double> head_weights;

  struct place {
    token_span tokens;
    std::vector<index_t> vectors;
    double vote = 0;
  };
  std::vector<place> spans;
  std::vector<std::vector<double>> rows;  // of the block that is not full yet

  double logit(index_t head, double const* query, index_t key) const {
    double sum = 0;
    for (index_t c = 0; c < in.size.key_dimension; ++c)
      sum += query[c] * in.key.view()(batch, head * in.size.key_heads / in.size.query_heads, key, c);
    return sum / std::sqrt(static_cast<double>(in.size.key_dimension));
  }

  /// The tokens that the queries [first, last) see, but for what is behind each.
  std::set<index_t> choose(index_t first, index_t last) {
    std::vector<double> votes(spans.size(), 0.0);
    for (index_t head = 0; head < in.size.query_heads; ++head) {
      std::vector<double> mean(static_cast<std::size_t>(in.size.key_dimension), 0.0), score;
      for (index_t i = first; i < last; ++i)
        for (std::size_t c = 0; c < mean.size(); ++c)
          mean[c] += in.query.view()(batch, head, i, static_cast<index_t>(c)) / static_cast<double>(last - first);
      double all = 0;
      for (place const& one : spans) {
        double most = -1e300;
        for (index_t key : one.vectors) most = std::max(most, logit(head, mean.data(), key));
        score.push_back(std::exp(most));
        all += score.back();
      }
      for (std::size_t i = 0; i < spans.size(); ++i)
        votes[i] += head_weights[static_cast<std::size_t>(head)] * score[i] / all;
    }
    index_t const sinks = std::min(choice.budget.first, last);
    index_t const divided = spans.empty() ? 0 : spans.back().tokens.last;
    index_t const local = std::max(std::min(first + 1 - choice.budget.last, divided), sinks);
    std::vector<std::size_t> order;
    for (std::size_t i = 0; i < spans.size(); ++i) {
      spans[i].vote *= choice.persistence;
      votes[i] = std::max(votes[i], spans[i].vote);
      if (spans[i].tokens.first < local && spans[i].tokens.last > sinks) order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return votes[a] > votes[b]; });
    std::set<index_t> seen;
    for (index_t t = 0; t < last; ++t)
      if (t < sinks || t >= local) seen.insert(t);
    auto const most = static_cast<std::size_t>(std::min(choice.budget.tokens + (last - first) - 1, last));
    for (std::size_t i : order) {
      std::set<index_t> with = seen;
      for (index_t t = spans[i].tokens.first; t < spans[i].tokens.last; ++t) with.insert(t);
      if (with.size() > most) break;
      seen = with;
      spans[i].vote = votes[i];
    }
    return seen;
  }

  /// The output of query i, [head][dimension], whose weights become a row of the block's map.
  std::vector<double> attend(index_t i, std::set<index_t> const& seen) {
    index_t const block = i / choice.block_tokens * choice.block_tokens, values = in.size.value_dimension;
    std::vector<double> output, row(static_cast<std::size_t>(i - block + 1), 0.0);
    for (index_t head = 0; head < in.size.query_heads; ++head) {
      double all = 0;
      std::vector<double> sum(static_cast<std::size_t>(values), 0.0);
      std::vector<std::pair<index_t, double>> weights;
      for (index_t key : seen) {
        if (key > i) continue;
        weights.emplace_back(key, std::exp(logit(head, &in.query.view()(batch, head, i, 0), key)));
        all += weights.back().second;
      }
      for (auto const& [key, weight] : weights) {
        for (index_t c = 0; c < values; ++c)
          sum[static_cast<std::size_t>(c)] +=
              weight / all * in.value.view()(batch, head * in.size.value_heads / in.size.query_heads, key, c);
        if (key >= block)
          row[static_cast<std::size_t>(key - block)] += weight / all / static_cast<double>(in.size.query_heads);
      }
      output.insert(output.end(), sum.begin(), sum.end());
    }
    rows.push_back(row);
    if (static_cast<index_t>(rows.size()) == choice.block_tokens) divide(block);
    return output;
  }

  void divide(index_t block) {
    index_t const n = choice.block_tokens;
    std::vector<float> map(static_cast<std::size_t>(n * n), 0.f);
    for (index_t i = 0; i < n; ++i)
      for (index_t j = 0; j <= i; ++j)
        map[static_cast<std::size_t>(i * n + j)] =
            static_cast<float>(rows[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)]);
    std::vector<token_span> found(static_cast<std::size_t>(choice.triangles.most_spans(n)));
    found.resize(static_cast<std::size_t>(triangle_spans({map.data(), {n, n}}, choice.triangles, found)));
    for (std::size_t s = 0; s < found.size(); ++s) {
      token_span const own = found[s], voters = s + 1 < found.size() ? found[s + 1] : own;
      std::vector<std::pair<double, index_t>> votes;
      for (index_t j = own.first; j < own.last; ++j) {
        double sum = 0;
        for (index_t i = std::max(voters.first, j); i < voters.last; ++i)
          sum += rows[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)];
        votes.emplace_back(-sum, j);
      }
      std::sort(votes.begin(), votes.end());
      double const most = static_cast<double>(choice.most_vectors);
      votes.resize(std::min(votes.size(), static_cast<std::size_t>(std::lround(
                                              1 + (1 - static_cast<double>(own.confidence)) * (most - 1)))));
      place one{{block + own.first, block + own.last, own.confidence}, {}};
      for (auto const& vote : votes) one.vectors.push_back(block + vote.second);
      std::sort(one.vectors.begin(), one.vectors.end());
      spans.push_back(one);
    }
    rows.clear();
  }
};

sizes const size{2, 6, 2, 2, 150, 150, 12, 10};
span_selector_options const small{.budget = {.tokens = 48, .first = 3, .last = 11},
                                  .triangles = {.threshold = 1.0 / 8, .shortest = 3, .longest = 12},
                                  .block_tokens = 24,
                                  .most_vectors = 3};

/// Chunks of all lengths, single tokens among them.
index_t chunk_at(index_t first) {
  return std::array<index_t, 6>{17, 1, 30, 1, 1, 5}[static_cast<std::size_t>(first % 6)];
}

template <class T>
void expect_stream(span_selector_options choice, unsigned seed) {
  contiguous_cache<T> cache(shape_of(size), size.keys);
  auto const in = drifting_inputs<T>(size, seed);
  test::inputs<double> const exact = test::as_stored<T, T>(in);
  std::vector<float> const weights{1, 2, 0.5f, 1, 0, 3};
  choice.head_weights = weights;
  span_selector<T> selector(shape_of(size), size.query_heads, size.keys, choice);
  std::vector<stream> streams;
  for (index_t b = 0; b < size.batches; ++b) streams.push_back({exact, b, choice, {1, 2, 0.5, 1, 0, 3}, {}, {}});
  auto output = test::filled<T, 4>({size.batches, size.query_heads, size.queries, size.value_dimension}, T(7));
  double const allowed = test::tolerance<T>(test::largest_magnitude(exact.value.elements));
  index_t left_out = 0;
  for (index_t first = 0, count; first < size.keys; first += count) {
    count = std::min(chunk_at(first), size.keys - first);
    auto const part = [&](auto& all) { return test::tokens_of(all, first, count); };
    ltri_attention(cache, selector, part(in.query), part(in.key), part(in.value), part(output), 100);
    for (index_t b = 0; b < size.batches; ++b) {
      stream& one = streams[static_cast<std::size_t>(b)];
      auto const seen = one.choose(first, first + count);
      auto const list = selector.lists()(b, 0);
      ASSERT_EQ(std::vector<index_t>(list.begin(), list.end()), std::vector<index_t>(seen.begin(), seen.end()))
          << "sequence " << b << " from " << first;
      left_out += first + count - static_cast<index_t>(seen.size());
      for (index_t i = first; i < first + count; ++i) {
        auto const expected = one.attend(i, seen);
        std::vector<T> got;
        for (index_t h = 0; h < size.query_heads; ++h)
          for (index_t c = 0; c < size.value_dimension; ++c) got.push_back(output.view()(b, h, i, c));
        ASSERT_TRUE(test::near(got, expected, allowed)) << "sequence " << b << ", token " << i;
      }
      ASSERT_EQ(selector.spans(b), static_cast<index_t>(one.spans.size()));
      for (index_t s = 0; s < selector.spans(b); ++s) {
        auto const& expected = one.spans[static_cast<std::size_t>(s)];
        EXPECT_EQ(selector.span(b, s).first, expected.tokens.first);
        EXPECT_EQ(selector.span(b, s).last, expected.tokens.last);
        EXPECT_NEAR(selector.span(b, s).confidence, expected.tokens.confidence, 1e-5);
        auto const vectors = selector.vectors(b, s);
        EXPECT_EQ(std::vector<index_t>(vectors.begin(), vectors.end()), expected.vectors);
      }
    }
  }
  EXPECT_GT(left_out, 100) << "little was chosen from much";
}

TEST(LtriAttention, IsTheStreamInDouble) {
  expect_stream<float>(small, 1);
  auto options = small;
  options.persistence = 0;
  options.triangles.score = triangle_score::mean;
  expect_stream<float>(options, 2);
  options.persistence = 1;
  options.budget = {.tokens = 70};
  expect_stream<float>(options, 3);
}

TEST(LtriAttention, ReadsStoredKeys) { expect_stream<bfloat16>(small, 4); }

TEST(LtriAttention, OfAllTokensIsCausal) {
  auto const in = drifting_inputs<float>(size, 5);
  auto options = small;
  options.budget = {.tokens = size.keys};
  contiguous_cache<float> cache(shape_of(size), size.keys), whole(shape_of(size), size.keys);
  span_selector<float> selector(shape_of(size), size.query_heads, size.keys, options);
  auto output = test::filled<float, 4>({2, 6, 150, 10}, 7), expected = output;
  ltri_attention(cache, selector, in.query.view(), in.key.view(), in.value.view(), output.view(), 20);
  cached_attention(whole, in.query.view(), in.key.view(), in.value.view(), expected.view());
  EXPECT_TRUE(test::near(output.elements, expected.elements,
                         test::tolerance<float>(test::largest_magnitude(in.value.elements))));
}

TEST(LtriAttention, HasTheSameBitsForAnyThreads) {
  auto const in = drifting_inputs<float>(size, 6);
  std::vector<test::tensor<float, 4>> all;
  for (int const count : {1, 3}) {
    contiguous_cache<float> cache(shape_of(size), size.keys);
    span_selector<float> selector(shape_of(size), size.query_heads, size.keys, small);
    all.push_back(test::filled<float, 4>({2, 6, 150, 10}, 7));
    ltri_attention(cache, selector, in.query.view(), in.key.view(), in.value.view(), all.back().view(), 20,
                   threads{count});
  }
  EXPECT_TRUE(test::same_bits(all[0].elements, all[1].elements));
}

// Cut back within the block that is not full: the rest is as if nothing had been there. Cut back further, its tokens
// stay in spans once they are observed again.
TEST(LtriAttention, ForgetsWhatIsTruncated) {
  auto const in = drifting_inputs<float>(size, 7), other = drifting_inputs<float>(size, 8);
  contiguous_cache<float> cache(shape_of(size), size.keys), fresh(shape_of(size), size.keys);
  span_selector<float> selector(shape_of(size), 6, size.keys, small), anew(shape_of(size), 6, size.keys, small);
  auto output = test::filled<float, 4>({2, 6, 150, 10}, 7), expected = output;
  auto const stream = [&](auto& to, auto& chooser, test::inputs<float> const& from, index_t first, index_t count,
                          test::tensor<float, 4>& o) {
    ltri_attention(to, chooser, test::tokens_of(from.query, first, count), test::tokens_of(from.key, first, count),
                   test::tokens_of(from.value, first, count), test::tokens_of(o, first, count), 150);
  };
  stream(cache, selector, in, 0, 100, output);
  stream(fresh, anew, in, 0, 100, expected);
  stream(cache, selector, other, 100, 15, output);
  for (index_t b = 0; b < 2; ++b) {
    cache.truncate(b, 100);
    selector.truncate(b, 100);
    EXPECT_EQ(selector.spans(b), anew.spans(b));
  }
  stream(cache, selector, in, 100, 40, output);
  stream(fresh, anew, in, 100, 40, expected);
  EXPECT_TRUE(test::same_bits(output.elements, expected.elements));
  for (index_t b = 0; b < 2; ++b) {
    cache.truncate(b, 60);
    selector.truncate(b, 60);
    EXPECT_EQ(selector.span(b, selector.spans(b) - 1).last, 48);
  }
  stream(cache, selector, in, 60, 20, output);
  for (index_t b = 0; b < 2; ++b) EXPECT_EQ(selector.span(b, selector.spans(b) - 1).last, 72);
}

// A map that the caller has instead.
TEST(LtriAttention, TakesMapsOfBlocks) {
  auto const in = drifting_inputs<float>(size, 9);
  contiguous_cache<float> cache(shape_of(size), size.keys);
  cache.append(test::tokens_of(in.key, 0, 50), test::tokens_of(in.value, 0, 50));
  auto options = small;
  options.triangles.threshold = 1 / 8.5;  // spans of 8 tokens are best
  span_selector<float> selector(shape_of(size), 6, size.keys, options);
  std::vector<float> map(24 * 24, 0.f);
  for (std::size_t i = 0; i < 24; ++i)
    for (std::size_t j = i / 8 * 8; j <= i; ++j) map[i * 24 + j] = 1 / static_cast<float>(i % 8 + 1);
  map[9 * 24 + 5] = 0.05f;
  tensor_view<float const, 2> const weights(map.data(), {24, 24});
  selector.add_block(1, weights, cache);
  EXPECT_EQ(selector.observed(1), 24);
  EXPECT_EQ(selector.observed(0), 0);
  ASSERT_EQ(selector.spans(1), 3);
  EXPECT_EQ(selector.span(1, 1).first, 8);
  ASSERT_EQ(selector.vectors(1, 0).size(), 1u);
  EXPECT_EQ(selector.vectors(1, 0)[0], 5) << "the token that the next span looks at";
  EXPECT_EQ(selector.bytes_scored(), 2 * 3 * 16 * 4) << "a vector of each span for each head, rounded up";
  selector.add_block(1, weights, cache);
  expect_error("weights: expected a whole block behind 48 tokens of 50",
               [&] { selector.add_block(1, weights, cache); });
}

TEST(LtriAttention, AllocatesNothingOnceWarm) {
  auto const in = drifting_inputs<float>(size, 10);
  contiguous_cache<float> cache(shape_of(size), size.keys);
  span_selector<float> selector(shape_of(size), size.query_heads, size.keys, small);
  auto output = test::filled<float, 4>({2, 6, 150, 10}, 7);
  index_t first = 0;
  auto const step = [&] {
    ltri_attention(cache, selector, test::tokens_of(in.query, first, 50), test::tokens_of(in.key, first, 50),
                   test::tokens_of(in.value, first, 50), test::tokens_of(output, first, 50), 7);
    first += 50;
  };
  step();
  EXPECT_EQ(test::allocations_of_two(step).second, 0);
}

TEST(LtriAttention, SaysWhatIsWrong) {
  auto const make = [](span_selector_options const& choice) { span_selector<float>(shape_of(size), 6, 100, choice); };
  std::vector<float> const two{1, 2}, low{1, 1, 1, -1, 1, 1};
  expect_error("choice: expected blocks of at least 128 tokens (the longest span), got 100",
               [&] { make({.block_tokens = 100}); });
  expect_error("choice: expected at least 1 vector of a span, got 0", [&] { make({.most_vectors = 0}); });
  expect_error("choice: expected a persistence from 0 to 1, got 1.5", [&] { make({.persistence = 1.5}); });
  expect_error("head_weights: expected numbers 6 (as query heads), got 2", [&] { make({.head_weights = two}); });
  expect_error("head_weights: expected numbers of at least 0, got -1", [&] { make({.head_weights = low}); });
  expect_error("triangles: expected lengths that ascend from 1, got 0 and 128",
               [&] { make({.triangles = {.shortest = 0}}); });
  expect_error("budget: expected at least 0 tokens, got -1", [&] { make({.budget = {.tokens = -1}}); });

  auto const in = drifting_inputs<float>(size, 11);
  contiguous_cache<float> cache(shape_of(size), 120);
  span_selector<float> selector(shape_of(size), 6, 100, small), heads(shape_of(size), 4, 100, small);
  auto output = test::filled<float, 4>({2, 6, 150, 10}, 7);
  auto const before = output.elements;
  auto const call = [&](auto& chooser, index_t count, index_t chunk) {
    ltri_attention(cache, chooser, test::tokens_of(in.query, 0, count), test::tokens_of(in.key, 0, count),
                   test::tokens_of(in.value, 0, count), test::tokens_of(output, 0, count), chunk);
  };
  expect_error("chunk: expected at least 1 token, got 0", [&] { call(selector, 10, 0); });
  expect_error("query: expected heads 4 (as the selector), got 6", [&] { call(heads, 10, 5); });
  expect_error("query: expected at most 100 tokens (the selector's capacity), got 110",
               [&] { call(selector, 110, 5); });
  EXPECT_EQ(cache.size(0), 0);
  EXPECT_EQ(output.elements, before);
  cache.append(test::tokens_of(in.key, 0, 3), test::tokens_of(in.value, 0, 3));
  expect_error("cache: expected 0 tokens (sequence 0, of which 0 were observed), got 3",
               [&] { call(selector, 10, 5); });
  expect_error("size: expected from 0 to 0 (the tokens observed), got 3", [&] { selector.truncate(0, 3); });
}

}  // namespace
}  // namespace attend
