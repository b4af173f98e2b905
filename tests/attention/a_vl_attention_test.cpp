// SPDX-License-Identifier: BSD-3-Clause
// A-VL: a prompt with images and the steps behind it, against the same over lists of positions in double; attention to
// everything; same bits, allocations, wrong input.
#include <attend/attention/cached/accumulate_weights.hpp>
#include <attend/attention/sparse_decode/a_vl_selector.hpp>
#include <map>
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

constexpr index_t prompt = 60, all = 110;
sizes const size{2, 6, 2, 2, all, all, 12, 10};

/// Sequence 0 has two images, sequence 1 another one; the flags end behind the prompt.
std::vector<std::uint8_t> image_flags() {
  std::vector<std::uint8_t> flags(static_cast<std::size_t>(2 * prompt), 0);
  for (std::size_t t = 0; t < static_cast<std::size_t>(prompt); ++t) {
    flags[t] = (t >= 5 && t < 25) || (t >= 30 && t < 41);
    flags[static_cast<std::size_t>(prompt) + t] = t >= 2 && t < 55;
  }
  return flags;
}

/// One head of one sequence, over the positions that it keeps.
struct head_model {
  test::inputs<double> const& in;
  std::vector<std::uint8_t> flags;
  index_t batch, head;
  a_vl_options choice;
  std::vector<index_t> kept = {};
  std::map<index_t, double> score = {};
  std::set<index_t> core = {};

  bool image(index_t position) const {
    return position < prompt && flags[static_cast<std::size_t>(batch * prompt + position)] == 1;
  }
  /// The weights of a token's query heads over the kept tokens up to it, or over some of them.
  std::map<index_t, double> weights(index_t token, index_t query_head, std::vector<index_t> const& of) const {
    std::map<index_t, double> weight;
    double sum = 0;
    for (index_t j : of) {
      double logit = 0;
      for (index_t c = 0; c < size.key_dimension; ++c)
        logit += in.query.view()(batch, query_head, token, c) * in.key.view()(batch, head, j, c);
      sum += weight[j] = std::exp(logit / std::sqrt(static_cast<double>(size.key_dimension)));
    }
    for (auto& [j, w] : weight) w /= sum;
    return weight;
  }
  std::map<index_t, double> group_weights(index_t token) const {
    std::map<index_t, double> sum;
    for (index_t h = 0; h < 3; ++h)
      for (auto const& [j, w] : weights(token, head * 3 + h, kept)) sum[j] += w;
    return sum;
  }
  std::vector<index_t> largest(std::vector<index_t> from, std::map<index_t, double> by, index_t most) const {
    std::stable_sort(from.begin(), from.end(), [&](index_t a, index_t b) { return by[a] > by[b]; });
    from.resize(std::min(from.size(), static_cast<std::size_t>(most)));
    return from;
  }
  index_t share(double part) const {
    index_t count = 0;
    for (index_t t = 0; t < prompt; ++t) count += image(t);
    return static_cast<index_t>(std::ceil(part * static_cast<double>(count)));
  }
  void evict(index_t tokens) {
    std::vector<index_t> images, between, rest;
    for (index_t j : kept)
      (image(j) ? images : j >= choice.sinks && j < tokens - choice.recent ? between : rest).push_back(j);
    for (index_t j : largest(images, score, share(choice.secondary))) rest.push_back(j);
    for (index_t j : largest(between, score, choice.heaviest)) rest.push_back(j);
    std::sort(rest.begin(), rest.end());
    kept = rest;
  }
  void choose_core(std::map<index_t, double> const& by) {
    std::vector<index_t> images;
    for (index_t j : kept)
      if (image(j)) images.push_back(j);
    auto const found = largest(images, by, share(choice.core));
    core = {found.begin(), found.end()};
  }
  std::vector<index_t> seen() const {
    std::vector<index_t> list;
    for (index_t j : kept)
      if (!image(j) || core.count(j)) list.push_back(j);
    return list;
  }
};

template <class T>
tensor_view<T const, 4> token_of(test::tensor<T, 4> const& whole, index_t token) {
  return test::tokens_of(whole, token, 1);
}

