// SPDX-License-Identifier: BSD-3-Clause
// Softmax over all prefixes of a sequence, with logits that do not depend on the query:
//
//   o_t = sum_{j <= t} exp(s_j) v_j / sum_{j <= t} exp(s_j)
//
// Its state is the mean o of the values so far and the logarithm z of their weight sum, which is stored as a maximum m
// and a weight sum u relative to it. Two states combine as
//
//   m = max(m_1, m_2)    u = u_1 e^(m_1 - m) + u_2 e^(m_2 - m)    o = (u_1 e^(m_1 - m) o_1 + u_2 e^(m_2 - m) o_2) / u
//
// which is associative, with (-inf, 0, 0) as its identity: prefixes are a scan, and there are three ways to run it.
//
//   sequential   token after token: values are read once
//   chunked      threads sum up chunks side by side, the sums of the chunks are scanned one after the other, and each
//                chunk then processes its tokens from the state before it: values are read twice, and one long
//                sequence keeps every thread busy
//   tree         as chunked, but a balanced tree scans the sums, up and down, as on machines with as many processors as
//                chunks
//
// Cost: reading the values and writing the output; there are only 3 operations for each element of the values that is
// read and of the output that is written.
//
// Leo Feng, Frederick Tung, Hossein Hajimirsadeghi, Mohamed Osama Ahmed, Yoshua Bengio, Greg Mori: Attention as an RNN,
// 2024; Guy Blelloch: Prefix Sums and Their Applications, 1990 (the tree).
#pragma once

#include <cmath>

#include "../../core/executor.hpp"
#include "../../core/options.hpp"
#include "../../core/scratch.hpp"
#include "../../simd/convert.hpp"
#include "../../simd/math.hpp"
#include "../rows.hpp"
#include "join_parts.hpp"

namespace attend::inline ATTEND_TARGET {

namespace linear {

enum class scan_form { sequential, chunked, tree };

/// The form in which prefixes are computed. Without this option the shape decides: chunked where there are few heads
/// and many tokens, else sequential.
struct prefix_scan {
  using option_kind = option::scan;
  scan_form form;
};

}  // namespace linear

namespace engine {

/// The maximum and the weight sum of a softmax over some tokens. The mean of their values is stored separately.
template <class A>
struct softmax_sum {
  A maximum = -infinity<A>;
  A sum = 0;

  A log() const { return sum > 0 ? maximum + std::log(sum) : -infinity<A>; }
  static softmax_sum of_log(A log) { return {log, log == -infinity<A> ? A(0) : A(1)}; }

  /// Adds the sum over other tokens; returns their share of the new weight sum, or 0 where that is 0.
  A add(softmax_sum const& other) {
    if (other.sum == 0) return 0;
    A factor[] = {maximum, other.maximum};
    maximum = join_maxima(factor, 2);
    A const added = other.sum * factor[1];
    // Without a weight so far there is nothing to rescale.
    sum = (sum == 0 ? A(0) : sum * factor[0]) + added;
    return added / sum;
  }
};

/// mean += share * (other - mean)
template <class A, Element T>
void mix_means(A* mean, T const* other, A share, index_t columns) {
  constexpr index_t step = simd::width<A>;
  simd::vector<A> const times(share);
  index_t c = 0;
  for (; c + step <= columns; c += step) {
    simd::vector<A> const x = simd::load(mean + c);
    simd::store(mean + c, simd::fused_multiply_add(times, simd::widen(other + c) - x, x));
  }
  if (c < columns) {
    simd::vector<A> const x = simd::load(mean + c);
    simd::store(mean + c, simd::fused_multiply_add(times, simd::widen_part(other + c, columns - c) - x, x));
  }
}

/// The operands of the scan of one head.
template <Element T>
struct softmax_scan_head {
  using A = accumulation_t<T>;
  rows_of<T> value;
  T* output;
  index_t output_stride;
  A const* initial_mean;  // null without an initial state
  softmax_sum<A> initial;
  A* final_mean;  // or null
  A* final_log;
};

/// The scan of `heads` heads of `tokens` tokens with values of dimension `columns`. head(number) returns a
/// softmax_scan_head, and logits(number, first, count, to) writes the logits of `count` of its tokens.
template <Element T, class Heads, class Logits, class E>
class softmax_scan {
 public:
  using A = accumulation_t<T>;

  softmax_scan(index_t heads, index_t tokens, index_t columns, Heads const& head, Logits const& logits, E& executor)
      : heads_(heads),
        tokens_(tokens),
        columns_(columns),
        padded_(round_up(columns, simd::width<A>)),
        chunks_(divide_up(tokens, chunk)),
        head_(head),
        logits_(logits),
        executor_(executor) {}

