// Decays within a chunk. With a_t the decay of token t, and a product over an empty range 1,
//
//   before(x)_i = x_i  prod_{t <= i} a_t                what stood before the chunk, as token i sees it; a scalar decay
//                                                       leaves x as it is, and says the products (row_factors)
//   after(x)_j  = x_j  prod_{t > j} a_t                 what token j wrote, as it stands after the chunk
//   P_ij = sum_f x_if k_jf prod_{j < t <= i} a_tf       what token j wrote, as token i sees it
//   S <- (prod of all a_t) S
//
// No factor is ever divided by another, and no exponent is positive: each product runs over the tokens between two
// places, so that no decay is too strong, not even 0.
//
// Where a factor is multiplied again and again, it must not lose the digits that tell it from 1: it is kept in two
// numbers, high + low, with twice the precision.
//
//   scalar decay  P is a plain product times a matrix of decays, each of whose rows is the row above times a decay.
//   vector decay  The chunk is cut into blocks. Between blocks, P is a product of x, decayed since its block began, and
//                 k, decayed until then. Within a block, a feature's keys stand side by side in lanes and decay from
//                 row to row. That is the secondary chunking of Songlin Yang, Bailin Wang, Yikang Shen, Rameswar Panda,
//                 Yoon Kim: Gated Linear Attention Transformers with Hardware-Efficient Training, 2024, but for the
//                 inside of a block, where they take an exponential for each pair and feature.
#pragma once

#include <cmath>

#include "../core/scratch.hpp"
#include "../policy/decay/decay.hpp"
#include "../simd/math.hpp"
#include "chunk_products.hpp"

namespace attend::engine {

/// high[i] + low[i] = exp(logs[i]) to twice float's precision, for `count` numbers, a multiple of the width; for double
/// to its own.
template <class A>
void split_exponentials(A const* logs, index_t count, A* high, A* low) {
  using namespace simd;
  constexpr int step = width<double>;
  alignas(64) double lanes[step];
  for (index_t i = 0; i < count; i += step) {
    for (int lane = 0; lane < step; ++lane) lanes[lane] = static_cast<double>(logs[i + lane]);
    store(lanes, simd::exp<double>(load(lanes)));
    for (int lane = 0; lane < step; ++lane) {
      high[i + lane] = static_cast<A>(lanes[lane]);
      low[i + lane] = static_cast<A>(lanes[lane] - static_cast<double>(high[i + lane]));
    }
  }
}

/// The keys of a chunk side by side: columns[f][j] = key_jf, 0 past the last token.
template <class A>
void columns_of_rows(A const* rows, index_t tokens, chunk_layout const& layout, A* columns) {
  A const* row[chunk_block<A>];
  for (index_t lane = 0; lane < layout.lanes && lane < tokens; lane += chunk_block<A>) {
    for (index_t i = 0; i < chunk_block<A>; ++i)
      row[i] = lane + i < tokens ? rows + (lane + i) * layout.stride : nullptr;
    simd::pack_columns(row, static_cast<int>(chunk_block<A>), layout.features, columns + lane, layout.lanes);
  }
}

template <class A, decay_kind Kind>
class chunk_decay;

template <class A>
class chunk_decay<A, decay_kind::none> {
 public:
  chunk_decay(scratch& memory, chunk_layout const& layout, bool)
      : layout_(layout), columns_(memory.take<A>(layout.features * layout.lanes)) {}

  template <class D>
  void move_to(D const&, index_t, index_t, index_t, index_t tokens) {
    tokens_ = tokens;
  }

  A const* before(A const* rows, A*) const { return rows; }
  A const* row_factors() const { return nullptr; }
  A const* after(A const* rows, A*) const { return rows; }
  void set_keys(A const* key) { columns_of_rows(key, tokens_, layout_, columns_); }
  void products(A const* x, A* to) const { multiply_lower(x, columns_, tokens_, layout_, to); }
  A const* state_high() const { return nullptr; }
  A const* state_low() const { return nullptr; }

