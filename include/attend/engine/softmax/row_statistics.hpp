// SPDX-License-Identifier: BSD-3-Clause
// Statistics of rows of weights (policy/row_statistics.hpp), taken as an engine's tiles process blocks of keys.
//
//   state of some rows side by side in lanes, for a part of the keys:
//     entropy      [lanes] m, Z = sum_j w_j, E = sum_j w_j (s_j - m)      w_j = exp(s_j - m), m the maximum so far
//     heaviest     [k][lanes] logits, falling, and their keys
//     ranges       [range][lanes] sum_j w_j, and the maximum m that it is relative to
//     blocks       [block of keys][lanes] the largest logit
//
// At the end, with M the maximum of all parts and L the sum of all weights relative to it (slots and sinks included),
// p_j = exp(s_j - M) / L, and the entropy is
//
//   H = -sum_j p_j ln p_j = (Z ln L - E) / L        Z and E of all parts, relative to M: E' = (E + Z (m - M)) e^(m - M)
//
// A range that is done with keeps its maximum, so that one that rises rescales no list. Normalizers that keep no
// maximum have weights in the place of logits: all is the same with m = 0, and there is no entropy.
//
// Maxima over blocks of queries join rows of several tiles, and tasks: each raises the numbers of the output, which
// gives the same bits in any order.
#pragma once

#include <bit>
#include <cmath>

#include "../../simd/lane_bits.hpp"
#include "any_policies.hpp"
#include "join_parts.hpp"

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

/// Joins the numbers of `count` keys, `stride` apart, by an operation whose order does not matter much: in several
/// chains, since one would wait for each result.
template <class A, class Join>
ATTEND_INLINE simd::vector<A> join_keys(A const* at, index_t count, index_t stride, simd::vector<A> const& start,
                                        Join const& join) {
  constexpr int chains = 4;
  simd::vector<A> joined[chains];
  for (auto& one : joined) one = start;
  index_t j = 0;
  for (; j + chains <= count; j += chains)
    ATTEND_UNROLL for (int i = 0; i < chains; ++i) joined[i] = join(joined[i], simd::load(at + (j + i) * stride));
  for (; j < count; ++j) joined[0] = join(joined[0], simd::load(at + j * stride));
  return join(join(joined[0], joined[1]), join(joined[2], joined[3]));
}
template <class A>
simd::vector<A> largest_of_keys(A const* at, index_t count, index_t stride) {
  return join_keys(at, count, stride, simd::vector<A>(-infinity<A>),
                   [](auto const& a, auto const& b) ATTEND_INLINE_LAMBDA { return simd::max<A>(a, b); });
}
template <class A>
simd::vector<A> sum_of_keys(A const* at, index_t count, index_t stride) {
  return join_keys(at, count, stride, simd::vector<A>(A(0)),
                   [](auto const& a, auto const& b) ATTEND_INLINE_LAMBDA { return a + b; });
}

/// Takes the statistics of the tiles of a task for a part of the keys.
template <class A>
class row_statistics {
 public:
  static constexpr int width = simd::width<A>;

  row_statistics(scratch& memory, detail::asked_statistics<A> const& asked, bool keeps_maximum, index_t sequence,
                 key_range keys, bool scales = false)
      : asked_(asked),
        sequence_(sequence),
        layout_(asked, sequence, keys, 0),
        keeps_maximum_(keeps_maximum),
        ranks_(asked.heaviest_keys.data() || asked.block_maxima.data()),
        weighs_(asked.entropy.data() || asked.range_mass.data() || !keeps_maximum),
        copies_(asked.entropy.data() || !keeps_maximum) {
    if (copies_ || scales) logits_ = memory.allocate<A>(max_block_keys * simd::tile_lanes<A>);
    if (weighs_ && scales) weights_ = memory.allocate<A>(max_block_keys * simd::tile_lanes<A>);
  }

  statistics_layout<A> layout(index_t stride) const {
    statistics_layout<A> result = layout_;
    result.stride = stride;
    return result;
  }

  /// Sets a state to that without keys.
  static void open(statistics_layout<A> const& layout, A* state) {
    std::fill_n(state, layout.size(), A(0));
    index_t const kept = layout.kept * layout.stride;
    std::fill_n(layout.heaviest(state), kept, -infinity<A>);
    std::fill_n(layout.keys(state), kept, bits_of_key<A>(-1));
    std::fill_n(layout.block_peaks(state), layout.blocks.count() * layout.stride, -infinity<A>);
  }

