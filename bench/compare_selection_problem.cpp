// SPDX-License-Identifier: BSD-3-Clause
// What selectors are compared on: random numbers, planted keys among heavy tails (support/planted_keys.hpp), and the
// files or the encoder's activations, in decoding and in prefill.
#include "compare_selection.hpp"
#include "support/planted_keys.hpp"

namespace attend_bench {
namespace {

/// In prefill, one query in so many has a key planted for it.
constexpr index_t needle_period = 16;

tensor<double> last_queries(tensor<double> const& from, index_t count) {
  index_t const queries = from.extents[2];
  count = std::min(count, queries);
  tensor<double> to({from.extents[0], from.extents[1], count, from.extents[3]});
  auto const source = from.view();
  auto const target = to.view();
  for (index_t b = 0; b < to.extents[0]; ++b)
    for (index_t h = 0; h < to.extents[1]; ++h)
      for (index_t i = 0; i < count; ++i)
        std::copy_n(&source(b, h, queries - count + i, 0), to.extents[3], &target(b, h, i, 0));
  return to;
}

selection_problem from_numbers(problem const& p, phase when) {
  return {p.name, when, rounded<float>(when == phase::decode ? last_queries(p.query, decode_steps) : p.query),
          rounded<float>(p.key), rounded<float>(p.value)};
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
  return {"planted", when, from_test(std::move(planted.query)), from_test(std::move(planted.key)),
          from_test(std::move(planted.value))};
}

}  // namespace

std::vector<selection_problem> make_selection_problems(compare_options const& options) {
  std::vector<selection_problem> problems;
  for (phase const when : {phase::decode, phase::prefill}) {
    compare_options of_phase = options;
    // What is random has the phase's shape.
    if (when == phase::decode)
      of_phase.queries = decode_steps;
    else
      of_phase.keys = options.queries;
    for (problem const& p : make_problems(of_phase)) {
      problems.push_back(from_numbers(p, when));
      if (p.name == "random" && options.batch == 1) problems.push_back(planted_problem(of_phase, when));
    }
  }
  return problems;
}

}  // namespace attend_bench
