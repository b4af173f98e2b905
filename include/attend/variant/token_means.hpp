// SPDX-License-Identifier: BSD-3-Clause
// Means over sets of tokens, which a pattern attends to in place of the tokens: what factorized_attention and
// multi_grained_attention have in common. Means of keys are keys of means, since projections are linear: so keys and
// values are averaged rather than tokens.
//
//   mean(place) = sum over its tokens of x(token) / their number
//
// Cost: each token's row is read once for each place that it belongs to.
#pragma once

#include "../core/scratch.hpp"
#include "../core/tensor_view.hpp"
#include "../simd/mean.hpp"

namespace attend::inline ATTEND_TARGET::detail {

/// means [batch, head, place, dimension] of x [batch, head, token, dimension], for so many places. members(place, add)
/// calls add(token) for the tokens of a place, of which there are 1 to `most`.
template <Element T, class Members>
tensor_view<T, 4> token_means(tensor_view<T const, 4> const& x, index_t places, index_t most, Members const& members,
                              scratch& memory) {
  using A = accumulation_t<T>;
  index_t const dimension = x.extent(3);
  tensor_view<T, 4> const means(memory.take<T>(x.extent(0) * x.extent(1) * places * dimension),
                                {x.extent(0), x.extent(1), places, dimension});
  if (means.empty()) return means;
  scratch own;
  A* const mean = own.take<A>(dimension);
  T const** const rows = own.take<T const*>(most);
  for (index_t b = 0; b < x.extent(0); ++b)
    for (index_t h = 0; h < x.extent(1); ++h)
      for (index_t place = 0; place < places; ++place) {
        index_t count = 0;
        members(place, [&](index_t token) { rows[count++] = &x(b, h, token, 0); });
        simd::mean_of_rows<T>([&](index_t j) { return rows[j]; }, count, dimension, mean);
        simd::narrow_row(mean, &means(b, h, place, 0), dimension);
      }
  return means;
}

}  // namespace attend::inline ATTEND_TARGET::detail
