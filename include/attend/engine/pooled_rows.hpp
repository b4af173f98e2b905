// SPDX-License-Identifier: BSD-3-Clause
// Rows that represent sets of tokens: a block, a window, a region of an image. Such a set is called a place here. Since
// projections are linear, the mean of keys is the key of the tokens' mean: so keys and values are averaged, and no
// token is projected again.
//
//   for_pools      calls a function for each place of each head, with the rows of the place's tokens
//   mean_pools     mean(place) = sum over its tokens of x(token) / their number, rows summed in their order
//   token_means    the same as a tensor [batch, head, place, dimension]
//
// Cost: each token's row is read once for each place that it belongs to.
#pragma once

#include "../core/head_loop.hpp"
#include "../core/scratch.hpp"
#include "../core/tensor_view.hpp"
#include "../simd/mean.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Calls pool(batch, head, place, rows, count) for every place in [0, places): rows[0] to rows[count - 1] are the rows
/// of its tokens. members(place, add) calls add(token) for the tokens of a place, of which there are at most `most`.
template <Element T, class Members, class E, class Pool>
void for_pools(tensor_view<T const, 4> const& x, index_t places, index_t most, Members const& members, E& executor,
               Pool const& pool) {
  index_t const numbers = most * x.extent(3);
  attend::detail::for_tokens(executor, x.extent(0), x.extent(1), places,
                             attend::detail::loop_cost::of(numbers, numbers * static_cast<index_t>(sizeof(T))),
                             [&](index_t batch, index_t head, index_t first, index_t last) {
                               scratch memory;
                               T const** const rows = memory.allocate<T const*>(most);
                               for (index_t place = first; place < last; ++place) {
                                 index_t count = 0;
                                 T const* const of_head = x.data() + batch * x.stride(0) + head * x.stride(1);
                                 members(place, [&](index_t token) { rows[count++] = of_head + token * x.stride(2); });
                                 pool(batch, head, place, rows, count);
                               }
                             });
}

/// Writes the mean of each place to the row to(batch, head, place), of x's element type or of its accumulation type.
template <Element T, class Members, class E, class To>
void mean_pools(tensor_view<T const, 4> const& x, index_t places, index_t most, Members const& members, E& executor,
                To const& to) {
  using A = accumulation_t<T>;
  index_t const dimension = x.extent(3);
  for_pools(x, places, most, members, executor,
            [&](index_t batch, index_t head, index_t place, T const* const* rows, index_t count) {
              auto* const mean = to(batch, head, place);
              auto const row = [&](index_t j) { return rows[j]; };
              if constexpr (std::same_as<std::remove_pointer_t<decltype(to(batch, head, place))>, A>) {
                simd::mean_of_rows<T>(row, count, dimension, mean);
              } else {
                scratch memory;
                A* const wide = memory.allocate<A>(dimension);
                simd::mean_of_rows<T>(row, count, dimension, wide);
                simd::narrow_row(wide, mean, dimension);
              }
            });
}

/// The means of all places, in scratch memory.
template <Element T, class Members, class E>
tensor_view<T, 4> token_means(tensor_view<T const, 4> const& x, index_t places, index_t most, Members const& members,
                              scratch& memory, E& executor) {
  tensor_view<T, 4> const means(memory.allocate<T>(x.extent(0) * x.extent(1) * places * x.extent(3)),
                                {x.extent(0), x.extent(1), places, x.extent(3)});
  if (!means.empty())
    mean_pools(x, places, most, members, executor,
               [&](index_t batch, index_t head, index_t place) { return &means(batch, head, place, 0); });
  return means;
}

/// The function `members` for places that are blocks of `length` tokens, the last of which may be shorter.
inline auto blocks_of(index_t tokens, index_t length) {
  return [=](index_t block, auto const& add) {
    for (index_t token = block * length; token < std::min((block + 1) * length, tokens); ++token) add(token);
  };
}

}  // namespace attend::inline ATTEND_TARGET::engine
