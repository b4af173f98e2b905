// SPDX-License-Identifier: BSD-3-Clause
// The gradients of the logarithms of a chunk's decays. Token t decays what was written before it and is read by it or
// after it:
//
//   l_t = <dS, a S> + sum_{i >= t} q_i . b_i S y_i + sum_{j < t} e_j k_j . dS w_j + sum_{j < t <= i} G_ij P_ij
//
// with the names of chunk_gradient.hpp. For scalar decays the last sum is taken over the pairs. For decays of features
// it is the sum over i >= t of q_i dq_i - k_i dk_i, each feature by itself, of the parts within the chunk: the sum of
// all pairs that i reads or that read i, less those that are on one side of t.
//
// Cost: a product of two numbers of the state for each chunk; for scalar decays two operations for each pair.
#pragma once

#include "gradient_layout.hpp"
#include "gradient_rows.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Calls body(j, number of lanes) for the vectors of keys that query i of a chunk sees.
template <class A, class Body>
ATTEND_INLINE void for_seen(index_t i, Body const& body) {
  constexpr index_t width = simd::width<A>;
  for (index_t j = 0; j <= i; j += width) body(j, std::min(width, i + 1 - j));
}

/// x in the first `count` lanes, 0 in the others.
template <class A>
ATTEND_INLINE simd::vector<A> first_lanes(simd::vector<A> const& x, index_t count) {
  using number = simd::vector<A>;
  constexpr index_t width = simd::width<A>;
  if (count == width) return x;
  alignas(64) A lanes[array_size(width)];
  for (index_t i = 0; i < width; ++i) lanes[i] = static_cast<A>(i);
  return simd::select(simd::load(lanes) < number(static_cast<A>(count)), x, number(A(0)));
}

/// P_ij *= factors_ij for j <= i; the factors' rows are `lanes` apart.
template <class A>
void multiply_pairs(index_t count, A const* factors, index_t lanes, row_matrix<A> products) {
  for (index_t i = 0; i < count; ++i)
    for_seen<A>(i, [&](index_t j, index_t) {
      A* const at = products.row(i) + j;
      simd::store(at, simd::load(at) * simd::load(factors + i * lanes + j));
    });
}

template <class A>
class decay_gradient {
 public:
  decay_gradient(scratch& memory, chunk_layout const& layout, any_state_policies<A> const& policies,
                 tensor_view<A, 4> const& to)
      : layout_(layout),
        to_(to),
        of_features_(policies.kind == decay_kind::vector),
        constant_(policies.has_constant_decay),
        asked_(policies.kind != decay_kind::none && to.data() != nullptr) {
    if (!asked_) return;
    if (of_features_) {
      sums_ = row_matrix<A>::of(memory, layout.lanes, layout.stride);
      reads_ = row_matrix<A>::of(memory, layout.lanes, layout.stride);
    } else {
      for (A** numbers : {&kept_, &read_, &within_, &column_sum_}) *numbers = memory.allocate<A>(layout.lanes);
    }
  }

  bool asked() const { return asked_; }

  /// Begins a chunk: with what passes it in the state, and with what its own keys write for later queries.
  void begin(index_t count, index_t columns, bool sums_keys, state_factors<A> factors, turned_state<A> const& state,
             turned_state<A> const& of_state, rows_of<A> key, rows_of<A> of_key) {
    A passing = 0;
    for (index_t f = 0; f < layout_.padded_features; f += width) {
      // Two sums, since each waits for the latency of its own last product.
      number sum(A(0)), other(A(0));
      for (index_t d = 0; d < columns; d += 2) {
        sum = simd::fused_multiply_add(simd::load(state.rows.row(d) + f), simd::load(of_state.rows.row(d) + f), sum);
        other = simd::fused_multiply_add(simd::load(state.rows.row(d + 1) + f),
                                         simd::load(of_state.rows.row(d + 1) + f), other);
      }
      sum = sum + other;
      if (sums_keys)
        sum = simd::fused_multiply_add(simd::load(state.key_sum + f), simd::load(of_state.key_sum + f), sum);
      sum = factors.of_features(f, sum, number(A(0)));
      if (!of_features_) passing += sum_of_lanes(sum);
      for (index_t j = 0; of_features_ && j < count; ++j) {
        simd::store(sums_.row(j) + f, sum);
        sum = simd::fused_multiply_add(simd::load(key.row(j) + f), simd::load(of_key.row(j) + f), sum);
      }
    }
    if (of_features_) return reads_.clear(0, count);
    for (index_t j = 0; j < count; ++j) {
      kept_[j] = passing;
      passing += dot(key.row(j), of_key.row(j), layout_.padded_features);
      read_[j] = within_[j] = 0;
    }
  }

