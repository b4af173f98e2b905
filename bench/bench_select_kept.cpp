// SPDX-License-Identifier: BSD-3-Clause
// Decoding with what a system keeps of 131072 tokens, choosing and evicting included (select_decode.hpp).
//
//   sparse_k   the best 6041 tokens and a window of 512; each step appends a token to the cache, and one leaves it
//   spatten    two planes of 4 bits, a quarter of the tokens kept, of which each query head reads the values of a
//   tenth;
//              each step appends a token, adds the weights up, and every 32nd evicts. Its rows are peaked, or flat
#include <attend/attention/sparse_decode/sparse_k_decode_attention.hpp>
#include <attend/attention/sparse_decode/spatten_attention.hpp>

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

struct pruned_planes {
  static constexpr index_t kept = problem::keys / 4, recent = 512, page_tokens = 128, steps = 1 << 20;
  attend::caches::bit_plane_cache<> planes{
      problem::shape(), {.pages = problem::key_heads * (problem::keys / page_tokens + 2), .page_tokens = page_tokens}};
  attend::systems::cascade_pruning pruning{1, problem::keys + steps};
  attend::systems::spatten_counts counts;
  random_tensor<T> key{{1, problem::key_heads, 1, problem::dimension}, 3},
      value{{1, problem::key_heads, 1, problem::dimension}, 4};
  attend::systems::spatten_options options;

  explicit pruned_planes(double threshold) : options{threshold, kept / 10, nullptr} {
    constexpr index_t group_size = 8192;
    for (index_t first = 0; first < problem::keys; first += group_size) {
      auto const seed = static_cast<unsigned>(2 + 2 * first / group_size);
      random_tensor<T> keys({1, problem::key_heads, group_size, problem::dimension}, seed + 1),
          values({1, problem::key_heads, group_size, problem::dimension}, seed + 2);
      planes.append(keys.view(), values.view());
    }
  }
};

/// All rows are flat where they must reach a weight of 2, and none where one of 0.
void add_spatten(std::string const& name, double threshold) {
  add_select_decode(
      name, [=](problem&) { return std::make_shared<pruned_planes>(threshold); },
      [](problem& p, std::shared_ptr<pruned_planes> const& kept, attend::threads threads) {
        kept->planes.append(kept->key.view(), kept->value.view());
        attend::systems::spatten_attention(p.query.view(), kept->planes, p.output.view(), kept->options, threads);
        kept->pruning.add_weights(kept->planes);
        kept->pruning.prune(kept->planes, 0,
                            {.heaviest = kept->kept - kept->recent, .first = 4, .recent = kept->recent}, 32, threads);
      },
      [](std::shared_ptr<pruned_planes> const& kept) {
        auto options = kept->options;
        options.counts = &kept->counts;
        kept->counts.first_keys = kept->counts.second_keys = kept->counts.values = 0;
        problem& p = problem::instance();
        attend::systems::spatten_attention(p.query.view(), kept->planes, p.output.view(), options);
        return static_cast<double>(kept->counts.first_keys + kept->counts.second_keys + kept->counts.values);
      });
}

}  // namespace

void register_select_kept() {
  add_sparse_k();
  add_spatten("spatten/peaked", 0);
  add_spatten("spatten/flat", 2);
}

}  // namespace attend_bench
