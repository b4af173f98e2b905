// SPDX-License-Identifier: BSD-3-Clause
// Decays within a chunk. With a_t the decay of token t, and a product over an empty range 1,
//
//   before(x)_i = x_i  prod_{t <= i} a_t                the decay from the start of the chunk to token i, with which
//                                                       token i reads the state before the chunk; for a scalar decay x
//                                                       stays as it is, and row_factors has the products
//   after(x)_j  = x_j  prod_{t > j} a_t                 the decay from token j to the end of the chunk, with which
//                                                       token j is added to the state (writes)
//   P_ij = sum_f x_if k_jf prod_{j < t <= i} a_tf       the decayed product of tokens i and j of the chunk
//   S <- (prod of all a_t) S
//
// No factor is ever divided by another, and no exponent is positive: each product is over the tokens between two
// places, so that no decay is too strong, not even 0.
//
// A factor by which the state is multiplied again and again must keep the digits of its difference from 1. So the decay
// of a whole chunk, which multiplies the state once for each chunk, is stored as two numbers, high + low, with twice
// the precision; and so are the decays of tokens for a scalar decay. For a vector decay the decays of tokens are single
// numbers: a product of n of them, at most a chunk's, has n rounding errors, which later chunks do not repeat.
//
//   scalar decay  P is a plain product times a matrix of decays, each of whose rows is the row above times a decay.
//   vector decay  The chunk is cut into blocks. Between blocks, P is a product of x, decayed since its block began, and
//                 k, decayed until then. Within a block, the keys of a feature are side by side in lanes, and decay
//                 from row to row. That is the secondary chunking of Songlin Yang, Bailin Wang, Yikang Shen, Rameswar
//                 Panda, Yoon Kim: Gated Linear Attention Transformers with Hardware-Efficient Training, 2024, except
//                 within a block, where they compute an exponential for each pair and feature.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>

#include "../../core/scratch.hpp"
#include "../../policy/decay/decay.hpp"
#include "../../simd/math.hpp"
#include "../../simd/transpose.hpp"
#include "any_state_policies.hpp"
#include "chunk_products.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// A vector of T with as many lanes as a vector of doubles.
template <class T, index_t Lanes>
struct beside_doubles {
  using type [[gnu::vector_size(sizeof(T) * Lanes)]] = T;
};

/// high[i] + low[i] = exp(logs[i]), for `count` numbers, a multiple of the width: with twice the precision of float, or
/// with the precision of double for double.
template <class A>
void split_exponentials(A const* logs, index_t count, A* high, A* low) {
  using namespace simd;
  constexpr index_t step = width<double>;
  using doubles = typename beside_doubles<double, step>::type;
  using numbers = typename beside_doubles<A, step>::type;
  for (index_t i = 0; i < count; i += step) {
    numbers log;
    std::memcpy(&log, logs + i, sizeof(log));
    auto const widened = std::bit_cast<vector<double>>(__builtin_convertvector(log, doubles));
    doubles const exact = std::bit_cast<doubles>(simd::exp<double>(widened));
    numbers const upper = __builtin_convertvector(exact, numbers);
    numbers const rest = __builtin_convertvector(exact - __builtin_convertvector(upper, doubles), numbers);
    std::memcpy(high + i, &upper, sizeof(upper));
    std::memcpy(low + i, &rest, sizeof(rest));
  }
}

