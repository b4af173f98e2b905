// SPDX-License-Identifier: BSD-3-Clause
// Gradients against their definition in double, and the definition against difference quotients of the forward one.
#include <gtest/gtest.h>

#include <attend/attend.hpp>

#include "support/argument_errors.hpp"
#include "support/count_allocations.hpp"
#include "support/softmax_gradients.hpp"

namespace attend::test {
namespace {

template <class T>
class SoftmaxBackward : public testing::Test {};
using element_types = testing::Types<float, double, bfloat16, half>;
TYPED_TEST_SUITE(SoftmaxBackward, element_types);

TYPED_TEST(SoftmaxBackward, IsTheDefinitionForAnyShape) {
  using T = TypeParam;
  unsigned seed = 0;
  for (sizes const& s : {sizes{.key_dimension = 1, .value_dimension = 1},
                         {2, 6, 2, 3, 5, 9, 8, 3},
                         {1, 4, 2, 2, 49, 131, 16, 20},
                         {1, 6, 6, 1, 70, 290, 33, 8}}) {
    auto const in = random_inputs<T>(s, ++seed);
    auto const of_output = gradient_of_output(in);
    reference::options with;
    EXPECT_TRUE(agrees(in, of_output, with, 1)) << s.queries;
    with.visible = reference::causal_bottom_right();
    EXPECT_TRUE(agrees(in, of_output, with, 1, causal{})) << s.queries;
  }
}

// More keys than a block has, and rows for more than one tile.
inputs<float> middle(unsigned seed, index_t queries = 60, index_t keys = 150) {
  return random_inputs<float>({.batches = 2,
                               .query_heads = 4,
                               .key_heads = 2,
                               .value_heads = 4,
                               .queries = queries,
                               .keys = keys,
                               .key_dimension = 12,
                               .value_dimension = 10},
                              seed);
}

TEST(SoftmaxBackwardOptions, ScoresHaveTheirSlopes) {
  auto const in = middle(1);
  auto const of_output = gradient_of_output(in);
  std::vector<float> const slopes{0.5f, 0.25f, 0.125f, 0.0625f}, factors{0.5f, 1.5f, 2.f, -1.f};
  auto const squared =
      score_with_slope([](auto s, auto const&) { return s + decltype(s)(0.125f) * s * abs(s); },
                       [](auto s, auto const&) { return decltype(s)(1.f) + decltype(s)(0.25f) * abs(s); });
  reference::options with;
  with.scale = 0.7;
  with.visible = reference::sliding_window(40, 10);
  with.scores = {[&](double s, reference::place const& at) {
                   return s - static_cast<double>(slopes[static_cast<std::size_t>(at.head)]) *
                                  static_cast<double>(std::abs(at.position() - at.key));
                 },
                 [](double s, reference::place const&) { return 3 * std::tanh(s / 3); },
                 [&](double s, reference::place const& at) {
                   return s * static_cast<double>(factors[static_cast<std::size_t>(at.head)]);
                 },
                 [](double s, reference::place const&) { return s + 0.125 * s * std::abs(s); }};
  // A weight has the error of its logit, which is up to 20 here.
  EXPECT_TRUE(agrees(in, of_output, with, 8, window{40, 10}, scale{0.7}, alibi(slopes), softcap{3.},
                     head_logit_scale(factors), squared));
}

TEST(SoftmaxBackwardOptions, BiasHidesAndAdds) {
  auto const in = middle(2);
  auto const of_output = gradient_of_output(in);
  auto pairs = normal<float, 4>({2, 4, 60, 150}, 5);
  for (std::size_t i = 0; i < pairs.elements.size(); i += 3) pairs.elements[i] = -extend::infinity<float>;
  for (index_t j = 0; j < 150; ++j) pairs.view()(1, 2, 33, j) = -extend::infinity<float>;  // a row that sees nothing
  reference::options with;
  with.scores = {[&](double s, reference::place const& at) {
    return s + static_cast<double>(pairs.view()(at.batch, at.head, at.query, at.key));
  }};
  // The difference quotient of a hidden pair is none: the mask of the definition hides it.
  with.visible = [&](reference::place const& at) {
    return pairs.view()(at.batch, at.head, at.query, at.key) != -extend::infinity<float>;
  };
  EXPECT_TRUE(agrees(in, of_output, with, 1, bias(pairs.view())));
}

TEST(SoftmaxBackwardOptions, NormalizersHaveTheirOwn) {
  auto const in = middle(3);
  auto const of_output = gradient_of_output(in);
  std::vector<float> const logits{0.5f, -1.f, 3.f, 0.f};
  reference::options with;
  with.visible = reference::causal_bottom_right();
  with.sink = [&](index_t head) { return static_cast<double>(logits[static_cast<std::size_t>(head)]); };
  EXPECT_TRUE(agrees(in, of_output, with, 1, causal{}, sinks(logits)));
  with.sink = {};
  with.settings = reference::normalizer::sigmoid;
  with.sigmoid_bias = -2;
  EXPECT_TRUE(agrees(in, of_output, with, 1, causal{}, sigmoid_weights(-2)));
  with.settings = reference::normalizer::relu;
  EXPECT_TRUE(agrees(in, of_output, with, 1, causal{}, relu_weights{}));
}

TEST(SoftmaxBackwardOptions, SequencesEndWhereTheyEnd) {
  auto const in = middle(4);
  auto const of_output = gradient_of_output(in);
  std::vector<std::int64_t> const queries{60, 37}, keys{0, 103};
  reference::options with;
  with.visible = reference::causal_bottom_right();
  with.query_length = [&](index_t b) { return queries[static_cast<std::size_t>(b)]; };
  with.key_length = [&](index_t b) { return keys[static_cast<std::size_t>(b)]; };
  EXPECT_TRUE(agrees(in, of_output, with, 1, causal{}, padded(queries, keys)));
}

TEST(SoftmaxBackwardOptions, PackedSequencesAreEachItsOwn) {
  sizes const s{.query_heads = 4, .key_heads = 2, .value_heads = 2, .queries = 200, .keys = 200};
  auto const in = random_inputs<float>(s, 9);
  auto const of_output = gradient_of_output(in);
  std::vector<std::int64_t> const offsets{0, 60, 60, 61, 200};
  reference::options with;
  auto const of = [&](index_t t) { return std::upper_bound(offsets.begin(), offsets.end(), t) - offsets.begin(); };
  with.visible = [&](reference::place const& at) { return of(at.query) == of(at.key) && at.key <= at.query; };
  EXPECT_TRUE(agrees(in, of_output, with, 1, causal{}, ragged{offsets}));
}

TEST(SoftmaxBackwardOptions, BitsAreTheSameForAnyThreadsAndBatch) {
  sizes const s{.batches = 2, .query_heads = 2, .queries = 700, .keys = 1100};
  auto const in = random_inputs<float>(s, 11);
  auto const output = gradient_of_output(in, 1), of_output = gradient_of_output(in, 2);
  auto const lse = filled<float, 3>({2, 2, 700}, 5.f);
  auto const run = [&](index_t batches, auto executor) {
    auto const part = [&](auto view) {
      auto extents = view.extents();
      extents[0] = batches;
      return decltype(view)(view.data(), extents, view.strides());
    };
    gradient_tensors<float> all{filled<float, 4>({batches, 2, 700, 8}, 7), filled<float, 4>({batches, 1, 1100, 8}, 7),
                                filled<float, 4>({batches, 1, 1100, 8}, 7)};
    softmax_attention_backward(part(in.query.view()), part(in.key.view()), part(in.value.view()), part(output.view()),
                               part(lse.view()), part(of_output.view()), all.query.view(), all.key.view(),
                               all.value.view(), causal{}, executor);
    return all;
  };
  auto const alone = run(2, serial{}), shared = run(2, threads{3}), first = run(1, serial{});
  for (auto const member :
       {&gradient_tensors<float>::query, &gradient_tensors<float>::key, &gradient_tensors<float>::value}) {
    std::vector<float> const &all = (alone.*member).elements, &one = (first.*member).elements;
    EXPECT_TRUE(same_bits(all, (shared.*member).elements));
    EXPECT_TRUE(std::equal(one.begin(), one.end(), all.begin()));
  }
}

TEST(SoftmaxBackwardOptions, SumsOfNothingAreZero) {
  for (sizes const& s : {sizes{.queries = 0, .keys = 5}, sizes{.query_heads = 0, .keys = 5}, sizes{.keys = 0},
                         sizes{.keys = 3, .value_dimension = 0}, sizes{.keys = 3, .key_dimension = 0}}) {
    auto const in = random_inputs<float>(s, 1);
    auto const of_output = gradient_of_output(in);
    auto const got = gradients_of(in, of_output, {});
    auto const are_zero = [](std::vector<float> const& x) {
      return std::all_of(x.begin(), x.end(), [](float number) { return number == 0; });
    };
    EXPECT_TRUE(are_zero(got.query.elements) && are_zero(got.key.elements)) << s.queries;
    EXPECT_EQ(are_zero(got.value.elements), s.key_dimension > 0 || got.value.elements.empty()) << s.queries;
  }
}

TEST(SoftmaxBackwardOptions, HiddenPairsAddNothing) {
  auto in = middle(5, 90, 90);
  auto of_output = gradient_of_output(in);
  float const nan = std::numeric_limits<float>::quiet_NaN();
  std::fill_n(&in.key.view()(1, 1, 40, 0), 12, nan);
  std::fill_n(&in.value.view()(1, 2, 40, 0), 10, nan);
  std::fill_n(&in.query.view()(1, 3, 7, 0), 12, nan);
  std::fill_n(&of_output.view()(1, 2, 7, 0), 10, nan);
  reference::options with;
  with.visible = [](reference::place const& at) { return at.query != 7 && at.key != 40; };
  EXPECT_TRUE(agrees(in, of_output, with, 1, mask([](auto query, auto key) { return (query != 7) & (key != 40); })));
}

// A row that sees NaN has a log-sum-exp of NaN; keys that are hidden from it have gradients all the same.
TEST(SoftmaxBackwardOptions, RowsOfNanLeaveHiddenKeysAlone) {
  float const nan = std::numeric_limits<float>::quiet_NaN(), hidden = -extend::infinity<float>;
  for (bool const of_query : {true, false}) {
    auto const clean = middle(6, 90, 90);
    auto in = clean;
    auto const of_output = gradient_of_output(in);
    if (of_query)
      std::fill_n(&in.query.view()(1, 2, 50, 0), 12, nan);
    else
      std::fill_n(&in.key.view()(1, 1, 89, 0), 12, nan);  // which the last row alone sees
    index_t const row = of_query ? 50 : 89;
    auto pairs = filled<float, 2>({90, 90}, 0);
    for (index_t i = 0; i < 90; ++i)
      for (index_t j = i + 1; j < 90; ++j) pairs.view()(i, j) = hidden;
    std::fill_n(&pairs.view()(row, 0), 30, hidden);  // and of the first keys none
    auto const gradients = [&](auto const& of, auto const&... options) {
      auto output = filled<float, 4>(of_output.extents, 0);
      auto lse = filled<float, 3>({2, 4, 90}, 0);
      gradient_tensors<float> all{filled<float, 4>(of.query.extents, 7), filled<float, 4>(of.key.extents, 7),
                                  filled<float, 4>(of.value.extents, 7)};
      softmax_attention(of.query.view(), of.key.view(), of.value.view(), output.view(), options...,
                        log_sum_exp(lse.view()));
      softmax_attention_backward(of.query.view(), of.key.view(), of.value.view(), output.view(), lse.view(),
                                 of_output.view(), all.query.view(), all.key.view(), all.value.view(), options...);
      return all;
    };
    auto const expect = [&](auto const&... options) {
      auto const expected = gradients(clean, options...), got = gradients(in, options...);
      for (auto const member : {&gradient_tensors<float>::key, &gradient_tensors<float>::value})
        for (index_t h = 0; h < (got.*member).extents[1]; ++h)
          for (index_t j = 0; j < 30; ++j)
            for (index_t c = 0; c < (got.*member).extents[3]; ++c)
              EXPECT_NEAR((got.*member).view()(1, h, j, c), (expected.*member).view()(1, h, j, c), 1e-5)
                  << h << ' ' << j;
    };
    expect(bias(pairs.view()));
    expect(causal{} & mask([row](auto query, auto key) { return (query != row) | (key >= 30); }));
  }
}

TEST(SoftmaxBackwardDefinition, IsThatOfDifferenceQuotients) {
  auto in =
      random_inputs<double>({.query_heads = 2, .queries = 4, .keys = 6, .key_dimension = 3, .value_dimension = 2}, 3);
  auto const of_output = gradient_of_output(in);
  for (auto const settings :
       {reference::normalizer::softmax, reference::normalizer::sigmoid, reference::normalizer::relu}) {
    reference::options with;
    with.settings = settings;
    with.visible = reference::causal_bottom_right();
    with.scores = {[](double s, reference::place const&) { return 2 * std::tanh(s / 2); }};
    if (settings == reference::normalizer::softmax)
      with.sink = [](index_t head) { return 0.3 * static_cast<double>(head); };
    auto const loss = [&] {
      auto const made = reference::softmax_attention<double>(in.query.view(), in.key.view(), in.value.view(), with);
      return std::inner_product(made.output.begin(), made.output.end(), of_output.elements.begin(), 0.0);
    };
    auto const got = reference::softmax_backward<double>(in.query.view(), in.key.view(), in.value.view(),
                                                         std::as_const(of_output).view(), with);
    auto const check = [&](std::vector<double>& elements, std::vector<double> const& gradient) {
      for (std::size_t i = 0; i < elements.size(); ++i) {
        double const x = std::exchange(elements[i], elements[i] + 1e-5), above = loss();
        elements[i] = x - 1e-5;
        double const below = loss();
        elements[i] = x;
        EXPECT_NEAR(gradient[i], (above - below) / 2e-5, 1e-8) << i;
      }
    };
    check(in.query.elements, got.query);
    check(in.key.elements, got.key);
    check(in.value.elements, got.value);
  }
}

TEST(SoftmaxBackwardOptions, NothingIsAllocatedAfterTheFirstCall) {
  auto const in = middle(6);
  auto const of_output = gradient_of_output(in);
  auto output = filled<float, 4>(of_output.extents, 0);
  auto lse = filled<float, 3>({2, 4, 60}, 0);
  auto all = gradients_of(in, of_output, {}, causal{});
  auto const backward = [&] {
    softmax_attention_backward(in.query.view(), in.key.view(), in.value.view(), output.view(), lse.view(),
                               of_output.view(), all.query.view(), all.key.view(), all.value.view(), causal{});
  };
  backward();
  long const before = allocations;
  backward();
  EXPECT_EQ(allocations, before);
}

TEST(SoftmaxBackwardOptions, ArgumentsThatDoNotFitAreNamed) {
  auto const in = middle(7, 5, 9);
  auto const of_output = gradient_of_output(in);
  auto output = filled<float, 4>(of_output.extents, 0);
  auto lse = filled<float, 3>({2, 4, 5}, 0);
  auto gq = filled<float, 4>(in.query.extents, 7), gk = filled<float, 4>(in.key.extents, 7),
       gv = filled<float, 4>(in.value.extents, 7);
  auto const expect = [&](std::string const& message, auto const& call) {
    expect_error(message, call);
    for (auto const* gradient : {&gq, &gk, &gv})
      EXPECT_TRUE(std::all_of(gradient->elements.begin(), gradient->elements.end(), [](float x) { return x == 7; }))
          << message;
  };
  auto const q = in.query.view(), k = in.key.view(), v = in.value.view();
  auto const short_lse = filled<float, 3>({2, 4, 4}, 0);
  auto wrong = filled<float, 4>({2, 4, 5, 9}, 7);
  auto const call = [&](auto const& o, auto const& l, auto const& g, auto const& dq, auto const& dk, auto const& dv,
                        auto const&... options) {
    softmax_attention_backward(q, k, v, o, l, g, dq, dk, dv, options...);
  };
  read_view const o = std::as_const(output).view(), g = of_output.view();
  auto const l = lse.view();
  expect("log_sum_exp: expected tokens 5 (as query), got 4",
         [&] { call(o, short_lse.view(), g, gq.view(), gk.view(), gv.view()); });
  expect("output: expected head dimension 10 (as value), got 9",
         [&] { call(wrong.view(), l, g, gq.view(), gk.view(), gv.view()); });
  expect("of_output: expected head dimension 10 (as value), got 9",
         [&] { call(o, l, wrong.view(), gq.view(), gk.view(), gv.view()); });
  expect("of_query: expected head dimension 12 (as query), got 9",
         [&] { call(o, l, g, wrong.view(), gk.view(), gv.view()); });
  expect("of_key: expected heads 2 (as key), got 4", [&] { call(o, l, g, gq.view(), gq.view(), gv.view()); });
  expect("of_value: expected tokens 9 (as value), got 5", [&] { call(o, l, g, gq.view(), gk.view(), wrong.view()); });
  expect("softcap: expected a cap from 1e-30 to 1e30, got 0",
         [&] { call(o, l, g, gq.view(), gk.view(), gv.view(), softcap{0.}); });
  expect("of_query: expected memory of its own, got memory that overlaps query", [&] {
    tensor_view<float, 4> const same(const_cast<float*>(q.data()), q.extents());
    call(o, l, g, same, gk.view(), gv.view());
  });
}

}  // namespace
}  // namespace attend::test
