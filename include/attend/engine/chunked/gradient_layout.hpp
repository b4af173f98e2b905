// SPDX-License-Identifier: BSD-3-Clause
// How a call's gradients are laid out in working memory: states and their gradients turned, so that value columns are
// rows; and lists of the memory that a step's products prefetch.
#pragma once

#include "chunk_cut.hpp"
#include "gradient_problem.hpp"
#include "gradient_products.hpp"
#include "prepared_chunk.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// A state or its gradient: S^T, rows of value columns, and the sum of keys z.
template <class A>
struct turned_state {
  row_matrix<A> rows;  // [padded value column][stride of features]
  A* key_sum;          // [padded feature]
};

/// How a problem is laid out for its gradients.
template <Element T>
struct gradient_layout {
  using A = accumulation_t<T>;

  index_t chunk;
  chunk_layout features, columns;  // rows of features, and of value columns

  static gradient_layout of(state_problem<T> const& p) {
    index_t const longest = std::max<index_t>({p.shape.keys, p.shape.queries, 1});
    index_t const usual = usual_chunk(p.shape.features + p.shape.value_dimension);
    index_t const chunk = std::min(p.chunk > 0 ? p.chunk : usual, longest);
    return {chunk, chunk_layout::of<A>(p.shape.features, chunk), chunk_layout::of<A>(p.shape.value_dimension, chunk)};
  }
  /// Longer chunks have more products within them; shorter ones read, turn and keep states more often. Measured on
  /// Sapphire Rapids: with 128 features and columns chunks of 32 to 128 tokens take the same time, and the longest keep
  /// the fewest states; with 64 and 64, those of 64 take a sixth less than those of 128.
  static constexpr index_t usual_chunk(index_t features_and_columns) { return features_and_columns < 192 ? 64 : 128; }

  index_t state_numbers() const { return columns.padded_features * features.stride + features.padded_features; }
  turned_state<A> allocate_state(scratch& memory) const {
    return {{memory.allocate<A>(columns.padded_features * features.stride), features.stride},
            memory.allocate<A>(features.padded_features)};
  }
  void clear(turned_state<A> const& state) const {
    state.rows.clear(0, columns.padded_features);
    std::fill_n(state.key_sum, features.padded_features, A(0));
  }
};

/// What a thread works on next: memory that is prefetched meanwhile. Without a state there is nothing.
template <class A>
struct gradient_ahead {
  index_t head = 0;
  chunk_step step;
  turned_state<A> const* state = nullptr;  // before the step, or after it on the way forward
};

/// The decay of a state over a chunk, as state_factors have it.
template <class A>
struct state_decay {
  A *high = nullptr, *low = nullptr;

  operator state_factors<A>() const { return {high, low}; }
};

/// The memory that the work on a step prefetches: rows that it will write, and what the next step reads.
template <Element T>
class gradient_prefetch {
 public:
  using A = accumulation_t<T>;

  gradient_prefetch(scratch& memory, state_problem<T> const& p, state_gradients<T> const& g,
                    any_state_policies<A> const& policies, gradient_layout<T> const& layout)
      : p_(p), g_(g), policies_(policies), layout_(layout), list_(memory, max_runs()) {}

  void clear() { list_.clear(); }
  chunk_prefetch* list() { return &list_; }

  /// Lists the gradients of a step.
  void add_written(index_t batch, index_t head, chunk_step const& step) {
    auto const add = [&](tensor_view<T, 4> const& tensor, index_t of_head, index_t first, index_t count) {
      list_.add(tensor_view<T const, 4>(tensor), batch, of_head, first, count, 0, tensor.extent(3));
    };
    for (index_t h = 0; h < p_.heads_per_group() && step.queries > 0; ++h)
      add(g_.of_query, p_.query_head(head * p_.heads_per_group() + h), step.first_query, step.queries);
    if (step.keys == 0) return;
    add(g_.of_key, p_.key_head(head), step.first_key, step.keys);
    add(g_.of_value, p_.value_head(head), step.first_key, step.keys);
    if (policies_.kind == decay_kind::vector && g_.of_decay.data())
      list_.add(tensor_view<A const, 4>(g_.of_decay), batch, head, step.first_key, step.keys, 0, p_.shape.features);
  }

  /// Lists the state, keys and values of the next step.
  void add_keys(index_t batch, gradient_ahead<A> const& next) {
    if (!next.state) return;
    index_t const stride = layout_.features.stride;
    list_.add(rows_of<A>{next.state->rows.data, stride}, p_.shape.value_dimension, stride);
    if (next.step.keys == 0) return;
    list_.add(p_.key, batch, p_.key_head(next.head), next.step.first_key, next.step.keys, 0, p_.shape.key_dimension);
    list_.add(p_.value, batch, p_.value_head(next.head), next.step.first_key, next.step.keys, 0,
              p_.shape.value_dimension);
    policies_.prefetch_decays(list_, batch, next.head, next.step.first_key, next.step.keys);
  }

  /// Lists its queries, and the gradients of their outputs.
  void add_queries(index_t batch, gradient_ahead<A> const& next) {
    if (!next.state || next.step.queries == 0) return;
    for (index_t h = 0; h < p_.heads_per_group(); ++h) {
      index_t const head = next.head * p_.heads_per_group() + h;
      list_.add(p_.query, batch, p_.query_head(head), next.step.first_query, next.step.queries, 0,
                p_.shape.key_dimension);
      list_.add(g_.of_output, batch, head, next.step.first_query, next.step.queries, 0, p_.shape.value_dimension);
    }
  }

 private:
  index_t max_runs() const {
    index_t const rows = chunk_prefetch::runs_of<T>(p_.shape.key_dimension),
                  columns = chunk_prefetch::runs_of<T>(p_.shape.value_dimension), heads = p_.heads_per_group();
    return layout_.chunk * (heads * (2 * rows + columns) + 2 * (rows + columns) +
                            2 * chunk_prefetch::runs_of<A>(p_.shape.features)) +
           p_.shape.value_dimension * chunk_prefetch::runs_of<A>(layout_.features.stride);
  }

  state_problem<T> const& p_;
  state_gradients<T> const& g_;
  any_state_policies<A> const& policies_;
  gradient_layout<T> const& layout_;
  chunk_prefetch list_;
};

}  // namespace attend::inline ATTEND_TARGET::engine
