// SPDX-License-Identifier: BSD-3-Clause
// Decoding with what a system keeps of 131072 tokens, choosing and evicting included (select_decode.hpp).
//
//   sparse_k   the best 6042 tokens and a window of 512; each step appends a token to the cache, and one leaves it
#include <attend/attention/sparse_decode/sparse_k_decode_attention.hpp>

#include "benchmarks.hpp"
#include "select_decode.hpp"

namespace attend_bench {
namespace {

using problem = select_decode_problem;
using T = problem::T;
constexpr index_t budget = static_cast<index_t>(problem::budget * problem::keys);

struct best_keys {
  static constexpr index_t window = 512;
  attend::systems::sparse_k_cache<T> cache{problem::shape(), {.chosen = budget - window, .window = window}};
  random_tensor<T> key{{1, problem::key_heads, 1, problem::dimension}, 3},
      value{{1, problem::key_heads, 1, problem::dimension}, 4};
  random_tensor<float> scores{{1, 1, problem::key_heads, problem::keys}, 5};
  index_t steps = 0;

  best_keys() {
    while (steps < problem::keys) append();
  }
  void append() {
    attend::tensor_view<float const, 3> const next(scores.view().data() + steps % problem::keys,
                                                   {1, problem::key_heads, 1}, {0, problem::keys, 1});
    cache.append(key.view(), value.view(), next);
    ++steps;
  }
};

void add_sparse_k() {
  add_select_decode(
      "sparse_k", [](problem&) { return best_keys(); },
      [](problem& p, best_keys& kept, attend::threads threads) {
        kept.append();
        attend::systems::sparse_k_decode_attention(p.query.view(), kept.cache, p.output.view(), threads);
      },
      [](best_keys const&) { return static_cast<double>(budget * problem::key_heads) * problem::row_bytes; });
}

}  // namespace

void register_select_kept() { add_sparse_k(); }

}  // namespace attend_bench
