// SPDX-License-Identifier: BSD-3-Clause
// InLine attention by definition, in double: w_ij = a_ij - mean_l(a_il) + 1 / N and o_i = sum_j w_ij v_j over all N
// keys, for a_ij from a function of the two rows.
//
// Dongchen Han et al.: Bridging the Divide: Reconsidering Softmax and Linear Attention, 2024.
#pragma once

#include "kernel_attention.hpp"

namespace attend::inline ATTEND_TARGET::reference {

template <class T>
kernel_result inline_attention(tensor_view<T const, 4> const& query, tensor_view<T const, 4> const& key,
                               tensor_view<T const, 4> const& value,
                               std::function<double(row const&, row const&)> const& weight) {
  index_t const keys = key.extent(2);
  kernel_options with;
  with.causal = false;
  with.weight = [&](row const& q, row const& k, pair_place const& at) {
    double const share = 1 / static_cast<double>(keys);
    double mean = 0, terms = 0;
    for (index_t l = 0; l < keys; ++l) {
      double const a = weight(q, row_of(key, at.batch, at.key_head, l));
      mean += share * a;
      terms += share * std::abs(a);
    }
    return kernel_weight(weight(q, k) - mean + share, std::abs(weight(q, k)) + terms + share);
  };
  return kernel_attention(query, key, value, with);
}

}  // namespace attend::inline ATTEND_TARGET::reference
