// SPDX-License-Identifier: BSD-3-Clause
// RetrievalAttention in the comparison, with any index: half of the budget is resident, the other half is looked for
// among all keys.
#pragma once

#include <attend/attention/sparse_decode/retrieval_attention.hpp>

#include "compare_selection_lists.hpp"

namespace attend_bench {

inline double key_bytes(selection_problem const& p) {
  return static_cast<double>(p.batch() * p.key_heads() * p.keys() * p.dimension()) * sizeof(float);
}

/// The index has not been told of any keys; searched(tokens) are the bytes that it reads to find so many for each
/// query.
template <class Index, class Searched>
std::optional<prepared_selector> prepare_retrieval(selection_problem const& p,
                                                   attend::tensor_view<float, 4> const& output, double budget,
                                                   Index index, Searched const& searched) {
  using chooser = attend::systems::retrieval_selector<Index>;
  index_t const tokens = budget_tokens(p, budget), first = tokens / 8, last = tokens / 2 - first,
                looked_for = tokens - first - last;
  auto const store = store_of(p);
  std::shared_ptr<chooser> const kept(new chooser(cache_shape_of(p), p.heads(), p.keys(),
                                                  attend::systems::retrieval_options{first, last, looked_for},
                                                  std::move(index)));
  kept->update(store);
  return prepared_selector{
      [=, &p](index_t step, attend::threads threads) {
        attend::systems::retrieval_attention(p.rows_of_step(p.query.view(), step), store, *kept,
                                             p.rows_of_step(output, step), threads);
      },
      [=, &p](query_row const& at, std::vector<std::int32_t>& to) {
        append_list(kept->lists(), p, at, to);
        append_list(kept->resident(), p, at, to);
      },
      [=, &p] { return searched(looked_for) + list_bytes(kept->lists(), p) + list_bytes(kept->resident(), p); }};
}

}  // namespace attend_bench