/// Transposes the keys of a chunk: columns[f][j] = key_jf, and 0 past the last token and past the last feature, up to
/// whole vectors of both. With factors, it also writes decayed[f][j] = factors[j] key_jf.
template <class A>
void columns_of_rows(rows_of<A> rows, index_t tokens, chunk_layout const& layout, A* columns,
                     A const* factors = nullptr, A* decayed = nullptr) {
  using namespace simd;
  alignas(64) A part[width<A> * width<A>];
  for (index_t lane = 0; lane < round_up(tokens, chunk_block<A>); lane += width<A>)
    for (index_t f = 0; f < layout.features; f += width<A>) {
      index_t const count = std::min<index_t>(width<A>, layout.features - f);
      bool const whole = count == width<A> && lane + width<A> <= tokens;
      if (!whole)
        for (index_t i = 0; i < width<A>; ++i)
          store(part + i * width<A>, lane + i < tokens ? widen_part(rows.row(lane + i) + f, count) : vector<A>(A(0)));
      A const* const from = whole ? rows.row(lane) + f : part;
      index_t const stride = whole ? rows.stride : width<A>;
      vector<A> square[width<A>];
      ATTEND_UNROLL for (int i = 0; i < width<A>; ++i) square[i] = widen(from + i * stride);
      transpose<A>(square);
      index_t const at = f * layout.lanes + lane;
      ATTEND_UNROLL for (int i = 0; i < width<A>; ++i) store(columns + at + i * layout.lanes, square[i]);
      if (!factors) continue;
      vector<A> const factor = load(factors + lane);
      ATTEND_UNROLL for (int i = 0; i < width<A>; ++i) store(decayed + at + i * layout.lanes, square[i] * factor);
    }
}

/// Allocates memory for columns of keys. Columns past the last feature are 0, since the state has padded rows.
template <class A>
A* allocate_columns(scratch& memory, chunk_layout const& layout) {
  A* const columns = memory.allocate<A>(layout.padded_features * layout.lanes);
  std::fill(columns + layout.features * layout.lanes, columns + layout.padded_features * layout.lanes, A(0));
  return columns;
}

/// The decays of a chunk, and its decayed keys. move_to begins a chunk; set_keys sets its keys, before anything that
/// depends on them is called.
template <class A>
class any_chunk_decay {
 public:
  virtual void move_to(any_state_policies<A> const& policies, index_t batch, index_t head, index_t first,
                       index_t tokens) = 0;
  /// Rows decayed since the chunk began, written to `to` if they differ from the rows themselves.
  virtual rows_of<A> before(rows_of<A> rows, A* to) const = 0;
  virtual A const* row_factors() const = 0;
  /// For a scalar decay, what products and written tokens are multiplied by, where keys stay as they are: the decays
  /// between tokens, [lanes][lanes], and those from tokens to the end of the chunk.
  virtual A const* between() const { return nullptr; }
  virtual A const* after() const { return nullptr; }
  /// For a vector decay, a_t: rows as far apart as the layout says.
  virtual A const* token_factors() const { return nullptr; }
  virtual void set_keys(rows_of<A> key) = 0;
  virtual void products(rows_of<A> x, A* to) const = 0;
  /// The keys decayed to the end of the chunk: columns that were made of them by set_keys, if `may_be_columns` and
  /// there are some; otherwise rows, written to `to` if they differ from the keys.
  virtual chunk_writes<A> writes(rows_of<A> key, A* to, bool may_be_columns) const = 0;
  virtual state_factors<A> factors() const = 0;

 protected:
  ~any_chunk_decay() = default;
};

/// `attends` says whether products within the chunk are needed.
template <class A, decay_kind Kind>
class chunk_decay;

template <class A>
class chunk_decay<A, decay_kind::none> final : public any_chunk_decay<A> {
 public:
  chunk_decay(scratch& memory, chunk_layout const& layout, bool attends)
      : layout_(layout), columns_(attends ? allocate_columns<A>(memory, layout) : nullptr) {}

  void move_to(any_state_policies<A> const&, index_t, index_t, index_t, index_t tokens) override { tokens_ = tokens; }

  rows_of<A> before(rows_of<A> rows, A*) const override { return rows; }
  A const* row_factors() const override { return nullptr; }
  void set_keys(rows_of<A> key) override { columns_of_rows(key, tokens_, layout_, columns_); }
  void products(rows_of<A> x, A* to) const override { multiply_lower(x, columns_, tokens_, layout_, to); }
  chunk_writes<A> writes(rows_of<A> key, A*, bool may_be_columns) const override {
    if (may_be_columns) return {columns_, layout_.lanes, true};
    return {key.data, key.stride, false};
  }
  state_factors<A> factors() const override { return {nullptr, nullptr}; }

