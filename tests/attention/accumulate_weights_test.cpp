// SPDX-License-Identifier: BSD-3-Clause
// Weights that are added up by token: those of the definition, of prompts, pieces and single tokens, before and after
// tokens were evicted; the heads' windows as a mask has them; wrong input.
#include <attend/attention/cached/accumulate_weights.hpp>
#include <attend/attention/cached/cached_attention.hpp>
#include <attend/policy/mask/head_windows.hpp>
#include <attend/policy/mask/window.hpp>
#include <attend/policy/position/rotary.hpp>
#include <attend/policy/score/alibi.hpp>
#include <attend/policy/score/softcap.hpp>
#include <attend/select/eviction_policies.hpp>

#include "support/cached_tokens.hpp"
#include "support/executors.hpp"

namespace attend {
using namespace caches;
using namespace extend;

namespace {

using test::expect_error;
using test::sizes;

/// The scores of a head's rows.
template <class Cache>
std::vector<float> scores_of(Cache const& cache, index_t sequence, index_t head) {
  std::vector<float> all;
  for (index_t row = 0; row < cache.stored(sequence, head); ++row) all.push_back(cache.scores(sequence, head, row)[0]);
  return all;
}

/// In pieces, after each of which the weights are added and each head evicts tokens of its own.
template <class T, class Key, class Value = Key, class... Options>
void expect_weights(sizes const& s, index_t piece, unsigned seed, reference::options with = {},
                    Options const&... options) {
  using A = accumulation_t<T>;
  auto const in = test::random_inputs<T>(s, seed);
  evicting_cache<Key, Value> cache(test::shape_of(s), {.pages = 400, .page_tokens = 4});
  index_t const tokens = s.keys, group = s.query_heads / s.key_heads;
  auto output = test::filled<T, 4>({s.batches, s.query_heads, tokens, s.value_dimension}, T(7));
  // How many tokens the sequence had when a head evicted its token.
  std::vector<index_t> end(static_cast<std::size_t>(s.batches * s.key_heads * tokens), tokens + 1);
  auto const end_of = [&](index_t b, index_t head, index_t token) -> index_t& {
    return end[static_cast<std::size_t>((b * s.key_heads + head) * tokens + token)];
  };
  for (index_t first = 0; first < tokens; first += piece) {
    index_t const count = std::min(piece, tokens - first);
    auto lse = test::filled<A, 3>({s.batches, s.query_heads, count}, 7);
    auto const query = test::tokens_of(in.query, first, count);
    cached_attention(cache, query, test::tokens_of(in.key, first, count), test::tokens_of(in.value, first, count),
                     test::tokens_of(output, first, count), log_sum_exp(lse.view()), options...);
    accumulate_weights(query, lse.view(), cache, options...);
    if (first + count == tokens) break;
    cache.evict(
        [&](auto const& kept, std::span<bool> stays) {
          for (std::size_t i = 0; i < stays.size(); ++i) {
            stays[i] = (kept.position[i] * 5 + kept.size + kept.head) % 7 > 0;
            if (!stays[i]) end_of(kept.sequence, kept.head, kept.position[i]) = kept.size;
          }
        },
        1);
  }
  auto const shows = with.visible;
  with.visible = [&](reference::place const& at) {
    return shows(at) && at.key <= at.query && at.query < end_of(at.batch, at.head / group, at.key);
  };
  auto const stored = test::as_stored<Key, Value>(in);
  auto expected =
      reference::softmax_attention<double>(stored.query.view(), stored.key.view(), stored.value.view(), with);
  // Scores are floats; a logit is off by some roundoffs of its size, and by that a weight in proportion.
  double const allowed = test::tolerance<float>(static_cast<double>(tokens * group));
  for (index_t b = 0; b < s.batches; ++b)
    for (index_t head = 0; head < s.key_heads; ++head) {
      auto const scores = scores_of(cache, b, head);
      std::size_t row = 0;
      for (index_t token = 0; token < tokens; ++token) {
        if (end_of(b, head, token) <= tokens) continue;
        double sum = 0;
        for (index_t h = head * group; h < (head + 1) * group; ++h)
          for (index_t i = 0; i < tokens; ++i) sum += expected.weight(b, h, i, token);
        ASSERT_LT(row, scores.size());
        EXPECT_NEAR(static_cast<double>(scores[row++]), sum, allowed) << token;
      }
      EXPECT_EQ(row, scores.size());
    }
}

TEST(AccumulateWeights, AreThoseOfTheDefinition) {
  for (index_t piece : {1, 7, 50}) {
    SCOPED_TRACE(piece);
    expect_weights<float, float>({2, 6, 2, 2, 50, 50, 16, 8}, piece, 1);
    expect_weights<float, std::int8_t>({1, 2, 2, 2, 50, 50, 20, 12}, piece, 2);
    expect_weights<double, double>({1, 3, 1, 1, 50, 50, 10, 8}, piece, 3);
  }
}

// Scores and a mask of attention, of heads that share keys; and keys of which two share values.
TEST(AccumulateWeights, AreThoseOfScoresAndAMask) {
  std::vector<float> const slopes{0.5f, 0.25f, 0.125f, 0.0625f};
  reference::options with;
  with.scores = {[&](double logit, reference::place const& at) {
                   return logit - static_cast<double>(slopes[static_cast<std::size_t>(at.head)]) *
                                      static_cast<double>(at.query - at.key);
                 },
                 [](double logit, reference::place const&) { return 2 * std::tanh(logit / 2); }};
  with.visible = [](reference::place const& at) { return at.query - at.key <= 20; };
  with.scale = 0.5;
  for (index_t piece : {1, 9}) {
    SCOPED_TRACE(piece);
    expect_weights<float, float>({2, 4, 2, 2, 50, 50, 16, 8}, piece, 11, with, alibi(slopes), softcap{2.f},
                                 window{20, 0}, scale(0.5f));
    expect_weights<double, double>({1, 4, 1, 1, 50, 50, 10, 8}, piece, 12, with, alibi(slopes), softcap{2.},
                                   window{20, 0}, scale(0.5));
  }
}

TEST(AccumulateWeights, AreSumsOverHeadsThatKeepTokensTogether) {
  sizes const s{1, 8, 2, 4, 30, 30, 16, 8};
  auto const in = test::random_inputs<float>(s, 13);
  evicting_cache<float> cache({1, 4, 16, 8, 2, 4}, {.pages = 40, .page_tokens = 4});
  auto output = test::filled<float, 4>({1, 8, 30, 8}, 7);
  auto lse = test::filled<float, 3>({1, 8, 30}, 7);
  cached_attention(cache, in.query.view(), in.key.view(), in.value.view(), output.view(), log_sum_exp(lse.view()));
  accumulate_weights(in.query.view(), lse.view(), cache);
  reference::options with;
  with.visible = [](reference::place const& at) { return at.key <= at.query; };
  auto expected = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), with);
  for (index_t head = 0; head < 4; ++head) {
    auto const scores = scores_of(cache, 0, head);
    for (index_t token = 0; token < 30; ++token) {
      double sum = 0;
      for (index_t h = head / 2 * 4; h < head / 2 * 4 + 4; ++h)
        for (index_t i = 0; i < 30; ++i) sum += expected.weight(0, h, i, token);
      EXPECT_NEAR(static_cast<double>(scores[static_cast<std::size_t>(token)]), sum, test::tolerance<float>(30 * 4));
    }
  }
}

