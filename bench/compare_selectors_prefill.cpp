// SPDX-License-Identifier: BSD-3-Clause
// Selectors for prompts: each query, or block of queries, chooses among the keys or their blocks.
#include <attend/attention/sparse_prefill/combiner_attention.hpp>
#include <attend/attention/sparse_prefill/hip_attention.hpp>
#include <attend/attention/sparse_prefill/hyper_attention.hpp>
#include <attend/attention/sparse_prefill/moba_attention.hpp>
#include <attend/attention/sparse_prefill/routing_attention.hpp>
#include <attend/attention/sparse_prefill/sample_attention.hpp>
#include <attend/attention/sparse_prefill/x_attention.hpp>

#include "compare_selection_calls.hpp"

namespace attend_bench {
namespace {

/// Blocks of about a sixtieth of the keys.
index_t block_of(selection_problem const& p) { return std::clamp<index_t>(p.keys() / 64 / 16 * 16, 16, 256); }

/// Tokens of the budget in blocks of that size, at least one.
index_t blocks_of(selection_problem const& p, double budget, index_t block) {
  return std::max<index_t>(std::lround(budget * static_cast<double>(p.keys()) / static_cast<double>(block)), 1);
}

double query_rows(selection_problem const& p) { return static_cast<double>(p.batch() * p.heads() * p.queries()); }
double key_bytes(selection_problem const& p) { return static_cast<double>(p.dimension()) * sizeof(float); }

std::optional<prepared_selector> prepare_moba(selection_problem const& p, output_view const& output, double budget) {
  index_t const block = block_of(p);
  attend::systems::moba_options const settings{block, blocks_of(p, budget, block)};
  double const means = static_cast<double>(attend::extend::divide_up(p.keys(), block)) / 2;
  return counted_call(p, output, query_rows(p) * means * key_bytes(p),
                      [settings](auto const& q, auto const& k, auto const& v, auto const& o, auto const&... options) {
                        attend::systems::moba_attention(q, k, v, o, settings, options...);
                      });
}

/// Half of the budget is the window, the other half stripes.
std::optional<prepared_selector> prepare_sample(selection_problem const& p, output_view const& output, double budget) {
  attend::systems::sample_options const settings{.window = budget / 2,
                                                 .most = std::max<index_t>(blocks_of(p, budget / 2, 1), 1)};
  double const sampled = settings.rows * static_cast<double>(p.keys()) / 2;
  return counted_call(p, output, query_rows(p) * sampled * key_bytes(p),
                      [settings](auto const& q, auto const& k, auto const& v, auto const& o, auto const&... options) {
                        attend::systems::sample_attention(q, k, v, o, settings, options...);
                      });
}

/// Blocks of 16 keys: the own ones, the one before, the first one, and those that are found.
std::optional<prepared_selector> prepare_tree(selection_problem const& p, output_view const& output, double budget) {
  constexpr index_t query_block = 64, key_block = 16;
  attend::systems::hip_options const settings{query_block, key_block, blocks_of(p, budget, key_block), 1, 1};
  double const rounds =
      std::log2(std::max(static_cast<double>(p.keys()) / static_cast<double>(settings.blocks * key_block), 2.0));
  double const scored = 2 * static_cast<double>(settings.blocks) * rounds;
  auto const table = std::make_shared<attend::options::block_table>();
  return counted_call(
      p, output, query_rows(p) * scored * key_bytes(p),
      [settings, table](auto const& q, auto const& k, auto const& v, auto const& o, auto const&... options) {
        attend::systems::hip_attention(q, k, v, o, *table, settings, options...);
      });
}

/// The share of the mass is twice what the budget is of the keys. The choice reads as
/// much as 1 / stride of the pairs.
std::optional<prepared_selector> prepare_antidiagonals(selection_problem const& p, output_view const& output,
                                                       double budget) {
  attend::systems::x_attention_options const settings{.block = 64, .stride = 8, .share = std::min(2 * budget, 1.0)};
  double const scored = static_cast<double>(p.keys()) / 2 / static_cast<double>(settings.stride);
  auto const table = std::make_shared<attend::options::block_table>();
  return counted_call(
      p, output, query_rows(p) * scored * key_bytes(p),
      [settings, table](auto const& q, auto const& k, auto const& v, auto const& o, auto const&... options) {
        attend::systems::x_attention(q, k, v, o, *table, settings, options...);
      });
}

/// Half of the budget are keys of the same buckets, the other half a sample.
template <bool Causal>
std::optional<prepared_selector> prepare_hyper(selection_problem const& p, output_view const& output, double budget) {
  index_t const half = blocks_of(p, budget / 2, 1);
  attend::systems::hyper_options const settings{
      .block = half, .samples = half, .exact_below = std::max<index_t>(4 * half, 64)};
  auto const directions = std::make_shared<attend::selection::hash_directions>(7, p.dimension(), 1);
  // Causal, each halving gives half of the rows such a part; the last halves are exact.
  double const exact = static_cast<double>(settings.exact_below), keys = static_cast<double>(p.keys());
  double const halvings = Causal ? std::max(std::ceil(std::log2(keys / exact)), 0.0) : 2;
  return plain_call(p, output, halvings * static_cast<double>(half) + (Causal ? std::min(exact, keys) / 2 : 0),
                    [=](auto const& q, auto const& k, auto const& v, auto const& o, auto threads) {
                      if constexpr (Causal)
                        attend::systems::hyper_attention(q, k, v, o, *directions, settings, attend::causal{}, threads);
                      else
                        attend::systems::hyper_attention(q, k, v, o, *directions, settings, threads);
                    });
}

/// As many clusters as the budget makes; centroids have learned from these queries and keys.
std::optional<prepared_selector> prepare_routing(selection_problem const& p, output_view const& output, double budget) {
  index_t const most = blocks_of(p, budget, 1), clusters = attend::extend::divide_up(p.keys(), most);
  auto const centroids = std::make_shared<tensor<float>>(std::array<index_t, 4>{1, p.heads(), clusters, p.dimension()});
  auto const queries = p.query.view();
  for (index_t h = 0; h < p.heads(); ++h)
    for (index_t c = 0; c < clusters; ++c)
      std::copy_n(&queries(0, h, c * p.queries() / clusters, 0), p.dimension(), &centroids->view()(0, h, c, 0));
  attend::tensor_view<float, 3> const view(centroids->elements.data(), {p.heads(), clusters, p.dimension()});
  for (int round = 0; round < 4; ++round) attend::systems::update_centroids(view, queries, p.key.view(), 0.0);
  return plain_call(p, output, static_cast<double>(most) / 2,
                    [=, kept = centroids](auto const& q, auto const& k, auto const& v, auto const& o, auto threads) {
                      attend::systems::routing_attention(q, k, v, o, attend::tensor_view<float const, 3>(view), most,
                                                         attend::causal{}, threads);
                    });
}

/// Segments of the budget's tokens are read directly, the others through one number each.
std::optional<prepared_selector> prepare_combiner(selection_problem const& p, output_view const& output,
                                                  double budget) {
  index_t const segment = blocks_of(p, budget, 1);
  double const regions = static_cast<double>(attend::extend::divide_up(p.keys(), segment));
  return plain_call(p, output, (static_cast<double>(segment) + regions) / 2,
                    [=](auto const& q, auto const& k, auto const& v, auto const& o, auto threads) {
                      attend::systems::combiner_fixed_attention(q, k, v, o, segment, attend::causal{}, threads);
                    });
}

}  // namespace

std::vector<selector> prefill_selectors() {
  constexpr phase prefill = phase::prefill;
  return {
      {"moba", "blocks of 1/64 of the keys, by their mean key, and the own", prefill, true, prepare_moba},
      {"sample", "half a window, half the columns that a sample of the queries sees most", prefill, true,
       prepare_sample},
      {"hip", "blocks of 16 by a tree search for each 64 queries; and the nearest and the first", prefill, true,
       prepare_tree},
      {"x_attention", "blocks of 64 with twice the budget's share of the mass, by antidiagonals", prefill, true,
       prepare_antidiagonals},
      {"hyper_causal", "half of the same hash, half a sample that stands for the rest", prefill, true,
       prepare_hyper<true>},
      {"routing", "clusters of queries and keys", prefill, true, prepare_routing},
      {"combiner", "the own segment, and what stands for each other one", prefill, true, prepare_combiner},
      {"hyper", "half of the same hash, half a sample that stands for the rest", prefill, false, prepare_hyper<false>}};
}

}  // namespace attend_bench
