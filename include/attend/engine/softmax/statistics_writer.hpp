// SPDX-License-Identifier: BSD-3-Clause
// Writes statistics of rows of weights (policy/row_statistics.hpp) from the states of the parts of their keys
// (statistics_layout.hpp), once all keys were seen.
//
// With M the maximum of all parts and L the sum of all weights relative to it (slots and sinks included),
// p_j = exp(s_j - M) / L, and the entropy is
//
//   H = -sum_j p_j ln p_j = (Z ln L - E) / L        Z and E of all parts, relative to M: E' = (E + Z (m - M)) e^(m - M)
//
// Maxima over blocks of queries join rows of several tiles, and tasks: each raises the numbers of the output, which
// gives the same bits in any order.
#pragma once

#include <bit>
#include <cmath>

#include "any_policies.hpp"
#include "join_parts.hpp"
#include "statistics_layout.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// What is known of rows once all of their keys are: the maximum of all parts, the sum of weights relative to it, and
/// what these are multiplied by.
template <class A>
struct finished_lanes {
  static constexpr int most_lanes = simd::tile_lanes<A>;
  alignas(64) A maximum[array_size(most_lanes)];
  alignas(64) A weight_sum[array_size(most_lanes)];
  alignas(64) A factor[array_size(most_lanes)];

  void clear() {
    for (A* numbers : {maximum, weight_sum, factor}) std::fill_n(numbers, most_lanes, A(0));
  }
};

/// Writes the statistics of some rows from the states of the parts of their keys, which are overwritten.
template <Element T, class A = accumulation_t<T>>
class statistics_writer {
 public:
  static constexpr int width = simd::width<A>;

  statistics_writer(problem<T> const& p, any_policies<A> const& call, tile_rows<A> const& rows, int vectors,
                    std::span<statistics_part<A> const> parts, finished_lanes<A> const& lanes)
      : asked_(p.statistics),
        call_(call),
        rows_(rows),
        vectors_(vectors),
        stride_(vectors * width),
        parts_(parts),
        lanes_(lanes) {}

  [[gnu::noinline]] void write() {
    if (asked_.entropy.data()) write_entropies();
    if (asked_.range_mass.data() && asked_.range_mass.extent(3) > 0) write_masses();
    if (asked_.heaviest_keys.data() && asked_.heaviest_keys.extent(3) > 0) write_heaviest();
    if (asked_.block_maxima.data() && asked_.block_maxima.extent(3) > 0) raise_block_maxima();
  }

 private:
  using vector = simd::vector<A>;

  /// 0 in the place of the maximum of a row that sees nothing, to which weights of 0 are relative.
  A finite_maximum(int lane) const { return lanes_.maximum[lane] == -infinity<A> ? A(0) : lanes_.maximum[lane]; }

  void write_entropies() const {
    for (int lane = 0; lane < rows_.count; ++lane) {
      A const total = lanes_.weight_sum[lane], most = finite_maximum(lane);
      A sum = 0, product = 0;
      for (auto const& [layout, state] : parts_) {
        A const of_part = layout.weight_sum(state)[lane], above = layout.maximum(state)[lane] - most;
        if (of_part == 0) continue;
        A const factor = above == 0 ? A(1) : std::exp(above);
        product += factor * (layout.product(state)[lane] + of_part * above);
        sum += factor * of_part;
      }
      A const result = total == 0 ? A(0) : (sum * std::log(total / detail::weight_unit<A>) - product) / total;
      // Rounding may leave a little less than 0 of a single weight of 1.
      asked_.entropy(rows_.batch, rows_.head[lane], rows_.query_token(lane)) = result < 0 ? A(0) : result;
    }
  }

  void write_masses() {
    index_t const all = asked_.range_mass.extent(3);
    key_range columns = parts_[0].layout.ranges;
    A* masses = parts_[0].layout.masses(parts_[0].state);
    for (auto const& [layout, state] : parts_) finish_masses(layout, state);
    if (parts_.size() > 1) {
      columns = {0, all};
      masses = memory_.allocate<A>(all * stride_);
      std::fill_n(masses, all * stride_, A(0));
      for (auto const& [layout, state] : parts_) {
        A* const to = masses + layout.ranges.first * stride_;
        A const* const from = layout.masses(state);
        for (index_t i = 0; i < layout.ranges.count() * stride_; i += width)
          simd::store(to + i, simd::load(to + i) + simd::load(from + i));
      }
    }
    A* row[array_size(simd::tile_lanes<A>)] = {};
    for (int lane = 0; lane < rows_.count; ++lane) {
      A* const to = row_of_lane(asked_.range_mass, rows_, lane);
      std::fill_n(to, columns.first, A(0));
      std::fill(to + columns.last, to + all, A(0));
      row[lane] = to + columns.first;
    }
    simd::unpack_columns<A>(masses, static_cast<int>(stride_), columns.count(), lanes_.factor, row);
  }

