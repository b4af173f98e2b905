// SPDX-License-Identifier: BSD-3-Clause
// What the statistics of some rows consist of (policy/row_statistics.hpp), side by side in lanes, for a part of the
// keys:
//
//   entropy      [lanes] m, Z = sum_j w_j, E = sum_j w_j (s_j - m)      w_j = exp(s_j - m), m the maximum so far
//   heaviest     [k][lanes] logits, falling, and their keys
//   ranges       [range][lanes] sum_j w_j, and the maximum m that it is relative to
//   blocks       [block of keys][lanes] the largest logit
//
// A range that is done with keeps its maximum, so that one that rises rescales no list. Normalizers that keep no
// maximum have weights in the place of logits: all is the same with m = 0, and there is no entropy.
#pragma once

#include <algorithm>
#include <bit>

#include "../../policy/row_statistics.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// What the state of some rows, for a part of the keys, consists of. `stride` is the number of lanes.
template <class A>
struct statistics_layout {
  bool entropy = false;
  index_t kept = 0;
  key_range ranges{0, 0}, blocks{0, 0};  // numbers of those that the part may touch
  index_t stride = 0;

  statistics_layout() = default;
  statistics_layout(detail::asked_statistics<A> const& asked, index_t sequence, key_range keys, index_t lanes)
      : entropy(asked.entropy.data()),
        kept(asked.heaviest_keys.data() ? asked.heaviest_keys.extent(3) : 0),
        stride(lanes) {
    if (keys.empty()) return;
    auto const all = asked.ranges_of(sequence);
    auto const first =
        std::partition_point(all.begin(), all.end(), [&](key_range const& range) { return range.last <= keys.first; });
    auto const last =
        std::partition_point(first, all.end(), [&](key_range const& range) { return range.first < keys.last; });
    ranges = {first - all.begin(), last - all.begin()};
    if (asked.block_maxima.data()) blocks = {keys.first / asked.block_keys, (keys.last - 1) / asked.block_keys + 1};
  }

  index_t size() const { return ((entropy ? 3 : 0) + 2 * kept + 2 * ranges.count() + blocks.count()) * stride; }

  A* maximum(A* state) const { return state; }
  A* weight_sum(A* state) const { return state + stride; }
  A* product(A* state) const { return state + 2 * stride; }
  A* heaviest(A* state) const { return state + (entropy ? 3 : 0) * stride; }
  A* keys(A* state) const { return heaviest(state) + kept * stride; }
  A* masses(A* state) const { return keys(state) + kept * stride; }
  A* mass_maxima(A* state) const { return masses(state) + ranges.count() * stride; }
  A* block_peaks(A* state) const { return mass_maxima(state) + ranges.count() * stride; }
};

/// A key's number in the bits of a number of type A, which is only moved.
template <class A>
A bits_of_key(index_t key) {
  return std::bit_cast<A>(static_cast<position_t<A>>(key));
}
template <class A>
index_t key_of_bits(A bits) {
  return static_cast<index_t>(std::bit_cast<position_t<A>>(bits));
}

/// The layout with room for the statistics of any `most` consecutive keys of a sequence.
template <class A>
statistics_layout<A> largest_layout(detail::asked_statistics<A> const& asked, index_t sequence, index_t keys,
                                    index_t most, index_t stride) {
  statistics_layout<A> result(asked, sequence, {0, keys}, stride);
  if (most >= keys) return result;
  auto const all = asked.ranges_of(sequence);
  index_t least_first = 0, touched = 0;
  // Keys that touch ranges i to j lie less than `most` apart.
  for (index_t j = 0; j < result.ranges.count(); ++j) {
    while (all[static_cast<std::size_t>(j)].first - all[static_cast<std::size_t>(least_first)].last >= most)
      ++least_first;
    touched = std::max(touched, j - least_first + 1);
  }
  result.ranges = {0, touched};
  result.blocks.last = std::min(result.blocks.last, most / asked.block_keys + 2);
  return result;
}

/// The state of some rows for a part of the keys.
template <class A>
struct statistics_part {
  statistics_layout<A> layout;
  A* state;
};

}  // namespace attend::inline ATTEND_TARGET::engine