  /// Scalar decays: adds what rows x read, `of_x` being their gradients by the state before the chunk, and the pairs,
  /// the products of which are not decayed.
  void add_pairs(index_t count, rows_of<A> x, rows_of<A> of_x, rows_of<A> products, rows_of<A> gradients) {
    for (index_t i = 0; i < count; ++i) read_[i] += dot(x.row(i), of_x.row(i), layout_.padded_features);
    std::fill_n(column_sum_, layout_.lanes, A(0));
    for (index_t t = count - 1; t > 0; --t) {
      number sum(A(0));
      for_seen<A>(t - 1, [&](index_t j, index_t lanes) {
        number const product = simd::load(products.row(t) + j) * simd::load(gradients.row(t) + j);
        number const column = simd::load(column_sum_ + j) + first_lanes<A>(product, lanes);
        simd::store(column_sum_ + j, column);
        sum = sum + first_lanes<A>(column, lanes);
      });
      within_[t] += sum_of_lanes(sum);
    }
  }

  /// Decays of features: adds what rows x read, `of_x` being their whole gradients.
  void add_reads(index_t count, rows_of<A> x, rows_of<A> of_x) {
    for (index_t i = 0; i < count; ++i)
      for (index_t f = 0; f < layout_.padded_features; f += width)
        simd::store(reads_.row(i) + f, simd::fused_multiply_add(simd::load(x.row(i) + f), simd::load(of_x.row(i) + f),
                                                                simd::load(reads_.row(i) + f)));
  }

  /// Writes the gradients of decays of tokens, or returns their sum where the decay is constant.
  double write_tokens(index_t count, gradient_place const& at) {
    double total = 0;
    A later = 0;
    for (index_t t = count - 1; t >= 0; --t) {
      later += read_[t];
      A const all = kept_[t] + later + within_[t];
      if (constant_)
        total += static_cast<double>(all);
      else
        to_(at.batch, at.head, at.first + t, 0) = all;
    }
    return total;
  }

  /// Writes the gradients of decays of features; `of_key` are those of the keys by reads within the chunk.
  void write_features(index_t count, rows_of<A> key, rows_of<A> of_key, rows_of<A> decays, gradient_place const& at) {
    for (index_t f = 0; f < layout_.features; f += width) {
      number sum(A(0));
      for (index_t t = count - 1; t >= 0; --t) {
        sum = sum + (simd::load(reads_.row(t) + f) - simd::load(key.row(t) + f) * simd::load(of_key.row(t) + f));
        number const a = simd::load(decays.row(t) + f), all = sum + simd::load(sums_.row(t) + f);
        // What was forgotten has no influence: there the difference is a rounding error.
        number const known = simd::select(a == number(A(0)), number(A(0)), all);
        A* const to = &to_(at.batch, at.head, at.first + t, f);
        index_t const left = layout_.features - f;
        left >= width ? known.store_unaligned(to) : simd::narrow_part(to, known, left);
      }
    }
  }

 private:
  using number = simd::vector<A>;
  static constexpr index_t width = simd::width<A>;

  chunk_layout const& layout_;
  tensor_view<A, 4> const& to_;
  bool const of_features_, constant_, asked_;
  row_matrix<A> sums_, reads_;                                                       // of features
  A *kept_ = nullptr, *read_ = nullptr, *within_ = nullptr, *column_sum_ = nullptr;  // of tokens
};

}  // namespace attend::inline ATTEND_TARGET::engine