  /// Takes the final logits [key][lanes] of keys of which, for each vector, those in its range may be visible. They are
  /// not read again.
  [[gnu::noinline]] void see_logits(int vectors, key_range range, key_range const* seen, A const* logits, A* state) {
    if (copies_) std::copy_n(logits, range.count() * vectors * width, logits_);
    if (ranks_ && keeps_maximum_) rank(layout(vectors * width), vectors, range, seen, logits, state);
  }

  /// Takes the weights, relative to `maximum`, of the keys whose logits were the last to be seen.
  [[gnu::noinline]] void see_weights(int vectors, key_range range, key_range const* seen, A const* weights,
                                     A const* maximum, A* state) {
    if (!weighs_) return;
    statistics_layout<A> const layout = this->layout(vectors * width);
    if (layout.entropy) add_entropy(layout, vectors, seen, weights, maximum, state);
    add_masses(layout, vectors, range, seen, weights, maximum, state);
    if (!ranks_ || keeps_maximum_) return;
    simd::vector<A> const hidden(-infinity<A>);
    for (int v = 0; v < vectors; ++v)
      for (index_t j = seen[v].first; j < seen[v].last; ++j) {
        index_t const at = (j * vectors + v) * width;
        simd::vector<A> const logit = simd::load(logits_ + at);
        simd::store(logits_ + at, simd::select(logit == hidden, hidden, simd::load(weights + at)));
      }
    rank(layout, vectors, range, seen, logits_, state);
  }

  /// Takes logits that are to be multiplied by the scale of their vector, and weighs them here.
  void see_scaled(any_policies<A> const& call, int vectors, tile_rows<A> const& rows, key_range range, A const* logits,
                  simd::vector<A> const* scale, A const* maximum, A* state) {
    key_range seen[simd::register_vectors];
    std::fill_n(seen, simd::register_vectors, key_range{0, range.count()});
    A const* from = logits;
    A* to = logits_;
    for (index_t j = 0; j < range.count(); ++j)
      for (int v = 0; v < vectors; ++v, from += width, to += width) simd::store(to, simd::load(from) * scale[v]);
    if (ranks_ && keeps_maximum_) rank(layout(vectors * width), vectors, range, seen, logits_, state);
    if (!weighs_) return;
    std::copy_n(logits_, range.count() * vectors * width, weights_);
    alignas(64) A unused[array_size(simd::tile_lanes<A>)] = {};
    call.weigh(vectors, rows, seen, maximum, unused, weights_);
    see_weights(vectors, range, seen, weights_, maximum, state);
  }

 private:
  using lanes = simd::vector<A>;

  void rank(statistics_layout<A> const& layout, int vectors, key_range range, key_range const* seen, A const* values,
            A* state) const {
    for (int v = 0; layout.kept > 0 && v < vectors; ++v)
      if (layout.kept == 1)
        keep_most(layout, vectors, v, range.first, seen[v], values, state);
      else
        keep_heaviest(layout, vectors, v, range.first, seen[v], values, state);
    if (!layout.blocks.empty()) raise_blocks(layout, vectors, range, seen, values, state);
  }

  /// Keeps the heaviest key of a vector. Which key it is is looked for where a block has a heavier one.
  static void keep_most(statistics_layout<A> const& layout, int vectors, int v, index_t first_key, key_range seen,
                        A const* values, A* state) {
    A *const heaviest = layout.heaviest(state) + v * width, *const key_at = layout.keys(state) + v * width;
    index_t const stride = vectors * width;
    A const* const of_vector = values + v * width;
    lanes const most = largest_of_keys(of_vector + seen.first * stride, seen.count(), stride);
    auto const rises = most > simd::load(heaviest);
    if (!simd::any<A>(rises)) return;
    lanes key = simd::load(key_at);
    for (index_t j = seen.last - 1; j >= seen.first; --j)
      key = simd::select(simd::load(of_vector + j * stride) == most, lanes(bits_of_key<A>(first_key + j)), key);
    simd::store(key_at, simd::select(rises, key, simd::load(key_at)));
    simd::store(heaviest, simd::select(rises, most, simd::load(heaviest)));
  }

