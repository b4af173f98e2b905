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
// passes over queries and three over keys before the first state, or none where causal.
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

template <class Problem>
class flow_walk {
 public:
  using A = typename Problem::A;
  static constexpr decay_kind kind = decay_kind::none;
  static constexpr bool constant = false, has_rates = true, reads_state = false;

  flow_walk(Problem const& p, index_t batch, index_t head, index_t most_tokens, scratch& memory)
      : p_(p),
        batch_(batch),
        query_head_(p.query_head(head * p.heads_together())),
        key_head_(p.key_head(head)),
        dimension_(p.shape.key_dimension),
        padded_(round_up(dimension_, step)),
        keys_(flow_sum::of(memory, padded_)),
        queries_(flow_sum::of(memory, padded_)),
        sources_(flow_sum::of(memory, padded_)),
        sinks_(flow_sum::of(memory, padded_)),
        row_(memory.take<A>(padded_)),
        rates_(memory.take<A>(most_tokens)),
        factors_(memory.take<A>(most_tokens)),
        competing_(memory.take<double>(1)) {
    *competing_ = 0;
    if (!p_.causal) sum_all();
  }

  void fill(token_rows<A> const& rows, A* to, index_t stride) const {
    for (index_t i = 0; i < rows.count; ++i) {
      A* const row = to + i * stride;
      squash(rows.row(i), row);
      if (rows.side == token_side::key) {
        rates_[i] = p_.causal ? advance(row, rows.first + i, factors_[i]) : competition(row) * all_keys_;
      } else {
        A const factor = p_.causal ? factors_[i] : allocation(row);
        for (index_t c = 0; c < padded_; c += step) simd::store(row + c, simd::load(row + c) * simd::vector<A>(factor));
      }
    }
  }
  void read(index_t, index_t, index_t, index_t count, A* to) const { std::copy_n(rates_, count, to); }

 private:
  static constexpr index_t step = simd::width<A>;
  static constexpr A epsilon = A(1e-6);

  /// A sum of rows, with what its roundings lost.
  struct flow_sum {
    A *sum, *lost;

    static flow_sum of(scratch& memory, index_t padded) {
      flow_sum result{memory.take<A>(padded), memory.take<A>(padded)};
      std::fill_n(result.sum, padded, A(0));
      std::fill_n(result.lost, padded, A(0));
      return result;
    }
    void add(A const* row, A factor, index_t padded) const {
      simd::vector<A> const times(factor);
      for (index_t c = 0; c < padded; c += step) {
        simd::vector<A> const before = simd::load(sum + c);
        simd::vector<A> const x = simd::load(row + c) * times - simd::load(lost + c), after = before + x;
        simd::store(lost + c, (after - before) - x);
        simd::store(sum + c, after);
      }
    }
  };

  /// to = sigmoid(x), and 0 past the dimension.
  void squash(A const* x, A* to) const {
    index_t c = 0;
    for (; c + step <= dimension_; c += step) simd::store(to + c, simd::sigmoid<A>(simd::widen(x + c)));
    if (c < dimension_) simd::store(to + c, simd::sigmoid<A>(simd::widen_part(x + c, dimension_ - c)));
    std::fill(to + dimension_, to + padded_, A(0));
  }

  template <class View>
  A const* squashed(View const& tensor, index_t head, index_t token) const {
    simd::widen_row(&tensor(batch_, head, token, 0), row_, dimension_);
    squash(row_, row_);
    return row_;
  }
  A const* query(index_t i) const { return squashed(p_.query, query_head_, i); }
  A const* key(index_t j) const { return squashed(p_.key, key_head_, j); }

  /// (row + epsilon) . (sum + epsilon)
  A dot(A const* row, flow_sum const& with) const {
    alignas(64) A lanes[array_size(step)];
    simd::vector<A> const small(epsilon);
    simd::vector<A> total(A(0));
    for (index_t c = 0; c < padded_; c += step)
      total = simd::fused_multiply_add(simd::load(row + c) + small, simd::load(with.sum + c) + small, total);
    simd::store(lanes, total);
    A result = 0;
    for (A lane : lanes) result += lane;
    return result - static_cast<A>(padded_ - dimension_) * epsilon * epsilon;
  }

  /// The sums over all queries and keys.
  void sum_all() {
    index_t const queries = p_.shape.queries, keys = p_.shape.keys;
    if (dimension_ == 0) return;
    for (index_t j = 0; j < keys; ++j) keys_.add(key(j), 1, padded_);
    for (index_t i = 0; i < queries; ++i) queries_.add(query(i), 1, padded_);
    for (index_t j = 0; j < keys; ++j) {
      A const* const row = key(j);
      sources_.add(row, 1 / dot(row, queries_), padded_);
    }
    for (index_t i = 0; i < queries; ++i) {
      A const* const row = query(i);
      sinks_.add(row, 1 / dot(row, keys_), padded_);
    }
    double sum = 0;
    for (index_t j = 0; j < keys; ++j) sum += static_cast<double>(competition(key(j)));
    all_keys_ = static_cast<A>(static_cast<double>(keys) / sum);
    ratio_ = keys > 0 ? static_cast<A>(static_cast<double>(queries) / static_cast<double>(keys)) : A(0);
  }
  A competition(A const* key) const { return std::exp(std::clamp(dot(key, sinks_), A(-1), A(1))); }
  A allocation(A const* query) const { return logistic(dot(query, sources_) * ratio_) / dot(query, keys_); }
  static A logistic(A x) { return 1 / (1 + std::exp(-x)); }

  /// The causal sums take in one token more. Returns its value's rate, and its query's factor in `factor`.
  A advance(A const* key, index_t token, A& factor) const {
    if (dimension_ == 0) return factor = 0;
    A const t = static_cast<A>(token + 1);
    A const* const sink = query(token);
    keys_.add(key, 1, padded_);
    queries_.add(sink, 1, padded_);
    A const incoming = t / dot(sink, keys_), outgoing = t / dot(key, queries_);
    sources_.add(key, outgoing, padded_);
    sinks_.add(sink, incoming, padded_);
    factor = logistic(dot(sink, sources_) / t) * incoming / t;
    A const competition = std::exp(std::clamp(dot(key, sinks_) / t, A(-1), A(1)));
    *competing_ += static_cast<double>(competition);
    return static_cast<A>(static_cast<double>(t) * static_cast<double>(competition) / *competing_);
  }

  Problem const& p_;
  index_t batch_, query_head_, key_head_, dimension_, padded_;
  flow_sum keys_, queries_, sources_, sinks_;  // s(k), s(q), s(k) O, s(q) I
  A *row_, *rates_, *factors_;
  double* competing_;  // sum of exp(O')
  A all_keys_ = 0, ratio_ = 0;
};

}  // namespace detail

struct flow_features {
  using option_kind = option::features;
  static constexpr bool sums_keys = false, resumes = false;

  index_t features(index_t dimension) const { return dimension; }
  template <class Problem>
  void check(Problem const& p) const {
    if (p.shape.query_heads != p.shape.key_heads)
      fail("flow_features", "expected as many query heads as key heads, got ", p.shape.query_heads, " and ",
           p.shape.key_heads);
    if (p.causal && p.shape.queries != p.shape.keys)
      fail("flow_features", "expected as many queries as keys (causal), got ", p.shape.queries, " and ", p.shape.keys);
  }
  template <class Problem>
  auto open(Problem const& p, index_t batch, index_t head, bool, index_t most_tokens, scratch& memory) const {
    return detail::flow_walk<Problem>(p, batch, head, most_tokens, memory);
  }
};

}  // namespace attend::inline ATTEND_TARGET
