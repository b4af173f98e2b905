// SPDX-License-Identifier: BSD-3-Clause
// The step of a gradient: the queries of a tile, in the lanes, and a block of keys. Five products, of which the first
// two are computed again from the tensors rather than kept since the forward call:
//
//   S  [key][lane]       = K Q^T              weights and rates from S (backward_policies.hpp)
//   G  [key][lane]       = V dO^T             what a weight changes
//   dV [key][column]    += P dO
//   E  [key][lane]       = rate * (G - delta)
//   dQ [lane][column]   += E^T K              times the scale, when the rows are written
//   dK [key][column]    += E Q                with scaled queries
//
// The first two have queries in the lanes, as in the forward call; the others have the columns of a row there, so that
// both take weights and rates as they lie: nothing is transposed. 2.5 times the operations of the forward call.
//
// Tri Dao, Daniel Y. Fu, Stefano Ermon, Atri Rudra, Christopher Re: FlashAttention, 2022 (appendix B).
#pragma once

#include <array>

#include "backward_policies.hpp"
#include "option_gradients.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Rows [count][stride] of columns that are padded with zeros to whole vectors. The stride is no power of two, so that
/// a column's elements do not compete for the same sets of the level-1 cache.
template <class A>
struct padded_rows {
  A* data = nullptr;
  index_t stride = 0, columns = 0;

  static index_t padded(index_t columns) { return round_up(columns, simd::width<A>); }

  static padded_rows of(scratch& memory, index_t count, index_t columns) {
    index_t const stride = padded(columns) + simd::width<A>;
    return {memory.allocate<A>(round_up(count, simd::register_rows) * stride), stride, columns};
  }

  A* row(index_t j) const { return data + j * stride; }
  void clear(key_range rows) const { std::fill(row(rows.first), row(rows.last), A(0)); }

  template <Element T>
  void set(index_t j, T const* from) const {
    simd::widen_row(from, row(j), columns);
    std::fill(row(j) + columns, row(j) + padded(columns), A(0));
  }
  rows_of<A> rows() const { return {data, stride}; }
};

/// Whether all elements of the first `count` rows are finite.
template <class A>
bool are_finite(padded_rows<A> const& rows, index_t count) {
  using namespace simd;
  vector<A> sum(A(0));
  for (index_t j = 0; j < count; ++j)
    for (index_t c = 0; c < padded_rows<A>::padded(rows.columns); c += width<A>)
      sum = sum + as_computed<A>(load(rows.row(j) + c) * vector<A>(A(0)));
  return all<A>(sum == sum);
}

/// to[i][:] += sum_k a(i, k) b[k][:] for i in [0, rows), in whole register tiles, with k in [0, depth). `a` is
/// [row][depth] or, if RowsAreContiguous, [depth][row], `stride` apart.
template <bool RowsAreContiguous, class A>
[[gnu::noinline]] void add_products(A const* a, index_t stride, index_t rows, padded_rows<A> const& b, index_t depth,
                                    A* to, index_t to_stride) {
  using namespace simd;
  if (depth <= 0) return;
  for_tile_widths(static_cast<int>(padded_rows<A>::padded(b.columns) / width<A>), [&]<int Vectors>(int first) {
    for (index_t i = 0; i < rows; i += register_rows) {
      register_tile<A, Vectors> sum;
      sum.clear();
      sum.template multiply_add<RowsAreContiguous>(a + i * (RowsAreContiguous ? 1 : stride), stride,
                                                   b.data + first * width<A>, depth, b.stride);
      A* const at = to + i * to_stride + first * width<A>;
      if (i + register_rows <= rows) {
        sum.add_to(at, to_stride);
        continue;
      }
      alignas(64) A last[array_size(register_rows)][array_size(Vectors * width<A>)];
      sum.store(last[0]);
      for (index_t r = 0; r < rows - i; ++r)
        for (index_t c = 0; c < Vectors * width<A>; ++c) at[r * to_stride + c] += last[r][c];
    }
  });
}

/// The same where elements of b may be infinite or NaN and pairs may be hidden: a factor of 0 adds nothing.
template <bool RowsAreContiguous, class A>
[[gnu::cold, gnu::noinline]] void add_products_guarded(A const* a, index_t stride, index_t rows,
                                                       padded_rows<A> const& b, index_t depth, A* to,
                                                       index_t to_stride) {
  for (index_t i = 0; i < rows; ++i)
    for (index_t k = 0; k < depth; ++k)
      if (A const factor = RowsAreContiguous ? a[k * stride + i] : a[i * stride + k]; factor != 0)
        for (index_t c = 0; c < b.columns; ++c) to[i * to_stride + c] += factor * b.row(k)[c];
}

