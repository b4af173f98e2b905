// SPDX-License-Identifier: BSD-3-Clause
// The states of tiles whose keys are split into parts: each part stores the state of its tile, and the states of all
// parts are merged.
//
// They are merged lane by lane (join_parts.hpp), in the order of the parts; for normalizers without a maximum, the sums
// are added.
#pragma once

#include "join_parts.hpp"
#include "statistics_layout.hpp"
#include "tiling.hpp"

namespace attend::inline ATTEND_TARGET::engine {

template <class A>
class tile_states {
 public:
  /// Allocates memory for the states of the tiles of a task, for all parts of the keys of a sequence.
  tile_states(scratch& memory, tiling const& cut, index_t padded_dimension,
              attend::detail::asked_statistics<A> const& asked, index_t sequence, index_t keys)
      : parts_(cut.parts), tiles_(cut.tiles_per_task), dimension_(padded_dimension) {
    numbers_ = memory.allocate<A>(parts_ * tiles_ * size());
    if (!asked.any()) return;
    statistics_ = memory.allocate<statistics_part<A>>(parts_);
    for (index_t part = 0; part < parts_; ++part) {
      key_range const of_part{part * cut.keys_of_part, std::min((part + 1) * cut.keys_of_part, keys)};
      statistics_[part].layout = {asked, sequence, of_part, lanes};
      statistics_[part].state = memory.allocate<A>(tiles_ * statistics_[part].layout.size());
    }
  }

  /// The statistics of a tile with so many lanes in use, for a part of the keys.
  statistics_part<A> statistics(index_t part, index_t number, index_t lanes_in_use) const {
    statistics_part<A> of_tile = statistics_[part];
    of_tile.state += number * of_tile.layout.size();
    of_tile.layout.stride = lanes_in_use;
    return of_tile;
  }

  index_t bytes() const { return parts_ * tiles_ * size() * static_cast<index_t>(sizeof(A)); }

  /// Stores the state of a tile after one part of the keys.
  void keep(index_t part, index_t number, tile<A>& tile) const {
    settle(tile, dimension_);
    A* const to = state(part, number);
    std::copy_n(tile.maximum, lanes, to);
    std::copy_n(tile.weight_sum, lanes, to + lanes);
    std::copy_n(tile.sum, dimension_ * tile.lanes(), to + 2 * lanes);
  }

  /// Gives the tile, whose rows are set, the state of all keys of the first `parts` parts.
  void merge(index_t parts, index_t number, tile<A>& tile, bool keeps_maximum) const {
    A* const first = state(0, number);
    std::copy_n(first, lanes, tile.maximum);
    std::copy_n(first + lanes, lanes, tile.weight_sum);
    tile.sum = first + 2 * lanes;
    tile.fresh = false;
    for (index_t part = 1; part < parts; ++part) add(state(part, number), tile, keeps_maximum);
  }

 private:
  static constexpr index_t lanes = tile<A>::max_lanes;

  index_t size() const { return (dimension_ + 2) * lanes; }
  A* state(index_t part, index_t number) const { return numbers_ + (part * tiles_ + number) * size(); }

  void add(A const* other, tile<A>& tile, bool keeps_maximum) const {
    using simd::load, simd::store, simd::vector;
    vector<A> of_first[simd::register_vectors], of_second[simd::register_vectors];
    for (int v = 0; v < tile.vectors; ++v) {
      int const lane = v * simd::width<A>;
      of_first[v] = of_second[v] = vector<A>(A(1));
      if (keeps_maximum) {
        joined_lanes<A> const joined(load(tile.maximum + lane), load(other + lane));
        of_first[v] = joined.of_first;
        of_second[v] = joined.of_second;
        store(tile.maximum + lane, joined.maximum);
      }
      A* const weight_sum = tile.weight_sum + lane;
      store(weight_sum, load(weight_sum) * of_first[v] + load(other + lanes + lane) * of_second[v]);
    }
    A const* from = other + 2 * lanes;
    A* to = tile.sum;
    for (index_t c = 0; c < dimension_; ++c)
      for (int v = 0; v < tile.vectors; ++v, to += simd::width<A>, from += simd::width<A>)
        store(to, load(to) * of_first[v] + load(from) * of_second[v]);
  }

  index_t parts_, tiles_, dimension_;
  A* numbers_;
  statistics_part<A>* statistics_ = nullptr;  // of each part, those of the first tile
};

}  // namespace attend::inline ATTEND_TARGET::engine