  /// Puts the keys of a vector into its list, where they are among the k heaviest so far.
  static void keep_heaviest(statistics_layout<A> const& layout, int vectors, int v, index_t first_key, key_range seen,
                            A const* values, A* state) {
    A* const heaviest = layout.heaviest(state) + v * width;
    A* const keys = layout.keys(state) + v * width;
    A const* const lightest = heaviest + (layout.kept - 1) * layout.stride;
    A const* const of_vector = values + v * width;
    index_t const stride = vectors * width;
    lanes const bound = simd::max(simd::load(lightest), below_heaviest(layout, of_vector, stride, seen, lightest));
    // The keys of each lane that exceed its bound stand below each other, so that a step puts one of every lane into
    // its list: few lanes meet such a key at once.
    alignas(64) A number[array_size(max_block_keys * width)], key[array_size(max_block_keys * width)];
    index_t found[array_size(width)] = {}, most = 0;
    // Most keys are lighter: a few are looked at together.
    constexpr index_t together = 8;
    for (index_t j = seen.first; j < seen.last; j += together) {
      index_t const end = std::min(j + together, seen.last);
      if (!simd::any<A>(largest_of_keys(of_vector + j * stride, end - j, stride) > bound)) continue;
      for (index_t i = j; i < end; ++i) {
        A const* const at = of_vector + i * stride;
        for (std::uint32_t above = simd::lane_bits<A>(simd::load(at) > bound); above != 0; above &= above - 1) {
          int const lane = std::countr_zero(above);
          index_t const row = found[lane]++;
          if (row == most) simd::store(number + most++ * width, lanes(-infinity<A>));
          number[row * width + lane] = at[lane];
          key[row * width + lane] = bits_of_key<A>(first_key + i);
        }
      }
    }
    for (index_t row = 0; row < most; ++row) {
      lanes const value = simd::load(number + row * width);
      if (simd::any<A>(value > simd::load(lightest)))
        insert(layout, heaviest, keys, value, simd::load(key + row * width));
    }
  }

  /// A little less than what k of the keys reach in each lane, where lists are not full yet: as long as they are not,
  /// all keys would go into them. -inf otherwise.
  static lanes below_heaviest(statistics_layout<A> const& layout, A const* of_vector, index_t stride, key_range seen,
                              A const* lightest) {
    lanes const none(-infinity<A>);
    index_t const of_part = seen.count() / layout.kept;
    if (of_part < 2 || simd::all<A>(simd::load(lightest) > none)) return none;
    // Each of k parts has a key that reaches the least of the parts' largest numbers.
    lanes least(infinity<A>);
    for (index_t part = 0; part < layout.kept; ++part)
      least = simd::min(least, largest_of_keys(of_vector + (seen.first + part * of_part) * stride, of_part, stride));
    // What reaches it is to exceed the bound.
    lanes const less(A(8) * std::numeric_limits<A>::epsilon()), lesser(std::numeric_limits<A>::min());
    return simd::select(least == none, none, least - simd::abs(least) * less - lesser);
  }

  /// Puts a number into each lane's falling list behind those that are not smaller, from the end of the list on.
  static void insert(statistics_layout<A> const& layout, A* heaviest, A* keys, lanes const& value, lanes const& key) {
    A *at = heaviest + (layout.kept - 1) * layout.stride, *key_at = keys + (layout.kept - 1) * layout.stride;
    lanes number = simd::load(at), its_key = simd::load(key_at);
    auto goes_here = value > number;
    for (; at > heaviest; at -= layout.stride, key_at -= layout.stride) {
      lanes const above = simd::load(at - layout.stride), key_above = simd::load(key_at - layout.stride);
      auto const goes_above = value > above;
      simd::store(at, simd::select(goes_above, above, simd::select(goes_here, value, number)));
      simd::store(key_at, simd::select(goes_above, key_above, simd::select(goes_here, key, its_key)));
      if (!simd::any<A>(goes_above)) return;
      number = above, its_key = key_above, goes_here = goes_above;
    }
    simd::store(at, simd::select(goes_here, value, number));
    simd::store(key_at, simd::select(goes_here, key, its_key));
  }

  void raise_blocks(statistics_layout<A> const& layout, int vectors, key_range range, key_range const* seen,
                    A const* values, A* state) const {
    index_t const stride = vectors * width;
    for (index_t key = range.first; key < range.last;) {
      index_t const block = key / asked_.block_keys, end = std::min((block + 1) * asked_.block_keys, range.last);
      for (int v = 0; v < vectors; ++v) {
        A* const peak = layout.block_peaks(state) + (block - layout.blocks.first) * layout.stride + v * width;
        key_range const part = intersection(seen[v], {key - range.first, end - range.first});
        if (part.empty()) continue;
        lanes const most = largest_of_keys(values + part.first * stride + v * width, part.count(), stride);
        simd::store(peak, simd::max(simd::load(peak), most));
      }
      key = end;
    }
  }

