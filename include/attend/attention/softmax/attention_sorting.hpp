// SPDX-License-Identifier: BSD-3-Clause
// Attention sorting: documents of a prompt in the order of the attention that they get, so that those that matter stand
// last, where a model looks.
//
//   repeat:  one decoding step over the documents in their present order
//            a_k = the weight that document k gets, averaged over heads and layers
//            documents in the order of rising a_k: the one of most weight comes last
//   then the answer is generated from the last order
//
// a_k comes from range_mass of the query of that step, with a range of keys for each document.
//
// Cost: one decoding step for each round; no weights are stored.
//
// Alexander Peysakhovich, Adam Lerer: Attention Sorting Combats Recency Bias In Long Context Language Models, 2023.
// Equal documents keep their order.
#pragma once

#include <numeric>
#include <span>
#include <vector>

#include "../../core/check.hpp"
#include "../../core/tensor_view.hpp"

namespace attend::inline ATTEND_TARGET::systems {

/// What the documents of a prompt get of the rows of weights that are added: of all heads, of one layer after the
/// other.
///
///     document_masses got(3);
///     std::vector<key_range> const documents{{5, 100}, {100, 400}, {400, 500}};
///     tensor<4> masses(1, 32, 512, 3);
///     softmax_attention(q, k, v, o, causal{}, range_mass(documents, masses));
///     got.add(masses);
///     std::vector<index_t> const order = got.order();
class document_masses {
 public:
  /// Throws argument_error for a negative number of documents.
  explicit document_masses(index_t documents) {
    if (documents < 0) fail("documents", "expected at least 0, got ", documents);
    sums_.assign(static_cast<std::size_t>(documents), 0);
  }

  /// Adds rows [batch, query head, query, document], as range_mass writes them; leading axes may be left out. Throws
  /// argument_error where there is not one mass for each document.
  template <TensorArgument Masses>
  void add(Masses const& masses) {
    auto const of_rows = raise<4>(view_of(masses));
    detail::check_view("masses", of_rows);
    detail::check_extent("masses", "documents", of_rows.extent(3), documents(), "document_masses");
    for (index_t b = 0; b < of_rows.extent(0); ++b)
      for (index_t h = 0; h < of_rows.extent(1); ++h)
        for (index_t i = 0; i < of_rows.extent(2); ++i, ++rows_)
          for (index_t k = 0; k < documents(); ++k)
            sums_[static_cast<std::size_t>(k)] += static_cast<double>(of_rows(b, h, i, k));
  }

  index_t documents() const { return static_cast<index_t>(sums_.size()); }
  /// The mean over all rows of the weight that a document, which is in range, gets; 0 without rows.
  double mean(index_t document) const {
    return rows_ == 0 ? 0 : sums_[static_cast<std::size_t>(document)] / static_cast<double>(rows_);
  }
  /// The documents by rising weight; a weight that is no number comes first.
  std::vector<index_t> order() const {
    std::vector<index_t> documents(sums_.size());
    std::iota(documents.begin(), documents.end(), index_t{0});
    auto const of = [&](index_t k) {
      double const sum = sums_[static_cast<std::size_t>(k)];
      return sum == sum ? sum : -infinity<double>;
    };
    std::sort(documents.begin(), documents.end(),
              [&](index_t a, index_t b) { return of(a) < of(b) || (of(a) == of(b) && a < b); });
    return documents;
  }

 private:
  std::vector<double> sums_;
  index_t rows_ = 0;
};

/// Sorts documents by the attention they get, so many times, or until their order stays; returns the order from which
/// the answer is to be generated. attend(order, masses) makes a decoding step over a prompt that has document order[i]
/// in place i, and adds what the places get to `masses`, of each layer. Throws argument_error for negative numbers.
///
///     auto const order = attention_sorting(3, 4, [&](std::span<index_t const> places, document_masses& got) {
///       tensor<4> masses(1, 32, 1, 3);  // of the prompt that has the documents in these places
///       masses.setConstant(static_cast<float>(places[0]));
///       got.add(masses);
///     });
template <class Attend>
std::vector<index_t> attention_sorting(index_t documents, index_t rounds, Attend const& attend) {
  if (rounds < 0) fail("rounds", "expected at least 0, got ", rounds);
  if (documents < 0) fail("documents", "expected at least 0, got ", documents);
  std::vector<index_t> order(static_cast<std::size_t>(documents));
  std::iota(order.begin(), order.end(), index_t{0});
  for (index_t round = 0; round < rounds; ++round) {
    document_masses masses(documents);
    attend(std::span<index_t const>(order), masses);
    std::vector<index_t> sorted;
    for (index_t const place : masses.order()) sorted.push_back(order[static_cast<std::size_t>(place)]);
    if (sorted == order) break;
    order = std::move(sorted);
  }
  return order;
}

}  // namespace attend::inline ATTEND_TARGET::systems