 private:
  chunk_layout const& layout_;
  A* columns_;
  index_t tokens_ = 0;
};

template <class A>
class chunk_decay<A, decay_kind::scalar> final : public any_chunk_decay<A> {
 public:
  chunk_decay(scratch& memory, chunk_layout const& layout, bool attends)
      : layout_(layout),
        columns_(attends ? allocate_columns<A>(memory, layout) : nullptr),
        after_columns_(attends ? allocate_columns<A>(memory, layout) : nullptr),
        logs_(memory.allocate<A>(layout.lanes)),
        before_(memory.allocate<A>(layout.lanes)),
        after_(memory.allocate<A>(layout.lanes)),
        high_(memory.allocate<A>(layout.padded_features)),
        low_(memory.allocate<A>(layout.padded_features)),
        token_high_(memory.allocate<A>(layout.lanes)),
        token_low_(memory.allocate<A>(layout.lanes)),
        between_(attends ? memory.allocate<A>(layout.lanes * layout.lanes) : nullptr) {}

  void move_to(any_state_policies<A> const& policies, index_t batch, index_t head, index_t first,
               index_t tokens) override {
    if (policies.has_constant_decay && tokens == tokens_ && head == head_) return;
    tokens_ = tokens;
    head_ = head;
    policies.read_decays(batch, head, first, tokens, logs_, 1);
    std::fill(logs_ + tokens, logs_ + layout_.lanes, A(0));
    // Both sums are computed in one loop, since each would wait for the latency of its own last addition.
    A total = 0, later = 0;
    for (index_t i = 0, j = tokens - 1; i < tokens; ++i, --j) {
      before_[i] = total += logs_[i];
      after_[j] = later;
      later += logs_[j];
    }
    exponentials(before_);
    exponentials(after_);
    double const factor = std::exp(static_cast<double>(total));
    std::fill_n(high_, layout_.padded_features, static_cast<A>(factor));
    std::fill_n(low_, layout_.padded_features, static_cast<A>(factor - static_cast<double>(static_cast<A>(factor))));
    if (between_) fill_between();
  }

  rows_of<A> before(rows_of<A> rows, A*) const override { return rows; }
  A const* row_factors() const override { return before_; }
  A const* between() const override { return between_; }
  A const* after() const override { return after_; }
  void set_keys(rows_of<A> key) override { columns_of_rows(key, tokens_, layout_, columns_, after_, after_columns_); }
  void products(rows_of<A> x, A* to) const override { multiply_lower(x, columns_, tokens_, layout_, to, between_); }
  chunk_writes<A> writes(rows_of<A> key, A* to, bool may_be_columns) const override {
    if (may_be_columns) return {after_columns_, layout_.lanes, true};
    for (index_t i = 0; i < tokens_; ++i)
      for (index_t f = 0; f < layout_.padded_features; f += simd::width<A>)
        simd::store(to + i * layout_.stride + f, simd::widen(key.row(i) + f) * simd::vector<A>(after_[i]));
    return {to, layout_.stride, false};
  }
  state_factors<A> factors() const override { return {high_, low_}; }

 private:
  void exponentials(A* logs) const {
    for (index_t i = tokens_; i < layout_.lanes; ++i) logs[i] = 0;
    for (index_t i = 0; i < layout_.lanes; i += simd::width<A>)
      simd::store(logs + i, simd::exp<A>(simd::load(logs + i)));
  }

