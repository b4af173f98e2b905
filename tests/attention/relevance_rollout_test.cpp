// SPDX-License-Identifier: BSD-3-Clause
// Relevance-weighted rollout against maps in double: those of the definition, and one whose output is known.
#include <attend/attention/softmax/relevance_rollout.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/predicate.hpp>

#include "support/argument_errors.hpp"

namespace attend::test {
namespace {

using namespace systems;
using matrix = std::vector<std::vector<double>>;

template <class T>
struct explained_layer {
  inputs<T> in;
  tensor<T, 4> output, of_output, relevance;

  explained_layer(sizes const& s, unsigned seed, reference::options const& with)
      : in(random_inputs<T>(s, seed)),
        output(normal<T, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, 0)) {
    auto const made = reference::softmax_attention<T>(in.query.view(), in.key.view(), in.value.view(), with);
    of_output = normal<T, 4>(output.extents, seed + 1);
    relevance = normal<T, 4>(output.extents, seed + 2);
    for (std::size_t i = 0; i < output.elements.size(); ++i) {
      output.elements[i] = static_cast<T>(made.output[i]);
      // A share of the output, so that their quotient is of its size.
      relevance.elements[i] = static_cast<T>(static_cast<double>(relevance.elements[i]) * made.output[i]);
    }
  }
  relevance_layer<T> view() const {
    return {in.query.view(), in.key.view(), in.value.view(), output.view(), of_output.view(), relevance.view()};
  }
};

/// C of one batch, and the largest sum of the magnitudes of the terms of a row of a layer.
template <class T>
matrix defined(std::vector<explained_layer<T>> const& layers, index_t b, reference::options const& with,
               double& row_terms) {
  auto const n = static_cast<std::size_t>(layers[0].in.size.queries);
  matrix all(n, std::vector<double>(n, 0));
  for (std::size_t i = 0; i < n; ++i) all[i][i] = 1;
  for (auto const& layer : layers) {
    sizes const& s = layer.in.size;
    auto map = reference::softmax_attention<T>(layer.in.query.view(), layer.in.key.view(), layer.in.value.view(), with);
    matrix next(n, std::vector<double>(n, 0));
    for (std::size_t i = 0; i < n; ++i) {
      double terms = 1;
      std::vector<double> row(n, 0);
      row[i] = 1;
      for (index_t h = 0; h < s.query_heads; ++h)
        for (std::size_t j = 0; j < n; ++j) {
          auto const x = static_cast<index_t>(i), y = static_cast<index_t>(j);
          double const p = map.weight(b, h, x, y);
          double gradient = 0, relevance = 0, of_gradient = 0, of_relevance = 0;
          for (index_t c = 0; c < s.value_dimension; ++c) {
            double const v = static_cast<double>(layer.in.value.view()(b, h / (s.query_heads / s.value_heads), y, c));
            double const o = static_cast<double>(layer.output.view()(b, h, x, c));
            double const a = static_cast<double>(layer.of_output.view()(b, h, x, c)) * v;
            double const r =
                o == 0 ? 0 : static_cast<double>(layer.relevance.view()(b, h, x, c)) / (o + 1e-9) * p * v / 2;
            gradient += a;
            relevance += r;
            of_gradient += std::abs(a);
            of_relevance += std::abs(r);
          }
          row[j] += std::max(0.0, gradient * relevance) / static_cast<double>(s.query_heads);
          terms += of_gradient * of_relevance / static_cast<double>(s.query_heads);
        }
      row_terms = std::max(row_terms, terms);
      for (std::size_t j = 0; j < n; ++j)
        for (std::size_t l = 0; l < n; ++l) next[i][l] += row[j] * all[j][l];
    }
    all = next;
  }
  return all;
}

template <class T, class... Options>
void expect_definition(std::vector<sizes> const& of, reference::options const& with, Options const&... options) {
  std::vector<explained_layer<T>> layers;
  std::vector<relevance_layer<T>> views;
  unsigned seed = 1;
  for (sizes const& s : of) layers.emplace_back(s, seed += 10, with);
  for (auto const& layer : layers) views.push_back(layer.view());
  index_t const batches = of[0].batches, n = of[0].queries, count = 3;
  auto columns = normal<T, 3>({batches, n, count}, 8), rows = normal<T, 3>({batches, count, n}, 9);
  auto of_columns = filled<T, 3>(columns.extents, T(7)), of_rows = filled<T, 3>(rows.extents, T(7));
  relevance_rollout(views, columns.view(), of_columns.view(), options...);
  relevance_rollout_rows(views, rows.view(), of_rows.view(), options...);
  std::vector<double> expected_columns(columns.elements.size()), expected_rows(rows.elements.size());
  double row_terms = 1, largest_row = 0;
  for (index_t b = 0; b < batches; ++b) {
    matrix const c = defined(layers, b, with, row_terms);
    for (index_t i = 0; i < n; ++i)
      for (index_t r = 0; r < count; ++r) {
        double column = 0, row = 0, size = 0;
        for (index_t j = 0; j < n; ++j) {
          auto const x = static_cast<std::size_t>(i), y = static_cast<std::size_t>(j);
          column += c[x][y] * static_cast<double>(columns.view()(b, j, r));
          row += static_cast<double>(rows.view()(b, r, j)) * c[y][x];
          size += std::abs(static_cast<double>(rows.view()(b, r, j))) * c[y][x];
        }
        expected_columns[static_cast<std::size_t>((b * n + i) * count + r)] = column;
        expected_rows[static_cast<std::size_t>((b * count + r) * n + i)] = row;
        largest_row = std::max(largest_row, size);
      }
  }
  // Each layer multiplies what is wrong by the sum of a row at most, and adds as much.
  double const errors = 2 * std::pow(row_terms, static_cast<double>(of.size())) * (std::same_as<T, bfloat16> ? 4 : 1);
  EXPECT_TRUE(near(of_columns.elements, expected_columns, errors * tolerance<T>(largest_magnitude(columns.elements))));
  EXPECT_TRUE(near(of_rows.elements, expected_rows, errors * tolerance<T>(largest_row)));
}

sizes layer_of(index_t batches, index_t heads, index_t key_heads, index_t tokens, index_t columns) {
  return {.batches = batches,
          .query_heads = heads,
          .key_heads = key_heads,
          .value_heads = key_heads,
          .queries = tokens,
          .keys = tokens,
          .key_dimension = 9,
          .value_dimension = columns};
}

TEST(RelevanceRollout, IsTheProductOfTheMaps) {
  reference::options with;
  std::vector<sizes> const two{layer_of(2, 4, 2, 83, 6), layer_of(2, 3, 3, 83, 4)};
  expect_definition<float>(two, with);
  expect_definition<double>({layer_of(1, 2, 1, 150, 5), layer_of(1, 1, 1, 150, 1), layer_of(1, 2, 2, 150, 3)}, with);
  expect_definition<bfloat16>({layer_of(1, 2, 2, 40, 2)}, with);
  expect_definition<float>({layer_of(1, 2, 1, 1, 4)}, with);
  expect_definition<float>({layer_of(1, 2, 1, 3, 0)}, with);
  with.visible = reference::causal_bottom_right();
  expect_definition<float>(two, with, causal{});
  // A row that sees nothing is its own.
  with.visible = [](reference::place const& at) { return at.query != 4 && at.key <= at.query; };
  expect_definition<float>(two, with, causal{} & mask([](auto i, auto) { return i != 4; }));
}

// One value column v and one head: with o = 1 everywhere, dY/do = 1 and R_o = 1, m_ij = v_j^2 / 2.
TEST(RelevanceRollout, ByHand) {
  auto const keys = filled<double, 4>({1, 1, 2, 1}, 0), ones = filled<double, 4>({1, 1, 2, 1}, 1);
  tensor<double, 4> const values{{1, 1, 2, 1}, {3, -1}};
  std::vector<relevance_layer<double>> const layers{
      {keys.view(), keys.view(), values.view(), ones.view(), ones.view(), ones.view()}};
  tensor<double, 3> const first{{1, 1, 2}, {1, 0}};
  auto row = filled<double, 3>({1, 1, 2}, 7);
  relevance_rollout_rows(layers, first.view(), row.view());
  EXPECT_NEAR(row.elements[0], 1 + 0.5 * 9 / 2, 1e-7);
  EXPECT_NEAR(row.elements[1], 0.5 * 1 / 2.0, 1e-7);
}

TEST(RelevanceRollout, HiddenKeysHaveNoInfluence) {
  reference::options with;
  with.visible = reference::causal_bottom_right();
  explained_layer<float> const clean(layer_of(1, 2, 2, 20, 4), 3, with);
  auto dirty = clean;
  // The last key is seen by the last query alone.
  for (auto* tensor : {&dirty.in.key, &dirty.in.value})
    for (index_t h = 0; h < 2; ++h)
      std::fill_n(&tensor->view()(0, h, 19, 0), tensor->extents[3], std::numeric_limits<float>::quiet_NaN());
  auto const columns = normal<float, 3>({1, 20, 2}, 4);
  auto expected = filled<float, 3>(columns.extents, 7), got = expected;
  relevance_rollout(std::vector{clean.view()}, columns.view(), expected.view(), causal{});
  relevance_rollout(std::vector{dirty.view()}, columns.view(), got.view(), causal{});
  for (std::size_t i = 0; i < 19 * 2; ++i) EXPECT_NEAR(got.elements[i], expected.elements[i], 1e-4) << i;
}

TEST(RelevanceRollout, BitsAreTheSameForAnyThreads) {
  explained_layer<float> const layer(layer_of(2, 3, 1, 300, 8), 3, {});
  std::vector const layers{layer.view(), layer.view()};
  auto const rows = normal<float, 3>({2, 4, 300}, 3), columns = normal<float, 3>({2, 300, 4}, 4);
  auto const run = [&](auto executor) {
    auto of_rows = filled<float, 3>(rows.extents, 7), of_columns = filled<float, 3>(columns.extents, 7);
    relevance_rollout_rows(layers, rows.view(), of_rows.view(), executor);
    relevance_rollout(layers, columns.view(), of_columns.view(), executor);
    of_rows.elements.insert(of_rows.elements.end(), of_columns.elements.begin(), of_columns.elements.end());
    return of_rows.elements;
  };
  EXPECT_TRUE(same_bits(run(serial{}), run(threads{3})));
}

TEST(RelevanceRollout, ArgumentsThatDoNotFitAreNamed) {
  explained_layer<float> const layer(layer_of(1, 2, 2, 6, 4), 3, {}), wider(layer_of(1, 2, 2, 6, 5), 3, {}),
      shared(layer_of(1, 2, 1, 6, 4), 3, {});
  auto const columns = filled<float, 3>({1, 6, 2}, 1), rows = filled<float, 3>({1, 2, 6}, 1);
  auto rolled = filled<float, 3>({1, 6, 2}, 7), wrong = filled<float, 3>({1, 5, 2}, 7);
  auto const expect = [&](std::string const& message, auto const& change) {
    auto view = layer.view();
    change(view);
    expect_error(message, [&] { relevance_rollout(std::vector{view}, columns.view(), rolled.view()); });
    EXPECT_TRUE(std::all_of(rolled.elements.begin(), rolled.elements.end(), [](float x) { return x == 7; })) << message;
  };
  expect("of_output: expected head dimension 4 (as value), got 5",
         [&](auto& view) { view.of_output = wider.of_output.view(); });
  expect("relevance: expected head dimension 4 (as value), got 5",
         [&](auto& view) { view.relevance = wider.relevance.view(); });
  expect("output: expected head dimension 4 (as value), got 5", [&](auto& view) { view.output = wider.output.view(); });
  expect("value: expected heads 2 (as key), got 1", [&](auto& view) { view.value = shared.in.value.view(); });
  expect_error("query: expected tokens 5 (as columns), got 6", [&] {
    relevance_rollout(std::vector{layer.view()}, wrong.view(), filled<float, 3>({1, 5, 2}, 7).view());
  });
  expect_error("rolled: expected shape [1, 2, 6] (as rows), got [1, 6, 2]",
               [&] { relevance_rollout_rows(std::vector{layer.view()}, rows.view(), rolled.view()); });
}

}  // namespace
}  // namespace attend::test