TEST(AVlAttention, KeepsAndSeesByTiers) {
  auto const in = test::random_inputs<float>(size, 1);
  auto const exact = test::as_stored<float, float>(in);
  auto const flags = image_flags();
  tensor_view<std::uint8_t const, 2> const images(flags.data(), {2, prompt});
  for (a_vl_options const choice :
       {a_vl_options{.secondary = 0.5, .core = 0.2, .every = 7, .sinks = 3, .recent = 12, .heaviest = 4},
        a_vl_options{.secondary = 1, .core = 0, .every = 1, .sinks = 0, .recent = 9},
        a_vl_options{.secondary = 0.7, .core = 0.7, .every = 100, .sinks = 100}}) {
    evicting_cache<float> cache(shape_of(size), {.pages = 200, .page_tokens = 8});
    a_vl_selector<float> selector(cache.shape(), size.query_heads, all, images, choice);
    auto output = test::filled<float, 4>({2, 6, prompt, 10}, 7);
    auto lse = test::filled<float, 3>({2, 6, prompt}, 7);
    cached_attention(cache, test::tokens_of(in.query, 0, prompt), test::tokens_of(in.key, 0, prompt),
                     test::tokens_of(in.value, 0, prompt), output.view(), log_sum_exp(lse.view()));
    accumulate_weights(token_of(in.query, prompt - 1), attend::detail::part(lse.view(), 2, prompt - 1, 1), cache);
    std::vector<head_model> models;
    for (index_t list = 0; list < 4; ++list) {
      models.push_back({exact, flags, list / 2, list % 2, choice});
      for (index_t j = 0; j < prompt; ++j) models.back().kept.push_back(j);
      models.back().score = models.back().group_weights(prompt - 1);
      models.back().evict(prompt);
    }
    cache.evict(selector, 1);
    index_t smallest = all;
    for (index_t token = prompt; token < all; ++token) {
      cache.append(token_of(in.key, token), token_of(in.value, token));
      auto one = test::filled<float, 4>({2, 6, 1, 10}, 7);
      selected_attention(token_of(in.query, token), cache, selector, one.view(), threads{token % 2 ? 3 : 1});
      for (index_t list = 0; list < 4; ++list) {
        head_model& model = models[static_cast<std::size_t>(list)];
        model.kept.push_back(token);
        if ((token - prompt) % choice.every == 0)
          model.choose_core(token == prompt ? model.score : model.group_weights(token));
        auto const core = selector.core(list / 2, list % 2);
        EXPECT_EQ(std::vector<index_t>(core.begin(), core.end()),
                  std::vector<index_t>(model.core.begin(), model.core.end()));
        std::vector<index_t> kept, seen;
        for (index_t row = 0; row < cache.stored(list / 2, list % 2); ++row)
          kept.push_back(cache.positions(list / 2, list % 2, row)[0]);
        ASSERT_EQ(kept, model.kept) << "token " << token << ", list " << list;
        for (std::int32_t const row : selector.lists()(list / 2, list % 2))
          seen.push_back(kept[static_cast<std::size_t>(row)]);
        ASSERT_EQ(seen, model.seen()) << "token " << token << ", list " << list;
        smallest = std::min(smallest, static_cast<index_t>(seen.size()));
        for (index_t h = 0; h < 3; ++h) {
          std::vector<double> expected(10, 0.0);
          for (auto const& [j, w] : model.weights(token, list % 2 * 3 + h, seen))
            for (index_t c = 0; c < 10; ++c)
              expected[static_cast<std::size_t>(c)] += w * exact.value.view()(list / 2, list % 2, j, c);
          std::vector<float> const got(&one.view()(list / 2, list % 2 * 3 + h, 0, 0),
                                       &one.view()(list / 2, list % 2 * 3 + h, 0, 0) + 10);
          ASSERT_TRUE(test::near(got, expected, test::tolerance<float>(test::largest_magnitude(in.value.elements))));
        }
      }
      // Eviction waits for some tokens.
      cache.evict(selector, 5);
      if ((token - prompt) % 5 == 4)
        for (head_model& model : models) model.evict(token + 1);
    }
    EXPECT_LT(smallest, prompt);
  }
}

