// SPDX-License-Identifier: BSD-3-Clause
// Variants that are a call of softmax_attention with some options, and their definition and rounding.
//
// How far may the output be from its definition? With u the unit roundoff of the accumulation type:
//   - A logit is a dot product of D terms: its error is about sqrt(D) u times the product of the norms and the scale.
//     What scores make of it is rounded once or twice more: 2 u of the largest logit.
//   - The weights follow the logits. If all logits of a row move by d, they move together by no more than
//     sensitivity * d. For softmax that is 2, for a sigmoid the sum of the weights, for ReLU the number of positive
//     ones (over what it divides by).
//   - The exponential, the division and the products of weights and values cost a few roundings, say 32 u of the sum of
//     the weights, and the sum over n keys sqrt(n) u of it.
//   - A matrix unit rounds weights to bfloat16: that is 2^-8 of the sum of the weights.
// Each of these is multiplied by the largest value. Elements of 16 bits round the output once more, and numbers below
// the normal range become 0.
#pragma once

#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/core/types.hpp>
#include <attend/reference/softmax_attention.hpp>

#include <cmath>
#include <limits>
#include <memory>

#include "compare_variant.hpp"
#include "visible_pairs.hpp"

namespace attend_bench {

namespace reference = attend::reference;

/// The problem's tensors, rounded to T.
template <class T>
struct typed_tensors {
  tensor<T> query, key, value, output;