  /// between[i][j] = prod_{j < t <= i} a_t for j <= i: each number is the one above it times a decay, beginning with 1,
  /// down to the end of the last register tile. Several vectors of columns are processed side by side in registers, so
  /// that they hide the latency of a product.
  void fill_between() {
    split_exponentials(logs_, round_up(tokens_, simd::width<A>), token_high_, token_low_);
    constexpr int group_size = 4;
    index_t const vectors = divide_up(tokens_, simd::width<A>);
    index_t v = 0;
    for (; v + group_size <= vectors; v += group_size) fill_between<group_size>(v * simd::width<A>);
    for (; v + 2 <= vectors; v += 2) fill_between<2>(v * simd::width<A>);
    if (v < vectors) fill_between<1>(v * simd::width<A>);
  }
  template <int Vectors>
  void fill_between(index_t first) {
    using namespace simd;
    alignas(64) A counted[width<A>];
    for (int i = 0; i < width<A>; ++i) counted[i] = static_cast<A>(i);
    vector<A> const lane = load(counted), one(A(1));
    vector<A> product[array_size(Vectors)];
    ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) product[v] = one;
    for (index_t i = first; i < round_up(tokens_, register_rows); ++i) {
      vector<A> const high(token_high_[i]), low(token_low_[i]);
      ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) {
        index_t const j = first + v * width<A>;
        product[v] = fused_multiply_add(product[v], high, product[v] * low);
        // Column i begins with 1 in this row; later columns begin below it.
        if (i < j + width<A>) product[v] = simd::select(lane < vector<A>(static_cast<A>(i - j)), product[v], one);
        store(between_ + i * layout_.lanes + j, product[v]);
      }
    }
  }

  chunk_layout const& layout_;
  A *columns_, *after_columns_, *logs_, *before_, *after_, *high_, *low_, *token_high_, *token_low_, *between_;
  index_t tokens_ = -1, head_ = -1;
};

template <class A>
class chunk_decay<A, decay_kind::vector> final : public any_chunk_decay<A> {
 public:
  chunk_decay(scratch& memory, chunk_layout const& layout, bool attends)
      : layout_(layout),
        columns_(attends ? allocate_columns<A>(memory, layout) : nullptr),
        block_columns_(attends ? allocate_columns<A>(memory, layout) : nullptr),
        reaching_columns_(attends ? allocate_columns<A>(memory, layout) : nullptr),
        factor_(memory.allocate<A>(layout.lanes * layout.stride)),
        rows_(attends ? memory.allocate<A>(layout.lanes * layout.stride) : nullptr),
        block_factor_(memory.allocate<A>(layout.lanes / block * layout.stride)),
        piece_rows_(memory.allocate<A>(attends ? block * piece : 0)),
        piece_factors_(memory.allocate<A>(attends ? block * piece : 0)),
        piece_keys_(memory.allocate<A>(attends ? simd::width<A> * piece : 0)),
        running_(memory.allocate<A>(layout.padded_features)),
        high_(memory.allocate<A>(layout.padded_features)),
        low_(memory.allocate<A>(layout.padded_features)) {}

  void move_to(any_state_policies<A> const& policies, index_t batch, index_t head, index_t first,
               index_t tokens) override {
    tokens_ = tokens;
    policies.read_decays(batch, head, first, tokens, factor_, layout_.stride);
    for (index_t i = 0; i < tokens; ++i)
      std::fill(factor_ + i * layout_.stride + layout_.features, factor_ + i * layout_.stride + layout_.padded_features,
                A(0));
    for (index_t i = tokens; i < round_up(tokens, block); ++i)
      std::fill_n(factor_ + i * layout_.stride, layout_.padded_features, A(0));
    carry<false>(
        A(0), 0, round_up(tokens, block),
        [factor = factor_, stride = layout_.stride](number& sum, index_t i, index_t f) {
          A* const at = factor + i * stride + f;
          number const log = simd::load(at);
          sum = sum + log;
          simd::store(at, simd::exp2<A>(log * number(A(log2_e))));
        },
        [&](number const& sum, index_t f) { simd::store(running_ + f, sum); });
    split_exponentials(running_, layout_.padded_features, high_, low_);
  }

  rows_of<A> before(rows_of<A> rows, A* to) const override {
    decay_forward(rows, 0, tokens_, to);
    return {to, layout_.stride};
  }
  A const* row_factors() const override { return nullptr; }
  A const* token_factors() const override { return factor_; }

