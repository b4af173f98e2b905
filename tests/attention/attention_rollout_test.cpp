// SPDX-License-Identifier: BSD-3-Clause
// Attention rollout against products of the maps in double.
#include <attend/attention/softmax/attention_rollout.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/predicate.hpp>
#include <attend/policy/normalizer/sinks.hpp>

#include "support/argument_errors.hpp"

namespace attend::test {
namespace {

using namespace systems;
using matrix = std::vector<std::vector<double>>;

matrix identity(index_t n) {
  matrix made(static_cast<std::size_t>(n), std::vector<double>(static_cast<std::size_t>(n), 0));
  for (std::size_t i = 0; i < made.size(); ++i) made[i][i] = 1;
  return made;
}

matrix product(matrix const& a, matrix const& b) {
  matrix made(a.size(), std::vector<double>(b.empty() ? 0 : b[0].size(), 0));
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t l = 0; l < b.size(); ++l)
      for (std::size_t j = 0; j < b[l].size(); ++j) made[i][j] += a[i][l] * b[l][j];
  return made;
}

/// R of one batch, from the maps.
template <class T>
matrix defined(std::vector<inputs<T>> const& layers, index_t b, reference::options const& with) {
  index_t const tokens = layers[0].size.queries;
  matrix rolled = identity(tokens);
  for (auto const& in : layers) {
    auto map = reference::softmax_attention<T>(in.query.view(), in.key.view(), in.value.view(), with);
    matrix mixing = identity(tokens);
    for (index_t i = 0; i < tokens; ++i) {
      auto& row = mixing[static_cast<std::size_t>(i)];
      for (index_t h = 0; h < in.size.query_heads; ++h)
        for (index_t j = 0; j < tokens; ++j)
          row[static_cast<std::size_t>(j)] += map.weight(b, h, i, j) / static_cast<double>(in.size.query_heads);
      double const total = std::accumulate(row.begin(), row.end(), 0.0);
      for (double& x : row) x /= total;
    }
    rolled = product(mixing, rolled);
  }
  return rolled;
}

template <class T>
struct stack {
  std::vector<inputs<T>> layers;
  std::vector<rollout_layer<T>> views;

