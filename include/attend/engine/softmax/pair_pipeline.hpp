// SPDX-License-Identifier: BSD-3-Clause
// The step of a tile (softmax_step.hpp) with both products computed by a matrix unit: queries, keys and values in
// bfloat16, sums in float.
//
//   logits[key][lanes]     = scale * keys . queries       keys as they lie in memory, queries in pairs of elements
//   sum[dimension][lanes] += values^T . weights           weights rounded to bfloat16, in pairs of keys
//
// All between the products (scores, mask, exponentials, the weight sum) is computed in float, as in any tile. A weight
// that is rounded differs by at most 2^-8 of itself, so an output by at most 2^-8 of sum_j p_j |v_j|.
//
// Tiles pass through a pipeline: while the logits of one are computed, vectors compute the weights of the tile before
// it, and the values of the tile before that one are added (pair_stage.hpp). Scores and mask are applied between two
// stages. A tile whose weights are multiplied by gains, or that meets values that are not finite, is done with before
// the next one comes; with finite values its bits are the same either way.
//
// Products are of whole groups of 32 keys, counted from the block's first key (pair_block.hpp). Logits of keys that are
// not in the tile's range are -inf.
#pragma once

#include "any_policies.hpp"
#include "pair_stage.hpp"
#include "tile_step.hpp"

namespace attend::inline ATTEND_TARGET::engine {

class pair_pipeline {
 public:
  /// `key_depth` is the dimension of a key with all its parts.
  template <Element T>
  pair_pipeline(simd::pair_unit& unit, scratch& memory, problem<T> const& p, own_keys<float> const& own,
                any_policies<float> const& call, index_t block_keys, index_t key_depth, block_prefetch& prefetch)
      : memory_(memory),
        call_(call),
        own_(own),
        scale_(p.scale),
        has_values_(p.has_values),
        gains_(p.has_values && (own.value_gain || call.has_pair_gain)),
        scales_first_(call.has_scores || gains_ || !(p.scale > 0)),
        block_keys_(block_keys),
        value_dimension_(p.shape.value_dimension) {
    stage_.unit = &unit;
    stage_.key_dimension = key_depth;
    stage_.value_dimension = round_up(value_dimension_, simd::pair_tile);
    stage_.prefetch = &prefetch;
    for (buffers& b : buffers_)
      b = {memory.allocate<float>(block_keys * lanes), memory.allocate<simd::pair_bits>(block_keys / 2 * lanes)};
  }

  /// Adds keys of a block to a tile, whose queries are packed. `pairs` and `block` are the same block. `masked`: some
  /// of the keys are hidden from some rows.
  void add(tile<float>& tile, pair_rows& pairs, block_rows<float>& block, key_range range, bool masked) {
    // The tile's maximum is raised now. Two blocks' values are kept.
    for (pair_piece const* const piece : {&scored_, &weighed_})
      if (piece->tile &&
          (piece->tile == &tile || piece->tile->vectors != tile.vectors || piece->block + 1 < pairs.moves()))
        finish();
    buffers const& own = buffers_[pieces_ % 2];
    key_range const visible = masked ? hull_of_visible(tile, range, own.logits) : range;
    // Without a piece, the next one takes the same buffers: those of the other number hold the logits of `scored_`.
    if (visible.empty()) return;
    ++pieces_;

    index_t const first_in_block = visible.first - pairs.first();
    pair_piece piece;
    piece.tile = &tile;
    piece.range = visible;
    piece.before = first_in_block % simd::pair_depth;
    piece.count = round_up(piece.before + visible.count(), simd::pair_depth);
    piece.multiplied = round_up(piece.before + visible.count(), simd::pair_tile);
    piece.keys = pairs.keys().from(first_in_block - piece.before, 0);
    if (has_values_) piece.values = pairs.values().from(0, first_in_block - piece.before);
    piece.block = pairs.moves();
    float const scale = scales_first_ ? 1 : scale_;
    std::fill_n(piece.scale, simd::register_vectors, simd::vector<float>(scale));
    piece.logits = own.logits;
    piece.weights = own.weights;
    bool const plain = visible.count() == piece.count && !masked && !scales_first_ && !own_.weights && !own_.logits;
    simd::vector<float> peak[simd::register_vectors];
    run(&piece, plain ? peak : nullptr);
    if (!plain) apply(piece, masked, peak);
    for (int v = 0; v < tile.vectors; ++v) peak[v] = peak[v] * piece.scale[v];
    if (call_.keeps_maximum) {
      raise_maximum(tile, peak, stage_.value_dimension);
      if (!scales_first_) scale_those_far_from_zero(piece);
    }
    if (own_.statistics) show(piece);
    if (gains_)
      add_with_gains(piece, pairs, block);
    else if (has_values_ && !pairs.values_are_finite())
      add_with_infinities(piece, block);
    else
      scored_ = piece;
  }

