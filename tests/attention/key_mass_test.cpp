// SPDX-License-Identifier: BSD-3-Clause
// Weights added up for keys, and transposed weights times rows: the same bits, identities, hidden rows, and errors.
#include <attend/attention/softmax/key_sums.hpp>
#include <attend/attention/softmax/rotary_embedding.hpp>
#include <attend/attention/softmax/softmax_attention_backward.hpp>
#include <attend/policy/functions.hpp>
#include <attend/policy/invariance.hpp>
#include <attend/policy/mask/parts.hpp>
#include <attend/policy/mask/window.hpp>
#include <attend/policy/weight_function.hpp>

#include "support/argument_errors.hpp"
#include "support/executors.hpp"

namespace attend::test {
namespace {

tensor_view<float, 3> const unknown;

/// Enough keys for several ranges, and queries for several groups of tiles.
inputs<float> long_inputs(unsigned seed = 1) {
  return random_inputs<float>({.batches = 2,
                               .query_heads = 6,
                               .key_heads = 2,
                               .value_heads = 2,
                               .queries = 250,
                               .keys = 700,
                               .key_dimension = 20,
                               .value_dimension = 8},
                              seed);
}

tensor<float, 3> mass_of(index_t batches, index_t heads, index_t keys) {
  return filled<float, 3>({batches, heads, keys}, 7);
}

TEST(KeyMass, HasTheSameBitsOnAnyThreadsAndInAnyBatch) {
  auto const in = long_inputs();
  auto output = filled<float, 4>({2, 6, 250, 8}, 7);
  auto const rows = normal<float, 4>({2, 6, 250, 5}, 9);
  for (index_t heads : {6, 2, 1}) {
    auto mass = mass_of(2, heads, 700);
    auto sums = filled<float, 4>({2, heads, 700, 5}, 7);
    softmax_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), causal{}, key_mass(mass.view()));
    transposed_attention(in.query.view(), in.key.view(), unknown, rows.view(), sums.view(), causal{});
    for_executors([&](auto executor, std::string const& name) {
      auto again = mass_of(2, heads, 700);
      auto sums_again = filled<float, 4>({2, heads, 700, 5}, 9);
      softmax_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), causal{},
                        key_mass(again.view()), executor);
      transposed_attention(in.query.view(), in.key.view(), unknown, rows.view(), sums_again.view(), causal{}, executor);
      EXPECT_TRUE(same_bits(mass.elements, again.elements)) << name;
      EXPECT_TRUE(same_bits(sums.elements, sums_again.elements)) << name;
    });
    // The second batch alone.
    auto const of = [](auto const& tensor) { return attend::detail::part(tensor.view(), 0, 1, 1); };
    auto alone = mass_of(1, heads, 700);
    softmax_attention(of(in.query), of(in.key), of(in.value), attend::detail::part(output.view(), 0, 1, 1), causal{},
                      key_mass(alone.view()));
    EXPECT_TRUE(std::equal(alone.elements.begin(), alone.elements.end(), mass.elements.begin() + heads * 700));
  }
}

TEST(KeyMass, OfRowsThatAreKnownHasTheBitsOfTheCall) {
  auto const in = long_inputs();
  auto output = filled<float, 4>({2, 6, 250, 8}, 7);
  auto lse = filled<float, 3>({2, 6, 250}, 7);
  auto mass = mass_of(2, 2, 700), again = mass;
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), causal{}, key_mass(mass.view()),
                    log_sum_exp(lse.view()));
  attention_key_mass(in.query.view(), in.key.view(), lse.view(), key_mass(again.view()), causal{});
  EXPECT_TRUE(same_bits(mass.elements, again.elements));
}

// Each row of weights adds up to 1.
TEST(KeyMass, OfAllKeysIsTheNumberOfRows) {
  auto const in = long_inputs();
  auto mass = mass_of(2, 6, 700);
  attention_key_mass(in.query.view(), in.key.view(), unknown, key_mass(mass.view(), query_range{3, 203}), causal{});
  for (index_t head = 0; head < 12; ++head) {
    double sum = 0;
    for (index_t j = 0; j < 700; ++j)
      sum += static_cast<double>(mass.elements[static_cast<std::size_t>(head * 700 + j)]);
    EXPECT_NEAR(sum, 200, tolerance<float>(200));
  }
}

