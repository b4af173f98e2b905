// SPDX-License-Identifier: BSD-3-Clause
// Lookback Lens: how much a head looks back to its context, of what it gives to a token of it and to one that the model
// wrote itself.
//
//   step t after a context of N tokens, of each layer and head, with weights p over the N + t - 1 tokens so far:
//   A_context = 1/N sum_{j <= N} p_j        A_new = 1/(t - 1) sum_{N < j < N + t} p_j
//   ratio     = A_context / (A_context + A_new)
//
// Both sums come from range_mass, with ranges 0 to N and N to the end. A linear classifier of the ratios of all layers
// and heads, averaged over a span of tokens, says whether a text keeps to its context; it is the caller's.
//
// Yung-Sung Chuang, Linlu Qiu, Cheng-Yu Hsieh, Ranjay Krishna, Yoon Kim, James Glass: Lookback Lens: Detecting and
// Mitigating Contextual Hallucinations in Large Language Models Using Only Attention Maps, 2024. The first step has no
// token of its own, whose average is taken as 0: its ratio is 1.
#pragma once

#include <vector>

#include "../../core/index_list.hpp"
#include "../../policy/tile.hpp"

namespace attend::inline ATTEND_TARGET::systems {

/// The two ranges of keys of each sequence for range_mass: its context, of so many tokens, and what comes after it.
///
///     std::vector<key_range> const ranges = lookback_ranges(lengths);
inline std::vector<key_range> lookback_ranges(index_list const& context) {
  std::vector<key_range> ranges;
  for (index_t b = 0; b < context.size(); ++b) {
    if (context[b] < 0 || context[b] >= token_limit)
      fail("context", "expected from 0 to ", token_limit - 1, " tokens, got ", context[b], " at ", b);
    ranges.push_back({0, context[b]});
    ranges.push_back({context[b], token_limit});
  }
  return ranges;
}

/// Writes the lookback ratios [batch, query head, query] from masses [batch, query head, query, 2] of lookback_ranges.
/// Batch b has a context of `context[b]` tokens, and `keys[b]` tokens in all, whose last ones are the queries'. A row
/// without weights has a ratio of 0. Throws argument_error, before anything is written, where shapes or lengths do not
/// fit.
///
///     std::vector<std::int64_t> const context(1, 400), keys(1, 512);
///     std::vector<key_range> const ranges = lookback_ranges(context);
///     tensor<4> masses(1, 32, 512, 2);
///     softmax_attention(q, k, v, o, causal{}, range_mass(ranges, masses));
///     lookback_ratios(masses, context, keys, lse);
template <TensorArgument Masses, TensorArgument Ratios>
void lookback_ratios(Masses const& masses, index_list const& context, index_list const& keys, Ratios&& ratios) {
  using T = element_of_t<Ratios>;
  tensor_view<T const, 4> const of_rows = raise<4>(view_of(masses));
  tensor_view<T, 3> const to = raise<3>(view_of(ratios));
  index_t const batches = to.extent(0), queries = to.extent(2);
  detail::check_output_view("ratios", to);
  detail::check_view("masses", of_rows);
  detail::check_extent("masses", "batch", of_rows.extent(0), batches, "ratios");
  detail::check_extent("masses", "heads", of_rows.extent(1), to.extent(1), "ratios");
  detail::check_extent("masses", "queries", of_rows.extent(2), queries, "ratios");
  detail::check_extent("masses", "ranges", of_rows.extent(3), 2, "lookback_ranges");
  detail::check_extent("context", "lengths", context.size(), batches, "ratios");
  detail::check_extent("keys", "lengths", keys.size(), batches, "ratios");
  for (index_t b = 0; b < batches; ++b) {
    if (context[b] < 0) fail("context", "expected at least 0 tokens, got ", context[b], " at ", b);
    if (keys[b] < queries)
      fail("keys", "expected at least ", queries, " tokens (as queries), got ", keys[b], " at ", b);
  }
  for (index_t b = 0; b < batches; ++b)
    for (index_t h = 0; h < to.extent(1); ++h)
      for (index_t i = 0; i < queries; ++i) {
        index_t const written = std::max<index_t>(keys[b] - queries + i + 1 - context[b], 0);
        T const of_context = context[b] == 0 ? T(0) : of_rows(b, h, i, 0) / static_cast<T>(context[b]),
                of_new = written == 0 ? T(0) : of_rows(b, h, i, 1) / static_cast<T>(written);
        T const both = of_context + of_new;
        to(b, h, i) = both == 0 ? T(0) : of_context / both;
      }
}

}  // namespace attend::inline ATTEND_TARGET::systems
