// SPDX-License-Identifier: BSD-3-Clause
// Takes statistics of rows of weights (policy/row_statistics.hpp) as an engine's tiles process blocks of keys:
// logits are looked at before they become weights, and weights before they meet values. What is kept of them is in
// statistics_layout.hpp, and statistics_writer.hpp makes the results of it.
#pragma once

#include "../../simd/lane_bits.hpp"
#include "any_policies.hpp"
#include "statistics_layout.hpp"

namespace attend::inline ATTEND_TARGET::engine {

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

}  // namespace attend::inline ATTEND_TARGET::engine
