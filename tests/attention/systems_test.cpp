// SPDX-License-Identifier: BSD-3-Clause
// Published systems that are settings of softmax attention, each against its own formula, written out in double.
#include <attend/attend.hpp>
#include <attend/reference/softmax_attention.hpp>

#include "support/compare.hpp"
#include "support/random_tensor.hpp"

namespace attend {
using namespace options;
using namespace systems;

namespace {

using floats = test::tensor<float, 4>;

constexpr index_t heads = 4, tokens = 37, dimension = 24;

floats activations(unsigned seed, index_t head_count = heads, index_t token_count = tokens) {
  return test::normal<float, 4>({1, head_count, token_count, dimension}, seed);
}

double dot(floats const& a, index_t head_a, index_t i, floats const& b, index_t head_b, index_t j) {
  double sum = 0;
  for (index_t c = 0; c < a.extents[3]; ++c) sum += double(a.view()(0, head_a, i, c)) * b.view()(0, head_b, j, c);
  return sum;
}

/// sum_j weight(h, i, j) v_j over all keys, for weights that a test writes from its formula.
template <class Weight>
std::vector<double> weighted_values(floats const& v, index_t query_heads, index_t queries, Weight&& weight) {
  std::vector<double> output;
  index_t const group = query_heads / v.extents[1];
  for (index_t h = 0; h < query_heads; ++h)
    for (index_t i = 0; i < queries; ++i)
      for (index_t c = 0; c < v.extents[3]; ++c) {
        double sum = 0;
        for (index_t j = 0; j < v.extents[2]; ++j) {
          double const p = weight(h, i, j);
          if (p != 0) sum += p * v.view()(0, h / group, j, c);
        }
        output.push_back(sum);
      }
  return output;
}

std::vector<float> output_like(floats const& q) { return std::vector<float>(q.elements.size()); }
tensor_view<float, 4> view(std::vector<float>& o, floats const& q) { return {o.data(), q.extents}; }

double const allowed = test::tolerance<float>(4);
double const root = 1 / std::sqrt(double(dimension));

TEST(Systems, MultiQueryAttentionSharesOneHead) {
  floats const q = activations(1), k = activations(2, 1), v = activations(3, 1);
  auto o = output_like(q);
  softmax_attention(q.view(), k.view(), v.view(), view(o, q));
  EXPECT_TRUE(test::near(o,
                         weighted_values(v, heads, tokens,
                                         [&](index_t h, index_t i, index_t j) {
                                           double sum = 0;
                                           for (index_t l = 0; l < tokens; ++l)
                                             sum += std::exp(root * dot(q, h, i, k, 0, l));
                                           return std::exp(root * dot(q, h, i, k, 0, j)) / sum;
                                         }),
                         allowed));
}

TEST(Systems, GroupedQueryAttentionGroupsConsecutiveHeads) {
  floats const q = activations(1), k = activations(2, 2), v = activations(3, 2);
  auto o = output_like(q);
  softmax_attention(q.view(), k.view(), v.view(), view(o, q));
  EXPECT_TRUE(test::near(o,
                         weighted_values(v, heads, tokens,
                                         [&](index_t h, index_t i, index_t j) {
                                           double sum = 0;
                                           for (index_t l = 0; l < tokens; ++l)
                                             sum += std::exp(root * dot(q, h, i, k, h / 2, l));
                                           return std::exp(root * dot(q, h, i, k, h / 2, j)) / sum;
                                         }),
                         allowed));
}

TEST(Systems, MeanPooledHeadsAreTheMeanOfTheirGroup) {
  floats const k = activations(4);
  floats merged = test::filled<float, 4>({1, 2, tokens, dimension}, 0);
  merge_heads(k.view(), merged.view());
  for (index_t g = 0; g < 2; ++g)
    for (index_t j = 0; j < tokens; ++j)
      for (index_t c = 0; c < dimension; ++c) {
        // A half of each is exact, and their sum is rounded once.
        double const mean = (double(k.view()(0, 2 * g, j, c)) + k.view()(0, 2 * g + 1, j, c)) / 2;
        EXPECT_NEAR(merged.view()(0, g, j, c), mean, test::unit_roundoff<float>() * std::abs(mean));
      }
}

TEST(Systems, WeightedGroupsFollowTheirThreeParameterisations) {
  floats const k = activations(5);
  auto const scalar = test::normal<float, 1>({heads}, 6);
  auto const column = test::normal<float, 3>({heads, 1, dimension}, 7);
  auto const row = test::normal<float, 3>({heads, tokens, 1}, 8);
  floats merged = test::filled<float, 4>({1, 2, tokens, dimension}, 0);
  auto const expect = [&](auto weight) {
    for (index_t g = 0; g < 2; ++g)
      for (index_t j = 0; j < tokens; ++j)
        for (index_t c = 0; c < dimension; ++c) {
          double sum = 0, magnitude = 0;
          for (index_t h = 2 * g; h < 2 * g + 2; ++h) {
            double const term = double(weight(h, j, c)) * k.view()(0, h, j, c);
            sum += term;
            magnitude += std::abs(term);
          }
          // Each product and their sum are rounded.
          ASSERT_NEAR(merged.view()(0, g, j, c), sum, 2 * test::unit_roundoff<float>() * magnitude);
        }
  };
  merge_heads(k.view(), scalar.elements, merged.view());
  expect([&](index_t h, index_t, index_t) { return scalar.elements[std::size_t(h)]; });
  merge_heads(k.view(), column.view(), merged.view());
  expect([&](index_t h, index_t, index_t c) { return column.view()(h, 0, c); });
  merge_heads(k.view(), row.view(), merged.view());
  expect([&](index_t h, index_t j, index_t) { return row.view()(h, j, 0); });
}

TEST(Systems, MergingActivationsAndProjectionsGiveTheSameKeys) {
  // K_h = X W_h: merging the heads of W and then projecting is merging the heads of K.
  index_t const model = 11;
  auto const x = test::normal<double, 2>({tokens, model}, 9);
  auto const w = test::normal<double, 3>({heads, model, dimension}, 10);
  auto const project = [](test::tensor<double, 2> const& x, test::tensor<double, 3> const& weights, index_t count) {
    auto k = test::filled<double, 3>({count, tokens, dimension}, 0.0);
    for (index_t h = 0; h < count; ++h)
      for (index_t t = 0; t < tokens; ++t)
        for (index_t c = 0; c < dimension; ++c)
          for (index_t m = 0; m < model; ++m) k.view()(h, t, c) += x.view()(t, m) * weights.view()(h, m, c);
    return k;
  };
  auto merged_weights = test::filled<double, 3>({2, model, dimension}, 0.0);
  auto merged_keys = test::filled<double, 3>({2, tokens, dimension}, 0.0);
  merge_heads(w.view(), merged_weights.view());
  merge_heads(project(x, w, heads).view(), merged_keys.view());
  auto const magnitudes = [](auto numbers) {
    for (double& number : numbers.elements) number = std::abs(number);
    return numbers;
  };
  auto const terms = project(magnitudes(x), magnitudes(w), heads).elements;
  EXPECT_TRUE(test::near(merged_keys.elements, project(x, merged_weights, 2).elements,
                         test::tolerance<double>(*std::max_element(terms.begin(), terms.end()))));
}

TEST(Systems, MergeHeadsRefusesWhatDoesNotFit) {
  floats const k = activations(5);
  floats merged = test::filled<float, 4>({1, 3, tokens, dimension}, 0);
  EXPECT_THROW(merge_heads(k.view(), merged.view()), argument_error);
  merged = test::filled<float, 4>({1, 2, tokens + 1, dimension}, 0);
  EXPECT_THROW(merge_heads(k.view(), merged.view()), argument_error);
  merged = test::filled<float, 4>({1, 2, tokens, dimension}, 0);
  EXPECT_THROW(merge_heads(k.view(), std::vector<float>(3), merged.view()), argument_error);
  EXPECT_THROW(merge_heads(k.view(), test::filled<float, 3>({heads, 2, 1}, 1.f).view(), merged.view()), argument_error);
  EXPECT_THROW(merge_heads(merged.view(), tensor_view<float, 4>(merged.elements.data(), {1, 1, tokens, dimension})),
               argument_error);
}

TEST(Systems, DiffQkvHasKeyAndValueHeadsOfTheirOwn) {
  // Eight query heads on two key heads of a small dimension and four value heads of a large one.
  index_t const query_heads = 8, key_heads = 2, value_heads = 4, small = 12, large = 40;
  floats const q = test::normal<float, 4>({1, query_heads, tokens, small}, 11);
  floats const k = test::normal<float, 4>({1, key_heads, tokens, small}, 12);
  floats const v = test::normal<float, 4>({1, value_heads, tokens, large}, 13);
  floats o = test::filled<float, 4>({1, query_heads, tokens, large}, 0);
  softmax_attention(q.view(), k.view(), v.view(), o.view());
  double const scale = 1 / std::sqrt(double(small));
  EXPECT_TRUE(test::near(o.elements,
                         weighted_values(v, query_heads, tokens,
                                         [&](index_t h, index_t i, index_t j) {
                                           index_t const key_head = h * key_heads / query_heads;
                                           double sum = 0;
                                           for (index_t l = 0; l < tokens; ++l)
                                             sum += std::exp(scale * dot(q, h, i, k, key_head, l));
                                           return std::exp(scale * dot(q, h, i, k, key_head, j)) / sum;
                                         }),
                         allowed));
}

TEST(Systems, DiffQkvFoldsTheExpansionOfSmallKeysIntoQueries) {
  // Keys that are cached small and expanded by a matrix E to the queries' dimension: q . (E k) = (E' q) . k.
  index_t const small = 6, large = 16;
  floats const q = test::normal<float, 4>({1, 2, tokens, large}, 14),
               k = test::normal<float, 4>({1, 1, tokens, small}, 15);
  floats const v = test::normal<float, 4>({1, 1, tokens, 8}, 16), e = test::normal<float, 4>({1, 1, large, small}, 17);
  floats folded = test::filled<float, 4>({1, 2, tokens, small}, 0),
         expanded = test::filled<float, 4>({1, 1, tokens, large}, 0);
  for (index_t h = 0; h < 2; ++h)
    for (index_t i = 0; i < tokens; ++i)
      for (index_t c = 0; c < small; ++c)
        for (index_t l = 0; l < large; ++l) folded.view()(0, h, i, c) += e.view()(0, 0, l, c) * q.view()(0, h, i, l);
  for (index_t j = 0; j < tokens; ++j)
    for (index_t l = 0; l < large; ++l)
      for (index_t c = 0; c < small; ++c) expanded.view()(0, 0, j, l) += e.view()(0, 0, l, c) * k.view()(0, 0, j, c);
  floats a = test::filled<float, 4>({1, 2, tokens, 8}, 0), b = a;
  softmax_attention(folded.view(), k.view(), v.view(), a.view(), scale{1 / std::sqrt(double(small))});
  softmax_attention(q.view(), expanded.view(), v.view(), b.view(), scale{1 / std::sqrt(double(small))});
  EXPECT_TRUE(test::near(a.elements, b.elements, 8 * allowed));
}

TEST(Systems, FixedSizeHeadsAreFreeOfTheValueDimension) {
  floats const q = test::normal<float, 4>({1, 2, tokens, 41}, 11), k = test::normal<float, 4>({1, 2, tokens, 41}, 12);
  floats const v = test::normal<float, 4>({1, 2, tokens, 7}, 13);
  floats o = test::filled<float, 4>({1, 2, tokens, 7}, 0);
  softmax_attention(q.view(), k.view(), v.view(), o.view());
  double const scale = 1 / std::sqrt(41.0);
  EXPECT_TRUE(test::near(o.elements,
                         weighted_values(v, 2, tokens,
                                         [&](index_t h, index_t i, index_t j) {
                                           double sum = 0;
                                           for (index_t l = 0; l < tokens; ++l)
                                             sum += std::exp(scale * dot(q, h, i, k, h, l));
                                           return std::exp(scale * dot(q, h, i, k, h, j)) / sum;
                                         }),
                         allowed));
}

TEST(Systems, PrunedHeadsAreSkipped) {
  floats const q = activations(14), k = activations(15), v = activations(16);
  std::vector<float> const gates{1, 0, 0.5f, 0};
  auto o = output_like(q), plain = output_like(q);
  tile_counts all, kept;
  softmax_attention(q.view(), k.view(), v.view(), view(plain, q), count_tiles(all));
  softmax_attention(q.view(), k.view(), v.view(), view(o, q), head_gates(gates), count_tiles(kept));
  std::size_t const per_head = std::size_t(tokens * dimension);
  // The gate may be multiplied with what a sum is divided by or with the quotient: two roundings in either case.
  for (std::size_t i = 0; i < o.size(); ++i) {
    double const gated = double(gates[i / per_head]) * plain[i];
    EXPECT_NEAR(o[i], gated, 4 * test::unit_roundoff<float>() * std::abs(gated));
  }
  EXPECT_EQ(kept.pairs * 2, all.pairs);
}

TEST(Systems, SelectiveAttentionFollowsItsFormula) {
  floats const q = activations(17), k = activations(18, 2), v = activations(19, 2);
  auto const f_query = test::normal<float, 3>({1, heads, tokens}, 20),
             f_value = test::normal<float, 3>({1, 2, tokens}, 21);
  auto const a_query = test::normal<float, 1>({heads}, 22), a_value = test::normal<float, 1>({2}, 23);
  auto o = output_like(q);
  selective_attention(q.view(), k.view(), v.view(), view(o, q),
                      selective_temperature<float>{f_query.view(), a_query.view()},
                      selective_temperature<float>{f_value.view(), a_value.view()});
  auto const temperature = [](auto const& f, auto const& a, index_t h, index_t i) {
    return std::tanh(double(f.view()(0, h, i))) + 1 +
           1 / (1 + std::exp(-double(a.view()(h)))) * std::log(double(i + 1));
  };
  EXPECT_TRUE(test::near(o,
                         weighted_values(v, heads, tokens,
                                         [&](index_t h, index_t i, index_t j) {
                                           if (j > i) return 0.0;
                                           double const t = temperature(f_query, a_query, h, i);
                                           double sum = 0;
                                           for (index_t l = 0; l <= i; ++l)
                                             sum += std::exp(t * root * dot(q, h, i, k, h / 2, l));
                                           return std::exp(t * root * dot(q, h, i, k, h / 2, j)) / sum *
                                                  temperature(f_value, a_value, h / 2, j);
                                         }),
                         // Temperatures of up to 6 multiply the logits' rounding errors, gains the values.
                         36 * allowed));
}

TEST(Systems, SelectiveAttentionWithoutTemperaturesIsCausal) {
  floats const q = activations(17), k = activations(18), v = activations(19);
  auto o = output_like(q), plain = output_like(q);
  selective_attention(q.view(), k.view(), v.view(), view(o, q), selective_temperature<float>{},
                      selective_temperature<float>{});
  softmax_attention(q.view(), k.view(), v.view(), view(plain, q), causal{});
  EXPECT_EQ(o, plain);
}

TEST(Systems, SelectiveAttentionRefusesWrongTemperatures) {
  floats const q = activations(17), k = activations(18), v = activations(19);
  auto o = output_like(q);
  auto const f = test::filled<float, 3>({1, heads, tokens + 1}, 0.f);
  auto const a = test::filled<float, 1>({heads + 1}, 0.f);
  selective_temperature<float> const none, wrong_token{f.view(), {}}, wrong_position{{}, a.view()};
  EXPECT_THROW(selective_attention(q.view(), k.view(), v.view(), view(o, q), wrong_token, none), argument_error);
  EXPECT_THROW(selective_attention(q.view(), k.view(), v.view(), view(o, q), none, wrong_position), argument_error);
}

TEST(Systems, HeadTemperaturesScaleTheLogitsOfAHead) {
  floats const q = activations(24), k = activations(25), v = activations(26);
  std::vector<float> const lambda{0.5f, 1.0f, 1.5f, 3.0f};
  auto o = output_like(q);
  softmax_attention(q.view(), k.view(), v.view(), view(o, q), causal{}, head_logit_scale(lambda));
  EXPECT_TRUE(test::near(o,
                         weighted_values(v, heads, tokens,
                                         [&](index_t h, index_t i, index_t j) {
                                           if (j > i) return 0.0;
                                           double const scale = lambda[std::size_t(h)] * root;
                                           double sum = 0;
                                           for (index_t l = 0; l <= i; ++l)
                                             sum += std::exp(scale * dot(q, h, i, k, h, l));
                                           return std::exp(scale * dot(q, h, i, k, h, j)) / sum;
                                         }),
                         3 * allowed));
}

TEST(Systems, SigmoidAttentionHasNoSumOverTheRow) {
  floats const q = activations(27), k = activations(28), v = activations(29);
  auto o = output_like(q);
  softmax_attention(q.view(), k.view(), v.view(), view(o, q), sigmoid_weights());
  EXPECT_TRUE(test::near(
      o,
      weighted_values(v, heads, tokens,
                      [&](index_t h, index_t i, index_t j) {
                        return 1 / (1 + std::exp(-(root * dot(q, h, i, k, h, j) - std::log(double(tokens)))));
                      }),
      4 * allowed));
}

TEST(Systems, ReluAttentionWithItsThreeScalings) {
  floats const q = activations(30), k = activations(31), v = activations(32);
  auto const relu = [&](index_t h, index_t i, index_t j) { return std::max(0.0, root * dot(q, h, i, k, h, j)); };
  auto const row_sum = [&](index_t h, index_t i) {
    double sum = 0;
    for (index_t j = 0; j <= i; ++j) sum += relu(h, i, j);
    return sum;
  };
  auto const expect = [&](relu_weights normalizer, auto factor, double magnitude) {
    auto o = output_like(q);
    softmax_attention(q.view(), k.view(), v.view(), view(o, q), causal{}, normalizer);
    EXPECT_TRUE(test::near(
        o,
        weighted_values(v, heads, tokens,
                        [&](index_t h, index_t i, index_t j) { return j > i ? 0.0 : relu(h, i, j) * factor(h, i); }),
        magnitude * allowed));
  };
  expect({relu_scaling::none}, [](index_t, index_t) { return 1.0; }, tokens);
  expect({relu_scaling::count}, [](index_t, index_t i) { return 1.0 / double(i + 1); }, 4);
  // A row whose logits are all small has a small sum, which magnifies their rounding errors.
  expect({relu_scaling::sum}, [&](index_t h, index_t i) { return 1 / (row_sum(h, i) + 1e-5); }, 100);
}

TEST(Systems, KeyBiasIsAGateOnTheLogSumExp) {
  floats const q = activations(33), k = activations(34), v = activations(35), bias_keys = activations(36, heads, 1);
  auto o = output_like(q), plain = output_like(q);
  std::vector<float> lse(std::size_t(heads * tokens));
  softmax_attention(q.view(), k.view(), v.view(), view(o, q), causal{}, key_bias(bias_keys.view()));
  softmax_attention(q.view(), k.view(), v.view(), view(plain, q), causal{},
                    log_sum_exp(tensor_view<float, 2>(lse.data(), {heads, tokens})));
  for (index_t h = 0; h < heads; ++h)
    for (index_t i = 0; i < tokens; ++i) {
      double const gate = 1 / (1 + std::exp(root * dot(q, h, i, bias_keys, h, 0) - lse[std::size_t(h * tokens + i)]));
      for (index_t c = 0; c < dimension; ++c)
        ASSERT_NEAR(view(o, q)(0, h, i, c), gate * view(plain, q)(0, h, i, c), allowed);
    }
}

TEST(Systems, ExplicitAttentionBiasIsOneLearnedKeyAndValue) {
  floats const q = activations(37), k = activations(38), v = activations(39);
  floats const slot_key = activations(40, heads, 1), slot_value = activations(41, heads, 1);
  auto o = output_like(q);
  softmax_attention(q.view(), k.view(), v.view(), view(o, q), causal{},
                    prefix_key_values(slot_key.view(), slot_value.view()));
  for (index_t h = 0; h < heads; ++h)
    for (index_t i = 0; i < tokens; ++i)
      for (index_t c = 0; c < dimension; ++c) {
        double const slot = std::exp(root * dot(q, h, i, slot_key, h, 0));
        double sum = slot, output = slot * slot_value.view()(0, h, 0, c);
        for (index_t j = 0; j <= i; ++j) {
          double const weight = std::exp(root * dot(q, h, i, k, h, j));
          sum += weight;
          output += weight * v.view()(0, h, j, c);
        }
        ASSERT_NEAR(view(o, q)(0, h, i, c), output / sum, allowed);
      }
}

TEST(Systems, PrefixesAndPrototypesAreKeysBeforeTheOwnOnes) {
  // [prefix; K], [prefix; V] under one softmax: the same as attention to the concatenation.
  index_t const slots = 21;
  floats const q = activations(42), k = activations(43), v = activations(44);
  floats const prefix_key = activations(45, heads, slots), prefix_value = activations(46, heads, slots);
  floats joint_key = test::filled<float, 4>({1, heads, slots + tokens, dimension}, 0), joint_value = joint_key;
  for (index_t h = 0; h < heads; ++h)
    for (index_t j = 0; j < slots + tokens; ++j)
      for (index_t c = 0; c < dimension; ++c) {
        joint_key.view()(0, h, j, c) = j < slots ? prefix_key.view()(0, h, j, c) : k.view()(0, h, j - slots, c);
        joint_value.view()(0, h, j, c) = j < slots ? prefix_value.view()(0, h, j, c) : v.view()(0, h, j - slots, c);
      }
  auto o = output_like(q);
  softmax_attention(q.view(), k.view(), v.view(), view(o, q),
                    prefix_key_values(prefix_key.view(), prefix_value.view()));
  EXPECT_TRUE(test::near(o, reference::softmax_attention<float>(q.view(), joint_key.view(), joint_value.view()).output,
                         allowed));
}

}  // namespace
}  // namespace attend