  /// Adds what is left of the tiles in the pipeline.
  void finish() {
    while (scored_.tile || weighed_.tile) run(nullptr, nullptr);
  }

 private:
  static constexpr index_t lanes = tile<float>::max_lanes;
  struct buffers {
    float* logits;
    simd::pair_bits* weights;
  };

  /// The range outside of which no key is visible to any row. It overwrites the logits.
  key_range hull_of_visible(tile<float> const& tile, key_range range, float* logits) const {
    key_range visible;
    for_each_part(range, [&](key_range part) {
      visible_parts seen(part.count());
      call_.find_visible(tile.vectors, tile.rows, part, logits, seen);
      if (seen.empty()) return;
      for (int v = 0; v < tile.vectors; ++v)
        if (key_range const keys = seen.of_vectors()[v]; !keys.empty())
          visible = hull(visible, {part.first + keys.first, part.first + keys.last});
    });
    return visible;
  }

  void scale_logits(float* logits, float const* end) const {
    for (; logits < end; logits += simd::width<float>)
      simd::store(logits, simd::load(logits) * simd::vector<float>(scale_));
  }

  /// Logits that are not rounded may be further from a row's maximum, which is, than a weight allows: at 2^20 rounding
  /// changes a logit by up to 1/16, at 2^31 by 128. Rows with such a maximum have their logits multiplied by the scale
  /// in memory, which rounds them, so that no other row's bits change.
  void scale_those_far_from_zero(pair_piece& piece) const {
    tile<float> const& tile = *piece.tile;
    simd::vector<float> const one(1.0f);
    for (int v = 0; v < tile.vectors; ++v) {
      simd::vector<float> const most = simd::abs(simd::load(tile.maximum + v * simd::width<float>));
      auto const far = (most > simd::vector<float>(0x1p20f)) & (most < simd::vector<float>(infinity<float>));
      if (!simd::any<float>(far)) continue;
      simd::vector<float> const factor = simd::select(far, piece.scale[v], one);
      float* at = piece.logits + v * simd::width<float>;
      for (index_t key = 0; key < piece.count; ++key, at += tile.lanes()) simd::store(at, simd::load(at) * factor);
      piece.scale[v] = simd::select(far, one, piece.scale[v]);
    }
  }

  /// Applies scores and mask to the products, hides the padding, and finds the peaks.
  void apply(pair_piece const& piece, bool masked, simd::vector<float>* peak) const {
    tile<float> const& tile = *piece.tile;
    key_range const range = piece.range;
    float *const logits = piece.range_logits(), *const end = logits + piece.range_size();
    std::fill(piece.logits, logits, -infinity<float>);
    std::fill(end, piece.logits + piece.count * tile.lanes(), -infinity<float>);
    if (scales_first_) scale_logits(logits, end);
    for (int v = 0; v < tile.vectors; ++v) peak[v] = simd::vector<float>(-infinity<float>);
    if (masked || call_.has_scores) {
      for_each_part(range, [&](key_range part) {
        simd::vector<float> most[simd::register_vectors];
        call_.apply(tile.vectors, tile.rows, part, masked, logits + (part.first - range.first) * tile.lanes(), most);
        for (int v = 0; v < tile.vectors; ++v) peak[v] = simd::max(peak[v], most[v]);
      });
    } else {
      find_peaks(tile.vectors, logits, range.count(), peak);
    }
    for (auto const* to : {own_.weights, own_.logits})
      if (to) write_logits(tile, range, logits, scales_first_ ? 1 : scale_, *to);
  }

  /// Shows logits to statistics.
  void show(pair_piece const& piece) const {
    tile<float> const& tile = *piece.tile;
    for_each_part(piece.range, [&](key_range part) {
      own_.statistics->see_scaled(call_, tile.vectors, tile.rows, part,
                                  piece.range_logits() + (part.first - piece.range.first) * tile.lanes(), piece.scale,
                                  tile.maximum, tile.statistics);
    });
  }

