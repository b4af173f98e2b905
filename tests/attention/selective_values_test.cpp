// SPDX-License-Identifier: BSD-3-Clause
// Selective loading of values: the keys of largest weight, with their weights among all keys, against the definition;
// bytes; wrong input.
#include <attend/attention/sparse_decode/selective_values.hpp>
#include <attend/cache/contiguous.hpp>

#include <utility>

#include "support/expect_error.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace caches;
using namespace extend;
using namespace options;
using namespace selection;
using namespace systems;

namespace {

using test::expect_error;

struct heads {
  index_t query, key, value, both;
};

cache_shape shape_of(test::sizes const& s, heads const& count) {
  return {.sequences = s.batches,
          .key_value_heads = count.both,
          .key_dimension = s.key_dimension,
          .value_dimension = s.value_dimension,
          .key_heads = count.key,
          .value_heads = count.value};
}

/// Lists that are those of the largest weights up to the error of a weight, and the sum of weights and values over
/// them.
template <class T>
void expect_selected(heads const& count, index_t keys, index_t key_dimension, index_t value_dimension, index_t tokens,
                     unsigned seed) {
  SCOPED_TRACE(testing::Message() << count.query << ' ' << count.key << ' ' << count.value << ' ' << keys << ' '
                                  << tokens);
  using A = accumulation_t<T>;
  test::sizes const s{2, count.query, count.key, count.value, 1, keys, key_dimension, value_dimension};
  auto const in = test::random_inputs<T>(s, seed, 1.5);
  contiguous_cache<T> cache(shape_of(s, count), keys);
  cache.append(in.key.view(), in.value.view());
  largest_weights<A> selector(shape_of(s, count), count.query, keys, tokens);
  auto out = test::filled<T, 4>({2, count.query, 1, value_dimension}, T(7));
  A const factor = A(0.3);
  selective_value_attention(in.query.view(), cache, selector, out.view(), scale(factor), threads{2});

  reference::options with;
  with.scale = static_cast<double>(factor);
  auto const expected = reference::softmax_attention<T>(in.query.view(), in.key.view(), in.value.view(), with);
  // A logit is a float sum of terms whose magnitudes add up to a few tens here; so a weight has an error of 1e-4 of
  // itself at most.
  double const weight_error = 1e-4;
  std::vector<double> sums;
  for (index_t row = 0; row < 2 * count.query; ++row) {
    double const* const weight = expected.weights.data() + row * keys;
    auto const list = selector.lists()(row / count.query, row % count.query);
    ASSERT_EQ(list.size(), static_cast<std::size_t>(std::min(tokens, keys)));
    double least = 1, most = 0;
    for (index_t j = 0; j < keys; ++j) {
      bool const is_chosen = std::binary_search(list.begin(), list.end(), static_cast<std::int32_t>(j));
      (is_chosen ? least : most) = is_chosen ? std::min(least, weight[j]) : std::max(most, weight[j]);
    }
    if (!list.empty()) {
      EXPECT_GE(least * (1 + weight_error), most) << "row " << row;
    }
    double share = 0;
    for (std::int32_t const j : list) share += weight[j];
    EXPECT_NEAR(static_cast<double>(selector.shares()(row / count.query, row % count.query)), share, weight_error);
    index_t const head = row % count.query / (count.query / count.value);
    for (index_t c = 0; c < value_dimension; ++c) {
      double sum = 0;
      for (std::int32_t const j : list)
        sum += weight[j] * static_cast<double>(in.value.view()(row / count.query, head, j, c));
      sums.push_back(sum);
    }
  }
  // In bfloat16 outputs are rounded, and weights may be, for a matrix unit.
  double const rounding = std::same_as<T, bfloat16> ? 0x1p-8 : 0;
  double const allowed = (2 * weight_error + 2 * rounding) * test::largest_magnitude(in.value.elements);
  EXPECT_TRUE(test::near(out.elements, sums, allowed));

  // What the largest weights leave out is small where their share is near 1; all tokens are attention to all.
  if (tokens < keys) return;
  auto all = test::filled<T, 4>(out.extents, T(7));
  decode_attention(in.query.view(), cache, all.view(), scale(factor));
  std::vector<double> const full(all.elements.begin(), all.elements.end());
  EXPECT_TRUE(test::near(out.elements, full, 2 * allowed));
}

TEST(SelectiveValues, OfTheDefinition) {
  unsigned seed = 1;
  for (heads const& count : {heads{32, 4, 16, 16}, heads{6, 3, 1, 3}, heads{4, 4, 4, 4}, heads{12, 4, 6, 12}}) {
    expect_selected<float>(count, 300, 24, 40, 20, ++seed);
    expect_selected<float>(count, 17, 64, 16, 17, ++seed);
    expect_selected<bfloat16>(count, 133, 32, 64, 1, ++seed);
    expect_selected<double>(count, 90, 10, 7, 100, ++seed);
  }
  expect_selected<float>({4, 2, 2, 2}, 50, 8, 8, 0, 99);
}

TEST(SelectiveValues, HaveTheSameBitsForAnyThreads) {
  test::sizes const s{3, 32, 4, 16, 1, 500, 64, 64};
  heads const count{32, 4, 16, 16};
  auto const in = test::random_inputs<float>(s, 3);
  contiguous_cache<std::int8_t> cache(shape_of(s, count), 500);
  cache.append(in.key.view(), in.value.view());
  largest_weights<float> selector(shape_of(s, count), 32, 500, 50);
  auto one = test::filled<float, 4>({3, 32, 1, 64}, 7), four = one;
  selective_value_attention(in.query.view(), cache, selector, one.view(), serial{});
  selective_value_attention(in.query.view(), cache, selector, four.view(), threads{4});
  EXPECT_TRUE(test::same_bits(one.elements, four.elements));
  // 4 key heads and 50 values for each query head, with scales.
  EXPECT_EQ(selector.bytes_of_keys(cache), 3 * 500 * 4 * (64 + 4));
  EXPECT_EQ(selector.bytes_of_values(cache), 3 * 32 * 50 * (64 + 4));
  EXPECT_EQ(selector.bytes(), 3 * 32 * (50 * 4 + 8) + 3 * 32 * 4);
}

TEST(SelectiveValues, HideNothingThatIsNotFinite) {
  test::sizes const s{1, 2, 1, 1, 1, 40, 8, 8};
  auto in = test::random_inputs<float>(s, 3);
  in.value.view()(0, 0, 5, 0) = std::numeric_limits<float>::quiet_NaN();
  std::fill_n(&in.key.view()(0, 0, 5, 0), 8, 0.f);
  contiguous_cache<float> cache(shape_of(s, {2, 1, 1, 1}), 40);
  cache.append(in.key.view(), in.value.view());
  largest_weights<float> selector(cache_shape{1, 1, 8, 8}, 2, 40, 10);
  auto out = test::filled<float, 4>({1, 2, 1, 8}, 7);
  selective_value_attention(in.query.view(), cache, selector, out.view());
  for (float const x : out.elements) EXPECT_TRUE(std::isfinite(x)) << "the value of a key that is not chosen was read";
}

TEST(SelectiveValues, WrongInput) {
  cache_shape const shape{1, 16, 8, 8, 4, 16};
  contiguous_cache<float> cache(shape, 20), small({1, 4, 8, 8}, 20);
  largest_weights<float> selector(shape, 32, 10, 5);
  auto const query = test::normal<float, 4>({1, 32, 1, 8}, 1), two = test::normal<float, 4>({1, 32, 2, 8}, 1),
             few = test::normal<float, 4>({1, 16, 1, 8}, 1);
  auto out = test::filled<float, 4>({1, 32, 1, 8}, 7), out_two = test::filled<float, 4>({1, 32, 2, 8}, 7),
       out_few = test::filled<float, 4>({1, 16, 1, 8}, 7);
  auto const call = [&](auto const& q, auto const& store, auto& to, auto const&... options) {
    selective_value_attention(q.view(), store, selector, to.view(), options...);
  };
  expect_error("query_heads: expected a multiple of 16 (the key-value heads), got 20",
               [&] { largest_weights<float>(shape, 20, 10, 5); });
  expect_error("tokens: expected at least 0 tokens, got -1", [&] { largest_weights<float>(shape, 32, 10, -1); });
  expect_error("capacity: expected at least 0 tokens, got -2", [&] { largest_weights<float>(shape, 32, -2, 1); });
  expect_error("query: expected tokens 1 (as a decoding step), got 2", [&] { call(two, cache, out_two); });
  expect_error("query: expected heads 32 (as the selector), got 16", [&] { call(few, cache, out_few); });
  expect_error("cache: expected heads 16 (as the selector), got 4", [&] { call(query, small, out); });
  test::expect_scale_error([&](auto const& wanted) { call(query, cache, out, wanted); });
  expect_error("scale: expected a finite number, got inf",
               [&] { selector.select(query.view(), cache, std::numeric_limits<float>::infinity(), serial{}); });
  auto const key = test::normal<float, 4>({1, 4, 11, 8}, 1), value = test::normal<float, 4>({1, 16, 11, 8}, 1);
  cache.append(key.view(), value.view());
  expect_error("cache: expected at most 10 tokens (the capacity), got 11", [&] { call(query, cache, out); });
  EXPECT_EQ(out.elements, std::vector<float>(32 * 8, 7.f));
}

}  // namespace
}  // namespace attend