  explicit stack(std::vector<sizes> const& of) {
    unsigned seed = 1;
    for (sizes const& s : of) layers.push_back(random_inputs<T>(s, seed++, 1.5));
    for (auto const& in : layers) views.push_back({in.query.view(), in.key.view()});
  }
};

template <class T, class... Options>
void expect_definition(std::vector<sizes> const& of, reference::options const& with, Options const&... options) {
  stack<T> const model(of);
  sizes const& s = of[0];
  index_t const n = s.queries, count = 3;
  auto const columns = normal<T, 3>({s.batches, n, count}, 8), rows = normal<T, 3>({s.batches, count, n}, 9);
  auto of_columns = filled<T, 3>(columns.extents, T(7)), of_rows = filled<T, 3>(rows.extents, T(7));
  attention_rollout(model.views, columns.view(), of_columns.view(), options...);
  attention_rollout_rows(model.views, rows.view(), of_rows.view(), options...);
  std::vector<double> expected_columns(columns.elements.size()), expected_rows(rows.elements.size());
  double row_terms = 1;
  for (index_t b = 0; b < s.batches; ++b) {
    matrix const r = defined(model.layers, b, with);
    for (index_t i = 0; i < n; ++i)
      for (index_t c = 0; c < count; ++c) {
        double column = 0, row = 0, terms = 0;
        for (index_t j = 0; j < n; ++j) {
          auto const x = static_cast<std::size_t>(i), y = static_cast<std::size_t>(j);
          column += r[x][y] * static_cast<double>(columns.view()(b, j, c));
          row += static_cast<double>(rows.view()(b, c, j)) * r[y][x];
          terms += std::abs(static_cast<double>(rows.view()(b, c, j))) * r[y][x];
        }
        expected_columns[static_cast<std::size_t>((b * n + i) * count + c)] = column;
        expected_rows[static_cast<std::size_t>((b * count + c) * n + i)] = row;
        row_terms = std::max(row_terms, terms);
      }
  }
  // Each layer rounds its state, and the numbers that it is made of.
  double const layers = 2 * static_cast<double>(of.size());
  EXPECT_TRUE(near(of_columns.elements, expected_columns, layers * tolerance<T>(largest_magnitude(columns.elements))));
  EXPECT_TRUE(near(of_rows.elements, expected_rows, layers * tolerance<T>(row_terms)));
}

sizes layer_of(index_t batches, index_t heads, index_t key_heads, index_t tokens, index_t dimension) {
  return {.batches = batches,
          .query_heads = heads,
          .key_heads = key_heads,
          .queries = tokens,
          .keys = tokens,
          .key_dimension = dimension};
}

TEST(AttentionRollout, IsTheProductOfTheMaps) {
  reference::options with;
  std::vector<sizes> const three{layer_of(2, 4, 2, 83, 12), layer_of(2, 3, 3, 83, 5), layer_of(2, 1, 1, 83, 16)};
  expect_definition<float>(three, with);
  expect_definition<double>(three, with);
  expect_definition<bfloat16>(three, with);
  expect_definition<float>({layer_of(1, 2, 1, 1, 4)}, with);
  with.visible = reference::causal_bottom_right();
  expect_definition<float>(three, with, causal{});
}

// Weights that do not add up to 1: those beside a sink, and those of rows that see nothing.
TEST(AttentionRollout, RowsAreDividedByTheirSums) {
  std::vector<sizes> const two{layer_of(2, 2, 2, 30, 8), layer_of(2, 2, 1, 30, 8)};
  std::vector<float> const logits{2.f, -1.f};
  reference::options with;
  with.sink = [&](index_t head) { return static_cast<double>(logits[static_cast<std::size_t>(head)]); };
  with.visible = [](reference::place const& at) { return at.query != 4 && at.key <= at.query; };
  expect_definition<float>(two, with, sinks(logits), causal{} & mask([](auto i, auto) { return i != 4; }));
}

// Tokens behind the end of a sequence are nobody's: they keep what they have, whatever their queries and keys hold.
TEST(AttentionRollout, SequencesEndWhereTheyEnd) {
  stack<float> model({layer_of(2, 2, 1, 40, 8), layer_of(2, 2, 1, 40, 8)});
  std::vector<std::int64_t> const lengths{40, 23};
  for (auto& in : model.layers)
    for (auto* tensor : {&in.query, &in.key})
      for (index_t h = 0; h < tensor->extents[1]; ++h)
        std::fill_n(&tensor->view()(1, h, 23, 0), 17 * 8, std::numeric_limits<float>::quiet_NaN());
  auto const columns = normal<float, 3>({2, 40, 3}, 8), rows = normal<float, 3>({2, 3, 40}, 9);
  auto of_columns = filled<float, 3>(columns.extents, 7), of_rows = filled<float, 3>(rows.extents, 7);
  attention_rollout(model.views, columns.view(), of_columns.view(), padded(lengths));
  attention_rollout_rows(model.views, rows.view(), of_rows.view(), padded(lengths));
  // The second sequence alone.
  auto alone = model.views;
  for (auto& layer : alone)
    for (auto* view : {&layer.query, &layer.key})
      *view = {&(*view)(1, 0, 0, 0), {1, view->extent(1), 23, 8}, view->strides()};
  tensor_view<float const, 3> const x(&columns.view()(1, 0, 0), {1, 23, 3}),
      y(&rows.view()(1, 0, 0), {1, 3, 23}, {0, 40, 1});
  auto of_x = filled<float, 3>({1, 23, 3}, 7), of_y = filled<float, 3>({1, 3, 23}, 7);
  attention_rollout(alone, x, of_x.view());
  attention_rollout_rows(alone, y, of_y.view());
  for (index_t i = 0; i < 40; ++i)
    for (index_t c = 0; c < 3; ++c) {
      float const column = i < 23 ? of_x.view()(0, i, c) : columns.view()(1, i, c);
      float const row = i < 23 ? of_y.view()(0, c, i) : rows.view()(1, c, i);
      EXPECT_NEAR(of_columns.view()(1, i, c), column, 1e-5) << i;
      EXPECT_NEAR(of_rows.view()(1, c, i), row, 1e-5) << i;
    }
}

TEST(AttentionRollout, OfNoLayersIsWhatWasGiven) {
  auto const columns = normal<float, 3>({1, 5, 2}, 8);
  auto rolled = filled<float, 3>({1, 5, 2}, 7);
  attention_rollout(std::vector<rollout_layer<float>>(), columns.view(), rolled.view());
  EXPECT_TRUE(same_bits(rolled.elements, columns.elements));
}

TEST(AttentionRollout, BitsAreTheSameForAnyThreadsAndBatch) {
  stack<float> const model({layer_of(2, 3, 1, 500, 16), layer_of(2, 2, 2, 500, 16)});
  auto first_batch = model.views;
  for (auto& layer : first_batch)
    for (auto* view : {&layer.query, &layer.key}) {
      auto extents = view->extents();
      extents[0] = 1;
      *view = {view->data(), extents, view->strides()};
    }
  auto const rows = normal<float, 3>({2, 4, 500}, 3), columns = normal<float, 3>({2, 500, 4}, 4);
  auto const run = [&](auto const& layers, index_t batches, auto executor) {
    auto of_rows = filled<float, 3>({batches, 4, 500}, 7), of_columns = filled<float, 3>({batches, 500, 4}, 7);
    tensor_view<float const, 3> const y(rows.elements.data(), {batches, 4, 500}),
        x(columns.elements.data(), {batches, 500, 4});
    attention_rollout_rows(layers, y, of_rows.view(), executor);
    attention_rollout(layers, x, of_columns.view(), executor);
    return std::pair(of_rows.elements, of_columns.elements);
  };
  auto const alone = run(model.views, 2, serial{}), shared = run(model.views, 2, threads{3}),
             first = run(first_batch, 1, serial{});
  EXPECT_TRUE(same_bits(alone.first, shared.first) && same_bits(alone.second, shared.second));
  EXPECT_TRUE(std::equal(first.first.begin(), first.first.end(), alone.first.begin()));
  EXPECT_TRUE(std::equal(first.second.begin(), first.second.end(), alone.second.begin()));
}

TEST(AttentionRollout, ArgumentsThatDoNotFitAreNamed) {
  stack<float> const model({layer_of(1, 2, 1, 6, 4), layer_of(1, 2, 1, 6, 4)}), longer({layer_of(1, 2, 1, 7, 4)}),
      two({layer_of(2, 2, 1, 6, 4)});
  auto columns = filled<float, 3>({1, 6, 2}, 7), rolled = columns, wrong = filled<float, 3>({1, 6, 3}, 7);
  auto rows = filled<float, 3>({1, 2, 6}, 7), of_rows = rows;
  auto const expect = [&](std::string const& message, auto const& call) {
    expect_error(message, call);
    for (auto const* written : {&rolled, &of_rows, &wrong})
      EXPECT_TRUE(std::all_of(written->elements.begin(), written->elements.end(), [](float x) { return x == 7; }));
  };
  expect("rolled: expected shape [1, 6, 2] (as columns), got [1, 6, 3]",
         [&] { attention_rollout(model.views, columns.view(), wrong.view()); });
  expect("query: expected tokens 6 (as columns), got 7",
         [&] { attention_rollout(longer.views, columns.view(), rolled.view()); });
  expect("query: expected batch 1 (as rows), got 2",
         [&] { attention_rollout_rows(two.views, rows.view(), of_rows.view()); });
  expect("rolled: expected memory of its own, got memory that overlaps rows",
         [&] { attention_rollout_rows(model.views, of_rows.view(), of_rows.view()); });
  expect("scale: expected a finite number, got inf",
         [&] { attention_rollout_rows(model.views, rows.view(), of_rows.view(), scale{1e300}); });
}

}  // namespace
}  // namespace attend::test