  void run(scan_form form) {
    double const numbers = static_cast<double>(heads_) * static_cast<double>(tokens_ * columns_);
    detail::loop_cost const reads{.bytes = numbers * sizeof(T)}, writes{.bytes = 2 * numbers * sizeof(T)};
    if (form == scan_form::sequential || chunks_ <= 1) {
      detail::parallel_for(executor_, heads_, writes, [&](index_t number) { run_sequential(number); });
      return;
    }
    scratch memory;
    sums_ = memory.allocate<softmax_sum<A>>(heads_ * (chunks_ + 1));
    means_ = memory.allocate<A>(heads_ * (chunks_ + 1) * padded_);
    detail::parallel_for(executor_, heads_ * chunks_, reads,
                         [&](index_t task) { sum_up(task / chunks_, task % chunks_); });
    detail::loop_cost const combines{.bytes = numbers / chunk * 3 * sizeof(A)};
    detail::parallel_for(executor_, heads_, combines, [&](index_t number) {
      form == scan_form::tree ? scan_by_tree(number) : scan_in_order(number);
      write_final(number, sum(number, chunks_), mean(number, chunks_));
    });
    detail::parallel_for(executor_, heads_ * chunks_, writes, [&](index_t task) {
      index_t const number = task / chunks_, c = task % chunks_;
      walk<true>(number, c * chunk, std::min(chunk, tokens_ - c * chunk), sum(number, c), mean(number, c));
    });
  }

  static scan_form usual_form(index_t heads, index_t tokens) {
    return heads < 8 && tokens >= 16 * chunk ? scan_form::chunked : scan_form::sequential;
  }

 private:
  static constexpr index_t chunk = 256;

  softmax_sum<A>& sum(index_t number, index_t c) const { return sums_[number * (chunks_ + 1) + c]; }
  A* mean(index_t number, index_t c) const { return means_ + (number * (chunks_ + 1) + c) * padded_; }

  void set_initial(index_t number, softmax_sum<A>& sum, A* mean) const {
    auto const& head = head_(number);
    sum = head.initial;
    std::fill_n(mean, padded_, A(0));
    if (head.initial_mean) std::copy_n(head.initial_mean, columns_, mean);
  }
  void write_final(index_t number, softmax_sum<A> const& sum, A const* mean) const {
    auto const& head = head_(number);
    if (!head.final_log) return;
    std::copy_n(mean, columns_, head.final_mean);
    *head.final_log = sum.log();
  }

  /// Scans a whole head in chunks, one after the other. The mean is summed up within each chunk, so that rounding
  /// errors do not grow with the length of the sequence; the output mixes it with the mean of the tokens before the
  /// chunk.
  void run_sequential(index_t number) const {
    scratch memory;
    A* const mean = memory.allocate<A>(padded_);
    softmax_sum<A> sum;
    set_initial(number, sum, mean);
    for (index_t first = 0; first < tokens_; first += chunk)
      walk<true>(number, first, std::min(chunk, tokens_ - first), sum, mean);
    write_final(number, sum, mean);
  }

  void sum_up(index_t number, index_t c) const {
    sum(number, c + 1) = {};
    std::fill_n(mean(number, c + 1), padded_, A(0));
    walk<false>(number, c * chunk, std::min(chunk, tokens_ - c * chunk), sum(number, c + 1), mean(number, c + 1));
  }

  /// For each token of a chunk: `own` is its share in the mean of the chunk up to it, and `all` the share of the chunk
  /// up to it in the mean of all tokens up to it.
  struct shares {
    A *own, *all;
    softmax_sum<A> sum;  // of the chunk

    shares(scratch& memory, A const* logits, index_t count, softmax_sum<A> const& before) {
      index_t const padded = round_up(count, simd::width<A>);
      own = memory.allocate<A>(padded), all = memory.allocate<A>(padded);
      A* const falls = memory.allocate<A>(padded);
      A* const tops = memory.allocate<A>(padded);
      // Before the first token with a weight both numbers are -inf, whose difference would be NaN.
      auto const below = [](A x, A top) { return top == -infinity<A> ? top : x - top; };
      for (index_t i = 0; i < count; ++i) {
        A const top = logits[i] > sum.maximum ? logits[i] : sum.maximum;
        falls[i] = below(sum.maximum, top);
        own[i] = below(logits[i], top);
        tops[i] = sum.maximum = top;
      }
      exponentials(falls, count, padded);
      exponentials(own, count, padded);
      for (index_t i = 0; i < count; ++i) {
        all[i] = sum.sum = sum.sum * falls[i] + own[i];
        own[i] = sum.sum == 0 ? A(0) : own[i] / sum.sum;
      }
      std::fill(tops + count, tops + padded, A(0));
      std::fill(all + count, all + padded, A(0));
      simd::vector<A> const before_maximum(before.maximum), before_sum(before.sum), zero(A(0));
      for (index_t i = 0; i < padded; i += simd::width<A>) {
        joined_lanes<A> const both(before_maximum, simd::load(tops + i));
        simd::vector<A> const weight = simd::load(all + i) * both.of_second;
        simd::store(all + i, simd::select(weight == zero, zero, weight / (before_sum * both.of_first + weight)));
      }
    }

