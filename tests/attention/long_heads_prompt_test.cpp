// SPDX-License-Identifier: BSD-3-Clause
// LongHeads for prompts against its definition in double, and decoding over keys that are rotated in their chunks.
#include <attend/attention/sparse_decode/long_heads_attention.hpp>
#include <attend/attention/sparse_prefill/long_heads_prompt_attention.hpp>
#include <attend/reference/chunk_representatives.hpp>

#include "support/count_allocations.hpp"
#include "support/selection.hpp"

namespace attend {
using namespace options;
using namespace caches;
using namespace systems;

namespace {

using test::expect_error;
using test::shape_of;
using test::sizes;
using row = reference::number_row;

rotary const turn{rotary_frequencies(16)};

row rotated(row x, index_t position) {
  std::size_t const pairs = x.size() / 2;
  for (std::size_t i = 0; i < pairs; ++i) {
    double const angle =
        static_cast<double>(position) * std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(pairs));
    double const a = x[i], b = x[pairs + i];
    x[i] = a * std::cos(angle) - b * std::sin(angle);
    x[pairs + i] = b * std::cos(angle) + a * std::sin(angle);
  }
  return x;
}

/// The prompt's outputs by the paper: each query gathers its chunks, and positions begin at 0.
template <class T>
std::vector<double> by_definition(test::inputs<T> const& in, index_t chunks, index_t chunk) {
  sizes const& s = in.size;
  auto const at = [](auto const& tensor, index_t b, index_t h, index_t t) {
    auto const* const from = &tensor.view()(b, h, t, 0);
    return row(from, from + tensor.view().extent(3));
  };
  auto const dimension = static_cast<std::size_t>(s.value_dimension);
  std::vector<double> output;
  for (index_t b = 0; b < s.batches; ++b)
    for (index_t h = 0; h < s.query_heads; ++h) {
      index_t const kh = h / (s.query_heads / s.key_heads);
      std::vector<row> representative;
      for (index_t c = 0; (c + 1) * chunk <= s.keys; ++c) {
        std::vector<row> q, k, v;
        for (index_t t = c * chunk; t < (c + 1) * chunk; ++t) {
          q.push_back(at(in.query, b, h, t));
          k.push_back(at(in.key, b, kh, t));
          v.push_back(at(in.value, b, kh, t));
        }
        representative.push_back(reference::chunk_representative(q, k, v, true));
      }
      for (index_t t = 0; t < s.keys; ++t) {
        row const query = at(in.query, b, h, t);
        index_t const own = t / chunk;
        std::vector<std::pair<double, index_t>> others;
        for (index_t c = 1; c + 1 < own; ++c)
          others.emplace_back(-reference::dot_product(query, representative[static_cast<std::size_t>(c)]), c);
        std::sort(others.begin(), others.end());
        others.resize(std::min(others.size(), static_cast<std::size_t>(chunks - 3)));
        std::vector<index_t> list;
        for (index_t c = 0; c <= own; ++c)
          if (c == 0 || c + 1 >= own ||
              std::any_of(others.begin(), others.end(), [c](auto& x) { return x.second == c; }))
            list.push_back(c);
        index_t const last = static_cast<index_t>(list.size() - 1) * chunk + t % chunk;
        row const turned = rotated(query, last);
        std::vector<double> weight;
        row sum(dimension, 0.0);
        double all = 0;
        for (index_t place = 0; place <= last; ++place) {
          index_t const token = list[static_cast<std::size_t>(place / chunk)] * chunk + place % chunk;
          double const w = std::exp(reference::dot_product(turned, rotated(at(in.key, b, kh, token), place)) /
                                    std::sqrt(static_cast<double>(s.key_dimension)));
          all += w;
          row const value = at(in.value, b, kh, token);
          for (std::size_t c = 0; c < dimension; ++c) sum[c] += w * value[c];
        }
        for (double const x : sum) output.push_back(x / all);
      }
    }
  return output;
}

template <class T>
test::inputs<double> in_double(test::inputs<T> const& in) {
  return test::as_stored<T, T>(in);
}

sizes const prompt{2, 4, 2, 2, 75, 75, 16, 16};
constexpr index_t chunk = 8, chunks = 5;

template <class T, class... Options>
std::vector<T> run(test::inputs<T> const& in, long_heads_selector<float>& selector, Options const&... options) {
  sizes const& s = in.size;
  auto output = test::filled<T, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, T(7));
  long_heads_prompt_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), selector, turn,
                              options...);
  return output.elements;
}