  /// Sets the keys. For the blocks that later blocks follow, it computes each key decayed to the end of its block, and
  /// the decay of the whole block.
  void set_keys(rows_of<A> key) override {
    columns_of_rows(key, tokens_, layout_, columns_);
    index_t const followed = std::max<index_t>(tokens_ - 1, 0) / block * block;
    for (index_t i = 0; i < followed; i += block)
      decay_backward(key, i, block, rows_, block_factor_ + i / block * layout_.stride);
    columns_of_rows<A>({rows_, layout_.stride}, followed, layout_, block_columns_);
  }

  void products(rows_of<A> x, A* to) const override {
    using namespace simd;
    // The keys of earlier blocks, decayed to the end of the block before: of the first block they are there.
    A const* reaching = block_columns_;
    for (index_t i = 0; i < tokens_; i += block) {
      if (i > block) reaching = reach_past_block(i - block, reaching);
      if (i > 0) {
        decay_forward(x, i, block, rows_);
        for (index_t row = i; row < std::min(i + block, tokens_); row += register_rows)
          multiply_columns<A>({rows_ + row * layout_.stride, layout_.stride}, reaching, i / width<A>, layout_,
                              to + row * layout_.lanes);
      }
      multiply_within_block(x, i, to + i * layout_.lanes + i);
    }
  }

  chunk_writes<A> writes(rows_of<A> key, A* to, bool) const override {
    decay_backward(key, 0, tokens_, to, nullptr);
    return {to, layout_.stride, false};
  }
  state_factors<A> factors() const override { return {high_, low_}; }

 private:
  using number = simd::vector<A>;
  static constexpr index_t block = chunk_block<A>;
  static constexpr index_t piece = 64;  // the number of features that are copied at a time

