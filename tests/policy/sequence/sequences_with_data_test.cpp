// SPDX-License-Identifier: BSD-3-Clause
// Padded and packed sequences with policies that hold data: lists and tensors are read where a sequence's tokens stand.
#include <attend/policy/gain.hpp>
#include <attend/policy/mask/boolean_mask.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/documents.hpp>
#include <attend/policy/mask/prefix_lm.hpp>
#include <attend/policy/normalizer/sigmoid.hpp>
#include <attend/policy/score/alibi.hpp>
#include <attend/policy/score/bias.hpp>
#include <attend/policy/score/logit_scale.hpp>

#include "support/any_policy.hpp"
#include "support/boolean_tensor.hpp"
#include "support/mask_checks.hpp"
#include "support/packed_sequences.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

using list = std::vector<std::int64_t>;

list random_list(index_t count, index_t most, unsigned seed) {
  std::mt19937 engine(seed);
  list result(static_cast<std::size_t>(count));
  for (auto& number : result) number = std::uniform_int_distribution<std::int64_t>(0, most)(engine);
  return result;
}

std::int64_t at_index(list const& numbers, index_t i) { return numbers[static_cast<std::size_t>(i)]; }

list const query_lengths{70, 0, 33, 1}, key_lengths_of_batches{33, 20, 0, 150};
test::sizes const batched{.batches = 4, .query_heads = 4, .key_heads = 2, .value_heads = 2, .queries = 70, .keys = 150};

reference::options padded_options() {
  reference::options with;
  with.query_length = [](index_t b) { return at_index(query_lengths, b); };
  with.key_length = [](index_t b) { return at_index(key_lengths_of_batches, b); };
  return with;
}

TEST(PaddedData, OfMasksIsThatOfTheBatch) {
  auto const in = test::random_inputs<float>(batched, 1);
  auto const check = [&](test::any_mask const& mask, reference::visible_function const& visible) {
    auto with = padded_options();
    with.visible = visible;
    return test::agrees(in, test::attend_to(in, padded(query_lengths, key_lengths_of_batches), mask), with);
  };
  for (index_t lists : {1, 4}) {
    list const query = random_list(70 * lists, 2, 1), key = random_list(150 * lists, 2, 2);
    EXPECT_TRUE(check(documents(query, key), [&](reference::place const& at) {
      index_t const b = lists == 1 ? 0 : at.batch;
      return at_index(query, b * 70 + at.query) == at_index(key, b * 150 + at.key);
    }));
  }
  auto const booleans = test::random_booleans<4>({4, 4, 70, 150}, 3);
  EXPECT_TRUE(check(boolean_mask(booleans.view()),
                    [&](reference::place const& at) { return booleans.view()(at.batch, at.head, at.query, at.key); }));
  list const lengths{40, 10, 3, 60};
  EXPECT_TRUE(
      check(key_lengths(lengths), [&](reference::place const& at) { return at.key < at_index(lengths, at.batch); }));
  EXPECT_TRUE(check(prefix_lm(lengths), [&](reference::place const& at) {
    return at.key < at_index(lengths, at.batch) || at.key <= at.position();
  }));
}

TEST(PaddedData, OfScoresAndGainsIsThatOfTheBatch) {
  auto const in = test::random_inputs<float>(batched, 1);
  auto const added = test::normal<float, 4>({4, 4, 70, 150}, 1);
  auto const factors = test::normal<float, 3>({4, 4, 70}, 2);
  auto const gains = test::normal<float, 3>({4, 2, 150}, 3);
  std::vector<float> const slopes{0.5, 0.25, 0.125, 0};
  auto with = padded_options();
  with.scores = {[&](double s, reference::place const& at) { return s + test::shared_element(added, at); },
                 [&](double s, reference::place const& at) { return s * factors.view()(at.batch, at.head, at.query); },
                 [&](double s, reference::place const& at) {
                   return s - slopes[static_cast<std::size_t>(at.head)] *
                                  std::abs(static_cast<double>(at.position() - at.key));
                 }};
  with.value_gain = [&](index_t batch, index_t head, index_t key) { return gains.view()(batch, head, key); };
  EXPECT_TRUE(test::agrees(in,
                           test::attend_to(in, padded(query_lengths, key_lengths_of_batches), bias(added.view()),
                                           query_logit_scale(factors.view()), alibi(slopes), value_gain(gains.view())),
                           with, test::largest_magnitude(gains.elements)));
}

test::packed_sequences const packed{{0, 0, 33, 33, 34, 104, 160}, {0, 12, 82, 82, 92, 92, 250}};
test::sizes const packed_heads{.query_heads = 4, .key_heads = 2, .value_heads = 2};