  /// Makes the masses of a part relative to the maximum of all.
  void finish_masses(statistics_layout<A> const& layout, A* state) const {
    if (!call_.keeps_maximum) return;
    vector const nothing(A(0));
    A *mass = layout.masses(state), *maximum = layout.mass_maxima(state);
    for (index_t slot = 0; slot < layout.ranges.count(); ++slot)
      for (int v = 0; v < vectors_; ++v, mass += width, maximum += width) {
        vector const sum = simd::load(mass), most = engine::finite_maximum(lanes_.maximum + v * width);
        vector const factor = simd::exp2<A>((simd::load(maximum) - most) * vector(A(log2_e)));
        simd::store(mass, simd::select(sum == nothing, nothing, sum * factor));
      }
  }

  void write_heaviest() {
    index_t const kept = asked_.heaviest_keys.extent(3);
    A* const number = memory_.allocate<A>(kept);
    index_t* const used = memory_.allocate<index_t>(static_cast<index_t>(parts_.size()));
    for (int lane = 0; lane < rows_.count; ++lane) {
      std::fill_n(used, parts_.size(), index_t{0});
      std::int32_t* const keys = row_of_lane(asked_.heaviest_keys, rows_, lane);
      for (index_t i = 0; i < kept; ++i) {
        number[i] = -infinity<A>;
        keys[i] = -1;
        std::size_t from = 0;
        for (std::size_t part = 0; part < parts_.size(); ++part) {
          // Of equal ones that of the earlier part comes first, whose keys do.
          auto const& [layout, state] = parts_[part];
          if (used[part] == kept || !(layout.heaviest(state)[used[part] * stride_ + lane] > number[i])) continue;
          number[i] = layout.heaviest(state)[used[part] * stride_ + lane];
          keys[i] = static_cast<std::int32_t>(key_of_bits<A>(layout.keys(state)[used[part] * stride_ + lane]));
          from = part;
        }
        if (keys[i] >= 0) ++used[from];
      }
      A* const weights = row_of_lane(asked_.heaviest_weights, rows_, lane);
      if (call_.keeps_maximum)
        call_.finish_weights(number, kept, rows_.keys, finite_maximum(lane), lanes_.factor[lane]);
      for (index_t i = 0; i < kept; ++i)
        weights[i] = keys[i] < 0 ? A(0) : call_.keeps_maximum ? number[i] : number[i] * lanes_.factor[lane];
    }
  }

  void raise_block_maxima() {
    index_t const all = asked_.block_maxima.extent(3);
    key_range columns = parts_[0].layout.blocks;
    A* peaks = parts_[0].layout.block_peaks(parts_[0].state);
    if (parts_.size() > 1) {
      columns = {0, all};
      peaks = memory_.allocate<A>(all * stride_);
      std::fill_n(peaks, all * stride_, -infinity<A>);
      for (auto const& [layout, state] : parts_) {
        A* const to = peaks + layout.blocks.first * stride_;
        A const* const from = layout.block_peaks(state);
        for (index_t i = 0; i < layout.blocks.count() * stride_; i += width)
          simd::store(to + i, simd::max(simd::load(to + i), simd::load(from + i)));
      }
    }
    if (call_.keeps_maximum) {
      key_range seen[simd::register_vectors];
      std::fill_n(seen, simd::register_vectors, key_range{0, columns.count()});
      alignas(64) A unused[array_size(simd::tile_lanes<A>)] = {};
      call_.weigh(vectors_, rows_, seen, lanes_.maximum, unused, peaks);
    }
    // Lanes of one head and one block of queries are joined before they reach the tensor.
    int first_like[array_size(simd::tile_lanes<A>)];
    A* row[array_size(simd::tile_lanes<A>)] = {};
    for (int lane = 0; lane < rows_.count; ++lane) {
      row[lane] = &asked_.block_maxima(rows_.batch, rows_.head[lane], rows_.query_token(lane) / asked_.block_queries,
                                       columns.first);
      first_like[lane] = static_cast<int>(std::find(row, row + lane, row[lane]) - row);
    }
    bits joined[array_size(simd::tile_lanes<A>)];
    for (index_t block = 0; block < columns.count(); ++block, peaks += stride_) {
      std::fill_n(joined, rows_.count, bits{0});
      for (int lane = 0; lane < rows_.count; ++lane) {
        A const weight = peaks[lane] == -infinity<A> ? A(0) : peaks[lane] * lanes_.factor[lane];
        bits& to = joined[first_like[lane]];
        to = std::max(to, weight == weight ? std::bit_cast<bits>(weight) : std::bit_cast<bits>(std::abs(weight)));
      }
      for (int lane = 0; lane < rows_.count; ++lane)
        if (first_like[lane] == lane) raise(row[lane] + block, joined[lane]);
    }
  }

  /// The bits of numbers that are not negative have the order of the numbers, and NaN comes last.
  using bits = position_t<A>;

  /// Raises a number that other tasks may raise as well: the result does not depend on the order of the tasks.
  static void raise(A* to, bits number) {
    using bits_in_memory [[gnu::may_alias]] = bits;
    auto* const at = reinterpret_cast<bits_in_memory*>(to);
    bits present = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (present < number &&
           !__atomic_compare_exchange_n(at, &present, number, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
  }

  detail::asked_statistics<A> const& asked_;
  any_policies<A> const& call_;
  tile_rows<A> const& rows_;
  int vectors_;
  index_t stride_;
  std::span<statistics_part<A> const> parts_;
  finished_lanes<A> const& lanes_;
  scratch memory_;
};

}  // namespace attend::inline ATTEND_TARGET::engine
