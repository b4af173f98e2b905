// SPDX-License-Identifier: BSD-3-Clause
// Flow-Attention's features: queries are sinks and keys are sources of a flow that is conserved. With the logistic
// sigmoid s, epsilon = 1e-6 added to each element of a product's two rows, and sums over all L queries i and S keys j,
//
//   I_i  = 1 / (s(q_i) . sum_j s(k_j))           what a sink takes in
//   O_j  = 1 / (s(k_j) . sum_i s(q_i))           what a source gives
//   I'_i = s(q_i) . sum_j s(k_j) O_j             with every source giving 1
//   O'_j = s(k_j) . sum_i s(q_i) I_i             with every sink taking 1; in [-1, 1]
//
//   feature of a query = s(q_i) I_i sigmoid(I'_i L / S)
//   feature of a key   = s(k_j)
//   rate of a value    = S softmax_j(O')_j
//
// Causal, at the t-th token, all sums are over the tokens so far and the softmax is divided by what it has summed up
// to:
//
//   I_t = t / (...)   O_t = t / (...)   I'_t = (...) / t   O'_t = (...) / t
//   feature of a query = s(q_t) I_t sigmoid(I'_t) / t
//   rate of a value    = t exp(O'_t) / sum_{j <= t} exp(O'_j)
//
// So competition among sources and allocation to sinks take the softmax's place, and all of it is sums over tokens: two
// passes over queries and three over keys before the first state, once for a call, or none where causal.
//
// Haixu Wu, Jialong Wu, Jiehui Xu, Jianmin Wang, Mingsheng Long: Flowformer: Linearizing Transformers with Conservation
// Flows, 2022; the causal form as in the authors' code.
#pragma once

#include <cmath>

#include "../../core/check.hpp"
#include "../../core/scratch.hpp"
#include "../decay/decay.hpp"
#include "feature.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// Rows of sigmoids and what they are multiplied with, padded to whole vectors. Sums keep what their roundings lose.
template <class A>
struct flow_rows {
  static constexpr index_t step = simd::width<A>;
  static constexpr A epsilon = A(1e-6);

  struct sum {
    A *value, *lost;

    static sum of(scratch& memory, index_t count) {
      sum result{memory.allocate<A>(count), memory.allocate<A>(count)};
      std::fill_n(result.value, count, A(0));
      std::fill_n(result.lost, count, A(0));
      return result;
    }
    void add(A const* row, A factor, index_t count) const {
      simd::vector<A> const times(factor);
      for (index_t c = 0; c < count; c += step) {
        simd::vector<A> const before = simd::load(value + c);
        simd::vector<A> const x = simd::load(row + c) * times - simd::load(lost + c),
                              after = simd::as_computed<A>(before + x);
        simd::store(lost + c, simd::as_computed<A>(after - before) - x);
        simd::store(value + c, after);
      }
    }
    void join(sum const& other, index_t count) const {
      add(other.value, 1, count);
      add(other.lost, -1, count);
    }
  };

  index_t dimension, padded;

  explicit flow_rows(index_t count) : dimension(count), padded(round_up(count, step)) {}

  /// to = sigmoid(x), and 0 past the dimension.
  void squash(A const* x, A* to) const {
    index_t c = 0;
    for (; c + step <= dimension; c += step) simd::store(to + c, simd::sigmoid<A>(simd::widen(x + c)));
    if (c < dimension) simd::store(to + c, simd::sigmoid<A>(simd::widen_part(x + c, dimension - c)));
    std::fill(to + dimension, to + padded, A(0));
  }

  /// (row + epsilon) . (sum + epsilon)
  A dot(A const* row, sum const& with) const {
    alignas(64) A lanes[array_size(step)];
    simd::vector<A> const small(epsilon);
    simd::vector<A> total(A(0));
    for (index_t c = 0; c < padded; c += step)
      total = simd::fused_multiply_add(simd::load(row + c) + small, simd::load(with.value + c) + small, total);
    simd::store(lanes, total);
    A result = 0;
    for (A lane : lanes) result += lane;
    return result - static_cast<A>(padded - dimension) * epsilon * epsilon;
  }
};

/// The sums of a head: s(k), s(q), s(k) O, s(q) I, and exp(O').
template <class A>
struct flow_totals {
  using rows_type = flow_rows<A>;

  rows_type shape;
  typename rows_type::sum keys, queries, sources, sinks;
  double competing = 0;

  flow_totals(scratch& memory, index_t dimension)
      : shape(dimension),
        keys(rows_type::sum::of(memory, shape.padded)),
        queries(rows_type::sum::of(memory, shape.padded)),
        sources(rows_type::sum::of(memory, shape.padded)),
        sinks(rows_type::sum::of(memory, shape.padded)) {}

  void join(int round, flow_totals const& part) {
    if (round == 2) {
      competing += part.competing;
      return;
    }
    (round == 0 ? keys : sources).join(round == 0 ? part.keys : part.sources, shape.padded);
    (round == 0 ? queries : sinks).join(round == 0 ? part.queries : part.sinks, shape.padded);
  }

  A competition(A const* key, A count = 1) const {
    return std::exp(std::clamp(shape.dot(key, sinks) / count, A(-1), A(1)));
  }
};

template <Element T>
class flow_walk {
 public:
  using A = accumulation_t<T>;
  static constexpr decay_kind kind = decay_kind::none;
  static constexpr bool constant = false, has_rates = true, reads_state = false;

