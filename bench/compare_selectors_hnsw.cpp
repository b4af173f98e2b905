// SPDX-License-Identifier: BSD-3-Clause
// RetrievalAttention through an approximate index of hnswlib, where that is installed: no selectors elsewhere.
#include "compare_selection.hpp"

#if defined(ATTEND_BENCH_HNSWLIB)

#include <attend/select/hnsw_index.hpp>

#include "compare_selection_retrieval.hpp"

namespace attend_bench {
namespace {

/// Each step of a search reads the keys of a token's links, in the index's own copy.
std::optional<prepared_selector> prepare_hnsw(selection_problem const& p, attend::tensor_view<float, 4> const& output,
                                              double budget) {
  attend::selection::hnsw_graph const settings{.building_beam = 64};
  double const searches = static_cast<double>(p.batch() * p.heads());
  return prepare_retrieval(
      p, output, budget, attend::selection::hnsw_index(cache_shape_of(p), p.keys(), settings), [=, &p](index_t tokens) {
        double const visited = static_cast<double>(std::max(settings.beam, tokens) * settings.links);
        return searches * std::min(visited, static_cast<double>(p.keys())) * static_cast<double>(p.dimension()) *
               sizeof(float);
      });
}

}  // namespace

std::vector<selector> graph_selectors() {
  return {{"retrieval_hnsw", "half are the first and the last keys, half found by a navigable graph", phase::decode,
           false, prepare_hnsw}};
}

}  // namespace attend_bench

#else

namespace attend_bench {

std::vector<selector> graph_selectors() { return {}; }

}  // namespace attend_bench

#endif
