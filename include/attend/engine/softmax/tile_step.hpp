// SPDX-License-Identifier: BSD-3-Clause
// One step of a tile, which processes a block of keys (softmax_step.hpp): queries in the lanes, logits [key][lanes].
#pragma once

#include "softmax_step.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Writes logits of a tile, times `factor`, to a tensor of pairs.
template <class A>
void write_logits(tile<A> const& tile, key_range range, A const* logits, A factor, tensor_view<A, 4> const& pairs) {
  alignas(64) A factors[array_size(engine::tile<A>::max_lanes)];
  A* to[array_size(engine::tile<A>::max_lanes)];
  for (int lane = 0; lane < tile.lanes(); ++lane) {
    factors[lane] = factor;
    to[lane] = lane < tile.rows.count ? row_of_lane(pairs, tile.rows, lane) + range.first : nullptr;
  }
  simd::unpack_columns<A>(logits, tile.lanes(), range.count(), factors, to);
}

/// Multiplies the weights of keys by their gains.
template <class A>
void multiply_gain(int vectors, key_range range, A const* gain, A* weights) {
  for (index_t key = range.first; key < range.last; ++key)
    for (int v = 0; v < vectors; ++v, weights += simd::width<A>) {
      // A hidden key's weight is 0 and must stay so, whatever its gain is.
      simd::vector<A> const weight = simd::load(weights), nothing(A(0));
      simd::store(weights, simd::select(weight == nothing, nothing, weight * simd::vector<A>(gain[key])));
    }
}

template <class A>
class tile_step {
 public:
  static constexpr index_t lanes = tile<A>::max_lanes;

  /// The tile's queries must be packed. `logits` has room for the range, and for register_rows keys at least. Where a
  /// call is chunk-invariant, the keys that are visible to other rows do not change the order of a row's sums.
  tile_step(tile<A>& tile, block_rows<A>& block, key_range range, index_t key_dimension, A* logits,
            block_prefetch& prefetch, bool has_values = true, bool chunk_invariant = false)
      : tile_(tile),
        block_(block),
        range_(range),
        key_dimension_(key_dimension),
        logits_(logits),
        prefetch_(prefetch),
        has_values_(has_values),
        chunk_invariant_(chunk_invariant),
        seen_(range.count()) {
    for (auto& most : peak_) most = simd::vector<A>(-infinity<A>);
  }

  bool has_values() const { return has_values_; }

  /// Computes the products of queries and keys. Returns false where no pair is visible.
  bool score(any_policies<A> const& call, bool masked) {
    key_work<A> const work{block_.keys(range_), std::max<index_t>(range_.count(), simd::register_rows),
                           {0, range_.count()}, tile_.rows.packed_query,
                           key_dimension_,      tile_.lanes()};
    if (!masked) {
      multiply_keys(tile_.vectors, work, logits_, peak_, prefetch_);
      return true;
    }
    call.find_visible(tile_.vectors, tile_.rows, range_, logits_, seen_);
    if (seen_.empty()) return false;
    multiply_keys(seen_, tile_.vectors, work, logits_, peak_, prefetch_);
    if (chunk_invariant_) seen_ = visible_parts(range_.count());
    return true;
  }

  void apply(any_policies<A> const& call, bool masked) {
    if (call.has_scores) call.apply(tile_.vectors, tile_.rows, range_, masked, logits_, peak_);
  }

  void hide(any_policies<A> const& call) { call.apply(tile_.vectors, tile_.rows, range_, true, logits_, peak_); }

  void write_logits(tensor_view<A, 4> const& pairs) const { engine::write_logits<A>(tile_, range_, logits_, 1, pairs); }

  /// Which of the keys the step works on; empty where it works on all.
  visible_parts const& seen() const { return seen_; }

  /// Finds the peaks of logits that are already in memory, -inf where they are hidden.
  void find_peaks() { engine::find_peaks(tile_.vectors, logits_, range_.count(), peak_); }

  void mark_hidden(bool may_hide) {
    guarded_ = has_values_ && may_hide && !block_.values_are_finite();
    if (guarded_) engine::mark_hidden(logits_, range_.count() * tile_.lanes(), hidden_);
  }

  void raise_maximum() { engine::raise_maximum(tile_, peak_, block_.padded_value_dimension()); }

  /// Shows the logits to statistics, and the weights as soon as they are known.
  void show_logits(row_statistics<A>& to) {
    statistics_ = &to;
    to.see_logits(tile_.vectors, range_, seen_.of_vectors(), logits_, tile_.statistics);
  }

  void weigh(any_policies<A> const& call) {
    call.weigh(tile_.vectors, tile_.rows, seen_.of_vectors(), tile_.maximum, tile_.weight_sum, logits_);
    if (statistics_)
      statistics_->see_weights(tile_.vectors, range_, seen_.of_vectors(), logits_, tile_.maximum, tile_.statistics);
  }

  void multiply_gain(A const* gain) { engine::multiply_gain(tile_.vectors, range_, gain, logits_); }

  void multiply_pairs(any_policies<A> const& call) { call.multiply_pairs(tile_.vectors, tile_.rows, range_, logits_); }

  void add_values() {
    rows_of<A> const value = block_.values(range_);
    index_t const padded = block_.padded_value_dimension();
    if (guarded_) {
      settle(tile_, padded);
      auto const add = [&](key_range keys, int low, int vectors) {
        index_t const lane = low * simd::width<A>, first = keys.first * tile_.lanes() + lane;
        multiply_values_guarded(vectors, rows_of<A>{value.row(keys.first), value.stride}, keys.count(), logits_ + first,
                                hidden_ + first, tile_.lanes(), block_.value_dimension(), tile_.sum + lane);
      };
      if (seen_.empty()) add({0, range_.count()}, 0, tile_.vectors);
      for (visible_part const& part : seen_) add(part.keys, part.low, part.vectors);
    } else if (!seen_.empty()) {
      multiply_values(seen_, tile_, value, logits_, padded, prefetch_);
    } else {
      // A sum that is added to 0, rather than written, may differ in the sign of zero: where bits must not depend on
      // other rows, it is always added.
      if (chunk_invariant_) settle(tile_, padded);
      multiply_values(tile_.vectors, value, range_.count(), logits_, tile_.lanes(), padded, tile_.sum, prefetch_,
                      std::exchange(tile_.fresh, false));
    }
  }

 private:
  tile<A>& tile_;
  block_rows<A>& block_;
  key_range range_;
  index_t key_dimension_;
  A* logits_;
  block_prefetch& prefetch_;
  bool has_values_, chunk_invariant_, guarded_ = false;
  visible_parts seen_;
  row_statistics<A>* statistics_ = nullptr;
  simd::vector<A> peak_[simd::register_vectors];
  bool hidden_[array_size(max_block_keys * lanes)];
};

}  // namespace attend::inline ATTEND_TARGET::engine