  flow_walk(followed_sequence<T> const& sequence, flow_totals<A> const* totals, scratch& memory)
      : sequence_(sequence),
        shape_(sequence.dimension),
        sums_(totals ? *totals : flow_totals<A>(memory, sequence.dimension)),
        row_(memory.allocate<A>(shape_.padded)),
        rates_(memory.allocate<A>(sequence.max_tokens)),
        factors_(memory.allocate<A>(sequence.max_tokens)),
        competing_(memory.allocate<double>(1)) {
    *competing_ = 0;
    if (sequence.causal || shape_.dimension == 0 || sequence.keys == 0) return;
    all_keys_ = static_cast<A>(static_cast<double>(sequence.keys) / sums_.competing);
    ratio_ = static_cast<A>(static_cast<double>(sequence.queries) / static_cast<double>(sequence.keys));
  }

  void fill(token_rows<A> const& rows, A* to, index_t stride) const {
    for (index_t i = 0; i < rows.count; ++i) {
      A* const row = to + i * stride;
      shape_.squash(rows.row(i), row);
      if (rows.side == token_side::key) {
        rates_[i] = sequence_.causal ? advance(row, rows.first + i, factors_[i]) : sums_.competition(row) * all_keys_;
      } else {
        simd::vector<A> const factor(sequence_.causal ? factors_[i] : allocation(row));
        for (index_t c = 0; c < shape_.padded; c += simd::width<A>) simd::store(row + c, simd::load(row + c) * factor);
      }
    }
  }
  void read(index_t, index_t, index_t, index_t count, A* to) const { std::copy_n(rates_, count, to); }

 private:
  A allocation(A const* query) const {
    return logistic(shape_.dot(query, sums_.sources) * ratio_) / shape_.dot(query, sums_.keys);
  }
  static A logistic(A x) { return 1 / (1 + std::exp(-x)); }

  /// The causal sums take in one token more. Returns its value's rate, and its query's factor in `factor`.
  A advance(A const* key, index_t token, A& factor) const {
    if (shape_.dimension == 0) return factor = 0;
    A const t = static_cast<A>(token + 1);
    simd::widen_row(sequence_.query + token * sequence_.query_stride, row_, shape_.dimension);
    shape_.squash(row_, row_);
    A const* const sink = row_;
    sums_.keys.add(key, 1, shape_.padded);
    sums_.queries.add(sink, 1, shape_.padded);
    A const incoming = t / shape_.dot(sink, sums_.keys), outgoing = t / shape_.dot(key, sums_.queries);
    sums_.sources.add(key, outgoing, shape_.padded);
    sums_.sinks.add(sink, incoming, shape_.padded);
    factor = logistic(shape_.dot(sink, sums_.sources) / t) * incoming / t;
    A const competition = sums_.competition(key, t);
    *competing_ += static_cast<double>(competition);
    return static_cast<A>(static_cast<double>(t) * static_cast<double>(competition) / *competing_);
  }

  followed_sequence<T> sequence_;
  flow_rows<A> shape_;
  flow_totals<A> sums_;
  A *row_, *rates_, *factors_;
  double* competing_;  // sum of exp(O') so far
  A all_keys_ = 0, ratio_ = 0;
};

}  // namespace detail

namespace linear {

/// Maps queries and keys by the flows of Flow-Attention; flow_attention sets them.
///
///     linear_attention(q, k, v, o, causal{}, flow_features{});
struct flow_features {
  using option_kind = option::features;
  static constexpr bool sums_keys = false, resumes = false;

  index_t features(index_t dimension) const { return dimension; }
  void check(extend::state_shape const& shape, bool causal) const {
    if (shape.query_heads != shape.key_heads)
      extend::fail("flow_features", "expected as many query heads as key heads, got ", shape.query_heads, " and ",
                   shape.key_heads);
    if (causal && shape.queries != shape.keys)
      extend::fail("flow_features", "expected as many queries as keys (causal), got ", shape.queries, " and ",
                   shape.keys);
  }
  template <Element T>
  auto open(followed_sequence<T> const& sequence, detail::flow_totals<accumulation_t<T>> const* totals,
            extend::scratch& memory) const {
    return detail::flow_walk<T>(sequence, totals, memory);
  }

  template <class A>
  using totals_of = detail::flow_totals<A>;
  static constexpr int rounds = 3;
  static constexpr bool asks(int round, extend::token_side side) {
    return round < 2 || side == extend::token_side::key;
  }
  template <class A>
  void add(int round, extend::token_rows<A> const& rows, totals_of<A> const& known, totals_of<A>& to) const {
    extend::scratch memory;
    detail::flow_rows<A> const& shape = known.shape;
    A* const row = memory.allocate<A>(shape.padded);
    bool const of_keys = rows.side == extend::token_side::key;
    for (index_t i = 0; i < rows.count; ++i) {
      shape.squash(rows.row(i), row);
      if (round == 0)
        (of_keys ? to.keys : to.queries).add(row, 1, shape.padded);
      else if (round == 1)
        (of_keys ? to.sources : to.sinks)
            .add(row, 1 / shape.dot(row, of_keys ? known.queries : known.keys), shape.padded);
      else
        to.competing += static_cast<double>(known.competition(row));
    }
  }
};

}  // namespace linear

}  // namespace attend::inline ATTEND_TARGET