TEST(AVlAttention, OfEverythingIsDense) {
  auto const in = test::random_inputs<float>(size, 2);
  auto const flags = image_flags();
  evicting_cache<float> cache(shape_of(size), {.pages = 200, .page_tokens = 8});
  a_vl_selector<float> selector(cache.shape(), 6, all, {flags.data(), {2, prompt}},
                                {.secondary = 1, .core = 1, .every = 3, .recent = all});
  cache.append(in.key.view(), in.value.view());
  EXPECT_EQ(cache.evict(selector, 1), 0);
  auto output = test::filled<float, 4>({2, 6, 1, 10}, 7), expected = output;
  for (int step = 0; step < 5; ++step) selected_attention(token_of(in.query, all - 1), cache, selector, output.view());
  decode_attention(token_of(in.query, all - 1), cache, expected.view());
  EXPECT_TRUE(test::near(output.elements, expected.elements,
                         test::tolerance<float>(test::largest_magnitude(in.value.elements))));
}

TEST(AVlAttention, AllocatesNothingOnceWarm) {
  auto const in = test::random_inputs<float>(size, 3);
  auto const flags = image_flags();
  evicting_cache<float> cache(shape_of(size), {.pages = 200, .page_tokens = 8});
  a_vl_selector<float> selector(cache.shape(), 6, all, {flags.data(), {2, prompt}}, {.every = 2, .recent = 8});
  cache.append(test::tokens_of(in.key, 0, prompt), test::tokens_of(in.value, 0, prompt));
  auto output = test::filled<float, 4>({2, 6, 1, 10}, 7);
  index_t token = prompt;
  auto const step = [&] {
    for (index_t i = 0; i < 4; ++i, ++token) {
      cache.append(token_of(in.key, token), token_of(in.value, token));
      selected_attention(token_of(in.query, token), cache, selector, output.view());
      cache.evict(selector, 3);
    }
  };
  step();
  EXPECT_EQ(test::allocations_of_two(step).second, 0);
}

TEST(AVlAttention, SaysWhatIsWrong) {
  auto const flags = image_flags();
  tensor_view<std::uint8_t const, 2> const images(flags.data(), {2, prompt});
  auto const make = [&](a_vl_options const& choice) { a_vl_selector<float>(shape_of(size), 6, all, images, choice); };
  expect_error("a_vl_options: expected shares that ascend from 0 to 1, got 0.6 and 0.5", [&] { make({.core = 0.6}); });
  expect_error("a_vl_options: expected shares that ascend from 0 to 1, got nan and 0.5",
               [&] { make({.core = std::nan("")}); });
  expect_error("a_vl_options: expected a choice in at least 1 step, got 0", [&] { make({.every = 0}); });
  expect_error("a_vl_options: expected numbers of at least 0 tokens, got -2", [&] { make({.recent = -2}); });
  expect_error("images: expected sequences 2 (as the cache), got 1",
               [&] { a_vl_selector<float>(shape_of(size), 6, all, {flags.data(), {1, prompt}}); });
  expect_error("query_heads: expected a multiple of 2 (the key-value heads), got 5",
               [&] { a_vl_selector<float>(shape_of(size), 5, all, images); });
  auto const in = test::random_inputs<float>(size, 4);
  evicting_cache<float> cache(shape_of(size), {.pages = 200, .page_tokens = 8}),
      other({2, 3, 12, 10}, {.pages = 2, .page_tokens = 8});
  cache.append(test::tokens_of(in.key, 0, 20), test::tokens_of(in.value, 0, 20));
  a_vl_selector<float> few(shape_of(size), 6, 19, images), heads(shape_of(size), 4, 50, images);
  expect_error("cache: expected at most 19 rows of a head (the capacity), got 20",
               [&] { few.select(token_of(in.query, 0), cache); });
  expect_error("query: expected heads 4 (as the selector), got 6", [&] { heads.select(token_of(in.query, 0), cache); });
  expect_error("cache: expected heads 3 (as the selector), got 2",
               [&] { a_vl_selector<float>({2, 3, 12, 10}, 6, 50, images).select(token_of(in.query, 0), cache); });
  expect_error("cache: expected heads 2 (as the selector), got 3", [&] { other.evict(few, 1); });
}

}  // namespace
}  // namespace attend