TEST(RaggedData, OfMasksIsThatOfTheTokens) {
  auto const in = test::random_inputs<float>(packed.fitted(packed_heads), 1);
  using visible_in_sequence = std::function<bool(index_t, reference::place const&)>;
  auto const check = [&](test::any_mask const& mask, visible_in_sequence const& visible) {
    return test::agrees(in, test::attend_to(in, packed.offsets(), mask), packed, [&](index_t s) {
      reference::options with;
      with.visible = [=](reference::place const& at) { return visible(s, at); };
      return with;
    });
  };
  list query = random_list(160, 2, 1), key = random_list(250, 2, 2);
  auto const same_document = [&](index_t s, reference::place const& at) {
    return at_index(query, packed.first_query(s) + at.query) == at_index(key, packed.first_key(s) + at.key);
  };
  EXPECT_TRUE(check(documents(query, key), same_document));
  std::sort(query.begin(), query.end());
  std::sort(key.begin(), key.end());
  EXPECT_TRUE(check(documents(query, key), same_document));
  auto const booleans = test::random_booleans<4>({1, 4, 160, 250}, 3);
  EXPECT_TRUE(check(boolean_mask(booleans.view()), [&](index_t s, reference::place const& at) {
    return booleans.view()(0, at.head, packed.first_query(s) + at.query, packed.first_key(s) + at.key);
  }));
  // One length for each sequence, not for each batch.
  list const lengths{4, 60, 0, 5, 0, 100};
  EXPECT_TRUE(check(key_lengths(lengths),
                    [&](index_t s, reference::place const& at) { return at.key < at_index(lengths, s); }));
  EXPECT_TRUE(check(prefix_lm(lengths), [&](index_t s, reference::place const& at) {
    return at.key < at_index(lengths, s) || at.key <= at.position();
  }));
  EXPECT_TRUE(check(documents(query, key) & causal{}, [&](index_t s, reference::place const& at) {
    return same_document(s, at) && at.key <= at.position();
  }));
}

TEST(RaggedData, AnswersSoundly) {
  list query = random_list(160, 3, 1), key = random_list(250, 3, 2);
  auto const booleans = test::random_booleans<4>({1, 2, 160, 250}, 3, 0.9);
  for (bool sorted : {false, true}) {
    if (sorted) std::sort(query.begin(), query.end()), std::sort(key.begin(), key.end());
    problem_shape const shape{1, 2, 1, 1, 160, 250, 4, 4, packed.size()};
    for (index_t s = 0; s < packed.size(); ++s) {
      test::tile_sequence const sequence{
          s, 0, packed.first_query(s), packed.first_key(s), packed.queries(s), packed.keys(s)};
      EXPECT_TRUE(test::is_sound<float>(
          documents(query, key), shape, sequence, {0, 1},
          [&](reference::place const& at) {
            return at_index(query, sequence.first_query_token + at.query) ==
                   at_index(key, sequence.first_key_token + at.key);
          },
          1));
      EXPECT_TRUE(test::is_sound<float>(
          boolean_mask(booleans.view()), shape, sequence, {0, 1},
          [&](reference::place const& at) {
            return booleans.view()(0, at.head, sequence.first_query_token + at.query,
                                   sequence.first_key_token + at.key);
          },
          1));
    }
  }
}

TEST(RaggedData, OfScoresAndGainsIsThatOfTheTokens) {
  auto const in = test::random_inputs<float>(packed.fitted(packed_heads), 1);
  auto const added = test::normal<float, 4>({1, 4, 160, 250}, 1);
  auto const factors = test::normal<float, 3>({1, 4, 160}, 2);
  auto gains = test::normal<float, 3>({1, 2, 250}, 3);
  for (float& gain : gains.elements) gain = std::clamp(gain, -1.f, 1.f);
  std::vector<float> const slopes{0.5, 0.25, 0.125, 0};
  EXPECT_TRUE(test::agrees(in,
                           test::attend_to(in, packed.offsets(), bias(added.view()), query_logit_scale(factors.view()),
                                           alibi(slopes), value_gain(gains.view())),
                           packed, [&](index_t s) {
                             index_t const query = packed.first_query(s), key = packed.first_key(s);
                             reference::options with;
                             with.scores = {[&, query, key](double x, reference::place const& at) {
                                              return x + added.view()(0, at.head, query + at.query, key + at.key);
                                            },
                                            [&, query](double x, reference::place const& at) {
                                              return x * factors.view()(0, at.head, query + at.query);
                                            },
                                            [&](double x, reference::place const& at) {
                                              return x - slopes[static_cast<std::size_t>(at.head)] *
                                                             std::abs(static_cast<double>(at.position() - at.key));
                                            }};
                             with.value_gain = [&, key](index_t, index_t head, index_t j) {
                               return static_cast<double>(gains.view()(0, head, key + j));
                             };
                             return with;
                           }));
}

TEST(RaggedData, OfTheSigmoidIsTheCountOfKeysOfTheSequence) {
  auto const in = test::random_inputs<float>(packed.fitted(packed_heads), 1);
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, packed.offsets(), sigmoid_weights{}), packed, [&](index_t s) {
    reference::options with;
    with.settings = reference::normalizer::sigmoid;
    with.sigmoid_bias = -std::log(std::max(1.0, static_cast<double>(packed.keys(s))));
    return with;
  }));
}

}  // namespace
}  // namespace attend