  /// For each vector of features, calls step(carried, token, feature) for the tokens [first, first + count), from the
  /// last one on if Backward, and then end(carried, feature). The carried number waits for the latency of one operation
  /// at each token, so several vectors are processed side by side.
  template <bool Backward, class Step, class End>
  void carry(A start, index_t first, index_t count, Step&& step, End&& end) const {
    constexpr int group_size = 4;
    index_t const vectors = layout_.padded_features / simd::width<A>;
    index_t v = 0;
    for (; v + group_size <= vectors; v += group_size)
      carry<Backward, group_size>(start, v * simd::width<A>, first, count, step, end);
    for (; v < vectors; ++v) carry<Backward, 1>(start, v * simd::width<A>, first, count, step, end);
  }
  template <bool Backward, int Vectors, class Step, class End>
  void carry(A start, index_t first_feature, index_t first, index_t count, Step& step, End& end) const {
    number carried[array_size(Vectors)];
    ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) carried[v] = number(start);
    for (index_t n = 0; n < count; ++n) {
      index_t const token = Backward ? first + count - 1 - n : first + n;
      ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) step(carried[v], token, first_feature + v * simd::width<A>);
    }
    ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) end(carried[v], first_feature + v * simd::width<A>);
  }

  /// to_i = x_i prod_{first <= t <= i} a_t
  void decay_forward(rows_of<A> x, index_t first, index_t count, A* to) const {
    carry<false>(
        A(1), first, count,
        [=, factor = factor_, stride = layout_.stride](number& product, index_t i, index_t f) {
          product = product * simd::load(factor + i * stride + f);
          simd::store(to + i * stride + f, simd::widen(x.row(i) + f) * product);
        },
        [](number const&, index_t) {});
  }
  /// to_j = x_j prod_{j < t < first + count} a_t; `all`, if not null, is the product of all factors.
  void decay_backward(rows_of<A> x, index_t first, index_t count, A* to, A* all) const {
    carry<true>(
        A(1), first, count,
        [=, factor = factor_, stride = layout_.stride](number& product, index_t j, index_t f) {
          simd::store(to + j * stride + f, simd::widen(x.row(j) + f) * product);
          product = product * simd::load(factor + j * stride + f);
        },
        [=](number const& product, index_t f) {
          if (all) simd::store(all + f, product);
        });
  }

  /// Decays the keys of earlier blocks to the end of this block, and puts the keys of this block beside them.
  A const* reach_past_block(index_t i, A const* earlier) const {
    A const* const factor = block_factor_ + i / block * layout_.stride;
    for (index_t f = 0; f < layout_.features; ++f) {
      index_t const row = f * layout_.lanes;
      for (index_t j = 0; j < i + block; j += simd::width<A>)
        simd::store(reaching_columns_ + row + j, j < i ? simd::load(earlier + row + j) * simd::vector<A>(factor[f])
                                                       : simd::load(block_columns_ + row + j));
    }
    return reaching_columns_;
  }

  /// Computes the products of the block that begins at token i, a piece of the features at a time. The rows of a piece
  /// are first copied to a constant stride: sixteen rows of x and of the factors would need more addresses than there
  /// are registers.
  void multiply_within_block(rows_of<A> x, index_t i, A* to) const {
    // Without features there is still one piece, which sets the products to 0.
    for (index_t f = 0; f == 0 || f < layout_.features; f += piece) {
      index_t const count = std::min(piece, layout_.features - f);
      for (index_t row = 0; row < block; ++row)
        for (index_t c = 0; c < round_up(count, simd::width<A>); c += simd::width<A>) {
          simd::store(piece_rows_ + row * piece + c, simd::widen(x.row(i + row) + f + c));
          simd::store(piece_factors_ + row * piece + c, simd::load(factor_ + (i + row) * layout_.stride + f + c));
        }
      for_lanes<0>([&]<index_t First>() {
        multiply_rows_within_block<First, First>(columns_ + f * layout_.lanes + i + First, count, f > 0, to + First);
      });
    }
  }
  template <index_t First, class Function>
  static void for_lanes(Function&& function) {
    if constexpr (First < block) {
      function.template operator()<First>();
      for_lanes<First + simd::width<A>>(function);
    }
  }

  /// Multiplies a vector of keys, from key `First` on, with a register tile of rows from `Row` on, and then with the
  /// next register tile. For each feature the keys decay from row to row; the decay of lane j begins after row First +
  /// j.
  template <index_t First, index_t Row>
  [[gnu::noinline]] void multiply_rows_within_block(A const* columns, index_t features, bool adds, A* to) const {
    using namespace simd;
    constexpr int rows = static_cast<int>(std::min<index_t>(register_rows, block - Row));
    constexpr bool last = Row + rows == block;
    A const *const x = piece_rows_ + Row * piece, *const factor = piece_factors_ + Row * piece;
    vector<A> sum[array_size(rows)];
    ATTEND_UNROLL for (int i = 0; i < rows; ++i) {
      sum[i] = adds ? load(to + (Row + i) * layout_.lanes) : vector<A>(A(0));
    }
    for (index_t f = 0; f < features; ++f) {
      vector<A> decayed = load(Row == First ? columns + f * layout_.lanes : piece_keys_ + f * width<A>);
      ATTEND_UNROLL for (int i = 0; i < rows; ++i) {
        // Only keys before this row decay; the other lanes still hold the keys themselves.
        decayed = multiply_lanes(decayed, vector<A>(factor[i * piece + f]), static_cast<int>(Row - First) + i);
        sum[i] = fused_multiply_add(vector<A>(x[i * piece + f]), decayed, sum[i]);
      }
      if (!last) store(piece_keys_ + f * width<A>, decayed);
    }
    ATTEND_UNROLL for (int i = 0; i < rows; ++i) store(to + (Row + i) * layout_.lanes, sum[i]);
    if constexpr (!last) multiply_rows_within_block<First, Row + rows>(columns, features, adds, to);
  }

  chunk_layout const& layout_;
  A *columns_, *block_columns_, *reaching_columns_, *factor_, *rows_, *block_factor_, *piece_rows_, *piece_factors_,
      *piece_keys_, *running_, *high_, *low_;
  index_t tokens_ = 0;
};

}  // namespace attend::inline ATTEND_TARGET::engine
