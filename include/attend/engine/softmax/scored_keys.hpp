// SPDX-License-Identifier: BSD-3-Clause
// Operations on the logits of a tile between gathered_tiles::score, which writes them, and add_scored_keys, which turns
// them into weights: logits [key][lanes].
//
//   largest_logit    the largest logit of one key over the rows
//   add_columns      adds each key's softmax weights up over the rows
//   raise_logits     adds a number to all logits
//   hide_below       sets a logit to -inf where it is below its row's threshold
//
// Cost: the logits are read once. add_columns reads them three times and computes one exponential for each.
#pragma once

#include "../../simd/transpose.hpp"
#include "tile.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// The largest of one key's logits in `lanes` lanes. Lanes past the last row repeat it, and so do not change the
/// result.
template <class A>
A largest_logit(A const* logits, int lanes) {
  simd::vector<A> most = simd::load(logits);
  for (int lane = simd::width<A>; lane < lanes; lane += simd::width<A>)
    most = simd::max(most, simd::load(logits + lane));
  alignas(64) A each[simd::width<A>];
  simd::store(each, most);
  return *std::max_element(each, each + simd::width<A>);
}

/// sums[j] += sum over lanes of weight_j / sum_j weight_j, from logits [count][lanes], which become weights. Lanes past
/// `rows` and rows without visible keys add nothing.
template <class A>
void add_columns(A* logits, index_t count, int lanes, int rows, A* sums) {
  using namespace simd;
  constexpr int step = width<A>;
  alignas(64) A real[tile_lanes<A>] = {};
  std::fill_n(real, rows, A(1));
  for (int lane = 0; lane < lanes; lane += step) {
    vector<A> most(-infinity<A>), weight_sum(A(0));
    for (index_t j = 0; j < count; ++j) most = simd::max(most, load(logits + j * lanes + lane));
    most = simd::select(most == vector<A>(-infinity<A>), vector<A>(A(0)), most);
    for (index_t j = 0; j < count; ++j) {
      vector<A> const weight = attend::detail::softmax_weight<A>(load(logits + j * lanes + lane), most);
      store(logits + j * lanes + lane, weight);
      weight_sum = weight_sum + weight;
    }
    weight_sum = simd::select(weight_sum == vector<A>(A(0)), vector<A>(A(1)), weight_sum);
    store(real + lane, load(real + lane) / weight_sum);
  }
  // The sums of as many keys as a vector has lanes are formed at a time: a transpose turns sums across lanes into sums
  // of vectors.
  for (index_t j = 0; j < count; j += step) {
    vector<A> square[array_size(step)];
    index_t const keys = std::min<index_t>(step, count - j);
    for (int i = 0; i < step; ++i) {
      square[i] = vector<A>(A(0));
      for (int lane = 0; i < keys && lane < lanes; lane += step)
        square[i] = square[i] + load(logits + (j + i) * lanes + lane) * load(real + lane);
    }
    transpose<A>(square);
    vector<A> sum(A(0));
    for (int i = 0; i < step; ++i) sum = sum + square[i];
    narrow_part(sums + j, widen_part(sums + j, keys) + sum, keys);
  }
}

/// Adds `by` to the logits of `count` keys.
template <class A>
void raise_logits(A* logits, index_t count, index_t lanes, A by) {
  simd::vector<A> const more(by);
  for (index_t i = 0; i < count * lanes; i += simd::width<A>) simd::store(logits + i, simd::load(logits + i) + more);
}

/// Sets those logits of `count` keys to -inf that are below threshold[lane].
template <class A>
void hide_below(A* logits, index_t count, index_t lanes, A const* threshold) {
  simd::vector<A> const hidden(-infinity<A>);
  for (index_t j = 0; j < count; ++j)
    for (index_t lane = 0; lane < lanes; lane += simd::width<A>) {
      A* const at = logits + j * lanes + lane;
      simd::vector<A> const logit = simd::load(at);
      simd::store(at, simd::select(logit < simd::load(threshold + lane), hidden, logit));
    }
}

}  // namespace attend::inline ATTEND_TARGET::engine
