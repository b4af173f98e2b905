// SPDX-License-Identifier: BSD-3-Clause
// A stage of the pipeline of tiles on a matrix unit: three tiles at once, each at another point of its step
// (pair_pipeline.hpp).
//
//   the unit     multiplies queries and keys of one tile, and weights and values of another,
//   vectors      compute the weights of the third from the logits of the stage before.
//
// Neither waits for the other: the processor executes ahead, over products that wait for the unit. So the instructions
// of both alternate, in shares that end together.
#pragma once

#include "pair_multiply.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// A tile and keys of a block, a multiple of 32 from the first key of a tile of values on. Some of them, the first and
/// the last ones, may be padding.
struct pair_piece {
  engine::tile<float>* tile = nullptr;
  simd::pair_matrix keys{}, values{};
  key_range range;                     // the positions of those that are not padding
  index_t before = 0;                  // how many are padding before these
  index_t count = 0;                   // of all keys
  index_t multiplied = 0;              // how many of them the unit multiplies, a multiple of 16: there may be no others
  index_t block = 0;                   // how often the block had moved
  float* logits = nullptr;             // [key][lanes]
  simd::pair_bits* weights = nullptr;  // [key / 2][lanes]
  simd::vector<float> scale[simd::register_vectors];  // by which logits are multiplied when weights are computed

  /// The logits of the range.
  float* range_logits() const { return logits + before * tile->lanes(); }
  index_t range_size() const { return range.count() * tile->lanes(); }
};

/// What a stage does. The tiles have as many vectors as each other; any of the pieces may be missing.
struct pair_stage {
  simd::pair_unit* unit;
  pair_piece const* scores;
  pair_piece const* weighs;
  pair_piece const* adds;
  index_t key_dimension, value_dimension;  // multiples of 32 and of 16
  block_prefetch* prefetch;
  simd::vector<float>* peak;  // becomes that of the products of `scores`, not scaled, for each vector; or null
};

/// Computes the weights of a piece, some keys with each call.
template <int Vectors, class N>
class weights_in_turn {
 public:
  /// `steps` calls are expected.
  weights_in_turn(N const& normalizer, pair_piece const* piece, index_t steps)
      : normalizer_(normalizer), piece_(piece) {
    if (!piece) return;
    logits_ = piece->logits;
    weights_ = piece->weights;
    left_ = piece->count / keys_of_pairs;
    of_step_ = divide_up(left_, std::max<index_t>(steps, 1));
    for (int v = 0; v < Vectors; ++v) {
      scale_[v] = piece->scale[v];
      maximum_[v] = finite_maximum(piece->tile->maximum + v * simd::width<float>);
    }
  }

  ATTEND_INLINE void operator()() {
    for (index_t i = 0; i < of_step_ && left_ > 0; ++i) weigh();
  }

  /// The rest of them.
  void finish() {
    while (left_ > 0) weigh();
    if constexpr (N::has_weight_sum)
      for (int v = 0; piece_ && v < Vectors; ++v) {
        float* const sum = piece_->tile->weight_sum + v * simd::width<float>;
        simd::store(sum, simd::load(sum) + added_[v]);
      }
  }

 private:
  static constexpr index_t lanes = Vectors * simd::width<float>;

  ATTEND_INLINE void weigh() {
    ATTEND_UNROLL for (int v = 0; v < Vectors; ++v)
        weigh_pairs(normalizer_, logits_ + v * simd::width<float>, lanes, scale_[v], maximum_[v], added_[v],
                    weights_ + v * simd::width<float>);
    logits_ += keys_of_pairs * lanes;
    weights_ += keys_of_pairs / 2 * lanes;
    --left_;
  }

  N const& normalizer_;
  pair_piece const* piece_;
  float const* logits_ = nullptr;
  simd::pair_bits* weights_ = nullptr;
  index_t left_ = 0, of_step_ = 0;  // in groups of keys_of_pairs
  simd::vector<float> scale_[array_size(Vectors)], maximum_[array_size(Vectors)];
  simd::vector<float> added_[array_size(Vectors)] = {};
};

template <int Vectors, class N>
[[gnu::noinline]] void run_stage(N const& normalizer, pair_stage const& stage) {
  constexpr index_t lanes = Vectors * simd::width<float>;
  index_t steps = 0;
  if (stage.scores) steps += steps_of_pairs(stage.scores->multiplied, stage.key_dimension);
  if (stage.adds) steps += steps_of_pairs(stage.value_dimension, stage.adds->count);
  weights_in_turn<Vectors, N> weights(normalizer, stage.weighs, steps);
  auto const beside = [&]() ATTEND_INLINE_LAMBDA { weights(); };
  if (pair_piece const* const piece = stage.adds)
    multiply_pair_rows<Vectors>(*stage.unit, piece->values, stage.value_dimension, piece->weights, piece->count,
                                piece->tile->sum, std::exchange(piece->tile->fresh, false), *stage.prefetch, beside,
                                [](index_t) {});
  if (pair_piece const* const piece = stage.scores) {
    simd::vector<float> peak[array_size(Vectors)];
    for (auto& most : peak) most = simd::vector<float>(-infinity<float>);
    // Those of a group of keys while the unit multiplies the next one: they are in the cache then.
    index_t found = 0;
    auto const find_peaks = [&](index_t end) ATTEND_INLINE_LAMBDA {
      for (; stage.peak && found < end; ++found)
        ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) peak[v] =
            simd::max(peak[v], simd::load(piece->logits + found * lanes + v * simd::width<float>));
    };
    multiply_pair_rows<Vectors>(*stage.unit, piece->keys, piece->multiplied, piece->tile->query_pairs,
                                stage.key_dimension, piece->logits, true, *stage.prefetch, beside, find_peaks);
    find_peaks(piece->multiplied);
    if (stage.peak) std::copy_n(peak, Vectors, stage.peak);
  }
  weights.finish();
}

}  // namespace attend::inline ATTEND_TARGET::engine
