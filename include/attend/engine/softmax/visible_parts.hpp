// SPDX-License-Identifier: BSD-3-Clause
// The parts of a run of keys that are visible to a tile, where the tile's mask hides some of the pairs. Keys form
// groups and lanes form vectors, as in register tiles. The product of a group and a vector without any visible pair is
// not computed: at the edges of a window, above a diagonal, beside a box.
//
//   logits[key][lane] = -inf where the mask hides the key, 0 elsewhere    (multiply_keys keeps logits of -inf)
//   parts             consecutive groups that have visible pairs with the same vectors
#pragma once

#include <bit>

#include "tile.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Keys of a run, counted from its first key, and the vectors [low, low + vectors) of a tile.
struct visible_part {
  key_range keys;
  int low, vectors;
  bool whole;  // all of these keys are visible to all of these lanes
};

class visible_parts {
 public:
  /// `keys` keys, all of which are visible to all lanes.
  explicit visible_parts(index_t keys) { std::fill_n(of_vector_, simd::register_vectors, key_range{0, keys}); }

  /// The parts of `range` that `mask` shows to the first `vectors` vectors of the rows.
  template <class A, class BoundMask>
  visible_parts(int vectors, tile_rows<A> const& rows, key_range range, BoundMask const& mask, A* logits) {
    using namespace simd;
    index_t const lanes = vectors * width<A>, keys = range.count();
    vector<A> const hidden(-infinity<A>), seen(A(0));
    unsigned seeing[max_parts] = {}, whole[max_parts] = {};  // of each group, a bit for each vector
    for (int v = 0; v < vectors; ++v) {
      int const lane = v * width<A>;
      auto const position = load(rows.position + lane);
      for (index_t group = 0, j = 0; j < keys; ++group) {
        typename integers<A>::truth some(false), every(true);
        for (index_t const end = std::min<index_t>(j + register_rows, keys); j < end; ++j) {
          index_t const key = range.first + j;
          typename integers<A>::truth const sees = mask(mask_place<A>{position, key, rows, key, lane});
          some = some | sees;
          every = every & sees;
          simd::store(logits + j * lanes + lane, simd::select(simd::reinterpret_mask<A>(sees), seen, hidden));
        }
        seeing[group] |= static_cast<unsigned>(simd::any(some)) << v;
        whole[group] |= static_cast<unsigned>(simd::all(every)) << v;
      }
    }
    // Fewer keys than a group has are multiplied as a whole group: the missing ones are hidden.
    for (index_t j = keys; j < register_rows; ++j) std::fill_n(logits + j * lanes, lanes, -infinity<A>);
    for (index_t group = 0, first = 0; first < keys; ++group, first += register_rows)
      if (seeing[group]) add({first, std::min<index_t>(first + register_rows, keys)}, seeing[group], whole[group]);
  }

  /// Whether no pair is visible.
  bool empty() const { return count_ == 0; }
  visible_part const* begin() const { return parts_; }
  visible_part const* end() const { return parts_ + count_; }
  /// For each vector, the range of keys outside of which no key is visible to its lanes.
  key_range const* of_vectors() const { return of_vector_; }

 private:
  static constexpr index_t max_parts = max_block_keys / simd::register_rows;

  void add(key_range keys, unsigned seeing, unsigned all_seeing) {
    int const low = std::countr_zero(seeing), vectors = static_cast<int>(std::bit_width(seeing)) - low;
    // The register tile of a group that is not full also holds keys of the group before it, which may be hidden.
    bool const whole = keys.count() == simd::register_rows && all_seeing >> low == (1u << vectors) - 1;
    for (int v = low; v < low + vectors; ++v) of_vector_[v] = hull(of_vector_[v], keys);
    if (count_ > 0) {
      visible_part& before = parts_[count_ - 1];
      if (before.keys.last == keys.first && before.low == low && before.vectors == vectors && before.whole == whole) {
        before.keys.last = keys.last;
        return;
      }
    }
    parts_[count_++] = {keys, low, vectors, whole};
  }

  key_range of_vector_[simd::register_vectors];
  visible_part parts_[max_parts];
  int count_ = 0;
};

/// Computes those products of `work` that have visible pairs. The constructor of `seen` has written the logits.
template <class A>
void multiply_keys(visible_parts const& seen, int vectors, key_work<A> work, A* logits, simd::vector<A>* peak,
                   block_prefetch& prefetch) {
  A const* const query = work.query;
  for (visible_part const& part : seen) {
    int const lane = part.low * simd::width<A>;
    work.part = part.keys;
    work.query = query + lane;
    work.hides = part.vectors < vectors || !part.whole;
    multiply_keys(part.vectors, work, logits + lane, peak + part.low, prefetch);
  }
}

/// Adds the visible values, times their weights, to the tile's sum.
template <class A>
void multiply_values(visible_parts const& seen, tile<A>& tile, rows_of<A> value, A const* weights,
                     index_t padded_dimension, block_prefetch& prefetch) {
  index_t const lanes = tile.lanes();
  for (visible_part const& part : seen) {
    if (part.vectors < tile.vectors) settle(tile, padded_dimension);
    int const lane = part.low * simd::width<A>;
    multiply_values(part.vectors, rows_of<A>{value.row(part.keys.first), value.stride}, part.keys.count(),
                    weights + part.keys.first * lanes + lane, lanes, padded_dimension, tile.sum + lane, prefetch,
                    std::exchange(tile.fresh, false));
  }
}

}  // namespace attend::inline ATTEND_TARGET::engine
