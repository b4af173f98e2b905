// Decays within a chunk. With a_t the decay of token t, and a product over an empty range 1,
//
//   before(x)_i = x_i  prod_{t <= i} a_t                what stood before the chunk, as token i sees it; a scalar decay
//                                                       leaves x as it is, and says the products (row_factors)
//   after(x)_j  = x_j  prod_{t > j} a_t                 what token j wrote, as it stands after the chunk (writes)
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

#include <bit>
#include <cmath>
#include <cstring>

#include "../core/scratch.hpp"
#include "../policy/decay/decay.hpp"
#include "../simd/math.hpp"
#include "../simd/transpose.hpp"
#include "chunk_products.hpp"

namespace attend::engine {

/// As many numbers as a vector of doubles has.
template <class T, index_t Lanes>
struct beside_doubles {
  using type [[gnu::vector_size(sizeof(T) * Lanes)]] = T;
};

/// high[i] + low[i] = exp(logs[i]) to twice float's precision, for `count` numbers, a multiple of the width; for double
/// to its own.
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

/// The keys of a chunk side by side: columns[f][j] = key_jf, 0 past the last token; and with factors, decayed[f][j] =
/// factors[j] key_jf.
template <class A>
void columns_of_rows(rows_of<A> rows, index_t tokens, chunk_layout const& layout, A* columns,
                     A const* factors = nullptr, A* decayed = nullptr) {
  using namespace simd;
  for (index_t lane = 0; lane < round_up(tokens, chunk_block<A>); lane += width<A>)
    for (index_t f = 0; f < layout.features; f += width<A>) {
      index_t const count = std::min<index_t>(width<A>, layout.features - f);
      bool const whole = count == width<A> && lane + width<A> <= tokens;
      vector<A> square[width<A>];
      if (whole) {
        ATTEND_UNROLL for (int i = 0; i < width<A>; ++i) square[i] = widen(rows.row(lane + i) + f);
      } else {
        for (int i = 0; i < width<A>; ++i)
          square[i] = lane + i < tokens ? widen_part(rows.row(lane + i) + f, count) : vector<A>(A(0));
      }
      transpose<A>(square);
      auto const store_square = [&](A* to) {
        if (count == width<A>) {
          ATTEND_UNROLL for (int i = 0; i < width<A>; ++i) store(to + i * layout.lanes, square[i]);
        } else {
          for (int i = 0; i < count; ++i) store(to + i * layout.lanes, square[i]);
        }
      };
      store_square(columns + f * layout.lanes + lane);
      if (!factors) continue;
      vector<A> const factor = load(factors + lane);
      ATTEND_UNROLL for (int i = 0; i < width<A>; ++i) square[i] = square[i] * factor;
      store_square(decayed + f * layout.lanes + lane);
    }
}

/// Memory for columns of keys. Rows of the state past the features take zeros.
template <class A>
A* take_columns(scratch& memory, chunk_layout const& layout) {
  A* const columns = memory.take<A>(layout.padded_features * layout.lanes);
  std::fill(columns + layout.features * layout.lanes, columns + layout.padded_features * layout.lanes, A(0));
  return columns;
}

/// A chunk's decays, and its keys under them. `attends` says whether a token reads what tokens of its own chunk wrote;
/// move_to begins a chunk; set_keys takes its keys before they are asked for.
template <class A, decay_kind Kind>
class chunk_decay;

template <class A>
class chunk_decay<A, decay_kind::none> {
 public:
  chunk_decay(scratch& memory, chunk_layout const& layout, bool attends)
      : layout_(layout), columns_(attends ? take_columns<A>(memory, layout) : nullptr) {}

  template <class D>
  void move_to(D const&, index_t, index_t, index_t, index_t tokens) {
    tokens_ = tokens;
  }

  rows_of<A> before(rows_of<A> rows, A*) const { return rows; }
  A const* row_factors() const { return nullptr; }
  void set_keys(rows_of<A> key) { columns_of_rows(key, tokens_, layout_, columns_); }
  void products(rows_of<A> x, A* to) const { multiply_lower(x, columns_, tokens_, layout_, to); }
  chunk_writes<A> writes() const { return {columns_, layout_.lanes, true}; }
  chunk_writes<A> writes_of(rows_of<A> key, A*) const { return {key.data, key.stride, false}; }
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
        columns_(attends ? take_columns<A>(memory, layout) : nullptr),
        after_columns_(attends ? take_columns<A>(memory, layout) : nullptr),
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
    if (D::constant && tokens == tokens_ && head == head_) return;
    tokens_ = tokens;
    head_ = head;
    policy.read(batch, head, first, tokens, logs_);
    std::fill(logs_ + tokens, logs_ + layout_.lanes, A(0));
    // Both sums at once: each waits for its own last addition only.
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