/// change = rate * (change - delta), 0 where the rate is. Each is [key][lanes].
template <class A>
void make_changes(A const* of_delta, index_t lanes, index_t keys, A const* rate, A* change) {
  using namespace simd;
  for (index_t lane = 0; lane < lanes; lane += width<A>) {
    vector<A> const delta = load(of_delta + lane), nothing(A(0));
    for (index_t at = lane; at < keys * lanes; at += lanes) {
      vector<A> const r = load(rate + at);
      store(change + at, simd::select(r == nothing, nothing, r * (load(change + at) - delta)));
    }
  }
}

/// What some calls need besides weights, rates and changes, and what is summed up from that. Others leave it empty.
template <class A>
struct option_step {
  option_sums<A> const* sums = nullptr;
  A *gain = nullptr, *bias_rate = nullptr, *scale_rate = nullptr;  // [key][lanes]
  A const* value_gain = nullptr;                                   // of the block's keys
  A* table = nullptr;                                              // what these pairs add to a score's table

  static option_step of(any_backward_policies<A> const& call, option_sums<A> const& sums, A* table, index_t lanes,
                        scratch& memory) {
    option_step step;
    step.table = table;
    if (table) step.bias_rate = memory.allocate<A>(max_block_keys * lanes);
    if (call.has_pair_gain) step.gain = memory.allocate<A>(max_block_keys * lanes);
    if (!sums.of_bias() && !sums.of_logit_scale()) return step;
    step.sums = &sums;
    step.bias_rate = memory.allocate<A>(max_block_keys * lanes);
    step.scale_rate = memory.allocate<A>(max_block_keys * lanes);
    return step;
  }

  pair_numbers<A> numbers(A* weight, A* rate) const { return {weight, rate, gain, bias_rate, scale_rate}; }

  /// Multiplies the changes of a tile and a range of keys, of which `first` is the row in the block, by gains, and adds
  /// what the pairs give to options: rate * (change - delta) for the rate of each.
  template <class Tile>
  void add(Tile& tile, any_backward_policies<A> const& call, key_range range, index_t first, A const* rate,
           A* change) const {
    index_t const lanes = tile.lanes();
    if (gain)
      for (index_t at = 0; at < range.count() * lanes; ++at) change[at] *= gain[at];
    if (value_gain)
      for (index_t j = 0; j < range.count(); ++j)
        for (index_t lane = 0; lane < lanes; ++lane) change[j * lanes + lane] *= value_gain[first + j];
    if (table) {
      sum_up(tile, range, rate, change, bias_rate, tile.of_bias);
      call.add_to_table(tile.rows, range, bias_rate, static_cast<int>(lanes), table);
    }
    if (!sums) return;
    if (sums->of_logit_scale()) sum_up(tile, range, scale_rate, change, scale_rate, tile.of_scale);
    if (!sums->of_bias()) return;
    sum_up(tile, range, call.writes_bias_rates ? bias_rate : rate, change, bias_rate, tile.of_bias);
    sums->add_pairs(tile.rows, range, bias_rate, lanes);
  }

 private:
  /// to = rate * (change - delta), and its sums over the keys are added to those of rows.
  template <class Tile>
  static void sum_up(Tile const& tile, key_range range, A const* rate, A const* change, A* to, A* of_rows) {
    using namespace simd;
    index_t const lanes = tile.lanes();
    for (index_t lane = 0; lane < lanes; lane += width<A>) {
      vector<A> const delta = load(tile.delta + lane), nothing(A(0));
      vector<A> sum = load(of_rows + lane);
      for (index_t at = lane; at < range.count() * lanes; at += lanes) {
        vector<A> const r = load(rate + at);
        vector<A> const x = simd::select(r == nothing, nothing, r * (load(change + at) - delta));
        store(to + at, x);
        sum = sum + x;
      }
      store(of_rows + lane, sum);
    }
  }
};

/// The queries of a tile, and what is summed up for them.
template <class A>
struct backward_tile {
  static constexpr int max_lanes = simd::tile_lanes<A>;

