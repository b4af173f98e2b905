// SPDX-License-Identifier: BSD-3-Clause
// The step of a single token, which reads the state once and writes it once; it writes no state where the call has no
// final state.
//
//   w = v, rate v, or rate (v - (diag(a) S)^T k)
//   S <- diag(a) S + k w^T
//   o = q^T S
//
// Cost: memory traffic, 2 F D numbers read and written for 6 F D operations, with F features and D value columns. A few
// rows of the state at a time are loaded, updated, and read by all queries while they are in registers. A delta rule
// first reads the state of the head once more; the second time the state comes from the level-2 cache. Meanwhile the
// next head's state is prefetched, so that memory is never idle.
//
// Several tokens may also be processed one by one, with the bits that separate calls would give.
#pragma once

#include "../../core/scratch.hpp"
#include "chunk_decay.hpp"
#include "state_rows.hpp"

namespace attend::inline ATTEND_TARGET::engine {

template <Element T>
class state_step {
 public:
  using A = accumulation_t<T>;

  explicit state_step(state_problem<T> const& p)
      : p_(p),
        features_(p.shape.features),
        padded_features_(round_up(features_, chunk_block<A>)),
        columns_(p.shape.value_dimension),
        padded_columns_(round_up(columns_, width)),
        heads_(p.heads_per_group()),
        raw_(memory_.allocate<A>(round_up(p.shape.key_dimension, width))),
        key_(zeros(padded_features_)),
        query_(zeros(heads_ * padded_features_)),
        high_(memory_.allocate<A>(padded_features_)),
        low_(zeros(padded_features_)),
        written_(zeros(padded_columns_)),
        output_(zeros(heads_ * padded_columns_)),
        key_sum_(memory_.allocate<A>(padded_features_)) {}

  /// Processes the only token of a head.
  void run(any_state_policies<A> const& policies, index_t batch, index_t head) {
    asks_ahead_ = true;
    open(policies, batch, head);
    take(0, 0);
    close();
  }

  /// Processes all tokens of a head one by one, with the bits of separate calls; with fewer queries than keys, the last
  /// tokens have queries.
  void run_each(any_state_policies<A> const& policies, index_t batch, index_t head) {
    open(policies, batch, head);
    index_t const unasked = p_.shape.keys - p_.shape.queries;
    if (p_.shape.keys > 1 && !new_.data) {
      index_t const stride = padded_columns_;
      new_ = {memory_.allocate<A>(features_ * stride), stride};
    }
    for (index_t token = 0; token < p_.shape.keys; ++token) {
      take(token, token - unasked);
      old_ = {new_.data, new_.stride};
    }
    close();
  }

 private:
  static constexpr index_t width = simd::width<A>;
  static constexpr int group_size = 4;

  A* zeros(index_t count) {
    A* const memory = memory_.allocate<A>(count);
    std::fill_n(memory, count, A(0));
    return memory;
  }

  bool decays() const { return policies_->kind != decay_kind::none; }
  index_t output_head(index_t h) const { return head_ * heads_ + h; }

  void open(any_state_policies<A> const& policies, index_t batch, index_t head) {
    policies_ = &policies;
    batch_ = batch;
    head_ = head;
    old_ = {};
    new_ = {};
    if (p_.initial_state.data()) old_ = {&p_.initial_state(batch_, head_, 0, 0), p_.initial_state.stride(2)};
    if (p_.final_state.data()) new_ = {&p_.final_state(batch_, head_, 0, 0), p_.final_state.stride(2)};
    if (!policies.sums_keys) return;
    std::fill_n(key_sum_, padded_features_, A(0));
    if (p_.initial_sum.data() && features_ > 0) std::copy_n(&p_.initial_sum(batch_, head_, 0), features_, key_sum_);
  }
  void close() {
    if (policies_->sums_keys && p_.final_sum.data() && features_ > 0)
      std::copy_n(key_sum_, features_, &p_.final_sum(batch_, head_, 0));
  }