  rows_of<A> before(rows_of<A> rows, A*) const { return rows; }
  A const* row_factors() const { return before_; }
  void set_keys(rows_of<A> key) { columns_of_rows(key, tokens_, layout_, columns_, after_, after_columns_); }
  void products(rows_of<A> x, A* to) const {
    multiply_lower(x, columns_, tokens_, layout_, to);
    for (index_t i = 0; i < tokens_; ++i)
      for (index_t j = 0; j <= i; j += simd::width<A>) {
        index_t const at = i * layout_.lanes + j;
        simd::store(to + at, simd::load(to + at) * simd::load(between_ + at));
      }
  }
  chunk_writes<A> writes() const { return {after_columns_, layout_.lanes, true}; }
  chunk_writes<A> writes_of(rows_of<A> key, A* to) const {
    for (index_t i = 0; i < tokens_; ++i)
      for (index_t f = 0; f < layout_.padded_features; f += simd::width<A>)
        simd::store(to + i * layout_.stride + f, simd::widen(key.row(i) + f) * simd::vector<A>(after_[i]));
    return {to, layout_.stride, false};
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
  /// 1 on. Some vectors of columns stay in registers on their way down: as many as hide a product's latency.
  void fill_between() {
    split_exponentials(logs_, round_up(tokens_, simd::width<A>), token_high_, token_low_);
    constexpr int together = 4;
    index_t const vectors = divide_up(tokens_, simd::width<A>);
    index_t v = 0;
    for (; v + together <= vectors; v += together) fill_between<together>(v * simd::width<A>);
    for (; v + 2 <= vectors; v += 2) fill_between<2>(v * simd::width<A>);
    if (v < vectors) fill_between<1>(v * simd::width<A>);
  }
  template <int Vectors>
  void fill_between(index_t first) {
    using namespace simd;
    alignas(64) A counted[width<A>];
    for (int i = 0; i < width<A>; ++i) counted[i] = static_cast<A>(i);
    vector<A> const lane = load(counted), one(A(1));
    vector<A> product[Vectors];
    ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) product[v] = one;
    for (index_t i = first; i < tokens_; ++i) {
      vector<A> const high(token_high_[i]), low(token_low_[i]);
      ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) {
        index_t const j = first + v * width<A>;
        product[v] = fused_multiply_add(product[v], high, product[v] * low);
        // Columns from i on begin here, or have not begun.
        if (i < j + width<A>) product[v] = xsimd::select(lane < vector<A>(static_cast<A>(i - j)), product[v], one);
        store(between_ + i * layout_.lanes + j, product[v]);
      }
    }
  }

  chunk_layout const& layout_;
  A *columns_, *after_columns_, *logs_, *before_, *after_, *high_, *low_, *token_high_, *token_low_, *between_;
  index_t tokens_ = -1, head_ = -1;
};

template <class A>
class chunk_decay<A, decay_kind::vector> {
 public:
  chunk_decay(scratch& memory, chunk_layout const& layout, bool attends)
      : layout_(layout),
        columns_(attends ? take_columns<A>(memory, layout) : nullptr),
        block_columns_(attends ? take_columns<A>(memory, layout) : nullptr),
        reaching_columns_(attends ? take_columns<A>(memory, layout) : nullptr),
        factor_(memory.take<A>(layout.lanes * layout.stride)),
        rows_(attends ? memory.take<A>(layout.lanes * layout.stride) : nullptr),
        block_factor_(memory.take<A>(layout.lanes / block * layout.stride)),
        running_(memory.take<A>(layout.padded_features)),
        high_(memory.take<A>(layout.padded_features)),
        low_(memory.take<A>(layout.padded_features)) {}

  template <class D>
  void move_to(D const& policy, index_t batch, index_t head, index_t first, index_t tokens) {
    tokens_ = tokens;
    policy.read(batch, head, first, tokens, factor_, layout_.stride);
    for (index_t i = 0; i < tokens; ++i)
      std::fill(factor_ + i * layout_.stride + layout_.features, factor_ + i * layout_.stride + layout_.padded_features,
                A(0));
    for (index_t i = tokens; i < round_up(tokens, block); ++i)
      std::fill_n(factor_ + i * layout_.stride, layout_.padded_features, A(0));
    for_features([&](index_t f) {
      simd::vector<A> sum(A(0));
      for (index_t i = 0; i < round_up(tokens, block); ++i) {
        A* const at = factor_ + i * layout_.stride + f;
        simd::vector<A> const log = simd::load(at);
        sum = sum + log;
        simd::store(at, simd::exp2<A>(log * simd::vector<A>(A(log2_e))));
      }
      simd::store(running_ + f, sum);
    });
    split_exponentials(running_, layout_.padded_features, high_, low_);
  }