  tile_rows<A> rows;
  index_t number;  // among the tiles that share a block
  int vectors;
  A *query, *gradient;                       // [dimension][lanes], the queries scaled
  padded_rows<A> query_rows, gradient_rows;  // the same as rows
  padded_rows<A> sum;                        // of dQ, without the scale
  bool finite, touched;
  alignas(64) A log_sum_exp[array_size(max_lanes)];
  alignas(64) A delta[array_size(max_lanes)];
  alignas(64) A of_bias[array_size(max_lanes)], of_scale[array_size(max_lanes)];  // sums of rows for options

  int lanes() const { return vectors * simd::width<A>; }
};

/// A block of keys and values, and what is summed up for them. Rows in memory are read and added to where they lie, if
/// vectors can, and are copied otherwise: that changes no bit.
template <class A>
class backward_block {
 public:
  padded_rows<A> key, value, key_sum, value_sum;
  bool finite = true;

  static backward_block of(scratch& memory, index_t most, index_t key_dimension, index_t value_dimension) {
    backward_block block;
    auto const rows = [&](index_t columns) { return padded_rows<A>::of(memory, most + simd::register_rows, columns); };
    block.copies_ = {rows(key_dimension), rows(value_dimension), rows(key_dimension), rows(value_dimension)};
    return block;
  }

  template <Element T>
  void set(rows_of<T> keys, rows_of<T> values, index_t count) {
    count_ = count;
    // The products with keys as columns read a column of register tiles again and again, for which strides that are
    // powers of two have too few sets of the level-1 cache.
    key = copy_of(keys, copies_[0]);
    value = read(values, copies_[1]);
  }
  void prepare() { finite = are_finite(key, count_) && are_finite(value, count_); }

  void begin_sums(padded_rows<A> const& of_keys, padded_rows<A> const& of_values) {
    memory_ = {of_keys, of_values};
    key_sum = begin(of_keys, copies_[2]);
    value_sum = begin(of_values, copies_[3]);
  }
  void end_sums() const {
    end(key_sum, memory_[0]);
    end(value_sum, memory_[1]);
  }

 private:
  /// Whether rows can be read by vectors without what stands behind them, and do not compete for the same sets of the
  /// level-1 cache.
  static bool lie_well(A const* data, index_t stride, index_t columns) {
    return columns % simd::width<A> == 0 && stride % simd::width<A> == 0 &&
           reinterpret_cast<std::uintptr_t>(data) % (sizeof(A) * simd::width<A>) == 0 && !far_apart<A>(stride, columns);
  }

  template <Element T>
  padded_rows<A> read(rows_of<T> from, padded_rows<A> const& copy) const {
    if constexpr (std::same_as<T, A>)
      // Products read whole register tiles.
      if (count_ >= simd::register_rows && lie_well(from.data, from.stride, copy.columns))
        return {const_cast<A*>(from.data), from.stride, copy.columns};
    return copy_of(from, copy);
  }

  template <Element T>
  padded_rows<A> const& copy_of(rows_of<T> from, padded_rows<A> const& copy) const {
    for (index_t j = 0; j < count_; ++j) copy.set(j, from.row(j));
    copy.clear({count_, count_ + simd::register_rows});
    return copy;
  }

  padded_rows<A> begin(padded_rows<A> const& sums, padded_rows<A> const& copy) const {
    if (lie_well(sums.data, sums.stride, sums.columns)) return sums;
    for (index_t j = 0; j < count_; ++j) copy.set(j, static_cast<A const*>(sums.row(j)));
    return copy;
  }
  void end(padded_rows<A> const& sums, padded_rows<A> const& to) const {
    if (sums.data == to.data) return;
    for (index_t j = 0; j < count_; ++j) std::copy_n(sums.row(j), sums.columns, to.row(j));
  }

  index_t count_ = 0;
  std::array<padded_rows<A>, 4> copies_;
  std::array<padded_rows<A>, 2> memory_;
};

template <class A>
class backward_step {
 public:
  using tile_type = backward_tile<A>;
  using block_type = backward_block<A>;
  static constexpr index_t lanes = tile_type::max_lanes;

  /// What is read next: the keys and values of the next block, and the sums of this one. Waiting for them would be a
  /// tenth of the time.
  block_prefetch ahead, sums;
  option_step<A> extras;

  backward_step(scratch& memory, problem_shape const&, A, index_t)
      : weight_(memory.allocate<A>((max_block_keys + simd::register_rows) * lanes)),
        rate_(memory.allocate<A>((max_block_keys + simd::register_rows) * lanes)),
        change_(memory.allocate<A>((max_block_keys + simd::register_rows) * lanes)) {}