  /// Processes token `token`, and the query at that token unless its number is negative.
  void take(index_t token, index_t query) {
    load_features(p_.key, *policies_, p_.keys_from(batch_, head_, token), 1, raw_, key_, padded_features_);
    answered_ = query < 0 ? 0 : heads_;
    for (index_t h = 0; h < answered_; ++h)
      load_features(p_.query, *policies_, p_.queries_from(batch_, output_head(h), query), 1, raw_,
                    query_ + h * padded_features_, padded_features_);
    load_decay(token);
    load_written(token);
    std::fill_n(output_, heads_ * padded_columns_, A(0));
    if (new_.data)
      decays() ? update<true, true>() : update<true, false>();
    else
      decays() ? update<false, true>() : update<false, false>();
    if (policies_->sums_keys) update_key_sum();
    for (index_t h = 0; h < answered_; ++h) {
      A const sum = policies_->sums_keys ? dot(query_ + h * padded_features_, key_sum_, padded_features_) : A(0);
      finish_row(*policies_, p_.scale, sum, output_ + h * padded_columns_, columns_,
                 &p_.output(batch_, output_head(h), query, 0), p_.mean_square(batch_, output_head(h), query));
    }
  }

  template <bool Writes, bool Decays>
  [[gnu::noinline]] void update() {
    index_t f = 0;
    for (; f + group_size <= features_; f += group_size) update_rows<group_size, Writes, Decays>(f);
    for (; f < features_; ++f) update_rows<1, Writes, Decays>(f);
  }

  void load_decay(index_t token) {
    if (policies_->kind == decay_kind::scalar) {
      alignas(64) A high[array_size(width)], low[array_size(width)];
      A log;
      policies_->read_decays(batch_, head_, token, 1, &log, 1);
      std::fill_n(high, width, log);
      split_exponentials(high, width, high, low);
      std::fill_n(high_, padded_features_, high[0]);
      std::fill_n(low_, padded_features_, low[0]);
    } else if (policies_->kind == decay_kind::vector) {
      std::fill_n(high_, padded_features_, A(0));
      policies_->read_decays(batch_, head_, token, 1, high_, padded_features_);
      split_exponentials(high_, padded_features_, high_, low_);
    }
  }

  void load_written(index_t token) {
    simd::widen_row(&p_.value(batch_, p_.value_head(head_), token, 0), written_, columns_);
    std::fill(written_ + columns_, written_ + padded_columns_, A(0));
    if (policies_->has_rates) {
      A rate;
      policies_->read_rates(batch_, head_, token, 1, &rate);
      if (policies_->reads_state) recall();
      for (index_t c = 0; c < padded_columns_; c += width)
        simd::store(written_ + c, simd::load(written_ + c) * simd::vector<A>(rate));
      rate_ = rate;
    }
  }

  /// written -= (diag(a) S)^T k
  void recall() {
    if (!old_.data) return;
    constexpr int many = 8, some = 4;
    index_t c = 0;
    for (; c + many * width <= columns_; c += many * width) recall_columns<many>(c);
    for (; c + some * width <= columns_; c += some * width) recall_columns<some>(c);
    for (; c < columns_; c += width) recall_columns<1>(c);
  }

