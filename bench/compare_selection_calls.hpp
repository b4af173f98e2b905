// SPDX-License-Identifier: BSD-3-Clause
// Prefill with chosen keys: what the comparison does with a system that is one call, which does not tell what it chose.
#pragma once

#include <attend/policy/output.hpp>

#include <cmath>
#include <memory>

#include "compare_selection.hpp"

namespace attend_bench {

using output_view = attend::tensor_view<float, 4>;

/// call(query, key, value, output, threads), which weighs other than by softmax over chosen keys, or does not count
/// them: each row reads about `keys_of_row`.
template <class Call>
prepared_selector plain_call(selection_problem const& p, output_view const& output, double keys_of_row,
                             Call const& call) {
  double const rows = static_cast<double>(p.batch() * p.heads() * p.queries());
  return {[=, &p](index_t, attend::threads threads) {
            call(p.query.view(), p.key.view(), p.value.view(), output, threads);
          },
          {},
          [=, &p] { return rows * keys_of_row * p.row_bytes(); },
          {},
          [=] { return keys_of_row; }};
}

/// call(query, key, value, output, options...) is softmax over chosen keys, and takes log_sum_exp and an executor. Each
/// row reads about `keys_of_row`; choosing reads `scored_bytes` for all queries.
template <class Call>
prepared_selector summed_call(selection_problem const& p, output_view const& output, double keys_of_row,
                              double scored_bytes, Call const& call) {
  auto const sums = std::make_shared<tensor<float>>(std::array<index_t, 4>{1, p.batch(), p.heads(), p.queries()});
  prepared_selector result =
      plain_call(p, output, keys_of_row, [=](auto const& q, auto const& k, auto const& v, auto const& o, auto threads) {
        attend::tensor_view<float, 3> const rows(sums->elements.data(), {q.extent(0), q.extent(1), q.extent(2)});
        call(q, k, v, o, attend::options::log_sum_exp(rows), threads);
      });
  result.bytes = [chosen = result.bytes, scored_bytes] { return scored_bytes + chosen(); };
  result.log_sum_exp = [=](query_row const& at) {
    return static_cast<double>(sums->view()(0, at.batch, at.head, at.query));
  };
  return result;
}

/// The same for a call that also takes count_tiles, which tells the pairs of all tiles that are visited.
template <class Call>
prepared_selector counted_call(selection_problem const& p, output_view const& output, double scored_bytes,
                               Call const& call) {
  attend::options::tile_counts counts;
  call(p.query.view(), p.key.view(), p.value.view(), output, attend::options::count_tiles(counts));
  double const rows = static_cast<double>(p.batch() * p.heads() * p.queries());
  return summed_call(p, output, static_cast<double>(counts.pairs.load()) / rows, scored_bytes, call);
}

}  // namespace attend_bench