  rows_of<A> before(rows_of<A> rows, A* to) const {
    for_features([&](index_t f) {
      simd::vector<A> product(A(1));
      for (index_t i = 0; i < tokens_; ++i) {
        product = product * simd::load(factor_ + i * layout_.stride + f);
        simd::store(to + i * layout_.stride + f, simd::widen(rows.row(i) + f) * product);
      }
    });
    return {to, layout_.stride};
  }
  A const* row_factors() const { return nullptr; }

  /// Besides the keys themselves, what is left of each at the end of its block, and the decay of whole blocks.
  void set_keys(rows_of<A> key) {
    columns_of_rows(key, tokens_, layout_, columns_);
    for (index_t i = 0; i < tokens_; i += block)
      for_features([&](index_t f) {
        simd::vector<A> product(A(1));
        for (index_t j = i + block - 1; j >= i; --j) {
          index_t const at = j * layout_.stride + f;
          simd::store(rows_ + at, simd::widen(key.row(j) + f) * product);
          product = product * simd::load(factor_ + at);
        }
        simd::store(block_factor_ + i / block * layout_.stride + f, product);
      });
    columns_of_rows<A>({rows_, layout_.stride}, tokens_, layout_, block_columns_);
  }

  void products(rows_of<A> x, A* to) const {
    using namespace simd;
    for (index_t i = 0; i < tokens_; i += block) {
      if (i > 0) {
        for_features([&](index_t f) {
          vector<A> product(A(1));
          for (index_t j = i; j < i + block; ++j) {
            product = product * load(factor_ + j * layout_.stride + f);
            store(rows_ + j * layout_.stride + f, widen(x.row(j) + f) * product);
          }
        });
        for (index_t row = i; row < std::min(i + block, tokens_); row += register_rows)
          multiply_columns<A>({rows_ + row * layout_.stride, layout_.stride}, reaching_columns_, i / width<A>, layout_,
                              to + row * layout_.lanes);
      }
      multiply_within_block(rows_of<A>{x.row(i), x.stride}, factor_ + i * layout_.stride, columns_ + i,
                            to + i * layout_.lanes + i);
      if (i + block < tokens_) reach_past_block(i);
    }
  }

  /// What is left of each key at the end of the chunk.
  chunk_writes<A> writes_of(rows_of<A> key, A* to) const {
    for_features([&](index_t f) {
      simd::vector<A> product(A(1));
      for (index_t j = tokens_ - 1; j >= 0; --j) {
        simd::store(to + j * layout_.stride + f, simd::widen(key.row(j) + f) * product);
        product = product * simd::load(factor_ + j * layout_.stride + f);
      }
    });
    return {to, layout_.stride, false};
  }
  A const* state_high() const { return high_; }
  A const* state_low() const { return low_; }

 private:
  static constexpr index_t block = chunk_block<A>;

  template <class Function>
  void for_features(Function&& function) const {
    for (index_t f = 0; f < layout_.padded_features; f += simd::width<A>) function(f);
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

  void multiply_within_block(rows_of<A> x, A const* factor, A const* columns, A* to) const {
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
  [[gnu::noinline]] void multiply_within_block(rows_of<A> x, A const* factor, A const* columns, A* to) const {
    using namespace simd;
    constexpr int rows = static_cast<int>(block - First);
    alignas(64) A counted[width<A>];
    for (int lane = 0; lane < width<A>; ++lane) counted[lane] = static_cast<A>(lane);
    vector<A> const lane = load(counted);
    vector<A> sum[rows];
    ATTEND_UNROLL for (int i = 0; i < rows; ++i) sum[i] = vector<A>(A(0));
    for (index_t f = 0; f < layout_.features; ++f) {
      vector<A> decayed = load(columns + f * layout_.lanes + First);
      ATTEND_UNROLL for (int i = 0; i < rows; ++i) {
        vector<A> const next = decayed * vector<A>(factor[(First + i) * layout_.stride + f]);
        // Lanes from i on still hold their keys.
        decayed = i >= width<A> ? next : xsimd::select(lane < vector<A>(static_cast<A>(i)), next, decayed);
        sum[i] = fused_multiply_add(vector<A>(x.row(First + i)[f]), decayed, sum[i]);
      }
    }
    ATTEND_UNROLL for (int i = 0; i < rows; ++i) store(to + (First + i) * layout_.lanes + First, sum[i]);
  }

  chunk_layout const& layout_;
  A *columns_, *block_columns_, *reaching_columns_, *factor_, *rows_, *block_factor_, *running_, *high_, *low_;
  index_t tokens_ = 0;
};

}  // namespace attend::engine
