// SPDX-License-Identifier: BSD-3-Clause
// One tile of the tiled engine: a few dozen rows, which are queries of query heads, side by side in lanes, and their
// softmax state.
//
//   rows.packed_query [key dimension][lanes]  the queries, transposed and scaled
//   sum          [value dimension][lanes]   sum_j weight_j v_j, relative to the maximum
//   maximum      [lanes]                    the maximum of the logits so far
//   weight_sum   [lanes]                    the weight sum, sum_j weight_j
//
// A block of keys is processed in four steps: logits (a register-tile product), scores and mask, weights, values
// (another register-tile product). All loops run over the keys, lane by lane; there is no sum across lanes anywhere.
//
// The maximum is raised lazily: as long as no logit exceeds it by more than a few powers of two, weights stay relative
// to the old one, and sums need not be rescaled. The quotient of sum and weight sum is the same, and floats have the
// range for such weights.
#pragma once

#include <utility>

#include "../../policy/normalizer/softmax.hpp"
#include "../../policy/pair_tensor.hpp"
#include "../../simd/pair_products.hpp"
#include "key_block.hpp"
#include "problem.hpp"

namespace attend::inline ATTEND_TARGET::engine {

template <class A>
struct tile {
  static constexpr int max_lanes = simd::tile_lanes<A>;

  tile_rows<A> rows;
  simd::pair_bits const* query_pairs = nullptr;  // [key dimension / 2][lanes], not scaled, for a matrix unit
  int vectors;                                   // the number of vectors of lanes that are in use
  A* sum;
  bool fresh;               // no key was added yet, and `sum` is not written
  A* statistics = nullptr;  // the state of row_statistics.hpp, where statistics are asked for
  alignas(64) A maximum[array_size(max_lanes)];
  alignas(64) A weight_sum[array_size(max_lanes)];

  int lanes() const { return vectors * simd::width<A>; }
};

/// Calls function(part) for the parts of a range, each of as many keys as policies allow.
template <class Function>
void for_each_part(key_range range, Function const& function) {
  for (index_t first = range.first; first < range.last; first += max_block_keys)
    function(key_range{first, std::min(first + max_block_keys, range.last)});
}

/// Resets the state of the tile to that without keys.
template <class A>
void restart(tile<A>& tile) {
  std::fill_n(tile.maximum, tile.max_lanes, -infinity<A>);
  std::fill_n(tile.weight_sum, tile.max_lanes, A(0));
  tile.fresh = true;
}

/// Writes zeros to the sum of a tile to which no key was added, so that it can be read.
template <class A>
void settle(tile<A>& tile, index_t padded_dimension) {
  if (std::exchange(tile.fresh, false)) std::fill_n(tile.sum, padded_dimension * tile.lanes(), A(0));
}

/// Calls function.template operator()<Vectors>() with the number of vectors as a constant, which register tiles need.
/// Only products use it: other loops have the number as a variable, which costs nothing there and compiles once.
template <class Function>
void for_vectors(int vectors, Function&& function) {
  switch (vectors) {
    case 1:
      return function.template operator()<1>();
    case 2:
      return function.template operator()<2>();
    default:
      return function.template operator()<3>();
  }
}
static_assert(simd::register_vectors == 3);

/// The operands of multiply_keys: keys, and queries [dimension][lanes], of which some vectors are multiplied.
template <class A>
struct key_work {
  rows_of<A> key;
  index_t keys;    // the number of keys that can be read, at least register_rows
  key_range part;  // the keys that are multiplied
  A const* query;  // the first of the vectors that are multiplied
  index_t dimension, lanes;
  bool hides = false;
};

/// logits[j][lane] = key j . packed query, for the keys of the part; peak[v] is raised to the largest of them. `logits`
/// points to the first of the vectors; where `work.hides`, logits that are -inf stay -inf.
template <int Vectors, class A>
[[gnu::noinline]] void multiply_keys(key_work<A> const& work, A* logits, simd::vector<A>* peak,
                                     block_prefetch& prefetch) {
  using namespace simd;
  index_t const lanes = work.lanes;
  for (index_t j = work.part.first; j < work.part.last; j += register_rows) {
    // The last register tile may repeat some keys of the one before, whose logits get the same bits again.
    index_t const first = std::min<index_t>(j, work.keys - register_rows);
    register_tile<A, Vectors> products;
    products.clear();
    // Prefetches are spread out: many of them in a row would fill the line fill buffers and stall the products.
    for (index_t c = 0; c < work.dimension; c += prefetch_depth) {
      products.template multiply_add<false>(work.key.row(first) + c, work.key.stride, work.query + c * lanes,
                                            std::min(prefetch_depth, work.dimension - c), lanes);
      prefetch.step();
    }
    if (work.hides) {
      vector<A> const hidden(-infinity<A>);
      ATTEND_UNROLL for (int i = 0; i < register_rows; ++i) {
        ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) {
          auto const hides = load(logits + (first + i) * lanes + v * width<A>) == hidden;
          products.sum[i][v] = simd::select(hides, hidden, products.sum[i][v]);
        }
      }
    }
    products.store(logits + first * lanes, lanes);
    ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) {
      vector<A> most = peak[v];
      ATTEND_UNROLL for (int i = 0; i < register_rows; ++i) most = simd::max(most, products.sum[i][v]);
      peak[v] = most;
    }
  }
}
template <class A>
void multiply_keys(int vectors, key_work<A> const& work, A* logits, simd::vector<A>* peak, block_prefetch& prefetch) {
  for_vectors(vectors, [&]<int Vectors>() { multiply_keys<Vectors>(work, logits, peak, prefetch); });
}

