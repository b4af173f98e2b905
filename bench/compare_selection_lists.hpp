// Decoding over lists of tokens: what the comparison does with the lists that a selector has written.
#pragma once

#include <attend/select/selected_rows.hpp>
#include <attend/variant/decode_attention.hpp>

#include <cmath>
#include <memory>

#include "compare_selection.hpp"

namespace attend_bench {

/// At least one key.
inline index_t budget_tokens(selection_problem const& p, double budget) {
  return std::clamp<index_t>(static_cast<index_t>(std::ceil(budget * static_cast<double>(p.keys()))), 1, p.keys());
}

/// The problem's keys and values as a store.
inline attend::key_value_tensors<float> store_of(selection_problem const& p) { return {p.key.view(), p.value.view()}; }

/// Appends the rows that the list of a row's head has.
inline void append_list(attend::token_lists const& lists, selection_problem const& p, query_row const& at,
                        std::vector<std::int32_t>& to) {
  auto const list = lists(at.batch, at.head * lists.heads() / p.heads());
  to.insert(to.end(), list.begin(), list.end());
}

/// Bytes of the keys and values of all lists. Query heads that share keys share a list or have their own; fewer lists
/// than key heads are read by each of them.
inline double list_bytes(attend::token_lists const& lists, selection_problem const& p) {
  double rows = 0;
  for (index_t b = 0; b < p.batch(); ++b)
    for (index_t h = 0; h < lists.heads(); ++h) rows += static_cast<double>(lists.size(b, h));
  return rows * p.row_bytes() * static_cast<double>(std::max<index_t>(p.key_heads() / lists.heads(), 1));
}

}  // namespace attend_bench