TEST(AccumulateWeights, FollowRotatedKeys) {
  sizes const s{1, 4, 2, 2, 40, 40, 16, 8};
  auto const in = test::random_inputs<float>(s, 4);
  auto const turned = rotary(rotary_frequencies(16));
  evicting_cache<float> cache(test::shape_of(s), {.pages = 40, .page_tokens = 8});
  auto output = test::filled<float, 4>({1, 4, 40, 8}, 7);
  auto lse = test::filled<float, 3>({1, 4, 40}, 7);
  cached_attention(cache, in.query.view(), in.key.view(), in.value.view(), output.view(), turned,
                   log_sum_exp(lse.view()));
  accumulate_weights(in.query.view(), lse.view(), cache, rotary_queries(turned));
  // The weights of a query are 1 together.
  for (index_t head : {0, 1}) {
    auto const scores = scores_of(cache, 0, head);
    EXPECT_NEAR(std::accumulate(scores.begin(), scores.end(), 0.), 2 * 40, 2 * 40 * 1e-5);
  }
}

TEST(AccumulateWeights, HaveTheSameBitsForAnyThreads) {
  sizes const s{2, 8, 4, 4, 30, 90, 16, 8};
  auto const in = test::random_inputs<bfloat16>(s, 5);
  auto const lse = test::normal<float, 3>({2, 8, 30}, 6);
  auto const sums = [&](auto const&... options) {
    evicting_cache<bfloat16> cache(test::shape_of(s), {.pages = 200, .page_tokens = 8});
    cache.append(in.key.view(), in.value.view());
    accumulate_weights(in.query.view(), lse.view(), cache, options...);
    std::vector<float> all;
    for (index_t b : {0, 1})
      for (index_t head = 0; head < 4; ++head) {
        auto const of_head = scores_of(cache, b, head);
        all.insert(all.end(), of_head.begin(), of_head.end());
      }
    return all;
  };
  auto const alone = sums();
  test::for_executors([&](auto const& executor, std::string const& name) {
    EXPECT_TRUE(test::same_bits(sums(executor), alone)) << name;
  });
}