/// sum[c][lane] += sum_j weights[j][lane] * value[j][c], or = if `fresh`. Rows of weights and sum are `lanes` apart,
/// and begin with the first of the vectors that are multiplied.
template <int Vectors, class A>
[[gnu::noinline]] void multiply_values(rows_of<A> value, index_t keys, A const* weights, index_t lanes,
                                       index_t padded_dimension, A* sum, block_prefetch& prefetch, bool fresh) {
  using namespace simd;
  for (index_t c = 0; c < padded_dimension; c += register_rows) {
    register_tile<A, Vectors> products;
    // Products are summed up within the block first: shorter sums have smaller errors, at the same cost.
    products.clear();
    products.template multiply_add<true>(value.data + c, value.stride, weights, keys, lanes);
    if (fresh)
      products.store(sum + c * lanes, lanes);
    else
      products.add_to(sum + c * lanes, lanes);
    prefetch.step();
  }
}
template <class A>
void multiply_values(int vectors, rows_of<A> value, index_t keys, A const* weights, index_t lanes,
                     index_t padded_dimension, A* sum, block_prefetch& prefetch, bool fresh) {
  for_vectors(vectors, [&]<int Vectors>() {
    multiply_values<Vectors>(value, keys, weights, lanes, padded_dimension, sum, prefetch, fresh);
  });
}

/// The same where some values are NaN or infinite: a hidden key, whose logit was -inf, must add nothing, not 0 * NaN.
/// The sums have the same order, and so the same bits where all visible values are finite.
template <class A>
[[gnu::cold, gnu::noinline]] void multiply_values_guarded(int vectors, rows_of<A> value, index_t keys, A const* weights,
                                                          bool const* hidden, index_t lanes, index_t dimension,
                                                          A* sum) {
  using namespace simd;
  for (index_t lane = 0; lane < vectors * width<A>; lane += width<A>)
    for (index_t c = 0; c < dimension; ++c) {
      vector<A> total(A(0));
      for (index_t j = 0; j < keys; ++j) {
        alignas(64) A hides[array_size(width<A>)];
        for (int i = 0; i < width<A>; ++i) hides[i] = hidden[j * lanes + lane + i] ? A(1) : A(0);
        vector<A> const added = fused_multiply_add(vector<A>(value.row(j)[c]), load(weights + j * lanes + lane), total);
        total = simd::select(load(hides) == vector<A>(A(1)), total, added);
      }
      A* const at = sum + c * lanes + lane;
      store(at, load(at) + total);
    }
}