TEST(LongHeadsPrompt, IsItsDefinition) {
  for (index_t keys : {75, 130, 8, 1}) {
    sizes s = prompt;
    s.queries = s.keys = keys;
    auto const in = test::random_inputs<float>(s, 1);
    long_heads_selector<float> selector(shape_of(s), 4, 200, chunks, chunk);
    EXPECT_TRUE(test::near(run(in, selector), by_definition(in_double(in), chunks, chunk),
                           test::tolerance<float>(test::largest_magnitude(in.value.elements))))
        << keys;
    for (index_t b : {0, 1}) EXPECT_EQ(selector.represented(b), keys / chunk);
  }
}

// Rows and keys are rounded once they are rotated: a logit changes by 2 u sum |q k| / 4 at most, an output by twice
// that share of the largest value.
TEST(LongHeadsPrompt, OfBfloat16RoundsRotatedRows) {
  auto const in = test::random_inputs<bfloat16>(prompt, 2);
  long_heads_selector<float> selector(shape_of(prompt), 4, 75, 10, chunk);  // all chunks: the choice is certain
  double const largest = test::largest_magnitude(in.value.elements);
  double const logit = 2 * test::unit_roundoff<bfloat16>() * 16 * test::largest_magnitude(in.query.elements) *
                       test::largest_magnitude(in.key.elements) / 4;
  EXPECT_TRUE(test::near(run(in, selector), by_definition(in_double(in), 10, chunk),
                         test::tolerance<bfloat16>(largest) + 2 * logit * largest));
}

TEST(LongHeadsPrompt, OfTheModelsLengthIsCausalAttention) {
  sizes s = prompt;
  s.queries = s.keys = 40;
  auto const in = test::random_inputs<float>(s, 3);
  long_heads_selector<float> selector(shape_of(s), 4, 40, chunks, chunk);
  auto sums = test::filled<float, 3>({2, 4, 40}, 7), expected_sums = sums;
  auto const got = run(in, selector, log_sum_exp(sums.view()), scale(0.3));
  auto expected = test::filled<float, 4>({2, 4, 40, 16}, 7);
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), expected.view(), causal{}, turn, scale(0.3),
                    log_sum_exp(expected_sums.view()));
  EXPECT_TRUE(test::near(got, expected.elements, test::tolerance<float>(test::largest_magnitude(in.value.elements))));
  EXPECT_TRUE(test::near(sums.elements, expected_sums.elements, test::tolerance<float>(10)));
}

// The last query of a prompt, and the same query as a step over a cache whose keys are rotated in their chunks.
template <class S>
void expect_step(index_t keys, double tolerance) {
  sizes s = prompt;
  s.queries = s.keys = keys;
  auto const in = test::random_inputs<float>(s, 4);
  long_heads_selector<float> selector(shape_of(s), 4, 200, chunks, chunk);
  auto const all = run(in, selector);
  auto key = in.key;
  std::vector<std::int64_t> places;
  for (index_t t = 0; t < keys; ++t) places.push_back(t % chunk);
  rotary_embedding(in.key.view(), turn, key.view(), tensor_view(places.data(), {keys}));
  contiguous_cache<S> cache(shape_of(s), keys);
  cache.append(key.view(), in.value.view());
  selector.update(cache);
  auto const q = in.query.view();
  tensor_view<float const, 4> const last(&q(0, 0, keys - 1, 0), {2, 4, 1, 16}, q.strides());
  auto output = test::filled<float, 4>({2, 4, 1, 16}, 7), threaded = output;
  long_heads_attention(last, cache, selector, output.view(), turn);
  std::vector<float> expected;
  for (index_t row_of = 0; row_of < 8; ++row_of)
    expected.insert(expected.end(), &all[static_cast<std::size_t>(((row_of + 1) * keys - 1) * 16)],
                    &all[static_cast<std::size_t>(((row_of + 1) * keys - 1) * 16)] + 16);
  EXPECT_TRUE(test::near(output.elements, expected, tolerance)) << keys;
  long_heads_attention(last, cache, selector, threaded.view(), turn, threads{3});
  EXPECT_TRUE(test::same_bits(output.elements, threaded.elements));
}

TEST(LongHeadsStep, IsThePromptsLastQuery) {
  for (index_t keys : {75, 72, 130, 17, 1}) expect_step<float>(keys, test::tolerance<float>(5));
  expect_step<bfloat16>(75, 0.2);  // keys and values of 8 bits
}