 private:
  chunk_layout const& layout_;
  A* columns_;
  index_t tokens_ = 0;
};

template <class A>
class chunk_decay<A, decay_kind::scalar> {
 public:
  chunk_decay(scratch& memory, chunk_layout const& layout, bool attends)
      : layout_(layout),
        columns_(memory.take<A>(layout.features * layout.lanes)),
        logs_(memory.take<A>(layout.lanes)),
        before_(memory.take<A>(layout.lanes)),
        after_(memory.take<A>(layout.lanes)),
        high_(memory.take<A>(layout.padded_features)),
        low_(memory.take<A>(layout.padded_features)),
        token_high_(memory.take<A>(layout.lanes)),
        token_low_(memory.take<A>(layout.lanes)),
        between_(attends ? memory.take<A>(layout.lanes * layout.lanes) : nullptr) {}

  template <class D>
  void move_to(D const& policy, index_t batch, index_t head, index_t first, index_t tokens) {
    if (D::constant && tokens == tokens_) return;
    tokens_ = tokens;
    policy.read(batch, head, first, tokens, logs_);
    A sum = 0;
    std::fill(logs_ + tokens, logs_ + layout_.lanes, A(0));
    for (index_t i = 0; i < tokens; ++i) before_[i] = sum += logs_[i];
    A const total = sum;
    sum = 0;
    for (index_t i = tokens - 1; i >= 0; --i) {
      after_[i] = sum;
      sum += logs_[i];
    }
    exponentials(before_);
    exponentials(after_);
    double const factor = std::exp(static_cast<double>(total));
    std::fill_n(high_, layout_.padded_features, static_cast<A>(factor));
    std::fill_n(low_, layout_.padded_features, static_cast<A>(factor - static_cast<double>(static_cast<A>(factor))));
    if (between_) fill_between();
  }

  A const* before(A const* rows, A*) const { return rows; }
  A const* row_factors() const { return before_; }
  A const* after(A const* rows, A* to) const {
    for (index_t i = 0; i < tokens_; ++i)
      for (index_t f = 0; f < layout_.padded_features; f += simd::width<A>) {
        index_t const at = i * layout_.stride + f;
        simd::store(to + at, simd::load(rows + at) * simd::vector<A>(after_[i]));
      }
    return to;
  }
  void set_keys(A const* key) { columns_of_rows(key, tokens_, layout_, columns_); }
  void products(A const* x, A* to) const {
    multiply_lower(x, columns_, tokens_, layout_, to);
    for (index_t i = 0; i < tokens_; ++i)
      for (index_t j = 0; j <= i; j += simd::width<A>) {
        index_t const at = i * layout_.lanes + j;
        simd::store(to + at, simd::load(to + at) * simd::load(between_ + at));
      }
  }
  A const* state_high() const { return high_; }
  A const* state_low() const { return low_; }

 private:
  void exponentials(A* logs) const {
    for (index_t i = tokens_; i < layout_.lanes; ++i) logs[i] = 0;
    for (index_t i = 0; i < layout_.lanes; i += simd::width<A>)
      simd::store(logs + i, simd::exp<A>(simd::load(logs + i)));
  }

  /// between[i][j] = prod_{j < t <= i} a_t for j <= i: down a column, each number is the one above times a decay, from
  /// 1 on. A vector of columns stays in a register on its way down.
  void fill_between() {
    using namespace simd;
    split_exponentials(logs_, round_up(tokens_, width<A>), token_high_, token_low_);
    alignas(64) A counted[width<A>];
    for (int i = 0; i < width<A>; ++i) counted[i] = static_cast<A>(i);
    vector<A> const lane = load(counted), one(A(1));
    for (index_t j = 0; j < tokens_; j += width<A>) {
      vector<A> product = one;
      for (index_t i = j; i < tokens_; ++i) {
        product = fused_multiply_add(product, vector<A>(token_high_[i]), product * vector<A>(token_low_[i]));
        // Columns from i on begin here, or have not begun.
        if (i < j + width<A>) product = xsimd::select(lane < vector<A>(static_cast<A>(i - j)), product, one);
        store(between_ + i * layout_.lanes + j, product);
      }
    }
  }

