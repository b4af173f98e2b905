// SPDX-License-Identifier: BSD-3-Clause
// Gradients of neighborhood attention against their definition in double.
#include <gtest/gtest.h>

#include <attend/attend.hpp>
#include <attend/attention/image/neighborhood_attention_backward.hpp>
#include <attend/reference/neighborhood.hpp>

#include "support/argument_errors.hpp"
#include "support/training.hpp"

namespace attend::test {
using namespace grids;
namespace {

template <int Axes>
struct grid {
  std::array<index_t, static_cast<std::size_t>(Axes)> extents;
  std::array<neighborhood_axis, static_cast<std::size_t>(Axes)> axes;

  index_t tokens() const {
    return std::accumulate(extents.begin(), extents.end(), index_t{1}, std::multiplies<index_t>());
  }
  reference::options definition() const {
    std::vector<reference::neighborhood_rule> rules;
    for (std::size_t a = 0; a < extents.size(); ++a) {
      neighborhood_axis const& axis = axes[a];
      rules.push_back({extents[a], axis.window, axis.stride, axis.dilation, axis.causal, axis.at_border == border::clip,
                       axis.shift});
    }
    reference::options with;
    with.visible = [rules](reference::place const& at) { return reference::is_neighbor(rules, at.query, at.key); };
    return with;
  }
};

template <int Axes, class T, class... Options>
void forward(training<T>& t, grid<Axes> const& of, Options const&... options) {
  neighborhood_attention<Axes>(t.in.query.view(), t.in.key.view(), t.in.value.view(), t.output.view(), of.extents,
                               of.axes, log_sum_exp(t.sums.view()), options...);
}
template <int Axes, class T, class... Options>
void backward(training<T>& t, grid<Axes> const& of, Options const&... options) {
  neighborhood_attention_backward<Axes>(t.in.query.view(), t.in.key.view(), t.in.value.view(), t.output.view(),
                                        t.sums.view(), t.of_output.view(), t.of_query.view(), t.of_key.view(),
                                        t.of_value.view(), of.extents, of.axes, options...);
}

sizes sizes_of(index_t tokens) {
  return {.batches = 2,
          .query_heads = 4,
          .key_heads = 2,
          .value_heads = 4,
          .queries = tokens,
          .keys = tokens,
          .key_dimension = 12,
          .value_dimension = 10};
}

template <int Axes, class T>
void expect_gradients(grid<Axes> const& of, unsigned seed) {
  training<T> t(sizes_of(of.tokens()), seed);
  forward(t, of);
  backward(t, of, threads{2});
  t.expect_tensors(t.expected(of.definition()), 2);
}

TEST(NeighborhoodBackward, IsTheDefinitionOnLinesImagesAndVolumes) {
  expect_gradients<1, float>({{150}, {neighborhood_axis{9}}}, 1);
  expect_gradients<1, float>({{150}, {neighborhood_axis{7, 2, 3}}}, 2);
  expect_gradients<1, float>({{90}, {neighborhood_axis{.window = 8, .causal = true}}}, 3);
  expect_gradients<2, float>({{13, 17}, {neighborhood_axis{5}, neighborhood_axis{7}}}, 4);
  expect_gradients<2, float>({{12, 18}, {neighborhood_axis{3, 1, 2}, neighborhood_axis{5, 1, 3}}}, 5);
  expect_gradients<2, float>({{14, 21}, {swin_window(7, 3), swin_window(7, 3)}}, 6);
  expect_gradients<3, float>({{4, 6, 7}, {neighborhood_axis{2}, neighborhood_axis{3}, neighborhood_axis{4}}}, 7);
  expect_gradients<2, bfloat16>({{13, 17}, {neighborhood_axis{5}, neighborhood_axis{7}}}, 8);
}

// Numbers by relative place, for each head or for all, with sinks and gates.
TEST(NeighborhoodBackward, TablesHaveGradients) {
  grid<2> const of{{13, 17}, {neighborhood_axis{5}, neighborhood_axis{.window = 3, .dilation = 2}}};
  index_t const tokens = of.tokens();
  for (index_t const heads : {4, 1}) {
    training<float> t(sizes_of(tokens), 10);
    auto const table = normal<float, 3>({heads, 9, 5}, 11);
    auto written = filled<float, 3>(table.extents, 7);
    std::vector<float> const logits{0.5f, -1, 0, 1}, gates{1, 2, -1, 0.5f};
    std::vector<float> of_sinks(4, 7);
    auto of_gates = filled<float, 2>({1, 4}, 7);
    auto const place = [&](reference::place const& at) {
      index_t const y = at.key / 17 - at.query / 17 + 4, x = (at.key % 17 - at.query % 17) / 2 + 2;
      return static_cast<std::size_t>(((heads == 1 ? 0 : at.head) * 9 + y) * 5 + x);
    };
    auto with = of.definition();
    auto const visible = with.visible;
    with.scores = {[&](double s, reference::place const& at) {
      return visible(at) ? s + static_cast<double>(table.elements[place(at)]) : s;
    }};
    with.sink = [&](index_t head) { return static_cast<double>(logits[static_cast<std::size_t>(head)]); };
    with.head_gate = [&](index_t, index_t head) { return static_cast<double>(gates[static_cast<std::size_t>(head)]); };
    auto const expected = t.expected(with);
    std::vector<double> sums(table.elements.size()), terms(sums);
    std::size_t n = 0;
    for (index_t b = 0; b < 2; ++b)
      for (index_t h = 0; h < 4; ++h)
        for (index_t i = 0; i < tokens; ++i)
          for (index_t j = 0; j < tokens; ++j, ++n)
            if (reference::place const at{b, h, i, j, tokens, tokens}; visible(at)) {
              sums[place(at)] += expected.scores[0].after[n];
              terms[place(at)] += expected.scores[0].terms[n];
            }
    forward(t, of, relative_bias(table.view()), sinks(logits), head_gates(gates));
    auto const run = [&](auto executor) {
      backward(t, of, relative_bias(table.view()), sinks(logits), head_gates(gates),
               gradient_of_relative_bias(written.view()), gradient_of_sinks(of_sinks),
               gradient_of_head_gates(of_gates.view()), executor);
      return written.elements;
    };
    auto const alone = run(serial{});
    EXPECT_TRUE(same_bits(alone, run(threads{3})));
    t.expect_tensors(expected, 2);
    EXPECT_TRUE(near(alone, sums, 2 * tolerance<float>(*std::max_element(terms.begin(), terms.end()))));
    EXPECT_TRUE(near(of_sinks, expected.sink,
                     2 * tolerance<float>(*std::max_element(expected.sink_terms.begin(), expected.sink_terms.end()))));
  }
}

// More tokens than a range has, so that several are at work at once.
TEST(NeighborhoodBackward, BitsAreTheSameForAnyThreads) {
  grid<2> const of{{30, 40}, {neighborhood_axis{7}, neighborhood_axis{9}}};
  training<float> t({.query_heads = 2, .key_heads = 1, .value_heads = 1, .queries = 1200, .keys = 1200}, 20);
  auto const table = normal<float, 3>({2, 13, 17}, 21);
  forward(t, of, relative_bias(table.view()));
  auto const run = [&](auto executor) {
    auto written = filled<float, 3>(table.extents, 7);
    backward(t, of, relative_bias(table.view()), gradient_of_relative_bias(written.view()), executor);
    for (auto const* more : {&t.of_query.elements, &t.of_key.elements, &t.of_value.elements})
      written.elements.insert(written.elements.end(), more->begin(), more->end());
    return written.elements;
  };
  auto const alone = run(serial{});
  for (int count : {2, 5}) EXPECT_TRUE(same_bits(alone, run(threads{count}))) << count;
}

// A window as large as the grid is all of it.
TEST(NeighborhoodBackward, AWindowOfAllIsDense) {
  grid<2> const of{{7, 9}, {whole_axis(7), whole_axis(9)}};
  training<float> t(sizes_of(63), 30), dense(sizes_of(63), 30);
  forward(t, of);
  backward(t, of);
  dense.forward();
  dense.backward();
  EXPECT_TRUE(near(t.of_query.elements, dense.of_query.elements, 1e-5));
  EXPECT_TRUE(near(t.of_key.elements, dense.of_key.elements, 1e-5));
  EXPECT_TRUE(near(t.of_value.elements, dense.of_value.elements, 1e-5));
}

TEST(NeighborhoodBackward, ArgumentsThatDoNotFitAreNamed) {
  grid<2> const of{{7, 9}, {neighborhood_axis{3}, neighborhood_axis{5}}};
  training<float> t(sizes_of(63), 40), wrong(sizes_of(62), 40);
  auto const table = normal<float, 3>({4, 5, 9}, 41);
  auto shorter = filled<float, 3>({1, 5, 9}, 7);
  auto const expect = [&](std::string const& message, auto const& call) {
    expect_error(message, call);
    for (auto const* written : {&t.of_query.elements, &t.of_key.elements, &t.of_value.elements, &shorter.elements})
      EXPECT_TRUE(std::all_of(written->begin(), written->end(), [](float x) { return x == 7; })) << message;
  };
  expect("query: expected tokens 63 (as extents), got 62", [&] { backward(wrong, of); });
  expect("neighborhood: expected a window of at most 7 (the extent over the dilation), got 9 on axis 0",
         [&] { backward(t, grid<2>{{7, 9}, {neighborhood_axis{9}, neighborhood_axis{5}}}); });
  expect("gradient_of_relative_bias: expected shape [4, 5, 9] (as relative_bias), got [1, 5, 9]",
         [&] { backward(t, of, relative_bias(table.view()), gradient_of_relative_bias(shorter.view())); });
  expect("gradient_of_relative_bias: expected memory of its own, got memory that overlaps of_key", [&] {
    backward(t, of, relative_bias(table.view()),
             gradient_of_relative_bias(tensor_view<float, 3>(t.of_key.elements.data(), {4, 5, 9})));
  });
}

}  // namespace
}  // namespace attend::test