TEST(AccumulateWeights, AreNumbersWhateverIsGiven) {
  sizes const s{1, 1, 1, 1, 1, 10, 8, 8};
  auto in = test::random_inputs<float>(s, 7);
  in.key.elements[3] = std::numeric_limits<float>::quiet_NaN();
  evicting_cache<float> cache(test::shape_of(s), {.pages = 3, .page_tokens = 4});
  cache.append(in.key.view(), in.value.view());
  for (float total : {0.f, -1000.f, -infinity<float>, infinity<float>, std::numeric_limits<float>::quiet_NaN()}) {
    auto const lse = test::filled<float, 3>({1, 1, 1}, total);
    accumulate_weights(in.query.view(), lse.view(), cache);
  }
  auto const scores = scores_of(cache, 0, 0);
  EXPECT_EQ(scores[0], 0);
  for (std::size_t row = 1; row < scores.size(); ++row) EXPECT_TRUE(scores[row] > 0 && scores[row] <= 2) << scores[row];
}

// Windows of the heads' own length, kept in rings of that length, show what the mask shows over the whole sequence.
TEST(EvictionPolicies, KeepWhatWindowsOfHeadsShow) {
  sizes const s{1, 4, 4, 4, 90, 90, 16, 8};
  auto const in = test::random_inputs<float>(s, 8);
  std::vector<int> const left{3, 30, 0, 8};
  evicting_cache<float> cache(test::shape_of(s), {.pages = 60, .page_tokens = 4});
  auto output = test::filled<float, 4>({1, 4, 90, 8}, 7), expected = output;
  index_t most = 0;
  for (index_t first = 0; first < 90; first += 2) {
    cached_attention(cache, test::tokens_of(in.query, first, 2), test::tokens_of(in.key, first, 2),
                     test::tokens_of(in.value, first, 2), test::tokens_of(output, first, 2), head_windows{left});
    cache.evict(keep_window{.windows = left}, 8);
    most = std::max(most, cache.used_pages());
  }
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), expected.view(), head_windows{left} & causal{});
  EXPECT_TRUE(test::near(output.elements, expected.elements,
                         test::tolerance<float>(test::largest_magnitude(in.value.elements))));
  // A head has its window, less than a slack more, and what ends in a page.
  index_t pages = 0;
  for (int window : left) pages += divide_up(window + 8, 4) + 1;
  EXPECT_LE(most, pages);
}

