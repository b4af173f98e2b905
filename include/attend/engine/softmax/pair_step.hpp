// SPDX-License-Identifier: BSD-3-Clause
// The step of a tile (tile_step.hpp) with both products computed by a matrix unit: queries, keys and values in
// bfloat16, sums in float.
//
//   logits[key][lanes]     = scale * keys . queries       keys as they lie in memory, queries in pairs of elements
//   sum[dimension][lanes] += values^T . weights           weights rounded to bfloat16, in pairs of keys
//
// All between the products (scores, mask, exponentials, the weight sum) is computed in float, as in any tile. A weight
// that is rounded differs by at most 2^-8 of itself, so an output by at most 2^-8 of sum_j p_j |v_j|.
//
// Products are of whole groups of 16 keys, and of 32 for values, counted from the block's first key; logits of keys
// that are not in the tile's range are not read, and their weights are 0.
#pragma once

#include "pair_block.hpp"
#include "tile_step.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Scratch of the tiles of a task.
struct pair_scratch {
  static constexpr index_t lanes = tile<float>::max_lanes;
  static constexpr index_t max_keys = max_block_keys + simd::pair_depth;

  explicit pair_scratch(scratch& memory)
      : logits(memory.allocate<float>(max_keys * lanes)),
        weights(memory.allocate<simd::pair_bits>(max_keys / 2 * lanes)) {}

  float* logits;
  simd::pair_bits* weights;  // [key / 2][lanes]
};

template <class Unit>
class pair_step : public tile_step<float> {
 public:
  /// The tile's queries must be packed, both ways. `own` is what weigh_logits (softmax_step.hpp) gets.
  pair_step(Unit& unit, tile<float>& tile, block_rows<float>& block, pair_rows& pairs, key_range range,
            index_t key_dimension, float scale, pair_scratch const& memory, block_prefetch& prefetch, bool has_values,
            own_keys<float> const& own)
      : tile_step(tile, block, range, key_dimension,
                  memory.logits + (range.first - pairs.first()) % simd::pair_depth * tile.lanes(), prefetch,
                  has_values),
        unit_(unit),
        pairs_(pairs),
        own_(own),
        scale_(scale),
        weights_(memory.weights),
        first_(range.first - pairs.first()) {}

  bool score(any_policies<float> const& call, bool masked) {
    visible_ = {0, range_.count()};
    if (masked) {
      call.find_visible(tile_.vectors, tile_.rows, range_, logits_, seen_);
      if (seen_.empty()) return false;
      visible_ = {};
      for (int v = 0; v < tile_.vectors; ++v) visible_ = hull(visible_, seen_.of_vectors()[v]);
      seen_ = visible_parts(range_.count());
    }
    for_vectors(tile_.vectors, [&]<int Vectors>() { multiply_keys<Vectors>(); });
    // Where nothing is in between, the weights are computed from the products, and multiplied by the scale there.
    weighs_pairs_ = has_values_ && !own_.value_gain && !call.has_pair_gain && scale_ > 0;
    if (weighs_pairs_ && !masked && !call.has_scores && !own_.weights && !own_.logits)
      find_peaks(scale_);
    else
      scale_logits();
    return true;
  }

  void apply(any_policies<float> const& call, bool masked) {
    if (masked || call.has_scores) call.apply(tile_.vectors, tile_.rows, range_, masked, logits_, peak_);
  }

  void mark_hidden(bool) {
    guarded_ = has_values_ && !pairs_.values_are_finite();
    if (!guarded_) return;
    if (logit_scale_ != 1) scale_logits();
    mark_hidden_pairs();
  }

  void weigh(any_policies<float> const& call) {
    if (!weighs_pairs_) return tile_step::weigh(call);
    key_range const keys = whole_keys();
    fill_outside(keys, -infinity<float>);
    call.weigh_pairs(tile_.vectors, tile_.rows, keys.count(), tile_.maximum, tile_.weight_sum,
                     logits_ + (keys.first - first_) * tile_.lanes(), logit_scale_, weights_);
  }

  void add_values() {
    if (!weighs_pairs_) pack_weights(whole_keys());
    for_vectors(tile_.vectors, [&]<int Vectors>() { multiply_values<Vectors>(whole_keys()); });
    if (guarded_) add_infinities();
  }

 private:
  static constexpr index_t size = sizeof(float);

  /// The most groups of 16 rows, of which the sums with `Vectors` columns are in flight.
  template <int Vectors>
  static constexpr int groups = Vectors == 1   ? 4
                                : Vectors == 2 ? 2
                                               : 1;

  /// The keys of the block that values are multiplied for, in whole groups.
  key_range whole_keys() const {
    return {(first_ + visible_.first) / simd::pair_depth * simd::pair_depth,
            round_up(first_ + visible_.last, simd::pair_depth)};
  }

  /// Fills the logits or weights of those keys of the block that are not in the tile's range.
  void fill_outside(key_range keys, float with) {
    index_t const stride = tile_.lanes(), end = first_ + range_.count();
    float* const of_block = logits_ - first_ * stride;
    if (keys.first < first_) std::fill(of_block + keys.first * stride, of_block + first_ * stride, with);
    if (end < keys.last) std::fill(of_block + end * stride, of_block + keys.last * stride, with);
  }

  void find_peaks(float scale) {
    using namespace simd;
    logit_scale_ = scale;
    for (int v = 0; v < tile_.vectors; ++v) {
      vector<float> most(-infinity<float>);
      for (index_t key = visible_.first; key < visible_.last; ++key)
        most = simd::max(most, load(logits_ + (key * tile_.vectors + v) * width<float>));
      peak_[v] = most * vector<float>(scale);
    }
  }