  /// Computes `Vectors` vectors of columns, whose sums stay in registers over all rows: so many that they hide the
  /// latency of an addition.
  template <int Vectors>
  void recall_columns(index_t c) {
    using namespace simd;
    index_t const left = columns_ - c;
    vector<A> sum[array_size(Vectors)];
    ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) sum[v] = load(written_ + c + v * width);
    for (index_t f = 0; f < features_; ++f) {
      if (c == 0 && f % 2 == 0) prefetch_row(f / 2);
      A const* const row = old_.data + f * old_.stride + c;
      vector<A> const key(decays() ? -key_[f] * high_[f] : -key_[f]);
      ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) {
        vector<A> const state = Vectors > 1 || left >= width ? widen(row + v * width) : widen_part(row, left);
        sum[v] = fused_multiply_add(key, state, sum[v]);
      }
    }
    ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) store(written_ + c + v * width, sum[v]);
  }

  /// Prefetches a row of the next head's state during the work on this head.
  void prefetch_row(index_t f) const {
    if (!asks_ahead_ || f >= features_ || head_ + 1 == p_.shape.state_heads() || !p_.initial_state.data()) return;
    char const* const row = reinterpret_cast<char const*>(&p_.initial_state(batch_, head_ + 1, f, 0));
    index_t const line = static_cast<index_t>(detail::cache_line);
    for (index_t byte = 0; byte < columns_ * static_cast<index_t>(sizeof(A)); byte += line)
      __builtin_prefetch(row + byte, 0, 2);
  }

  /// Updates rows [f, f + Rows) of the state, and adds their terms to the outputs.
  template <int Rows, bool Writes, bool Decays>
  ATTEND_INLINE void update_rows(index_t f) {
    // With a delta rule, recall() has prefetched the first half.
    if (policies_->reads_state)
      for (int r = 0; r < (Rows + 1) / 2; ++r) prefetch_row((features_ + 1) / 2 + f / 2 + r);
    else
      for (int r = 0; r < Rows; ++r) prefetch_row(f + r);
    row_factors<Rows, Decays> factors;
    A const* from[array_size(Rows)];
    A* to[array_size(Rows)];
    ATTEND_UNROLL for (int r = 0; r < Rows; ++r) {
      from[r] = old_.data ? old_.data + (f + r) * old_.stride : nullptr;
      to[r] = Writes ? new_.data + (f + r) * new_.stride : nullptr;
      factors.key[r] = simd::vector<A>(key_[f + r]);
      if constexpr (Decays) {
        factors.high[r] = simd::vector<A>(high_[f + r]);
        factors.low[r] = simd::vector<A>(low_[f + r]);
      }
    }
    index_t c = 0;
    for (; c + width <= columns_; c += width)
      update_vectors<Rows, Decays>(
          factors, f, c, [&](int r) { return from[r] ? simd::widen(from[r] + c) : simd::vector<A>(A(0)); },
          [&](int r, simd::vector<A> const& x) {
            if constexpr (Writes) x.store_unaligned(to[r] + c);
          });
    index_t const rest = columns_ - c;
    if (rest > 0)
      update_vectors<Rows, Decays>(
          factors, f, c, [&](int r) { return from[r] ? simd::widen_part(from[r] + c, rest) : simd::vector<A>(A(0)); },
          [&](int r, simd::vector<A> const& x) {
            if constexpr (Writes) simd::narrow_part(to[r] + c, x, rest);
          });
  }

  /// The factors of the rows, in registers: as far as a compiler knows, the stores to the state could change them in
  /// memory, and it would load them again for each column.
  template <int Rows, bool Decays>
  struct row_factors {
    simd::vector<A> key[array_size(Rows)];
    simd::vector<A> high[array_size(Decays ? Rows : 1)], low[array_size(Decays ? Rows : 1)];

    /// a_f state + key written^T, rounded once where the state is the larger.
    ATTEND_INLINE simd::vector<A> updated(int r, simd::vector<A> const& state, simd::vector<A> const& written) const {
      using simd::fused_multiply_add;
      if constexpr (Decays)
        return fused_multiply_add(state, high[r], fused_multiply_add(key[r], written, state * low[r]));
      else
        return fused_multiply_add(key[r], written, state);
    }
  };

  template <int Rows, bool Decays, class Load, class Store>
  ATTEND_INLINE void update_vectors(row_factors<Rows, Decays> const& factors, index_t f, index_t c, Load&& load,
                                    Store&& store) {
    simd::vector<A> const written = simd::load(written_ + c);
    simd::vector<A> state[array_size(Rows)];
    ATTEND_UNROLL for (int r = 0; r < Rows; ++r) {
      state[r] = factors.updated(r, load(r), written);
      store(r, state[r]);
    }
    A const* query = query_ + f;
    A* output = output_ + c;
    for (index_t h = 0; h < answered_; ++h, query += padded_features_, output += padded_columns_) {
      simd::vector<A> sum = simd::load(output);
      ATTEND_UNROLL for (int r = 0; r < Rows; ++r) {
        sum = simd::fused_multiply_add(simd::vector<A>(query[r]), state[r], sum);
      }
      simd::store(output, sum);
    }
  }

  void update_key_sum() {
    for (index_t f = 0; f < padded_features_; f += width) {
      simd::vector<A> sum = simd::load(key_sum_ + f);
      if (decays()) sum = simd::fused_multiply_add(sum, simd::load(high_ + f), sum * simd::load(low_ + f));
      simd::store(key_sum_ + f, simd::fused_multiply_add(simd::load(key_ + f), simd::vector<A>(rate_), sum));
    }
  }

  state_problem<T> const& p_;
  any_state_policies<A> const* policies_ = nullptr;
  index_t batch_ = 0, head_ = 0;
  index_t const features_, padded_features_, columns_, padded_columns_, heads_;
  scratch memory_;
  A *raw_, *key_, *query_, *high_, *low_, *written_, *output_, *key_sum_;
  A rate_ = 1;
  rows_of<A> old_;  // without data, the state is 0
  struct {
    A* data = nullptr;  // null: the new state is not written
    index_t stride = 0;
  } new_;
  index_t answered_ = 0;  // the number of query heads with a query at the token
  bool asks_ahead_ = false;
};

}  // namespace attend::inline ATTEND_TARGET::engine