   private:
    static void exponentials(A* x, index_t count, index_t padded) {
      std::fill(x + count, x + padded, A(0));
      for (index_t i = 0; i < padded; i += simd::width<A>) simd::store(x + i, simd::exp<A>(simd::load(x + i)));
    }
  };

  /// Adds `count` tokens to a state; if Writes, it also writes the mean after each of them.
  template <bool Writes>
  void walk(index_t number, index_t first, index_t count, softmax_sum<A>& sum, A* mean) const {
    scratch memory;
    A* const logits = memory.allocate<A>(round_up(count, simd::width<A>));
    A* const own = memory.allocate<A>(padded_);
    logits_(number, first, count, logits);
    std::fill_n(own, padded_, A(0));
    auto const& head = head_(number);
    shares const share(memory, logits, count, sum);
    for (index_t i = 0; i < count; ++i) {
      T const* const value = head.value.row(first + i);
      if constexpr (Writes)
        write_token(mean, own, value, share.own[i], share.all[i], head.output + (first + i) * head.output_stride);
      else
        mix_means(own, value, share.own[i], columns_);
    }
    // The chunk is added as scan_in_order adds it: the sequential and the chunked form give the same bits.
    softmax_sum<A> all = share.sum;
    mix_means(own, mean, all.add(sum), padded_);
    std::copy_n(own, padded_, mean);
    sum = all;
  }

  /// own += share * (value - own); to = mean + own_share * (own - mean)
  void write_token(A const* mean, A* own, T const* value, A share, A own_share, T* to) const {
    using namespace simd;
    constexpr index_t step = width<A>;
    vector<A> const of_value(share), of_own(own_share);
    for (index_t c = 0; c < columns_; c += step) {
      index_t const left = columns_ - c;
      vector<A> const v = left >= step ? widen(value + c) : widen_part(value + c, left);
      vector<A> const before = load(mean + c), old = load(own + c), x = fused_multiply_add(of_value, v - old, old);
      store(own + c, x);
      vector<A> const result = fused_multiply_add(of_own, x - before, before);
      left >= step ? narrow(to + c, result) : narrow_part(to + c, result, left);
    }
  }

  /// Turns sum(c) and mean(c) into the state before chunk c.
  void scan_in_order(index_t number) const {
    set_initial(number, sum(number, 0), mean(number, 0));
    for (index_t c = 1; c <= chunks_; ++c) combine(number, c - 1, c);
  }

  /// Adds the state at `from`, whose tokens come first, to the state at `to`.
  void combine(index_t number, index_t from, index_t to) const {
    softmax_sum<A>& into = sum(number, to);
    mix_means(mean(number, to), mean(number, from), into.add(sum(number, from)), padded_);
  }

  /// The same by a tree: at each level, the state at the end of the first half of a pair is added to the state at the
  /// end of the pair; then, from the root down, the state at the end of a pair is added to that at the end of the first
  /// half of the next pair.
  void scan_by_tree(index_t number) const {
    set_initial(number, sum(number, 0), mean(number, 0));
    index_t const places = chunks_ + 1;
    index_t half = 1;
    for (; half < places; half *= 2)
      for (index_t end = 2 * half - 1; end < places; end += 2 * half) combine(number, end - half, end);
    for (half /= 2; half >= 1; half /= 2)
      for (index_t end = 3 * half - 1; end < places; end += 2 * half) combine(number, end - half, end);
  }

  index_t const heads_, tokens_, columns_, padded_, chunks_;
  Heads const& head_;
  Logits const& logits_;
  E& executor_;
  softmax_sum<A>* sums_ = nullptr;  // [head][chunk + 1]
  A* means_ = nullptr;              // [head][chunk + 1][column]
};

}  // namespace engine
}  // namespace attend::inline ATTEND_TARGET
