// SPDX-License-Identifier: BSD-3-Clause
// Latent attention by definition: keys and values of every head are written out, and attended to in double.
#pragma once

#include "softmax_attention.hpp"

namespace attend::inline ATTEND_TARGET::reference {

/// What latents become for one head: [token][dimension] from latent [token, latent dimension] and matrix [head,
/// dimension, latent dimension].
template <class T, class W>
std::vector<double> from_latents(tensor_view<T const, 2> latent, tensor_view<W const, 3> matrix, index_t head) {
  std::vector<double> rows;
  for (index_t j = 0; j < latent.extent(0); ++j)
    for (index_t c = 0; c < matrix.extent(1); ++c) {
      double sum = 0;
      for (index_t k = 0; k < latent.extent(1); ++k)
        sum += static_cast<double>(matrix(head, c, k)) * static_cast<double>(latent(j, k));
      rows.push_back(sum);
    }
  return rows;
}

/// query [head, token, plain + rotary], latent [key, latent], rotary_key [key, rotary], key_matrix [head, plain,
/// latent], value_matrix [head, value, latent] -> [head, token, value] of one sequence. Rotary parts are rotated
/// already.
template <class T, class C, class W>
std::vector<double> latent_attention(tensor_view<T const, 3> query, tensor_view<C const, 2> latent,
                                     tensor_view<C const, 2> rotary_key, tensor_view<W const, 3> key_matrix,
                                     tensor_view<W const, 3> value_matrix, options const& with = {}) {
  index_t const heads = query.extent(0), tokens = query.extent(1), dimension = query.extent(2), keys = latent.extent(0);
  index_t const plain = key_matrix.extent(1), values = value_matrix.extent(1);
  std::vector<double> output;
  for (index_t h = 0; h < heads; ++h) {
    std::vector<double> const made = from_latents(latent, key_matrix, h), value = from_latents(latent, value_matrix, h);
    std::vector<double> q, k;
    for (index_t i = 0; i < tokens; ++i)
      for (index_t c = 0; c < dimension; ++c) q.push_back(static_cast<double>(query(h, i, c)));
    for (index_t j = 0; j < keys; ++j)
      for (index_t c = 0; c < dimension; ++c)
        k.push_back(c < plain ? made[static_cast<std::size_t>(j * plain + c)]
                              : static_cast<double>(rotary_key(j, c - plain)));
    auto const of_head =
        softmax_attention<double>({q.data(), {1, 1, tokens, dimension}}, {k.data(), {1, 1, keys, dimension}},
                                  {value.data(), {1, 1, keys, values}}, with);
    output.insert(output.end(), of_head.output.begin(), of_head.output.end());
  }
  return output;
}

}  // namespace attend::inline ATTEND_TARGET::reference
