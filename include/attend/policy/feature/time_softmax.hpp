// SPDX-License-Identifier: BSD-3-Clause
// Keys as weights over time: feature c of the state is the mean of the values under a softmax, over the tokens so far,
// of the keys' feature c.
//
//   S_t[c] = sum_{j <= t} exp(k_jc) v_j / sum_{j <= t} exp(k_jc)          k_j = Keys(key_j)
//   o_t    = sum_c w_tc S_t[c]
//   w_t    = Queries(query_t)                                             time_weights::given
//          = softmax_c(Queries(query_t)_c + z_tc)                         time_weights::by_sum
//   z_tc   = log sum_{j <= t} exp(k_jc)
//
// The second kind of weight gives sum_j (exp(q) . exp(k_j)) v_j / sum_j exp(q) . exp(k_j): linear attention with
// exponential features and their normalizer, computed without a number that could overflow.
//
// As a recurrence this is a state with a decay for each token and feature: with u_t = exp(k_tc - z_tc), the new token's
// share,
//
//   S_t[c] = (1 - u_t) S_{t-1}[c] + u_t v_t
//
// Within a call z is kept as a running maximum and a sum relative to it, in two numbers, so that after a million tokens
// one more still counts. As a part of the state it is the logarithm z, [batch, state head, feature]: initial_state{S,
// z}, final_state{S, z}; z is -inf before the first token. That is one number: where single tokens are fed to a float's
// state, one of a million no longer counts.
//
// Cost: that of linear attention with a decay for each feature, an exponential and a logarithm for each key feature.
//
// Zhen Qin et al.: You Only Scan Once: Efficient Multi-dimension Sequential Modeling with LightNet, 2024 (additive
// decay).
#pragma once

#include <cmath>

#include "../../core/scratch.hpp"
#include "../../simd/logarithm.hpp"
#include "../decay/decay.hpp"
#include "softmax_features.hpp"

namespace attend::inline ATTEND_TARGET {

namespace linear {

enum class time_weights { given, by_sum };

}  // namespace linear

namespace detail {

template <class A, FeatureMap Keys, FeatureMap Queries, time_weights Weights>
class time_softmax_walk {
 public:
  static constexpr decay_kind kind = decay_kind::vector;
  static constexpr bool constant = false, has_rates = false, reads_state = false;

  template <Element T>
  time_softmax_walk(Keys const& keys, Queries const& queries, followed_sequence<T> const& sequence, scratch& memory)
      : keys_(keys),
        queries_(queries),
        features_(sequence.features),
        padded_(round_up(features_, step)),
        tokens_(sequence.keys),
        causal_(sequence.causal),
        last_(sequence.final_sum),
        maximum_(memory.allocate<A>(padded_)),
        sum_(memory.allocate<A>(padded_)),
        rest_(memory.allocate<A>(padded_)),
        logs_(memory.allocate<A>(sequence.max_tokens * padded_)),
        maxima_(keeps_rows() ? memory.allocate<A>(sequence.max_tokens * padded_) : nullptr),
        sums_(keeps_rows() ? memory.allocate<A>(sequence.max_tokens * padded_) : nullptr) {
    for (index_t f = 0; f < padded_; ++f) {
      maximum_[f] = f < features_ && sequence.initial_sum ? sequence.initial_sum[f] : -infinity<A>;
      sum_[f] = maximum_[f] == -infinity<A> ? A(0) : A(1);
      rest_[f] = 0;
    }
    if (tokens_ == 0) write_sum();
  }

  void fill(token_rows<A> const& rows, A* to, index_t stride) const {
    if (rows.side == token_side::key)
      fill_keys(rows, to, stride);
    else
      fill_queries(rows, to, stride);
  }

  /// log(1 - u) of the chunk's keys.
  void read(index_t, index_t, index_t, index_t count, A* to, index_t stride) const {
    for (index_t i = 0; i < count; ++i) std::copy_n(logs_ + i * padded_, features_, to + i * stride);
  }

 private:
  static constexpr index_t step = simd::width<A>;
  bool keeps_rows() const { return Weights == time_weights::by_sum && causal_; }

