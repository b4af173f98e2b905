// SPDX-License-Identifier: BSD-3-Clause
// Kinds of summaries of a page of keys: one dot product of a query with the summary estimates the logits of the page.
//
//   summary         numbers of a page            score for a query q
//   mean_key        mean of its keys             q . mean = the mean of its logits
//   key_bounds      [max_j k_jc, min_j k_jc]     sum_c max(q_c max_c, q_c min_c) = [max(q, 0), min(q, 0)] . summary,
//                                                which no logit of the page exceeds
//   last_key        the key of its last token    q . k: the landmark's logit
//   leading_keys    the first r channels of the  q . k over these channels
//                   key; pages of one token
//   written_key     a row that the caller        q . row
//                   writes
//
// A kind has these functions, on rows of numbers in the accumulation type; d is the head dimension:
//   summary_numbers(d)                             the length of a summary
//   open_numbers(d)                                the length of an open state, that of a page that is not full
//   begin(open, d), add(open, key, d)              begins a page; adds the next key to it
//   finish(open, tokens, d, place, summary)        writes the summary of the tokens so far
//   map_query(query, d, place, mapped)             writes the row by which summaries are multiplied
// and may have
//   check(shape, page tokens), check_queries(heads)   throw argument_error where it does not fit a cache or its queries
//
// Jiaming Tang et al.: Quest, 2024 (bounds). Enzhe Lu et al.: MoBA, 2025 (means). Amirkeivan Mohtashami, Martin Jaggi:
// Landmark Attention, 2023. Prajwal Singhania et al.: Loki, 2024 (leading principal channels).
#pragma once

#include <algorithm>

#include "../cache/row_memory.hpp"
#include "../core/error.hpp"
#include "../simd/convert.hpp"

namespace attend::inline ATTEND_TARGET {

namespace selection {

/// A page of a head.
struct page_place {
  index_t sequence, head, page;
};
/// A query head, and the position of its query.
struct query_place {
  index_t sequence, head, position;
};

}  // namespace selection

namespace detail {

/// to[c] = function(to[c], from[c]).
template <class A, class Function>
void combine_rows(A* to, A const* from, index_t count, Function const& function) {
  constexpr index_t step = simd::width<A>;
  index_t c = 0;
  for (; c + step <= count; c += step)
    function(simd::vector<A>::load_unaligned(to + c), simd::vector<A>::load_unaligned(from + c))
        .store_unaligned(to + c);
  if (c < count)
    simd::narrow_part(to + c, function(simd::widen_part(to + c, count - c), simd::widen_part(from + c, count - c)),
                      count - c);
}

}  // namespace detail

namespace selection {

/// Summarizes a page by the mean of its keys.
struct mean_key {
  index_t summary_numbers(index_t dimension) const { return dimension; }
  index_t open_numbers(index_t dimension) const { return dimension; }

  template <class A>
  void begin(A* open, index_t dimension) const {
    std::fill_n(open, dimension, A(0));
  }
  template <class A>
  void add(A* open, A const* key, index_t dimension) const {
    detail::combine_rows(open, key, dimension, [](auto const& sum, auto const& k) { return sum + k; });
  }
  template <class A>
  void finish(A const* open, index_t tokens, index_t dimension, page_place const&, A* summary) const {
    for (index_t c = 0; c < dimension; ++c) summary[c] = open[c] / static_cast<A>(tokens);
  }
  template <class A>
  void map_query(A const* query, index_t dimension, query_place const&, A* mapped) const {
    std::copy_n(query, dimension, mapped);
  }
};

/// Summarizes a page by the bounds of its keys in each channel.
struct key_bounds {
  index_t summary_numbers(index_t dimension) const { return 2 * dimension; }
  index_t open_numbers(index_t dimension) const { return 2 * dimension; }

  template <class A>
  void begin(A* open, index_t dimension) const {
    std::fill_n(open, dimension, -extend::infinity<A>);
    std::fill_n(open + dimension, dimension, extend::infinity<A>);
  }
  template <class A>
  void add(A* open, A const* key, index_t dimension) const {
    detail::combine_rows(open, key, dimension, [](auto const& most, auto const& k) { return simd::max(most, k); });
    detail::combine_rows(open + dimension, key, dimension,
                         [](auto const& least, auto const& k) { return simd::min(least, k); });
  }
  template <class A>
  void finish(A const* open, index_t, index_t dimension, page_place const&, A* summary) const {
    std::copy_n(open, 2 * dimension, summary);
  }
  template <class A>
  void map_query(A const* query, index_t dimension, query_place const&, A* mapped) const {
    for (index_t c = 0; c < dimension; ++c) {
      mapped[c] = std::max(query[c], A(0));
      mapped[dimension + c] = std::min(query[c], A(0));
    }
  }
};

/// Summarizes a page by the key of its last token.
struct last_key {
  index_t summary_numbers(index_t dimension) const { return dimension; }
  index_t open_numbers(index_t dimension) const { return dimension; }

  template <class A>
  void begin(A*, index_t) const {}
  template <class A>
  void add(A* open, A const* key, index_t dimension) const {
    std::copy_n(key, dimension, open);
  }
  template <class A>
  void finish(A const* open, index_t, index_t dimension, page_place const&, A* summary) const {
    std::copy_n(open, dimension, summary);
  }
  template <class A>
  void map_query(A const* query, index_t dimension, query_place const&, A* mapped) const {
    std::copy_n(query, dimension, mapped);
  }
};

/// Summarizes a page of one token by the first channels of its key.
struct leading_keys {
  index_t rank = 0;

  index_t summary_numbers(index_t dimension) const {
    if (rank < 1 || rank > dimension)
      extend::fail("rank", "expected from 1 to ", dimension, " (the head dimension), got ", rank);
    return rank;
  }
  index_t open_numbers(index_t) const { return rank; }
  void check(cache_shape const&, index_t page_tokens) const {
    if (page_tokens != 1) extend::fail("page_tokens", "expected pages of 1 token, got ", page_tokens);
  }

  template <class A>
  void begin(A*, index_t) const {}
  template <class A>
  void add(A* open, A const* key, index_t) const {
    std::copy_n(key, rank, open);
  }
  template <class A>
  void finish(A const* open, index_t, index_t, page_place const&, A* summary) const {
    std::copy_n(open, rank, summary);
  }
  template <class A>
  void map_query(A const* query, index_t, query_place const&, A* mapped) const {
    std::copy_n(query, rank, mapped);
  }
};

/// Summarizes a page by a row that the caller writes: keys are not read.
struct written_key {
  static constexpr bool reads_no_keys = true;

  index_t summary_numbers(index_t dimension) const { return dimension; }
  index_t open_numbers(index_t) const { return 0; }
  template <class A>
  void map_query(A const* query, index_t dimension, query_place const&, A* mapped) const {
    std::copy_n(query, dimension, mapped);
  }
};

}  // namespace selection

}  // namespace attend::inline ATTEND_TARGET