// H2O, by which SinkLoRA decodes: each step sees what is kept, and the least of the accumulated weights goes.
TEST(EvictionPolicies, KeepHeavyHittersOfAStream) {
  sizes const s{2, 6, 2, 2, 70, 70, 12, 10};
  index_t const prompt = 30, group = 3;
  keep_heaviest const policy{.recent = 8, .heaviest = 9, .sinks = 2};
  auto const in = test::random_inputs<float>(s, 9);
  auto const exact = test::as_stored<float, float>(in);
  evicting_cache<float> cache(test::shape_of(s), {.pages = 100, .page_tokens = 4});
  auto output = test::filled<float, 4>({2, 6, 70, 10}, 7);
  auto rows = test::filled<float, 3>({2, 6, 70}, 7);
  std::vector<std::vector<index_t>> kept(4);
  std::vector<std::vector<double>> score(4, std::vector<double>(70, 0.0));
  for (index_t first = 0; first < s.keys;) {
    index_t const count = first == 0 ? prompt : 1;
    tensor_view<float, 3> const lse = attend::detail::part(rows.view(), 2, first, count);
    cached_attention(cache, test::tokens_of(in.query, first, count), test::tokens_of(in.key, first, count),
                     test::tokens_of(in.value, first, count), test::tokens_of(output, first, count),
                     options::log_sum_exp(lse));
    accumulate_weights(test::tokens_of(in.query, first, count), lse, cache);
    cache.evict(policy, 1);
    for (index_t list = 0; list < 4; ++list) {
      auto const at = static_cast<std::size_t>(list);
      for (index_t i = first; i < first + count; ++i) {
        kept[at].push_back(i);
        for (index_t h = list % 2 * group; h < (list % 2 + 1) * group; ++h) {
          std::vector<double> weight, expected(10, 0.0);
          double sum = 0;
          for (index_t j : kept[at]) {
            double logit = 0;
            for (index_t c = 0; c < 12; ++c)
              logit += exact.query.view()(list / 2, h, i, c) * exact.key.view()(list / 2, list % 2, j, c);
            sum += weight.emplace_back(std::exp(logit / std::sqrt(12.0)));
          }
          for (std::size_t k = 0; k < weight.size(); ++k) {
            index_t const j = kept[at][k];
            score[at][static_cast<std::size_t>(j)] += weight[k] / sum;
            for (index_t c = 0; c < 10; ++c)
              expected[static_cast<std::size_t>(c)] += weight[k] / sum * exact.value.view()(list / 2, list % 2, j, c);
          }
          float const* const got = &output.view()(list / 2, h, i, 0);
          ASSERT_TRUE(test::near(std::vector<float>(got, got + 10), expected,
                                 test::tolerance<float>(test::largest_magnitude(in.value.elements))))
              << "list " << list << ", token " << i;
        }
      }
      auto const end = first + count - policy.recent;
      auto const goes = [&] {
        std::vector<index_t> between;
        for (index_t j : kept[at])
          if (j >= policy.sinks && j < end) between.push_back(j);
        if (static_cast<index_t>(between.size()) <= policy.heaviest) return index_t{-1};
        return *std::min_element(between.begin(), between.end(), [&](index_t a, index_t b) {
          return score[at][static_cast<std::size_t>(a)] < score[at][static_cast<std::size_t>(b)];
        });
      };
      for (index_t j = goes(); j >= 0; j = goes()) std::erase(kept[at], j);
      std::vector<index_t> left;
      for (index_t row = 0; row < cache.stored(list / 2, list % 2); ++row)
        left.push_back(cache.positions(list / 2, list % 2, row)[0]);
      ASSERT_EQ(left, kept[at]) << "list " << list << " of " << first + count << " tokens";
    }
    first += count;
  }
}

TEST(AccumulateWeights, SayWhatIsWrong) {
  sizes const s{2, 4, 2, 2, 3, 5, 8, 8};
  auto const in = test::random_inputs<float>(s, 9);
  evicting_cache<float> cache(test::shape_of(s), {.pages = 40, .page_tokens = 2});
  auto const lse = test::filled<float, 3>({2, 4, 3}, 0), heads = test::filled<float, 3>({2, 3, 3}, 0),
             queries = test::filled<float, 3>({2, 4, 2}, 0), sequences = test::filled<float, 3>({1, 4, 3}, 0);
  auto const wide = test::filled<float, 4>({2, 4, 3, 9}, 0), odd = test::filled<float, 4>({2, 3, 3, 8}, 0),
             one = test::filled<float, 4>({1, 4, 3, 8}, 0);
  expect_error("query: expected at most 0 tokens (sequence 0), got 3",
               [&] { accumulate_weights(in.query.view(), lse.view(), cache); });
  cache.append(in.key.view(), in.value.view());
  expect_error("query: expected sequences 2 (as the cache), got 1",
               [&] { accumulate_weights(one.view(), lse.view(), cache); });
  expect_error("query: expected head dimension 8 (as the cache), got 9",
               [&] { accumulate_weights(wide.view(), lse.view(), cache); });
  expect_error("query: expected a multiple of 2 heads (the cache), got 3",
               [&] { accumulate_weights(odd.view(), lse.view(), cache); });
  expect_error("log_sum_exp: expected sequences 2 (as query), got 1",
               [&] { accumulate_weights(in.query.view(), sequences.view(), cache); });
  expect_error("log_sum_exp: expected heads 4 (as query), got 3",
               [&] { accumulate_weights(in.query.view(), heads.view(), cache); });
  expect_error("log_sum_exp: expected tokens 3 (as query), got 2",
               [&] { accumulate_weights(in.query.view(), queries.view(), cache); });
  expect_error("threads: expected a count of at least 0, got -1",
               [&] { accumulate_weights(in.query.view(), lse.view(), cache, threads{-1}); });
  test::expect_scale_error([&](auto const& factor) { accumulate_weights(in.query.view(), lse.view(), cache, factor); });
  for (float score : scores_of(cache, 0, 0)) EXPECT_EQ(score, 0);
}

}  // namespace
}  // namespace attend
