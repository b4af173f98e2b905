// SPDX-License-Identifier: BSD-3-Clause
// Decoding through selectors that write lists of tokens: how the comparison makes one ready, and what it reads.
#pragma once

#include <attend/attention/sparse_decode/selected_attention.hpp>

#include <cmath>
#include <memory>

#include "compare_selection.hpp"

namespace attend_bench {

/// At least one key.
inline index_t budget_tokens(selection_problem const& p, double budget) {
  return std::clamp<index_t>(static_cast<index_t>(std::ceil(budget * static_cast<double>(p.keys()))), 1, p.keys());
}

inline attend::caches::cache_shape cache_shape_of(selection_problem const& p) {
  return {p.batch(), p.key_heads(), p.dimension(), p.value_dimension()};
}

/// The problem's keys and values as a store.
inline attend::caches::key_value_tensors<float> store_of(selection_problem const& p) {
  return {p.key.view(), p.value.view()};
}

/// Appends the tokens that the list of a row's head has.
inline void append_list(attend::selection::token_lists const& lists, selection_problem const& p, query_row const& at,
                        std::vector<std::int32_t>& to) {
  auto const list = lists(at.batch, at.head * lists.heads() / p.heads());
  to.insert(to.end(), list.begin(), list.end());
}

/// Bytes of the keys and values of all lists. Each query head has a list of its own, or those that share keys have one;
/// fewer lists than key heads are read by each of them.
inline double list_bytes(attend::selection::token_lists const& lists, selection_problem const& p) {
  double rows = 0;
  for (index_t b = 0; b < p.batch(); ++b)
    for (index_t h = 0; h < lists.heads(); ++h) rows += static_cast<double>(lists.size(b, h));
  return rows * p.row_bytes() * static_cast<double>(std::max<index_t>(p.key_heads() / lists.heads(), 1));
}

/// A step through a selector: query, store, selector, output, threads.
struct selected_call {
  template <class... Arguments>
  void operator()(Arguments&&... arguments) const {
    attend::selection::selected_attention(arguments...);
  }
};
/// What a selector says that its choice has read.
struct told_bytes {
  template <class Chooser>
  double operator()(selection_problem const&, Chooser const& chooser) const {
    return static_cast<double>(chooser.bytes_scored());
  }
};

/// make(problem, budget) gives a selector of a cache's tokens (attention/sparse_decode/selected_attention.hpp) that has
/// seen none yet; call(query, store, selector, output, threads) attends through it; scored(problem, selector) are the
/// bytes that the last choice read.
template <class Make, class Call = selected_call, class Scored = told_bytes>
selector list_selector(std::string const& name, std::string const& what, Make const& make, Call const& call = {},
                       Scored const& scored = {}) {
  auto const prepare = [=](selection_problem const& p, attend::tensor_view<float, 4> const& output,
                           double budget) -> std::optional<prepared_selector> {
    using chooser = decltype(make(p, budget));
    auto const store = store_of(p);
    std::shared_ptr<chooser> const kept(new chooser(make(p, budget)));
    if constexpr (requires { kept->update(store); }) kept->update(store);
    return prepared_selector{
        [=, &p](index_t step, attend::threads threads) {
          call(p.rows_of_step(p.query.view(), step), store, *kept, p.rows_of_step(output, step), threads);
        },
        [=, &p](query_row const& at, std::vector<std::int32_t>& to) { append_list(kept->lists(), p, at, to); },
        [=, &p] { return scored(p, *kept) + list_bytes(kept->lists(), p); }};
  };
  return {name, what, phase::decode, false, prepare};
}

}  // namespace attend_bench
