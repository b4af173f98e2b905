// SPDX-License-Identifier: BSD-3-Clause
// Decides whether the query of a sequence is similar to an earlier query, so that the tokens chosen for the earlier
// query can be used again.
//
//   q(sequence) = for each query head the mean of its queries, all heads one after the other
//   alike       = q . q' >= least * |q| |q'|     q' is the earlier query
//                 never for a `least` above 1, and always for a `least` of -1
//
// Cost: 2 * query heads * dimension operations for each comparison. Memory: query heads * dimension numbers for each
// sequence.
#pragma once

#include <cmath>
#include <numeric>

#include "../core/buffer.hpp"
#include "../simd/dot.hpp"

namespace attend::inline ATTEND_TARGET::detail {

/// Writes the mean of a head's queries, [sequence, head, query, dimension], to `to`.
template <Element T, class A>
void mean_query(tensor_view<T const, 4> const& query, index_t sequence, index_t head, A* to) {
  index_t const queries = query.extent(2), dimension = query.extent(3);
  std::fill_n(to, dimension, A(0));
  for (index_t i = 0; i < queries; ++i)
    for (index_t c = 0; c < dimension; ++c)
      to[c] += static_cast<A>(query(sequence, head, i, c)) / static_cast<A>(queries);
}

template <class A>
class query_likeness {
 public:
  query_likeness(char const* name, index_t sequences, index_t heads, index_t dimension)
      : heads_(heads), dimension_(dimension), kept_(name, std::array{sequences, heads * dimension}) {}

  index_t bytes() const { return kept_.bytes(); }

  /// Writes the mean queries of a sequence to `to`, [head][dimension].
  template <Element T>
  void mean(tensor_view<T const, 4> const& query, index_t sequence, A* to) const {
    for (index_t head = 0; head < heads_; ++head) mean_query(query, sequence, head, to + head * dimension_);
  }

  /// Whether the cosine of these mean queries and those that keep() stored is at least `least`.
  bool alike(index_t sequence, A const* mean, double least) const {
    if (least > 1 || least <= -1) return least <= -1;
    index_t const count = heads_ * dimension_;
    A const* const kept = kept_.data() + sequence * count;
    double const product = static_cast<double>(simd::dot(mean, kept, count));
    double const squares =
        static_cast<double>(simd::dot(mean, mean, count)) * static_cast<double>(simd::dot(kept, kept, count));
    return product >= least * std::sqrt(squares);
  }

  void keep(index_t sequence, A const* mean) {
    std::copy_n(mean, heads_ * dimension_, kept_.data() + sequence * heads_ * dimension_);
  }

 private:
  index_t heads_, dimension_;
  buffer<A> kept_;
};

}  // namespace attend::inline ATTEND_TARGET::detail
