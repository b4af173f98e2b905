// SPDX-License-Identifier: BSD-3-Clause
// What is read from the logits of a tile, or done to them, between scoring keys and seeing them: logits [key][lanes],
// as gathered_tiles::score writes them.
//
//   largest_logit    of one key, over the rows
//   add_columns      the sums over rows of softmax weights, key by key
//   raise_logits     adds a number
//   hide_below       -inf where a logit is below its row's threshold
//
// Cost: the logits are read once, by add_columns three times; an exponential each for add_columns.
#pragma once

#include "../../simd/transpose.hpp"
#include "tile.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Of one key's logits, in so many lanes. Lanes past the last row repeat it.
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
/// `rows` count nothing, and neither does a row without keys.
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
  // The sums of a vector's width of keys at a time, across lanes by a transpose.
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

/// Adds a number to the logits of some keys.
template <class A>
void raise_logits(A* logits, index_t count, index_t lanes, A by) {
  simd::vector<A> const more(by);
  for (index_t i = 0; i < count * lanes; i += simd::width<A>) simd::store(logits + i, simd::load(logits + i) + more);
}

/// Hides the logits of some keys that are below threshold[lane].
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