// dV = P^T dO.
TEST(TransposedAttention, IsTheGradientOfValues) {
  auto const in = long_inputs();
  auto output = filled<float, 4>({2, 6, 250, 8}, 7);
  auto const of_output = normal<float, 4>(output.extents, 5);
  auto lse = filled<float, 3>({2, 6, 250}, 7);
  auto of_query = in.query, of_key = in.key, of_value = in.value, sent = in.value;
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), window{300, 20},
                    log_sum_exp(lse.view()));
  softmax_attention_backward(in.query.view(), in.key.view(), in.value.view(), output.view(), lse.view(),
                             of_output.view(), of_query.view(), of_key.view(), of_value.view(), window{300, 20});
  transposed_attention(in.query.view(), in.key.view(), lse.view(), of_output.view(), sent.view(), window{300, 20});
  EXPECT_TRUE(near(sent.elements, of_value.elements, 2 * tolerance<float>(largest_magnitude(of_value.elements))));
}

TEST(KeyMass, RotatesAsTheCallDoes) {
  auto const in = long_inputs();
  auto const turns = rotary(rotary_frequencies(20));
  auto turned_query = in.query, turned_key = in.key;
  rotary_embedding(in.key.view(), turns, turned_key.view());
  rotary_embedding(in.query.view(), turns, turned_query.view(), 450);
  auto mass = mass_of(2, 6, 700), expected = mass;
  attention_key_mass(in.query.view(), in.key.view(), unknown, key_mass(mass.view()), causal{}, turns);
  attention_key_mass(turned_query.view(), turned_key.view(), unknown, key_mass(expected.view()), causal{});
  EXPECT_TRUE(near(mass.elements, expected.elements, tolerance<float>(largest_magnitude(expected.elements))));
}

// The weights before functions and gains; a single query is the split engine's.
TEST(KeyMass, GoesWithEveryEngineAndGain) {
  auto const in = long_inputs();
  auto output = filled<float, 4>({2, 6, 250, 8}, 7);
  auto mass = mass_of(2, 2, 700), again = mass;
  auto const call = [&](auto const&... options) {
    softmax_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), causal{}, options...);
  };
  call(key_mass(mass.view()));
  call(key_mass(again.view()), weight_function([](auto p, auto const&) { return p * p; }));
  EXPECT_TRUE(near(again.elements, mass.elements, tolerance<float>(largest_magnitude(mass.elements))));
  call(key_mass(again.view()), chunk_invariant{});
  EXPECT_TRUE(near(again.elements, mass.elements, tolerance<float>(largest_magnitude(mass.elements))));

  auto const last = attend::detail::part(in.query.view(), 2, 249, 1);
  call(key_mass(mass.view(), last_queries{1}));
  softmax_attention(last, in.key.view(), in.value.view(), attend::detail::part(output.view(), 2, 0, 1), causal{},
                    key_mass(again.view()));
  EXPECT_TRUE(near(again.elements, mass.elements, tolerance<float>(1)));
}

TEST(KeyMass, HidesWhatTheMaskHides) {
  auto in = long_inputs();
  float const nothing = std::numeric_limits<float>::quiet_NaN();
  auto mass = mass_of(2, 2, 700), again = mass;
  auto const seen = causal{} & !keys_in(100, 200) & !queries_in(500, 510);
  auto const run = [&](tensor<float, 3>& to, tensor<float, 4> const& rows) {
    auto sums = filled<float, 4>({2, 2, 700, 3}, 7);
    transposed_attention(in.query.view(), in.key.view(), unknown, rows.view(), sums.view(), seen, key_mass(to.view()));
    return sums;
  };
  auto rows = normal<float, 4>({2, 6, 250, 3}, 4);
  auto const sums = run(mass, rows);
  for (index_t c = 0; c < 20; ++c)
    for (index_t key = 100; key < 200; ++key) in.key.view()(0, 1, key, c) = nothing;
  // Queries 50 to 59 stand at positions 500 to 509: they see nothing, and give nothing.
  for (index_t c = 0; c < 20; ++c) in.query.view()(1, 4, 55, c) = nothing;
  rows.view()(1, 4, 55, 1) = std::numeric_limits<float>::infinity();
  auto const sums_again = run(again, rows);
  EXPECT_TRUE(same_bits(mass.elements, again.elements));
  EXPECT_TRUE(near(sums_again.elements, sums.elements, tolerance<float>(largest_magnitude(sums.elements))));
  for (index_t key = 100; key < 200; ++key) EXPECT_EQ(mass.view()(0, 0, key), 0);

  // A row of NaN makes NaN of what it sees, of its own head alone.
  for (index_t c = 0; c < 20; ++c) in.query.view()(1, 4, 3, c) = nothing;
  run(again, rows);
  EXPECT_TRUE(std::isnan(again.view()(1, 1, 7)));
  EXPECT_EQ(again.view()(1, 1, 690), mass.view()(1, 1, 690));
  EXPECT_EQ(again.view()(1, 0, 7), mass.view()(1, 0, 7));
}

