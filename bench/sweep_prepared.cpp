// SPDX-License-Identifier: BSD-3-Clause
// Small calls that prepare something before they attend: each of their loops has a price of its own, below which no
// thread is woken.
#include <attend/attention/image/a2k_attention.hpp>
#include <attend/attention/image/bi_level_routing_attention.hpp>
#include <attend/attention/linear/flow_attention.hpp>
#include <attend/attention/softmax/decoupled_embedding_attention.hpp>
#include <attend/attention/sparse_prefill/combiner_attention.hpp>
#include <attend/attention/sparse_prefill/hip_attention.hpp>
#include <attend/attention/sparse_prefill/hyper_attention.hpp>
#include <attend/attention/sparse_prefill/routing_attention.hpp>
#include <attend/attention/sparse_prefill/sample_attention.hpp>
#include <attend/attention/sparse_prefill/sparse_k_attention.hpp>

#include "random_tensor.hpp"
#include "sweep_small.hpp"

namespace attend_bench {
namespace {

using attend::index_t, attend::tensor_view, attend::threads;

constexpr index_t dimension = 64;

/// An image of side * side tokens, or as many in a row.
void prepared(bool quick, index_t heads, index_t side) {
  index_t const tokens = side * side;
  random_tensor<float> query({1, heads, tokens, dimension}, 1), key({1, heads, tokens, dimension}, 2),
      value({1, heads, tokens, dimension}, 3), output({1, heads, tokens, dimension}, 4),
      numbers({1, heads, 1, tokens}, 5), means({1, heads, 8, dimension}, 6), target({1, 1, 4, dimension}, 7),
      history({1, 1, heads * tokens, dimension}, 8), answer({1, 1, 4, dimension}, 9);
  auto const q = query.view(), k = key.view(), v = value.view(), o = output.view();
  tensor_view<float, 3> const scores(numbers.view().data(), {1, heads, tokens}),
      centroids(means.view().data(), {heads, 8, dimension}), wanted(target.view().data(), {1, 4, dimension}),
      items(history.view().data(), {1, heads * tokens, dimension}), answers(answer.view().data(), {1, 4, dimension});
  attend::options::block_table table;
  attend::grids::image_regions const regions{{side, side}, {side / 4, side / 4}};
  attend::selection::hash_directions const directions(4, dimension, 1);
  auto const row = [&](std::string const& name, auto const& call) {
    report_small(name + " " + std::to_string(heads) + " heads, " + std::to_string(tokens) + " tokens", quick, call);
  };
  row("hierarchical", [&](threads e) { attend::systems::hip_attention(q, k, v, o, table, {16, 16, 2, 1, 1}, e); });
  row("combiner fixed", [&](threads e) { attend::systems::combiner_fixed_attention(q, k, v, o, side, e); });
  row("combiner axial", [&](threads e) { attend::systems::combiner_axial_attention(q, k, v, o, side, e); });
  row("combiner logsparse", [&](threads e) { attend::systems::combiner_logsparse_attention(q, k, v, o, e); });
  row("hyper", [&](threads e) { attend::systems::hyper_attention(q, k, v, o, directions, {32, 16, 32}, e); });
  row("routing", [&](threads e) { attend::systems::routing_attention(q, k, v, o, centroids, 0, e); });
  row("bi-level routing",
      [&](threads e) { attend::systems::bi_level_routing_attention(q, k, v, o, table, regions, 2, e); });
  row("distributed", [&](threads e) { attend::systems::a2k_distributed_attention(q, k, v, o, regions, {}, e); });
  row("progressive",
      [&](threads e) { attend::systems::a2k_progressive_attention(q, k, v, o, table, regions, regions, e); });
  row("sparse_k", [&](threads e) { attend::systems::sparse_k_attention(q, k, v, o, scores, 16, e); });
  row("sample", [&](threads e) { attend::systems::sample_attention(q, k, v, o, {.rows = 0.1}, e); });
  row("flow", [&](threads e) { attend::systems::flow_attention(q, k, v, o, e); });
  row("decoupled embeddings",
      [&](threads e) { attend::systems::decoupled_embedding_attention(wanted, items, wanted, items, answers, 16, e); });
}

}  // namespace

void prepared(bool quick) {
  for (index_t heads : {1, 4})
    for (index_t side : {8, 16, 32}) prepared(quick, heads, side);
}

}  // namespace attend_bench