// Over keys that are not rotated, selected_attention gives the same.
TEST(LongHeadsStep, IsTheStepThatRotatesKeys) {
  auto const in = test::random_inputs<float>(prompt, 5);
  long_heads_selector<float> selector(shape_of(prompt), 4, 75, chunks, chunk);
  run(in, selector);
  auto const cache = test::filled_cache<float>(in);
  auto key = in.key;
  std::vector<std::int64_t> places;
  for (index_t t = 0; t < 75; ++t) places.push_back(t % chunk);
  rotary_embedding(in.key.view(), turn, key.view(), tensor_view(places.data(), {index_t{75}}));
  contiguous_cache<float> in_chunks(shape_of(prompt), 75);
  in_chunks.append(key.view(), in.value.view());
  selector.update(cache);
  auto const query = test::normal<float, 4>({2, 4, 1, 16}, 6);
  auto output = test::filled<float, 4>({2, 4, 1, 16}, 7), expected = output;
  auto const step = [&] { long_heads_attention(query.view(), in_chunks, selector, output.view(), turn, scale(0.2)); };
  selected_attention(query.view(), cache, selector, expected.view(), turn, scale(0.2));
  step();
  EXPECT_TRUE(test::near(output.elements, expected.elements, test::tolerance<float>(5)));
  EXPECT_EQ(test::allocations_of_two(step).second, 0);
}

TEST(LongHeadsPrompt, GivesTheSameBitsForAnyThreads) {
  sizes s = prompt;
  s.queries = s.keys = 700;
  auto const in = test::random_inputs<float>(s, 7);
  long_heads_selector<float> one(shape_of(s), 4, 700, chunks, chunk), three(shape_of(s), 4, 700, chunks, chunk);
  EXPECT_TRUE(test::same_bits(run(in, one), run(in, three, threads{3})));
}

TEST(LongHeadsPrompt, SaysWhatIsWrong) {
  auto const in = test::random_inputs<float>(prompt, 8);
  long_heads_selector<float> selector(shape_of(prompt), 4, 75, chunks, chunk);
  long_heads_selector<float> small(shape_of(prompt), 4, 74, chunks, chunk);
  expect_error("query: expected at most 74 tokens (the capacity), got 75", [&] { run(in, small); });
  long_heads_selector<float> heads({2, 1, 16, 16}, 4, 75, chunks, chunk);
  expect_error("key: expected heads 1 (as the selector), got 2", [&] { run(in, heads); });
  auto output = test::filled<float, 4>({2, 4, 75, 16}, 7);
  auto const q = in.query.view();
  expect_error("query: expected tokens 75 (as key), got 74", [&] {
    long_heads_prompt_attention(tensor_view<float const, 4>(q.data(), {2, 4, 74, 16}, q.strides()), in.key.view(),
                                in.value.view(), tensor_view<float, 4>(output.view().data(), {2, 4, 74, 16}), selector,
                                turn);
  });
  expect_error("rotary: expected no positions of its own, since places in chunks are used, got some", [&] {
    long_heads_prompt_attention(q, in.key.view(), in.value.view(), output.view(), selector,
                                turn.at(token_positions(1)));
  });
  expect_error("rotary: expected at most 16 channels (the head dimension), got 18", [&] {
    long_heads_prompt_attention(q, in.key.view(), in.value.view(), output.view(), selector,
                                rotary(rotary_frequencies(18)));
  });
  for (float x : output.elements) EXPECT_EQ(x, 7);
  run(in, selector);
  expect_error("selector: expected chunks 0 (as before a prompt), got 9", [&] { run(in, selector); });
  auto const cache = test::filled_cache<float>(in);
  selector.update(cache);
  auto const two = test::normal<float, 4>({2, 4, 2, 16}, 9), one = test::normal<float, 4>({2, 4, 1, 16}, 9);
  auto of_two = test::filled<float, 4>({2, 4, 2, 16}, 7), of_one = test::filled<float, 4>({2, 4, 1, 16}, 7);
  expect_error("query: expected tokens 1 (as a decoding step), got 2",
               [&] { long_heads_attention(two.view(), cache, selector, of_two.view(), turn); });
  expect_error("rotary: expected no positions of its own, since places in chunks are used, got some",
               [&] { long_heads_attention(one.view(), cache, selector, of_one.view(), turn.at(token_positions(1))); });
}

}  // namespace
}  // namespace attend
