// SPDX-License-Identifier: BSD-3-Clause
// Decays of features within a chunk, as its gradients need them: with Gamma_ijf = prod_{j < t <= i} a_tf,
//
//   add_lower             to_if += sum_{j <= i} G_ij Gamma_ijf k_jf
//   add_lower_transposed  to_jf += sum_{i >= j} G_ij Gamma_ijf x_if
//
// The chunk is cut into blocks, as in chunk_decay.hpp: between blocks these are products of tiles, of rows that decay
// to the end of their block and from the beginning of it; within a block, rows decay from token to token. No factor is
// divided by another.
#pragma once

#include "gradient_products.hpp"

namespace attend::inline ATTEND_TARGET::engine {

template <class A>
class feature_factors {
 public:
  feature_factors(scratch& memory, chunk_layout const& layout)
      : columns_(layout.padded_features),
        before_(row_matrix<A>::of(memory, layout.lanes, layout.stride)),
        after_(row_matrix<A>::of(memory, layout.lanes, layout.stride)),
        forward_(row_matrix<A>::of(memory, layout.lanes, layout.stride)),
        backward_(row_matrix<A>::of(memory, layout.lanes, layout.stride)),
        reaching_(row_matrix<A>::of(memory, layout.lanes, layout.stride)),
        sum_(row_matrix<A>::of(memory, block, layout.stride)) {}

  /// Sets the decays of a chunk, a_t; `for_products` says whether more than after() is needed.
  void set(rows_of<A> factors, index_t tokens, bool for_products) {
    factors_ = factors;
    tokens_ = tokens;
    for (index_t f = 0; f < columns_; f += width) {
      number after(A(1));
      for (index_t j = tokens - 1; j >= 0; --j) {
        simd::store(after_.row(j) + f, after);
        after = after * simd::load(factors.row(j) + f);
      }
    }
    for (index_t first = 0; for_products && first < tokens; first += block)
      for (index_t f = 0; f < columns_; f += width) {
        index_t const end = std::min(first + block, tokens);
        number before = first > 0 ? simd::load(before_.row(first - 1) + f) : number(A(1)), within(A(1));
        for (index_t i = first; i < end; ++i) {
          number const a = simd::load(factors.row(i) + f);
          before = before * a;
          within = within * a;
          simd::store(before_.row(i) + f, before);
          simd::store(forward_.row(i) + f, within);
        }
        within = number(A(1));
        for (index_t j = end - 1; j >= first; --j) {
          simd::store(backward_.row(j) + f, within);
          within = within * simd::load(factors.row(j) + f);
        }
      }
  }

  /// prod_{t <= i} a_t, and prod_{t > j} a_t.
  rows_of<A> before() const { return before_; }
  rows_of<A> after() const { return after_; }
  rows_of<A> tokens() const { return factors_; }

  void add_lower(rows_of<A> g, rows_of<A> k, row_matrix<A> to) const {
    for (index_t i = 0; i < tokens_; i += block) {
      index_t const count = std::min(block, tokens_ - i);
      if (i > 0) {
        // Rows of earlier blocks, decayed to the end of the last one.
        index_t const last = i - block;
        for (index_t j = 0; j < last; ++j) multiply(reaching_.row(j), forward_.row(i - 1), reaching_.row(j));
        for (index_t j = last; j < i; ++j) multiply(k.row(j), backward_.row(j), reaching_.row(j));
        multiply_rows<A>({g.row(i), g.stride}, count, i, reaching_, columns_, nullptr, sum_);
        for (index_t r = 0; r < count; ++r) multiply_and_add(sum_.row(r), forward_.row(i + r), to.row(i + r));
      }
      for (index_t f = 0; f < columns_; f += width) add_lower_within(g, k, i, count, f, to);
    }
  }

  void add_lower_transposed(rows_of<A> g, rows_of<A> x, row_matrix<A> to) const {
    index_t const last = (divide_up(tokens_, block) - 1) * block;
    for (index_t j = last; j >= 0; j -= block) {
      index_t const next = j + block, count = std::min(block, tokens_ - j);
      if (next < tokens_) {
        // Rows of later blocks, decayed since the end of this one.
        index_t const end = std::min(next + block, tokens_);
        for (index_t i = end; i < tokens_; ++i) multiply(reaching_.row(i), forward_.row(end - 1), reaching_.row(i));
        for (index_t i = next; i < end; ++i) multiply(x.row(i), forward_.row(i), reaching_.row(i));
        multiply_columns_of<A>({g.row(next) + j, g.stride}, count, tokens_ - next,
                               {reaching_.row(next), reaching_.stride}, columns_, sum_);
        for (index_t r = 0; r < count; ++r) multiply_and_add(sum_.row(r), backward_.row(j + r), to.row(j + r));
      }
      for (index_t f = 0; f < columns_; f += width) add_upper_within(g, x, j, count, f, to);
    }
  }

 private:
  using number = simd::vector<A>;
  static constexpr index_t width = simd::width<A>, block = chunk_block<A>;

  void multiply(A const* x, A const* factor, A* to) const {
    for (index_t f = 0; f < columns_; f += width) simd::store(to + f, simd::load(x + f) * simd::load(factor + f));
  }
  void multiply_and_add(A const* x, A const* factor, A* to) const {
    for (index_t f = 0; f < columns_; f += width)
      simd::store(to + f, simd::fused_multiply_add(simd::load(x + f), simd::load(factor + f), simd::load(to + f)));
  }

  void add_lower_within(rows_of<A> g, rows_of<A> k, index_t first, index_t count, index_t f, row_matrix<A> to) const {
    number decayed[array_size(block)];
    for (index_t i = 0; i < count; ++i) {
      A const* const row = g.row(first + i) + first;
      number const a = simd::load(factors_.row(first + i) + f);
      decayed[i] = simd::load(k.row(first + i) + f);
      number sum = simd::fused_multiply_add(number(row[i]), decayed[i], simd::load(to.row(first + i) + f));
      for (index_t j = 0; j < i; ++j) {
        decayed[j] = decayed[j] * a;
        sum = simd::fused_multiply_add(number(row[j]), decayed[j], sum);
      }
      simd::store(to.row(first + i) + f, sum);
    }
  }

  void add_upper_within(rows_of<A> g, rows_of<A> x, index_t first, index_t count, index_t f, row_matrix<A> to) const {
    number decayed[array_size(block)];
    for (index_t j = count - 1; j >= 0; --j) {
      A const* const column = g.row(first) + first + j;
      decayed[j] = simd::load(x.row(first + j) + f);
      number sum =
          simd::fused_multiply_add(number(column[j * g.stride]), decayed[j], simd::load(to.row(first + j) + f));
      if (j + 1 < count) {
        number const a = simd::load(factors_.row(first + j + 1) + f);
        for (index_t i = j + 1; i < count; ++i) {
          decayed[i] = decayed[i] * a;
          sum = simd::fused_multiply_add(number(column[i * g.stride]), decayed[i], sum);
        }
      }
      simd::store(to.row(first + j) + f, sum);
    }
  }

  index_t const columns_;
  row_matrix<A> before_, after_, forward_, backward_, reaching_, sum_;
  rows_of<A> factors_;
  index_t tokens_ = 0;
};

}  // namespace attend::inline ATTEND_TARGET::engine