  chunk_layout const& layout_;
  A *columns_, *logs_, *before_, *after_, *high_, *low_, *token_high_, *token_low_, *between_;
  index_t tokens_ = -1;
};

template <class A>
class chunk_decay<A, decay_kind::vector> {
 public:
  chunk_decay(scratch& memory, chunk_layout const& layout, bool)
      : layout_(layout),
        columns_(memory.take<A>(layout.features * layout.lanes)),
        block_columns_(memory.take<A>(layout.features * layout.lanes)),
        reaching_columns_(memory.take<A>(layout.features * layout.lanes)),
        factor_(memory.take<A>(layout.lanes * layout.stride)),
        rows_(memory.take<A>(layout.lanes * layout.stride)),
        block_factor_(memory.take<A>(layout.lanes / block * layout.stride)),
        running_(memory.take<A>(layout.padded_features)),
        high_(memory.take<A>(layout.padded_features)),
        low_(memory.take<A>(layout.padded_features)) {}

  template <class D>
  void move_to(D const& policy, index_t batch, index_t head, index_t first, index_t tokens) {
    tokens_ = tokens;
    policy.read(batch, head, first, tokens, factor_, layout_.stride);
    std::fill_n(running_, layout_.padded_features, A(0));
    for (index_t i = 0; i < tokens; ++i) {
      A* const row = factor_ + i * layout_.stride;
      std::fill(row + layout_.features, row + layout_.padded_features, A(0));
      for_features([&](index_t f) {
        simd::vector<A> const log = simd::load(row + f);
        simd::store(running_ + f, simd::load(running_ + f) + log);
        simd::store(row + f, simd::exp2<A>(log * simd::vector<A>(A(log2_e))));
      });
    }
    split_exponentials(running_, layout_.padded_features, high_, low_);
    for (index_t i = tokens; i < round_up(tokens, block); ++i)
      std::fill_n(factor_ + i * layout_.stride, layout_.padded_features, A(1));
  }

  A const* before(A const* rows, A* to) const { return forward(rows, 0, tokens_, to); }
  A const* row_factors() const { return nullptr; }
  A const* after(A const* rows, A* to) const { return backward(rows, 0, tokens_, to); }

  void set_keys(A const* key) {
    columns_of_rows(key, tokens_, layout_, columns_);
    for (index_t i = 0; i < tokens_; i += block) {
      backward(key, i, i + block, rows_);
      std::copy_n(running_, layout_.padded_features, block_factor_ + i / block * layout_.stride);
    }
    columns_of_rows(rows_, tokens_, layout_, block_columns_);
  }

  void products(A const* x, A* to) const {
    using namespace simd;
    for (index_t i = 0; i < tokens_; i += block) {
      if (i > 0) {
        forward(x, i, i + block, rows_);
        for (index_t row = i; row < std::min(i + block, tokens_); row += register_rows)
          multiply_columns(rows_ + row * layout_.stride, reaching_columns_, i / width<A>, layout_,
                           to + row * layout_.lanes);
      }
      multiply_within_block(x + i * layout_.stride, factor_ + i * layout_.stride, columns_ + i,
                            to + i * layout_.lanes + i);
      if (i + block < tokens_) reach_past_block(i);
    }
  }

  A const* state_high() const { return high_; }
  A const* state_low() const { return low_; }

 private:
  static constexpr index_t block = chunk_block<A>;

  template <class Function>
  void for_features(Function&& function) const {
    for (index_t f = 0; f < layout_.padded_features; f += simd::width<A>) function(f);
  }