/// Applies the scores and the mask (or absent) to the logits in place, and sets `peak` to their new peak.
template <class A, class BoundMask, class... BoundScores>
void apply_policies(int vectors, tile_rows<A> const& rows, key_range range, A* logits, simd::vector<A>* peak,
                    BoundMask const& mask, BoundScores const&... scores) {
  using namespace simd;
  index_t const lanes = vectors * width<A>;
  vector<A> const hidden(-infinity<A>);
  for (int v = 0; v < vectors; ++v) {
    int const lane = v * width<A>;
    auto const position = load(rows.position + lane);
    alignas(64) A as_score[width<A>];
    for (int i = 0; i < width<A>; ++i) as_score[i] = static_cast<A>(rows.position[lane + i]);
    vector<A> const score_position = load(as_score);
    vector<A> most(-infinity<A>);
    for (index_t key = range.first; key < range.last; ++key) {
      A* const at = logits + (key - range.first) * lanes + lane;
      vector<A> s = load(at);
      if constexpr (sizeof...(BoundScores) > 0) {
        score_place<A> const place{score_position, vector<A>(static_cast<A>(key)), rows, key, lane};
        ((s = scores(s, place)), ...);
      }
      if constexpr (!std::same_as<BoundMask, attend::detail::absent>) {
        auto const seen = mask(mask_place<A>{position, key, rows, key, lane});
        s = simd::select(simd::reinterpret_mask<A>(seen), s, hidden);
      }
      store(at, s);
      most = simd::max(most, s);
    }
    peak[v] = most;
  }
}

/// Raises `peak` to the largest logits of `keys` keys.
template <class A>
void find_peaks(int vectors, A const* logits, index_t keys, simd::vector<A>* peak) {
  for (index_t j = 0; j < keys; ++j)
    for (int v = 0; v < vectors; ++v, logits += simd::width<A>) peak[v] = simd::max(peak[v], simd::load(logits));
}

/// By how much logits may exceed the maximum before it is raised. Weights are then at most e^2 = 7.4 times the unit
/// (normalizer/softmax.hpp). A larger slack would leave less of the range of floats to large and small values; with a
/// smaller one the maximum would be raised, and sums rescaled, more often.
template <class A>
inline constexpr A maximum_slack = A(2);

/// Raises the maximum where a logit exceeds it by more than the slack, and rescales the sums.
template <class A>
void raise_maximum(tile<A>& tile, simd::vector<A> const* peak, index_t padded_dimension) {
  using namespace simd;
  vector<A> const slack(maximum_slack<A>);
  auto const log2_of_e = vector<A>(A(log2_e));
  bool rise = false;
  for (int v = 0; v < tile.vectors; ++v) rise |= any<A>(peak[v] > load(tile.maximum + v * width<A>) + slack);
  if (!rise) return;
  vector<A> shrink[register_vectors];
  bool fresh = true;
  for (int v = 0; v < tile.vectors; ++v) {
    vector<A> const old = load(tile.maximum + v * width<A>);
    fresh &= all<A>(old == vector<A>(-infinity<A>));
    // Only rows whose own logits require it get a new maximum: so a row's sums do not depend on the other rows.
    vector<A> const risen = simd::select(peak[v] > old + slack, peak[v], old);
    // Before the first visible key, old and risen may both be -inf, whose difference is NaN.
    vector<A> const same(A(1));
    shrink[v] = simd::select(old == risen, same, simd::exp2<A>((old - risen) * log2_of_e));
    store(tile.maximum + v * width<A>, risen);
    store(tile.weight_sum + v * width<A>, load(tile.weight_sum + v * width<A>) * shrink[v]);
  }
  if (fresh || tile.fresh) return;
  A* at = tile.sum;
  for (index_t c = 0; c < padded_dimension; ++c)
    for (int v = 0; v < tile.vectors; ++v, at += width<A>) store(at, load(at) * shrink[v]);
}

