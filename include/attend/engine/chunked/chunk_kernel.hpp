// SPDX-License-Identifier: BSD-3-Clause
// The products of a chunk with itself, for feature maps whose products are a function of a smaller product
// (KernelFeatures):
//
//   P_ij = phi(q_i) . phi(k_j) = kernel(q'_i . k'_j)
//
// where q' and k' are rows that the map prepares, of the tensor's dimension. Features are then needed only to write and
// to read the state.
#pragma once

#include "chunk_decay.hpp"
#include "state_rows.hpp"

namespace attend::inline ATTEND_TARGET::engine {

template <class A>
class chunk_kernel {
 public:
  chunk_kernel(scratch& memory, index_t dimension, index_t max_tokens)
      : layout_(chunk_layout::of<A>(dimension, max_tokens)),
        columns_(memory.allocate<A>(layout_.padded_features * layout_.lanes)),
        rows_(memory.allocate<A>(layout_.lanes * layout_.stride)) {
    std::fill_n(rows_, layout_.lanes * layout_.stride, A(0));
  }

  /// Prepares the rows of `count` tokens, which stay valid until the next call, and computes their features.
  template <Element T>
  void load(tensor_view<T const, 4> const& tensor, any_state_policies<A> const& policies, feature_tokens const& run,
            index_t count, A* raw, A* to, index_t stride) {
    policies.prepare(load_raw(tensor, run, count, raw), rows_, layout_.stride);
    for (index_t i = count; i < round_up(count, chunk_block<A>); ++i)
      std::fill_n(rows_ + i * layout_.stride, layout_.padded_features, A(0));
    policies.fill_prepared(run.rows(rows_, layout_.stride, count, layout_.features), to, stride);
  }

  /// Makes the rows loaded last the keys of the chunk.
  void set_keys(index_t tokens) { columns_of_rows<A>({rows_, layout_.stride}, tokens, layout_, columns_); }

  /// Writes P_ij for the rows loaded last and j <= i; `to` is [lanes][lanes], with the lanes of the chunk's layout.
  void products(any_state_policies<A> const& policies, index_t tokens, A* to) const {
    multiply_lower<A>({rows_, layout_.stride}, columns_, tokens, layout_, to);
    for (index_t i = 0; i < tokens; ++i) policies.apply_kernel(to + i * layout_.lanes, i + 1, layout_.features);
  }

 private:
  chunk_layout layout_;
  A *columns_, *rows_;
};

}  // namespace attend::inline ATTEND_TARGET::engine
