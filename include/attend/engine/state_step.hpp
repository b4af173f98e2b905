// One token: the state is read once and written once, in place.
//
//   w = v, rate v, or rate (v - (diag(a) S)^T k)
//   S <- diag(a) S + k w^T
//   o = q^T S
//
// The work is that of memory: 2 F D numbers read and written for 6 F D operations. Rows of the state are taken a few at
// a time, updated, and read by all queries while they are in registers. A delta rule reads the state once more before,
// head by head, so that the second time it comes from the second-level cache. All the while the next head's state is
// asked for: memory is never idle.
#pragma once

#include "../core/scratch.hpp"
#include "chunk_decay.hpp"
#include "state_rows.hpp"

namespace attend::inline ATTEND_TARGET::engine {

template <Element T, class Steering>
class state_step {
 public:
  using A = accumulation_t<T>;

  state_step(state_problem<T> const& p, Steering const& steer, index_t batch, index_t head)
      : p_(p),
        steer_(steer),
        batch_(batch),
        head_(head),
        features_(p.shape.features),
        padded_features_(round_up(features_, chunk_block<A>)),
        columns_(p.shape.value_dimension),
        padded_columns_(round_up(columns_, width)),
        heads_(p.heads_together()),
        raw_(memory_.take<A>(round_up(p.shape.key_dimension, width))),
        key_(zeros(padded_features_)),
        query_(zeros(heads_ * padded_features_)),
        high_(memory_.take<A>(padded_features_)),
        low_(zeros(padded_features_)),
        written_(zeros(padded_columns_)),
        output_(zeros(heads_ * padded_columns_)),
        key_sum_(zeros(padded_features_)) {}

  void run() {
    load_features(p_.key, steer_.features, p_.keys_from(batch_, head_, 0), 1, raw_, key_, padded_features_);
    for (index_t h = 0; h < heads_; ++h)
      load_features(p_.query, steer_.features, p_.queries_from(batch_, output_head(h), 0), 1, raw_,
                    query_ + h * padded_features_, padded_features_);
    load_decay();
    load_written();
    index_t f = 0;
    for (; f + together <= features_; f += together) update_rows<together>(f);
    for (; f < features_; ++f) update_rows<1>(f);
    if constexpr (sums_keys) update_key_sum();
    for (index_t h = 0; h < heads_; ++h) {
      A const sum = sums_keys ? dot(query_ + h * padded_features_, key_sum_, padded_features_) : A(0);
      finish_row(steer_.normalizer, p_.scale, sum, output_ + h * padded_columns_, columns_,
                 &p_.output(batch_, output_head(h), 0, 0), p_.mean_square(batch_, output_head(h), 0));
    }
  }

 private:
  using decay_type = typename Steering::decay_type;
  using update_type = typename Steering::update_type;
  static constexpr index_t width = simd::width<A>;
  static constexpr bool decays = decay_type::kind != decay_kind::none;
  static constexpr bool sums_keys = Steering::normalizer_type::sums_keys;
  static constexpr int together = 4;

  A* zeros(index_t count) {
    A* const memory = memory_.take<A>(count);
    std::fill_n(memory, count, A(0));
    return memory;
  }

  index_t output_head(index_t h) const { return head_ * heads_ + h; }
  A const* old_row(index_t f) const {
    return p_.initial_state.data() ? &p_.initial_state(batch_, head_, f, 0) : nullptr;
  }

  void load_decay() {
    if constexpr (decay_type::kind == decay_kind::scalar) {
      alignas(64) A high[array_size(width)], low[array_size(width)];
      A log;
      steer_.decay.read(batch_, head_, 0, 1, &log);
      std::fill_n(high, width, log);
      split_exponentials(high, width, high, low);
      std::fill_n(high_, padded_features_, high[0]);
      std::fill_n(low_, padded_features_, low[0]);
    } else if constexpr (decay_type::kind == decay_kind::vector) {
      std::fill_n(high_, padded_features_, A(0));
      steer_.decay.read(batch_, head_, 0, 1, high_, padded_features_);
      split_exponentials(high_, padded_features_, high_, low_);
    }
  }

  void load_written() {
    simd::widen_row(&p_.value(batch_, p_.value_head(head_), 0, 0), written_, columns_);
    if constexpr (update_type::has_rates) {
      A rate;
      steer_.update.read(batch_, head_, 0, 1, &rate);
      if constexpr (update_type::reads_state) recall();
      for (index_t c = 0; c < padded_columns_; c += width)
        simd::store(written_ + c, simd::load(written_ + c) * simd::vector<A>(rate));
      rate_ = rate;
    }
  }

  /// written -= (diag(a) S)^T k
  void recall() {
    if (!p_.initial_state.data()) return;
    constexpr int many = 8, some = 4;
    index_t c = 0;
    for (; c + many * width <= columns_; c += many * width) recall_columns<many>(c);
    for (; c + some * width <= columns_; c += some * width) recall_columns<some>(c);
    for (; c < columns_; c += width) recall_columns<1>(c);
  }