  /// to_i = rows_i prod_{first <= t <= i} a_t for i in [first, last).
  A const* forward(A const* rows, index_t first, index_t last, A* to) const {
    std::fill_n(running_, layout_.padded_features, A(1));
    for (index_t i = first; i < last; ++i)
      for_features([&](index_t f) {
        index_t const at = i * layout_.stride + f;
        simd::vector<A> const product = simd::load(running_ + f) * simd::load(factor_ + at);
        simd::store(running_ + f, product);
        simd::store(to + at, simd::load(rows + at) * product);
      });
    return to;
  }

  /// to_j = rows_j prod_{j < t < last} a_t for j in [first, last); leaves the product of all in running_.
  A const* backward(A const* rows, index_t first, index_t last, A* to) const {
    std::fill_n(running_, layout_.padded_features, A(1));
    for (index_t j = last - 1; j >= first; --j)
      for_features([&](index_t f) {
        index_t const at = j * layout_.stride + f;
        simd::vector<A> const product = simd::load(running_ + f);
        simd::store(to + at, simd::load(rows + at) * product);
        simd::store(running_ + f, product * simd::load(factor_ + at));
      });
    return to;
  }

  /// Keys of earlier blocks are decayed through this block as well, and its own join them.
  void reach_past_block(index_t i) const {
    A const* const factor = block_factor_ + i / block * layout_.stride;
    for (index_t f = 0; f < layout_.features; ++f) {
      A* const reaching = reaching_columns_ + f * layout_.lanes;
      for (index_t j = 0; j < i; j += simd::width<A>)
        simd::store(reaching + j, simd::load(reaching + j) * simd::vector<A>(factor[f]));
      std::copy_n(block_columns_ + f * layout_.lanes + i, block, reaching + i);
    }
  }

  void multiply_within_block(A const* x, A const* factor, A const* columns, A* to) const {
    for_lanes<0>([&]<index_t First>() { multiply_within_block<First>(x, factor, columns, to); });
  }
  template <index_t First, class Function>
  static void for_lanes(Function&& function) {
    if constexpr (First < block) {
      function.template operator()<First>();
      for_lanes<First + simd::width<A>>(function);
    }
  }

  /// One vector of keys, `First` and its neighbours in lanes, against the rows from there to the end of the block: one
  /// feature after the other, its keys decay from row to row. Lane j joins at row j.
  template <index_t First>
  [[gnu::noinline]] void multiply_within_block(A const* x, A const* factor, A const* columns, A* to) const {
    using namespace simd;
    constexpr int rows = static_cast<int>(block - First);
    alignas(64) A counted[width<A>];
    for (int lane = 0; lane < width<A>; ++lane) counted[lane] = static_cast<A>(lane);
    vector<A> const lane = load(counted);
    vector<A> sum[rows];
    ATTEND_UNROLL for (int i = 0; i < rows; ++i) sum[i] = vector<A>(A(0));
    for (index_t f = 0; f < layout_.features; ++f) {
      vector<A> const key = load(columns + f * layout_.lanes + First);
      vector<A> decayed = key;
      ATTEND_UNROLL for (int i = 0; i < rows; ++i) {
        index_t const at = (First + i) * layout_.stride + f;
        vector<A> const next = decayed * vector<A>(factor[at]);
        decayed = i >= width<A> ? next : xsimd::select(lane < vector<A>(static_cast<A>(i)), next, key);
        sum[i] = fused_multiply_add(vector<A>(x[at]), decayed, sum[i]);
      }
    }
    ATTEND_UNROLL for (int i = 0; i < rows; ++i) store(to + (First + i) * layout_.lanes + First, sum[i]);
  }

  chunk_layout const& layout_;
  A *columns_, *block_columns_, *reaching_columns_, *factor_, *rows_, *block_factor_, *running_, *high_, *low_;
  index_t tokens_ = 0;
};

}  // namespace attend::engine