TEST(KeyMass, OfNothingIsZero) {
  auto const in = random_inputs<float>({.queries = 0, .keys = 5}, 1);
  auto mass = mass_of(1, 1, 5);
  auto output = filled<float, 4>({1, 1, 0, 8}, 7);
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), key_mass(mass.view()));
  EXPECT_EQ(mass.elements, std::vector<float>(5, 0.f));
  auto const more = random_inputs<float>({.queries = 3, .keys = 5}, 1);
  mass = mass_of(1, 1, 5);
  attention_key_mass(more.query.view(), more.key.view(), unknown, key_mass(mass.view(), last_queries{0}));
  EXPECT_EQ(mass.elements, std::vector<float>(5, 0.f));
}

using KeyMassErrors = argument_errors;

TEST_F(KeyMassErrors, OfTheOption) {
  auto sums = filled<float, 3>({2, 4, 9}, 7);
  expect_option_error("key_mass: expected 6, 3 or 1 heads (as query, as key, or for all), got 4",
                      key_mass(sums.view()));
  sums = filled<float, 3>({2, 3, 8}, 7);
  expect_option_error("key_mass: expected keys 9 (as key), got 8", key_mass(sums.view()));
  sums = filled<float, 3>({1, 3, 9}, 7);
  expect_option_error("key_mass: expected batch 2 (as query), got 1", key_mass(sums.view()));
  sums = filled<float, 3>({2, 3, 9}, 7);
  expect_option_error("key_mass: expected at least 0 last queries, got -1", key_mass(sums.view(), last_queries{-1}));
  expect_option_error("key_mass: expected queries from 0 to 5, got 2 to 6", key_mass(sums.view(), query_range{2, 6}));
  index_numbers const falling{1, 3, 2}, beyond{1, 5};
  expect_option_error("key_mass: expected ascending queries from 0 to 4, got 2 at 2",
                      key_mass(sums.view(), query_list{falling}));
  expect_option_error("key_mass: expected ascending queries from 0 to 4, got 5 at 1",
                      key_mass(sums.view(), query_list{beyond}));
  expect_option_error("key_mass: expected memory of its own, got memory that overlaps query",
                      key_mass(tensor_view<float, 3>(const_cast<float*>(in.query.elements.data()), {2, 1, 9})));
  EXPECT_EQ(sums.elements, std::vector<float>(54, 7.f));
}

TEST_F(KeyMassErrors, OfTheCalls) {
  auto const x = normal<float, 4>({2, 6, 5, 4}, 1);
  auto sent = filled<float, 4>({2, 3, 9, 4}, 7);
  auto const send = [&](auto const& lse, auto const& from, auto const& to) {
    transposed_attention(q(), k(), lse, from, to);
  };
  auto const short_rows = filled<float, 3>({2, 6, 4}, 0);
  auto const few = normal<float, 4>({2, 3, 5, 4}, 1);
  expect_error("log_sum_exp: expected tokens 5 (as query), got 4",
               [&] { send(short_rows.view(), x.view(), sent.view()); });
  expect_error("x: expected heads 6 (as query), got 3", [&] { send(unknown, few.view(), sent.view()); });
  auto wide = filled<float, 4>({2, 3, 9, 5}, 7);
  expect_error("output: expected columns 4 (as x), got 5", [&] { send(unknown, x.view(), wide.view()); });
  auto some = filled<float, 4>({2, 2, 9, 4}, 7);
  expect_error("output: expected 6, 3 or 1 heads (as query, as key, or for all), got 2",
               [&] { send(unknown, x.view(), some.view()); });
  expect_error("output: expected memory of its own, got memory that overlaps x", [&] {
    send(unknown, x.view(), tensor_view<float, 4>(const_cast<float*>(x.elements.data()), {2, 3, 9, 4}));
  });
  auto sums = filled<float, 3>({2, 3, 9}, 7);
  expect_error("log_sum_exp: expected heads 6 (as query), got 3",
               [&] { attention_key_mass(q(), k(), filled<float, 3>({2, 3, 5}, 0).view(), key_mass(sums.view())); });
  EXPECT_EQ(sent.elements, std::vector<float>(sent.elements.size(), 7.f));
  EXPECT_EQ(sums.elements, std::vector<float>(54, 7.f));
}

}  // namespace
}  // namespace attend::test
