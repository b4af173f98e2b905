// SPDX-License-Identifier: BSD-3-Clause
// Few queries: the tiled engine against the one that splits keys (engine/softmax/split.hpp), both forced, where
// suits_split could choose either. The tiled engine's time as a part of the other's: below 1 it is the faster; `splits`
// is what is chosen now.
#include "sweep_engines.hpp"

#include <attend/call/plan.hpp>
#include <attend/policy/normalizer/sinks.hpp>

#include <cstdio>

#include "random_tensor.hpp"

namespace attend_bench {
namespace {

using attend::index_t;

template <class T, class... Options>
void compare(char const* what, bool quick, index_t rows, index_t keys, index_t dimension, Options... options) {
  // So many heads that keys come from memory where there are many of them, as in a model.
  index_t const key_heads = 8, heads = key_heads * rows;
  random_tensor<T> query({1, heads, 1, dimension}, 1), key({1, key_heads, keys, dimension}, 2),
      value({1, key_heads, keys, dimension}, 3), output({1, heads, 1, dimension}, 4);
  auto plan = attend::call::plan(attend::call::tensor_problem<T>(query.view(), key.view(), value.view(), output.view()),
                                 options...);
  attend::engine::problem_rows<T> const source(plan.problem);
  attend::extend::arithmetic_mode const arithmetic;
  bool const splits = attend::engine::suits_split(plan.problem, source, plan.problem.sequences[0]);
  auto const [tiled, split] = seconds_in_turns(
      quick ? 0 : 0.1, [&] { attend::engine::run_tiled(plan.problem, source, plan.policies(), plan.executor); },
      [&] { attend::engine::run_split(plan.problem, source, plan.policies(), plan.executor); });
  std::printf("%-14s dim %3ld, %2ld rows, %6ld keys   split %9.1f us   tiled / split %5.2f   %s%s\n", what,
              static_cast<long>(dimension), static_cast<long>(rows), static_cast<long>(keys), split * 1e6,
              tiled / split, splits ? "splits" : "tiles",
              (splits ? tiled < 0.95 * split : split < 0.95 * tiled) ? "   <- the slower" : "");
}

}  // namespace

void engines(bool quick) {
  for (index_t dimension : {64, 128})
    for (index_t rows : {1, 2, 4, 6, 8, 12, 16, 24})
      for (index_t keys : {32, 128, 512, 1024, 2048, 8192}) {
        compare<float>("float", quick, rows, keys, dimension);
        compare<float>("float, sinks", quick, rows, keys, dimension, attend::options::sinks(0.5));
        compare<attend::bfloat16>("bfloat16", quick, rows, keys, dimension);
      }
}

}  // namespace attend_bench