  explicit typed_tensors(problem const& p)
      : query(rounded<T>(p.query)),
        key(rounded<T>(p.key)),
        value(rounded<T>(p.value)),
        output({p.batch(), p.heads(), p.queries(), p.value_dimension()}) {}
};

/// The element type's name in this program.
template <class T>
constexpr element_type type_of() {
  if constexpr (std::same_as<T, float>) return element_type::f32;
  if constexpr (std::same_as<T, double>) return element_type::f64;
  if constexpr (std::same_as<T, attend::half>) return element_type::f16;
  return element_type::bf16;
}

/// Half the distance between 1 and the next number.
template <class T>
constexpr double unit_roundoff() {
  if constexpr (std::same_as<T, double>) return 0x1p-53;
  if constexpr (std::same_as<T, float>) return 0x1p-24;
  if constexpr (std::same_as<T, attend::half>) return 0x1p-11;
  return 0x1p-8;
}

template <class T>
double largest_norm(tensor<T> const& of) {
  double largest = 0;
  index_t const dimension = of.extents[3];
  for (std::size_t at = 0; at < of.elements.size(); at += static_cast<std::size_t>(dimension)) {
    double sum = 0;
    for (index_t i = 0; i < dimension; ++i) {
      auto const x = static_cast<double>(of.elements[at + static_cast<std::size_t>(i)]);
      sum += x * x;
    }
    largest = std::max(largest, sum);
  }
  return std::sqrt(largest);
}

template <class T>
double largest_magnitude(tensor<T> const& of) {
  double largest = 0;
  for (T const& element : of.elements) largest = std::max(largest, std::abs(static_cast<double>(element)));
  return largest;
}

/// What a call computes, beside what its options are for the reference: who sees whom, how many more keys each query
/// sees, what its logits and its values are multiplied by at most, what the call refers to, and a rule beside the mask.
struct softmax_definition {
  attend::window mask;
  reference::options options = {};
  index_t slots = 0;
  double logit_factor = 1, value_factor = 1;
  std::shared_ptr<void> kept = {};
  reference::visible_function also_visible = {};
};

/// The definition on sampled rows only, as rows of a problem that has no others.
template <class T>
reference::result define(row_sample const& rows, tensor<T> const& query, tensor<T> const& key, tensor<T> const& value,
                         reference::options options) {
  auto const whole = query.view();
  attend::tensor_view<T const, 4> const sampled(&whole(0, 0, rows[0], 0),
                                                {whole.extent(0), whole.extent(1), rows.count, whole.extent(3)},
                                                {whole.stride(0), whole.stride(1), rows.step * whole.stride(2), 1});
  // Masks and scores hear of the place that a row has among all queries.
  auto const among_all = [rows](reference::place at) {
    at.query = rows[at.query];
    at.queries = rows.queries;
    return at;
  };
  options.visible = [=, visible = options.visible](reference::place const& at) { return visible(among_all(at)); };
  for (reference::score_function& score : options.scores)
    score = [=, score = score](double s, reference::place const& at) { return score(s, among_all(at)); };
  return reference::softmax_attention<T>(sampled, key.view(), value.view(), options);
}

/// What the weights of a row add up to, and how much they move together if each logit moves by 1.
struct conditioning {
  double weight_sum, sensitivity;
};

/// `sum_of_relu` is what relu_by_sum divides by.
inline conditioning condition_of(reference::normalizer settings, double const* weights, index_t keys,
                                 double sum_of_relu) {
  double weight_sum = 0, positive = 0;
  for (index_t key = 0; key < keys; ++key) {
    weight_sum += weights[key];
    positive += weights[key] > 0;
  }
  switch (settings) {
    case reference::normalizer::softmax:
      return {1, 2};
    case reference::normalizer::sigmoid:
      return {weight_sum, weight_sum};
    case reference::normalizer::relu:
      return {weight_sum, positive + 1};
    case reference::normalizer::relu_by_count:
      return {weight_sum, 1};
    default:
      return {weight_sum, 2 * (positive + 1) / sum_of_relu};
  }
}

/// For each sampled row, what relu_by_sum divides by.
template <class T>
std::vector<double> sums_of_relu(row_sample const& rows, typed_tensors<T> const& of, reference::options options) {
  options.settings = reference::normalizer::relu;
  reference::result const undivided = define(rows, of.query, of.key, of.value, options);
  std::vector<double> sums(undivided.log_sum_exp.size(), options.relu_epsilon);
  for (std::size_t i = 0; i < undivided.weights.size(); ++i)
    sums[i / static_cast<std::size_t>(undivided.keys)] += undivided.weights[i];
  return sums;
}

/// Of attention in T on the numbers of some tensors, which it may keep in another type.
template <class T, class Stored>
defined_rows define_with_rounding(row_sample const& rows, typed_tensors<Stored> const& of,
                                  softmax_definition const& definition) {
  using A = attend::extend::accumulation_t<T>;
  reference::options const& options = definition.options;
  double largest_logit = 0;
  reference::options watched = options;
  if (!options.scores.empty())
    watched.scores.push_back([&](double s, reference::place const&) {
      largest_logit = std::max(largest_logit, std::abs(s));
      return s;
    });
  reference::result result = define(rows, of.query, of.key, of.value, watched);
  std::vector<double> const sums = options.settings == reference::normalizer::relu_by_sum
                                       ? sums_of_relu(rows, of, options)
                                       : std::vector<double>(result.log_sum_exp.size(), 1.0);

  // The root of the dimension and the scale cancel.
  double const logit_error =
      definition.logit_factor * largest_norm(of.query) * largest_norm(of.key) + 2 * largest_logit;
  double const sum_error = 32 + std::sqrt(static_cast<double>(result.keys));
  double const largest_value = definition.value_factor * largest_magnitude(of.value);
  double const u = unit_roundoff<A>() * largest_value;
  // A matrix unit multiplies values by weights that are rounded to bfloat16.
  bool const rounds_weights = std::same_as<T, attend::bfloat16> && attend::simd::uses_pair_products();
  double const weight_error = rounds_weights ? unit_roundoff<attend::bfloat16>() * largest_value : 0;
  // Of the output to 16 bits: half a unit of its last place, which for the smallest numbers no longer shrinks.
  double const relative_rounding = std::same_as<T, A> ? 0 : unit_roundoff<T>();
  double const min_rounding = std::same_as<T, A> ? 0 : static_cast<double>(std::numeric_limits<T>::denorm_min()) / 2;
  // Each product that is below the normal range becomes 0.
  double const flushed = static_cast<double>(result.keys) * double{std::numeric_limits<A>::min()};
  defined_rows defined{std::move(result.output), {}};
  defined.allowed.reserve(defined.output.size());
  for (std::size_t i = 0; i < defined.output.size(); ++i) {
    std::size_t const row = i / static_cast<std::size_t>(result.dimension);
    conditioning const row_condition = condition_of(
        options.settings, &result.weights[row * static_cast<std::size_t>(result.keys)], result.keys, sums[row]);
    defined.allowed.push_back(u * (row_condition.sensitivity * logit_error + row_condition.weight_sum * sum_error) +
                              row_condition.weight_sum * weight_error +
                              std::max(relative_rounding * std::abs(defined.output[i]), min_rounding) + flushed);
  }
  return defined;
}

template <class T>
std::vector<double> sampled(row_sample const& rows, tensor<T> const& output) {
  auto const whole = output.view();
  std::vector<double> result;
  for (index_t b = 0; b < whole.extent(0); ++b)
    for (index_t h = 0; h < whole.extent(1); ++h)
      for (index_t i = 0; i < rows.count; ++i)
        for (index_t c = 0; c < whole.extent(3); ++c) result.push_back(static_cast<double>(whole(b, h, rows[i], c)));
  return result;
}

/// The definition's mask and its other rule, as one function for the reference.
inline void complete_visible(softmax_definition& definition) {
  definition.options.visible = reference::sliding_window(definition.mask.left, definition.mask.right);
  if (definition.also_visible)
    definition.options.visible = [=, window = definition.options.visible, rule = definition.also_visible](
                                     reference::place const& at) { return window(at) && rule(at); };
}

/// Operations of a complete definition.
inline double operations_of(problem const& p, softmax_definition const& definition) {
  double pairs_of_head = static_cast<double>(p.queries() * definition.slots);
  if (!definition.also_visible)
    pairs_of_head += window_pairs(p.queries(), p.keys(), definition.mask.left, definition.mask.right);
  else
    for (index_t i = 0; i < p.queries(); ++i)
      for (index_t j = 0; j < p.keys(); ++j)
        pairs_of_head += definition.options.visible({0, 0, i, j, p.queries(), p.keys()});
  double const pairs = pairs_of_head * static_cast<double>(p.batch() * p.heads());
  return 2.0 * static_cast<double>(p.dimension() + p.value_dimension()) * pairs;
}

/// Bytes of the keys and values that are seen, `row_bytes` for a token of a head, by a definition that needs so many
/// operations; where there are so few queries that reading them is what a call costs. Otherwise 0.
inline double bytes_of(problem const& p, double row_bytes, double operations) {
  constexpr index_t few_queries = 16;
  double const all_pairs = static_cast<double>(p.batch() * p.heads() * p.queries() * p.keys());
  double const seen = operations / (2.0 * static_cast<double>(p.dimension() + p.value_dimension()) * all_pairs);
  double const tokens = static_cast<double>(p.batch() * p.key_heads() * p.keys());
  return p.queries() > few_queries ? 0 : row_bytes * tokens * std::min(seen, 1.0);
}

/// call(query, key, value, output, threads) on the problem's tensors, rounded to T.
template <class T, class Call>
prepared_variant call_variant(problem const& p, softmax_definition definition, Call const& call) {
  complete_visible(definition);
  auto const tensors = std::make_shared<typed_tensors<T>>(p);
  double const operations = operations_of(p, definition);
  double const row_bytes = static_cast<double>(sizeof(T)) * static_cast<double>(p.dimension() + p.value_dimension());
  return {type_of<T>(),
          operations,
          [tensors, call, kept = definition.kept](attend::threads threads) {
            call(tensors->query.view(), tensors->key.view(), tensors->value.view(), tensors->output.view(), threads);
          },
          [=](row_sample const& rows) { return sampled(rows, tensors->output); },
          [=](row_sample const& rows) { return define_with_rounding<T>(rows, *tensors, definition); },
          bytes_of(p, row_bytes, operations)};
}

/// softmax_attention with these options.
template <class T, class... Options>
prepared_variant softmax_variant(problem const& p, softmax_definition const& definition, Options const&... options) {
  return call_variant<T>(p, definition, [options...](auto&&... tensors_and_threads) {
    attend::softmax_attention(tensors_and_threads..., options...);
  });
}

}  // namespace attend_bench
