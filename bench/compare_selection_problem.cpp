// SPDX-License-Identifier: BSD-3-Clause
// What selectors are compared on: random numbers, planted keys among heavy tails (support/planted_keys.hpp), and the
// files or the models' activations (data/README.md), in decoding and in prefill.
#include "compare_selection.hpp"
#include "support/planted_keys.hpp"

namespace attend_bench {
namespace {

/// In prefill, one query in so many has a key planted for it.
constexpr index_t needle_period = 16;

/// These queries of each head.
template <class Number>
tensor<float> some_queries(tensor<Number> const& from, std::vector<index_t> const& which) {
  tensor<float> to({from.extents[0], from.extents[1], static_cast<index_t>(which.size()), from.extents[3]});
  auto const source = from.view();
  auto const target = to.view();
  for (index_t b = 0; b < to.extents[0]; ++b)
    for (index_t h = 0; h < to.extents[1]; ++h)
      for (index_t i = 0; i < to.extents[2]; ++i)
        for (index_t c = 0; c < to.extents[3]; ++c)
          target(b, h, i, c) = static_cast<float>(source(b, h, which[static_cast<std::size_t>(i)], c));
  return to;
}

/// The steps of decoding are the last queries, and those before them have been observed. An encoder's queries come in
/// no order: steps are spread over them, and all others have been observed.
template <class Number>
void part_queries(selection_problem& p, tensor<Number> const& queries, bool is_encoder) {
  index_t const count = queries.extents[2], steps = std::min(decode_steps, count), step = count / steps;
  std::vector<index_t> observed, decoded;
  for (index_t i = 0; i < count; ++i) {
    bool const is_step = is_encoder ? i % step == step / 2 && i / step < steps : i >= count - steps;
    (is_step ? decoded : observed).push_back(i);
  }
  p.query = some_queries(queries, decoded);
  p.observed = some_queries(queries, observed);
}

selection_problem from_numbers(problem const& p, phase when) {
  selection_problem made{p.name, when, rounded<float>(p.query), rounded<float>(p.key), rounded<float>(p.value)};
  if (when == phase::decode) part_queries(made, p.query, p.is_encoder);
  return made;
}

tensor<float> from_test(attend::test::tensor<float, 4>&& numbers) {
  tensor<float> result;
  result.extents = numbers.extents;
  result.elements = std::move(numbers.elements);
  return result;
}

selection_problem planted_problem(compare_options const& o, phase when) {
  attend::test::planted_keys planted =
      attend::test::plant_keys({.query_heads = o.heads,
                                .key_heads = o.key_heads,
                                .queries = o.queries,
                                .keys = o.keys,
                                .key_dimension = o.dimension,
                                .value_dimension = o.value_dimension,
                                .needle_period = when == phase::decode ? 1 : needle_period},
                               o.seed);
  selection_problem made{"planted", when, from_test(std::move(planted.query)), from_test(std::move(planted.key)),
                         from_test(std::move(planted.value))};
  if (when == phase::decode) part_queries(made, tensor<float>(made.query), false);
  return made;
}

}  // namespace

std::vector<selection_problem> make_selection_problems(compare_options const& options) {
  constexpr index_t observed_queries = 64;
  std::vector<selection_problem> problems;
  for (phase const when : {phase::decode, phase::prefill}) {
    if (when == phase::prefill && !options.select) continue;
    compare_options of_phase = options;
    // What is random has the phase's shape.
    if (when == phase::decode)
      of_phase.queries = observed_queries + decode_steps;
    else
      of_phase.keys = options.queries;
    for (problem const& p : make_problems(of_phase)) {
      // Whether numbers are large or small says nothing about a choice.
      if (p.is_scaled) continue;
      problems.push_back(from_numbers(p, when));
      if (p.name == "random" && options.batch == 1) problems.push_back(planted_problem(of_phase, when));
    }
    if (options.has_shape || options.query) continue;
    problems.push_back(from_numbers(speech_problem("encoder"), when));
    // The decoder's queries are others than the encoder's tokens: no prompt chooses among its own.
    if (when == phase::decode) problems.push_back(from_numbers(speech_problem("cross"), when));
  }
  return problems;
}

}  // namespace attend_bench