  /// Vectors of columns, whose sums stay in registers on their way down the rows; as many as hide an addition's
  /// latency.
  template <int Vectors>
  void recall_columns(index_t c) {
    using namespace simd;
    index_t const left = columns_ - c;
    vector<A> sum[array_size(Vectors)];
    ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) sum[v] = load(written_ + c + v * width);
    for (index_t f = 0; f < features_; ++f) {
      if (c == 0 && f % 2 == 0) expect_row(f / 2);
      A const* const row = old_row(f) + c;
      vector<A> const key(decays ? -key_[f] * high_[f] : -key_[f]);
      ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) {
        vector<A> const state = Vectors > 1 || left >= width ? widen(row + v * width) : widen_part(row, left);
        sum[v] = fused_multiply_add(key, state, sum[v]);
      }
    }
    ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) store(written_ + c + v * width, sum[v]);
  }

  /// Asks for a row of the next head's state while this one's is worked on.
  void expect_row(index_t f) const {
    if (f >= features_ || head_ + 1 == p_.shape.state_heads() || !p_.initial_state.data()) return;
    char const* const row = reinterpret_cast<char const*>(&p_.initial_state(batch_, head_ + 1, f, 0));
    index_t const line = static_cast<index_t>(detail::cache_line);
    for (index_t byte = 0; byte < columns_ * static_cast<index_t>(sizeof(A)); byte += line)
      __builtin_prefetch(row + byte, 0, 2);
  }

  /// Rows [f, f + Rows) of the state, and what they add to the outputs.
  template <int Rows>
  void update_rows(index_t f) {
    // A delta rule asked for the first half before.
    if constexpr (update_type::reads_state)
      for (int r = 0; r < (Rows + 1) / 2; ++r) expect_row((features_ + 1) / 2 + f / 2 + r);
    else
      for (int r = 0; r < Rows; ++r) expect_row(f + r);
    row_factors<Rows> factors;
    A const* from[array_size(Rows)];
    A* to[array_size(Rows)];
    ATTEND_UNROLL for (int r = 0; r < Rows; ++r) {
      from[r] = old_row(f + r);
      to[r] = &p_.final_state(batch_, head_, f + r, 0);
      factors.key[r] = simd::vector<A>(key_[f + r]);
      if constexpr (decays) {
        factors.high[r] = simd::vector<A>(high_[f + r]);
        factors.low[r] = simd::vector<A>(low_[f + r]);
      }
    }
    index_t c = 0;
    for (; c + width <= columns_; c += width)
      update_vectors<Rows>(
          factors, f, c, [&](int r) { return from[r] ? simd::widen(from[r] + c) : simd::vector<A>(A(0)); },
          [&](int r, simd::vector<A> const& x) { x.store_unaligned(to[r] + c); });
    index_t const rest = columns_ - c;
    if (rest > 0)
      update_vectors<Rows>(
          factors, f, c, [&](int r) { return from[r] ? simd::widen_part(from[r] + c, rest) : simd::vector<A>(A(0)); },
          [&](int r, simd::vector<A> const& x) { simd::narrow_part(to[r] + c, x, rest); });
  }

  /// What the rows are multiplied by, in registers: memory that is written could be theirs, as far as compilers know.
  template <int Rows>
  struct row_factors {
    simd::vector<A> key[array_size(Rows)];
    simd::vector<A> high[array_size(decays ? Rows : 1)], low[array_size(decays ? Rows : 1)];

    /// a_f state + key written^T, rounded once where the state is the larger.
    ATTEND_INLINE simd::vector<A> updated(int r, simd::vector<A> const& state, simd::vector<A> const& written) const {
      using simd::fused_multiply_add;
      if constexpr (decays)
        return fused_multiply_add(state, high[r], fused_multiply_add(key[r], written, state * low[r]));
      else
        return fused_multiply_add(key[r], written, state);
    }
  };

  template <int Rows, class Load, class Store>
  ATTEND_INLINE void update_vectors(row_factors<Rows> const& factors, index_t f, index_t c, Load&& load,
                                    Store&& store) {
    simd::vector<A> const written = simd::load(written_ + c);
    simd::vector<A> state[array_size(Rows)];
    ATTEND_UNROLL for (int r = 0; r < Rows; ++r) {
      state[r] = factors.updated(r, load(r), written);
      store(r, state[r]);
    }
    A const* query = query_ + f;
    A* output = output_ + c;
    for (index_t h = 0; h < heads_; ++h, query += padded_features_, output += padded_columns_) {
      simd::vector<A> sum = simd::load(output);
      ATTEND_UNROLL for (int r = 0; r < Rows; ++r) {
        sum = simd::fused_multiply_add(simd::vector<A>(query[r]), state[r], sum);
      }
      simd::store(output, sum);
    }
  }

  void update_key_sum() {
    if (p_.initial_sum.data() && features_ > 0) std::copy_n(&p_.initial_sum(batch_, head_, 0), features_, key_sum_);
    for (index_t f = 0; f < padded_features_; f += width) {
      simd::vector<A> sum = simd::load(key_sum_ + f);
      if constexpr (decays) sum = simd::fused_multiply_add(sum, simd::load(high_ + f), sum * simd::load(low_ + f));
      simd::store(key_sum_ + f, simd::fused_multiply_add(simd::load(key_ + f), simd::vector<A>(rate_), sum));
    }
    if (p_.final_sum.data() && features_ > 0) std::copy_n(key_sum_, features_, &p_.final_sum(batch_, head_, 0));
  }

  state_problem<T> const& p_;
  Steering const& steer_;
  index_t const batch_, head_, features_, padded_features_, columns_, padded_columns_, heads_;
  scratch memory_;
  A *raw_, *key_, *query_, *high_, *low_, *written_, *output_, *key_sum_;
  A rate_ = 1;
};

}  // namespace attend::inline ATTEND_TARGET::engine