  /// What weights are relative to.
  lanes base(A const* maximum) const { return keeps_maximum_ ? finite_maximum(maximum) : lanes(A(0)); }

  /// What a sum relative to `before` is multiplied by to become one relative to `now`: only where there is a sum.
  static lanes rescaling(lanes const& sum, lanes const& before, lanes const& now) {
    lanes const nothing(A(0));
    return simd::select(sum == nothing, nothing, simd::exp2<A>((before - now) * lanes(A(log2_e))));
  }

  void add_entropy(statistics_layout<A> const& layout, int vectors, key_range const* seen, A const* weights,
                   A const* maximum, A* state) const {
    index_t const stride = vectors * width;
    lanes const lowest(std::numeric_limits<A>::lowest());
    for (int v = 0; v < vectors; ++v) {
      A *const at = layout.maximum(state) + v * width, *const sum_at = layout.weight_sum(state) + v * width,
               *const product_at = layout.product(state) + v * width;
      lanes const most = base(maximum + v * width), before = simd::load(at);
      lanes sum = simd::load(sum_at), product = simd::load(product_at);
      if (simd::any<A>(before != most)) {
        lanes const factor = rescaling(sum, before, most);
        product = simd::select(factor == lanes(A(0)), factor, (product + sum * (before - most)) * factor);
        sum = sum * factor;
        simd::store(at, most);
      }
      // Two chains, since one would wait for each sum.
      lanes added[2] = {lanes(A(0)), lanes(A(0))}, added_product[2] = {added[0], added[0]};
      auto const add = [&](int chain, index_t j) ATTEND_INLINE_LAMBDA {
        index_t const of_key = j * stride + v * width;
        lanes const weight = simd::load(weights + of_key);
        added[chain] = added[chain] + weight;
        // A hidden key has a weight of 0 and a logit of -inf, whose product is to be 0.
        added_product[chain] = simd::fused_multiply_add(weight, simd::max(simd::load(logits_ + of_key) - most, lowest),
                                                        added_product[chain]);
      };
      index_t j = seen[v].first;
      for (; j + 2 <= seen[v].last; j += 2) add(0, j), add(1, j + 1);
      if (j < seen[v].last) add(0, j);
      simd::store(sum_at, sum + (added[0] + added[1]));
      simd::store(product_at, product + (added_product[0] + added_product[1]));
    }
  }

  void add_masses(statistics_layout<A> const& layout, int vectors, key_range range, key_range const* seen,
                  A const* weights, A const* maximum, A* state) const {
    if (layout.ranges.empty()) return;
    auto const all = asked_.ranges_of(sequence_);
    index_t const stride = vectors * width;
    auto const end = all.begin() + layout.ranges.last;
    auto next = std::partition_point(all.begin() + layout.ranges.first, end,
                                     [&](key_range const& one) { return one.last <= range.first; });
    for (; next != end && next->first < range.last; ++next) {
      index_t const slot = next - all.begin() - layout.ranges.first;
      for (int v = 0; v < vectors; ++v) {
        key_range const part = intersection(seen[v], {next->first - range.first, next->last - range.first});
        if (part.empty()) continue;
        A* const at = layout.masses(state) + slot * layout.stride + v * width;
        A* const maximum_at = layout.mass_maxima(state) + slot * layout.stride + v * width;
        lanes const most = base(maximum + v * width), before = simd::load(maximum_at);
        lanes mass = simd::load(at);
        if (simd::any<A>(before != most)) {
          mass = mass * rescaling(mass, before, most);
          simd::store(maximum_at, most);
        }
        simd::store(at, mass + sum_of_keys(weights + part.first * stride + v * width, part.count(), stride));
      }
    }
  }

  detail::asked_statistics<A> const& asked_;
  index_t sequence_;
  statistics_layout<A> layout_;
  bool keeps_maximum_;
  bool ranks_;           // whether logits are compared
  bool weighs_;          // whether weights are needed
  bool copies_;          // whether logits are needed beside weights
  A* logits_ = nullptr;  // of a block
  A* weights_ = nullptr;
};

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