/// What weights of a vector of lanes are relative to: their maximum. A row without visible keys keeps -inf as its
/// maximum; 0 in its place makes the weights of hidden keys exp(-inf).
template <class A>
ATTEND_INLINE simd::vector<A> finite_maximum(A const* maximum) {
  simd::vector<A> const most = simd::load(maximum);
  return simd::select(most == simd::vector<A>(-infinity<A>), simd::vector<A>(A(0)), most);
}

/// Turns logits into weights in place and adds them to the weight sums: for each vector of lanes, those of the keys in
/// its range.
template <class A, class N>
void weigh(N const& normalizer, int vectors, key_range const* ranges, A const* maximum, A* weight_sum, A* logits) {
  using namespace simd;
  for (int v = 0; v < vectors; ++v) {
    vector<A> const most = finite_maximum(maximum + v * width<A>);
    vector<A> added(A(0));
    for (index_t j = ranges[v].first; j < ranges[v].last; ++j) {
      A* const at = logits + (j * vectors + v) * width<A>;
      vector<A> const s = load(at);
      vector<A> const weight = normalizer.template weight<A>(s, most);
      if constexpr (N::has_weight_sum) added = added + normalizer.template weight_sum<A>(s, weight);
      store(at, weight);
    }
    if constexpr (N::has_weight_sum) store(weight_sum + v * width<A>, load(weight_sum + v * width<A>) + added);
  }
}

/// How many keys weigh_pairs weighs.
inline constexpr index_t keys_of_pairs = simd::pair_unit::order.group();

/// The weights of a few keys in a vector of lanes, of which `logits` are multiplied by `factor` first: rounded to
/// bfloat16, in pairs, for a matrix unit. They are added to the weight sum before they are rounded.
template <class N>
ATTEND_INLINE void weigh_pairs(N const& normalizer, float const* logits, index_t lanes,
                               simd::vector<float> const& factor, simd::vector<float> const& maximum,
                               simd::vector<float>& weight_sum, simd::pair_bits* to) {
  using simd::vector;
  auto const weigh = [&](vector<float> const& product) {
    // The logit is rounded, as those in memory are.
    vector<float> const logit = simd::as_computed<float>(product * factor);
    vector<float> weight;
    if constexpr (requires { normalizer.weight_to_round(product, factor, maximum); })
      weight = normalizer.weight_to_round(product, factor, maximum);
    else
      weight = normalizer.template weight<float>(logit, maximum);
    if constexpr (N::has_weight_sum) weight_sum = weight_sum + normalizer.template weight_sum<float>(logit, weight);
    return weight;
  };
  vector<float> weights[array_size(keys_of_pairs)];
  ATTEND_UNROLL for (index_t key = 0; key < keys_of_pairs; ++key) weights[key] =
      weigh(simd::load(logits + key * lanes));
  simd::store_group<simd::pair_unit>(to, lanes, weights);
}

/// Multiplies the weights of pairs by their gains. A gain that takes the weight returns the new weight itself; then the
/// weights of hidden keys are below 0, and become 0 here.
template <class A, class BoundGain>
void multiply_pairs(int vectors, tile_rows<A> const& rows, key_range range, A* weights, BoundGain const& gain) {
  using namespace simd;
  for (int v = 0; v < vectors; ++v) {
    int const lane = v * width<A>;
    vector<A> const position = lane_values<A>([&](int i) { return rows.position[i]; }).at(lane);
    for (index_t key = range.first; key < range.last; ++key) {
      A* const at = weights + (key - range.first) * vectors * width<A> + lane;
      // A hidden key's weight is 0 and must stay so, whatever its gain is.
      vector<A> const weight = load(at), nothing(A(0));
      score_place<A> const place{position, vector<A>(static_cast<A>(key)), rows, key, lane};
      if constexpr (std::is_invocable_v<BoundGain const&, vector<A> const&, score_place<A> const&>)
        store(at, simd::select(weight < nothing, nothing, gain(weight, place)));
      else
        store(at, simd::select(weight == nothing, nothing, weight * gain(place)));
    }
  }
}

}  // namespace attend::inline ATTEND_TARGET::engine
