// SPDX-License-Identifier: BSD-3-Clause
#include "compare_problem.hpp"

#include <attend/attention/softmax/merge_heads.hpp>

#include <cmath>
#include <random>
#include <stdexcept>

#include "npy.hpp"

namespace attend_bench {
namespace {

tensor<double> normal_numbers(std::array<index_t, 4> const& extents, unsigned seed) {
  tensor<double> result(extents);
  std::mt19937 engine(seed);
  std::normal_distribution<double> distribution;
  for (double& element : result.elements) element = distribution(engine);
  return result;
}

tensor<double> load_tensor(std::filesystem::path const& path) {
  attend_io::array const array = attend_io::load_npy(path);
  if (array.shape.size() < 2 || array.shape.size() > 4)
    throw std::runtime_error(path.string() + ": expected 2 to 4 axes, [batch, head, token, dimension], got " +
                             std::to_string(array.shape.size()));
  tensor<double> result;
  result.extents.fill(1);
  std::copy_backward(array.shape.begin(), array.shape.end(), result.extents.end());
  result.elements = array.values<double>();
  if (result.elements.empty()) throw std::runtime_error(path.string() + ": expected numbers, got an extent of 0");
  for (double const element : result.elements)
    if (!std::isfinite(element)) throw std::runtime_error(path.string() + ": expected finite numbers");
  return result;
}

problem random_problem(compare_options const& o) {
  return {"random", normal_numbers({o.batch, o.heads, o.queries, o.dimension}, o.seed),
          normal_numbers({o.batch, o.key_heads, o.keys, o.dimension}, o.seed + 1),
          normal_numbers({o.batch, o.key_heads, o.keys, o.value_dimension}, o.seed + 2), o.mask};
}

void multiply(tensor<double>& all, double factor) {
  for (double& element : all.elements) element *= factor;
}

/// Logits of deviation 30: nearly all of a row's weights are below the normal range.
problem peaked(problem p) {
  p.name = "peaked";
  multiply(p.query, 30);
  return p;
}

/// Queries and keys of 1e-30, whose products are below the normal range of a float, and values that are not far above
/// it: weights have a unit of 2^-16, in which values of 1e-30 would lose digits (docs/semantics.md).
problem tiny(problem p) {
  p.name = "tiny";
  multiply(p.query, 1e-30);
  multiply(p.key, 1e-30);
  multiply(p.value, 1e-25);
  return p;
}

/// Keys and values that are 0 from a quarter of the tokens on: a state decays behind them.
problem with_zero_tail(problem p) {
  p.name = "zero tail";
  for (auto* all : {&p.key, &p.value}) {
    auto const [batch, heads, tokens, dimension] = all->extents;
    for (index_t row = 0; row < batch * heads; ++row)
      std::fill(all->elements.begin() + (row * tokens + tokens / 4) * dimension,
                all->elements.begin() + (row + 1) * tokens * dimension, 0.0);
  }
  return p;
}

/// The files of data/ whose names begin like this.
problem load_problem(std::string const& name, std::string const& path) {
  auto const load = [&](char const* what) {
    return load_tensor(std::filesystem::path(ATTEND_BENCH_DATA) / (path + "_" + what + ".npy"));
  };
  return {name, load("query"), load("key"), load("value"), {}};
}

tensor<double> merged(tensor<double> const& from, index_t heads) {
  tensor<double> to({from.extents[0], heads, from.extents[2], from.extents[3]});
  attend::systems::merge_heads(from.view(), to.view());
  return to;
}

}  // namespace

std::vector<problem> make_problems(compare_options const& options) {
  std::vector<problem> problems;
  if (options.query) {
    problems.push_back(
        {"files", load_tensor(*options.query), load_tensor(*options.key), load_tensor(*options.value), options.mask});
    return problems;
  }
  problems.push_back(random_problem(options));
  if (options.has_shape) return problems;
  for (auto const changed : {peaked, tiny, with_zero_tail}) {
    problems.push_back(changed(problems.front()));
    problems.back().is_scaled = true;
  }
  for (std::string const layer : {"0", "5"}) {
    problems.push_back(load_problem("minilm layer " + layer, "minilm/layer_" + layer));
    problems.back().mask = options.mask;
    problems.back().is_encoder = true;
  }
  return problems;
}

problem speech_problem(std::string const& which) {
  problem result = load_problem("whisper " + which, "whisper/" + which);
  result.is_encoder = which == "encoder";
  return result;
}

problem decoding_problem(compare_options const& options) {
  compare_options step = options;
  step.heads = 32;
  step.key_heads = 8;
  step.queries = 1;
  step.keys = 8192;
  step.dimension = step.value_dimension = 128;
  problem result = random_problem(step);
  result.name = "decoding";
  return result;
}

bool holds(element_type type, problem const& p) {
  double const most =
      with_element_type(type, []<class T>() { return static_cast<double>(Eigen::NumTraits<T>::highest()); });
  auto const fits = [most](double element) { return std::abs(element) <= most; };
  return std::all_of(p.query.elements.begin(), p.query.elements.end(), fits) &&
         std::all_of(p.key.elements.begin(), p.key.elements.end(), fits) &&
         std::all_of(p.value.elements.begin(), p.value.elements.end(), fits);
}

problem with_merged_heads(problem const& from, index_t heads) {
  return {from.name, from.query, merged(from.key, heads), merged(from.value, heads), from.mask};
}

attend::window intersection_of(attend::window const& a, attend::window const& b) {
  auto const nearer = [](index_t x, index_t y) { return x < 0 ? y : y < 0 ? x : std::min(x, y); };
  return {nearer(a.left, b.left), nearer(a.right, b.right)};
}

row_sample::row_sample(index_t all_heads, index_t query_count, index_t keys) : queries(query_count) {
  constexpr index_t max_rows = 64, max_pairs = index_t{1} << 20;
  index_t const pairs_of_row = std::max<index_t>(all_heads * keys, 1);
  count = std::clamp<index_t>(max_pairs / pairs_of_row, 1, std::min(max_rows, queries));
  step = queries / count;
}

}  // namespace attend_bench