  void fill_keys(token_rows<A> const& rows, A* to, index_t stride) const {
    fill_features(keys_, rows, to, stride);
    for (index_t i = 0; i < rows.count; ++i, to += stride) {
      for (index_t f = 0; f < padded_; f += step) add(to + f, f, logs_ + i * padded_ + f);
      std::fill(to + features_, to + padded_, A(0));
      if (keeps_rows()) {
        std::copy_n(maximum_, padded_, maxima_ + i * padded_);
        std::copy_n(sum_, padded_, sums_ + i * padded_);
      }
    }
    if (rows.first + rows.count == tokens_) write_sum();
  }

  /// One more key for some features: its exponent in `key` becomes its share.
  ATTEND_INLINE void add(A* key, index_t f, A* log) const {
    using namespace simd;
    using V = vector<A>;
    V const zero(A(0)), one(A(1)), k = load(key), before = load(maximum_ + f), sum = load(sum_ + f),
                                   rest = load(rest_ + f);
    V const maximum = simd::max(before, k);
    // One of the two is exp(0): the other takes the only exponential.
    V const smaller = simd::exp<A>(simd::min(before, k) - maximum);
    auto const grows = k > before, none = maximum == V(-infinity<A>);
    V const kept = simd::select(none, one, simd::select(grows, smaller, one));
    V const added = simd::select(none, zero, simd::select(grows, one, smaller));
    // sum * kept + added, with what the roundings of both lose.
    V const product = sum * kept;
    V const lost = fused_multiply_add(sum, kept, -product);
    V const total = as_computed<A>(product + added), back = as_computed<A>(total - product);
    V const missed = (product - as_computed<A>(total - back)) + (added - back);
    V const remainder = fused_multiply_add(rest, kept, lost + missed);
    V const share = simd::select(none, zero, added / (total + remainder));
    simd::store(maximum_ + f, maximum);
    simd::store(sum_ + f, total);
    simd::store(rest_ + f, remainder);
    simd::store(log, simd::log1p<A>(-share));
    simd::store(key, share);
  }

  void fill_queries(token_rows<A> const& rows, A* to, index_t stride) const {
    fill_features(queries_, rows, to, stride);
    if constexpr (Weights == time_weights::by_sum)
      for (index_t i = 0; i < rows.count; ++i, to += stride) {
        A const* const maximum = causal_ ? maxima_ + i * padded_ : maximum_;
        index_t f = 0;
        for (; f + step <= features_; f += step)
          (simd::widen(to + f) + simd::load(maximum + f)).store_unaligned(to + f);
        for (; f < features_; ++f) to[f] += maximum[f];
        softmax_row<A>(to, causal_ ? sums_ + i * padded_ : sum_, features_, to);
      }
  }

  void write_sum() const {
    for (index_t f = 0; last_ && f < features_; ++f) last_[f] = maximum_[f] + std::log(sum_[f]);
  }

  Keys const& keys_;
  Queries const& queries_;
  index_t features_, padded_, tokens_;
  bool causal_;
  A *last_, *maximum_, *sum_, *rest_;  // exp(z) = (sum + rest) exp(maximum)
  A *logs_, *maxima_, *sums_;          // of a chunk's tokens
};

}  // namespace detail

namespace linear {

template <FeatureMap Keys, FeatureMap Queries, time_weights Weights>
class time_softmax {
 public:
  using option_kind = option::features;
  static constexpr bool sums_keys = true, resumes = true;

  constexpr explicit time_softmax(Keys keys = Keys(), Queries queries = Queries())
      : keys_(std::move(keys)), queries_(std::move(queries)) {}

  index_t features(index_t dimension) const { return keys_.features(dimension); }
  void check(extend::state_shape const& shape, bool) const {
    keys_.check(shape);
    queries_.check(shape);
  }
  template <Element T>
  auto open(followed_sequence<T> const& sequence, extend::scratch& memory) const {
    return detail::time_softmax_walk<accumulation_t<T>, Keys, Queries, Weights>(keys_, queries_, sequence, memory);
  }

 private:
  Keys keys_;
  Queries queries_;
};

}  // namespace linear

}  // namespace attend::inline ATTEND_TARGET