  /// Adds the pairs of a tile and keys `range`, of which `first` is the row in the block.
  void add(backward_tile<A>& tile, backward_block<A> const& block, any_backward_policies<A> const& call,
           key_range range, index_t first, bool masked) {
    index_t const keys = range.count(), stride = tile.lanes();
    visible_parts seen(keys);
    if (masked) {
      call.find_visible(tile.vectors, tile.rows, range, weight_, seen);
      if (seen.empty()) return;
    }
    auto const product = [&](padded_rows<A> const& of_keys, A const* of_queries, A* to, bool hides,
                             block_prefetch& prefetch) {
      key_work<A> work{{of_keys.row(first), of_keys.stride},
                       std::max<index_t>(keys, simd::register_rows),
                       {0, keys},
                       of_queries,
                       of_keys.columns,
                       stride};
      simd::vector<A> peak[simd::register_vectors];
      for (auto& most : peak) most = simd::vector<A>(A(0));
      if (!masked) return multiply_keys(tile.vectors, work, to, peak, prefetch);
      for (visible_part const& part : seen) {
        int const lane = part.low * simd::width<A>;
        work.part = part.keys;
        work.query = of_queries + lane;
        work.hides = hides && (part.vectors < tile.vectors || !part.whole);
        multiply_keys(part.vectors, work, to + lane, peak, prefetch);
      }
    };
    tile.touched = true;
    product(block.key, tile.query, weight_, true, ahead);
    A* const rate = call.rates_are_weights ? weight_ : rate_;
    guarded_ = (masked || call.scores_hide) && !(block.finite && tile.finite);
    call.weigh(tile.vectors, tile.rows, range, masked, tile.log_sum_exp, A(1), extras.numbers(weight_, rate_));
    product(block.value, tile.gradient, change_, false, sums);
    extras.add(tile, call, range, first, rate, change_);
    make_changes(tile.delta, stride, keys, rate, change_);
    // The last register tile has rows of keys that are not there.
    for (A* const at : {weight_, change_})
      std::fill(at + keys * stride, at + round_up(keys, simd::register_rows) * stride, A(0));
    if (!masked) return add_gradients(tile, block, first, {{0, keys}, 0, tile.vectors, true});
    for (visible_part const& part : seen) add_gradients(tile, block, first, part);
  }

  // What a step that rounds for all tiles at once has to do (backward_pairs.hpp).
  static constexpr bool scales_changes = false;
  static bool takes(backward_block<A> const&) { return true; }
  static void end_tile(backward_tile<A>&, backward_block<A> const&) {}
  static void end_block(backward_block<A>& block) { block.end_sums(); }
  static padded_rows<A> const& rows_of_sum(backward_tile<A> const& tile) { return tile.sum; }
  static index_t prefetch_steps(index_t keys, index_t key_dimension) {
    return divide_up(keys, simd::register_rows) * divide_up(key_dimension, prefetch_depth);
  }

 private:
  void add_gradients(backward_tile<A>& tile, backward_block<A> const& block, index_t first, visible_part const& part) {
    index_t const stride = tile.lanes(), lane = part.low * simd::width<A>, at = part.keys.first * stride + lane;
    index_t const depth = std::min<index_t>(part.vectors * simd::width<A>, tile.rows.count - lane);
    index_t const row = first + part.keys.first, keys = part.keys.count();
    auto const from = [](padded_rows<A> rows, index_t number) {
      rows.data = rows.row(number);
      return rows;
    };
    add<false>(weight_ + at, stride, keys, from(tile.gradient_rows, lane), depth, from(block.value_sum, row));
    add<false>(change_ + at, stride, keys, from(tile.query_rows, lane), depth, from(block.key_sum, row));
    add<true>(change_ + at, stride, depth, from(block.key, row), keys, from(tile.sum, lane));
  }

  template <bool RowsAreContiguous>
  void add(A const* a, index_t stride, index_t rows, padded_rows<A> const& b, index_t depth,
           padded_rows<A> const& to) const {
    if (guarded_)
      add_products_guarded<RowsAreContiguous>(a, stride, rows, b, depth, to.data, to.stride);
    else
      add_products<RowsAreContiguous>(a, stride, rows, b, depth, to.data, to.stride);
  }

  A *weight_, *rate_, *change_;
  bool guarded_ = false;
};

}  // namespace attend::inline ATTEND_TARGET::engine