  void scale_logits() {
    using namespace simd;
    vector<float> const factor(scale_);
    for (int v = 0; v < tile_.vectors; ++v) {
      vector<float> most(-infinity<float>);
      for (index_t key = visible_.first; key < visible_.last; ++key) {
        float* const at = logits_ + (key * tile_.vectors + v) * width<float>;
        vector<float> const logit = load(at) * factor;
        simd::store(at, logit);
        most = simd::max(most, logit);
      }
      peak_[v] = most;
    }
    logit_scale_ = 1;
  }

  template <int Vectors>
  [[gnu::noinline]] void multiply_keys() {
    using simd::pair_tile;
    index_t const stride = tile_.lanes();
    pair_rows::key_rows const keys = pairs_.keys();
    index_t const last = round_up(first_ + visible_.last, pair_tile);
    float* const logits = logits_ - first_ % simd::pair_depth * stride;
    index_t const origin = first_ / simd::pair_depth * simd::pair_depth;
    simd::pair_operands work{};
    work.a_stride = keys.stride;
    work.a_tile = pair_tile * keys.stride;
    work.a_step = simd::pair_depth * static_cast<index_t>(sizeof(std::uint16_t));
    work.b = reinterpret_cast<char const*>(tile_.query_pairs);
    work.b_stride = work.c_stride = stride * size;
    work.b_step = pair_tile * stride * size;
    work.depth = key_dimension_ / simd::pair_depth;
    work.fresh = true;
    for (index_t key = (first_ + visible_.first) / pair_tile * pair_tile; key < last;) {
      work.a = keys.data + key * keys.stride;
      work.c = reinterpret_cast<char*>(logits + (key - origin) * stride);
      if (key + groups<Vectors> * pair_tile <= last) {
        simd::multiply_tiles<groups<Vectors>, Vectors>(unit_, work);
        key += groups<Vectors> * pair_tile;
      } else {
        simd::multiply_tiles<1, Vectors>(unit_, work);
        key += pair_tile;
      }
      for (index_t c = 0; c < key_dimension_; c += prefetch_depth) prefetch_.step();
    }
  }

  /// Rounds the weights of keys of the block to pairs.
  void pack_weights(key_range keys) {
    using namespace simd;
    index_t const stride = tile_.lanes();
    fill_outside(keys, 0);
    float const* const weights = logits_ - first_ * stride;  // of the block's keys
    pair_bits* to = weights_;
    for (index_t key = keys.first; key < keys.last; key += 2)
      for (index_t lane = 0; lane < stride; lane += width<float>, to += width<float>)
        store_pairs(to, load(weights + key * stride + lane), load(weights + (key + 1) * stride + lane));
  }

  template <int Vectors>
  [[gnu::noinline]] void multiply_values(key_range keys) {
    using simd::pair_tile;
    constexpr index_t tile_bytes = pair_tile * pair_tile * size;
    index_t const stride = tile_.lanes(), columns = block_.value_dimension();
    simd::pair_operands work{};
    work.a_stride = pair_tile * size;
    work.a_tile = pairs_.tiles_of_column() * tile_bytes;
    work.a_step = tile_bytes;
    work.b = reinterpret_cast<char const*>(weights_);
    work.b_stride = work.c_stride = stride * size;
    work.b_step = pair_tile * stride * size;
    work.depth = keys.count() / simd::pair_depth;
    work.fresh = std::exchange(tile_.fresh, false);
    work.a = reinterpret_cast<char const*>(pairs_.values()) + keys.first / simd::pair_depth * tile_bytes;
    work.c = reinterpret_cast<char*>(tile_.sum);
    for (index_t column = 0; column < columns;) {
      int taken = 1;
      if (column + groups<Vectors> * pair_tile <= columns) {
        taken = groups<Vectors>;
        simd::multiply_tiles<groups<Vectors>, Vectors>(unit_, work);
      } else {
        simd::multiply_tiles<1, Vectors>(unit_, work);
      }
      column += taken * pair_tile;
      work.a += taken * work.a_tile;
      work.c += taken * pair_tile * stride * size;
      for (index_t c = 0; c < taken * pair_tile; c += simd::register_rows) prefetch_.step();
    }
  }

  /// Adds the products with values that are not finite, which the tiles do not have, where their keys are visible: so
  /// hidden ones change no bit.
  [[gnu::cold, gnu::noinline]] void add_infinities() {
    rows_of<float> const values = block_.values(range_);
    index_t const stride = tile_.lanes(), from = first_ - whole_keys().first;
    for (index_t key = visible_.first; key < visible_.last; ++key) {
      simd::pair_bits const* const weights = weights_ + (from + key) / 2 * stride;
      for (index_t c = 0; c < block_.value_dimension(); ++c) {
        float const value = values.row(key)[c];
        if (std::isfinite(value)) continue;
        for (index_t lane = 0; lane < stride; ++lane) {
          simd::pair_bits const weight = (from + key) % 2 == 0 ? weights[lane] << 16 : weights[lane] & 0xffff0000u;
          if (!hidden_[key * stride + lane]) tile_.sum[c * stride + lane] += std::bit_cast<float>(weight) * value;
        }
      }
    }
  }

  Unit& unit_;
  pair_rows& pairs_;
  own_keys<float> const& own_;
  float scale_, logit_scale_ = 1;  // by which products, and what is in memory, are multiplied to become logits
  simd::pair_bits* weights_;
  index_t first_;      // of the range, in the block
  key_range visible_;  // the keys of the range outside of which none is visible
  bool weighs_pairs_ = false;
};

}  // namespace attend::inline ATTEND_TARGET::engine