  /// Finishes a piece whose weights are multiplied by gains before they are rounded.
  void add_with_gains(pair_piece const& piece, pair_rows& pairs, block_rows<float>& block) {
    finish();
    tile<float>& tile = *piece.tile;
    key_range const range = piece.range;
    float* const weights = piece.range_logits();
    if (!pairs.values_are_finite()) mark_hidden(piece);
    key_range all[simd::register_vectors];
    std::fill_n(all, simd::register_vectors, key_range{0, piece.count});
    call_.weigh(tile.vectors, tile.rows, all, tile.maximum, tile.weight_sum, piece.logits);
    // A normalizer may mark hidden keys by weights of its own (two_passes.hpp), which the padding must not keep.
    std::fill(piece.logits, weights, 0.f);
    std::fill(weights + piece.range_size(), piece.logits + piece.count * tile.lanes(), 0.f);
    if (call_.has_pair_gain)
      for_each_part(range, [&](key_range part) {
        call_.multiply_pairs(tile.vectors, tile.rows, part, weights + (part.first - range.first) * tile.lanes());
      });
    if (own_.value_gain) multiply_gain(tile.vectors, range, own_.value_gain, weights);
    simd::pair_bits* to = piece.weights;
    for (index_t key = 0; key < piece.count; key += keys_of_pairs, to += keys_of_pairs / 2 * tile.lanes())
      for (index_t lane = 0; lane < tile.lanes(); lane += simd::width<float>) {
        simd::vector<float> rows[array_size(keys_of_pairs)];
        for (index_t i = 0; i < keys_of_pairs; ++i)
          rows[i] = simd::load(piece.logits + (key + i) * tile.lanes() + lane);
        simd::store_group<simd::pair_unit>(to + lane, tile.lanes(), rows);
      }
    weighed_ = piece;
    finish();
    if (!pairs.values_are_finite()) add_infinities(piece, block);
  }

  /// Finishes a piece with values that are not finite.
  void add_with_infinities(pair_piece const& piece, block_rows<float>& block) {
    finish();
    mark_hidden(piece);
    scored_ = piece;
    finish();
    add_infinities(piece, block);
  }

  void mark_hidden(pair_piece const& piece) {
    if (!hidden_) hidden_ = memory_.allocate<bool>(block_keys_ * lanes);
    engine::mark_hidden(piece.range_logits(), piece.range_size(), hidden_);
  }

  /// Adds the products with values that are not finite, which the tiles do not have, where their keys are visible: so
  /// hidden ones change no bit.
  [[gnu::cold, gnu::noinline]] void add_infinities(pair_piece const& piece, block_rows<float>& block) const {
    rows_of<float> const values = block.values(piece.range);
    tile<float>& tile = *piece.tile;
    index_t const stride = tile.lanes();
    for (index_t key = 0; key < piece.range.count(); ++key) {
      index_t const place = piece.before + key;
      constexpr simd::pair_order order = simd::pair_unit::order;
      for (index_t c = 0; c < value_dimension_; ++c) {
        float const value = values.row(key)[c];
        if (std::isfinite(value)) continue;
        for (index_t lane = 0; lane < stride; ++lane) {
          simd::pair_bits const pair = piece.weights[order.place(order.pair_of(place), lane, stride)],
                                weight = order.half_of(place) == 0 ? pair << 16 : pair & 0xffff0000u;
          if (!hidden_[key * stride + lane]) tile.sum[c * stride + lane] += std::bit_cast<float>(weight) * value;
        }
      }
    }
  }

  /// Runs a stage with the products of the next piece, if there is one, and moves the others on.
  void run(pair_piece const* next, simd::vector<float>* peak) {
    stage_.scores = next;
    stage_.weighs = scored_.tile ? &scored_ : nullptr;
    stage_.adds = weighed_.tile && has_values_ ? &weighed_ : nullptr;
    stage_.peak = peak;
    if (stage_.scores || stage_.weighs || stage_.adds) call_.run_stage(stage_);
    weighed_ = std::exchange(scored_, {});
  }

  scratch& memory_;
  any_policies<float> const& call_;
  own_keys<float> const& own_;
  float scale_;
  bool has_values_, gains_;
  bool scales_first_;  // whether logits in memory are multiplied by the scale
  index_t block_keys_, value_dimension_, pieces_ = 0;
  pair_stage stage_;
  buffers buffers_[2];
  bool* hidden_ = nullptr;
  pair_piece scored_, weighed_;
};

}  // namespace attend::inline ATTEND_TARGET::engine
