// SPDX-License-Identifier: BSD-3-Clause
// Queries from anywhere against keys from anywhere: what attention over chosen pairs is made of.
//
//   gathered_tiles   some rows of one group of query heads, side by side in tiles: they take keys from any number of
//                    blocks, under any masks, and what they have seen is written, or folded into
//   row_states       the (sum, maximum, mass) of many rows, which rows leave and come back to
//
// A choice that differs from query to query is turned round: for each block of keys, the rows that chose it. They fill
// tiles whatever else they chose, and only chosen pairs are computed. A row's state travels through memory once for
// each of its blocks, which is 2 * value dimension elements for 2 * (key + value dimension) operations on each of a
// block's keys. Blocks that a row takes one after the other are merged exactly, as by log-sum-exp
// (engine/softmax/merge.hpp).
//
// Keys lie in runs or are gathered too, a block at a time (token_list). Positions in lists ascend.
//
// Enzhe Lu et al.: MoBA, 2025 (queries grouped by chosen block, merged with an online softmax).
#pragma once

#include <cmath>

#include "../../core/order.hpp"
#include "merge.hpp"
#include "seen_parts.hpp"
#include "tiling.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// An order that a list tells: the token at a position of the list.
struct token_list {
  std::int32_t const* token = nullptr;

  void tokens_at(key_range range, index_t* tokens) const { std::copy(token + range.first, token + range.last, tokens); }
  token_run run_at(index_t position) const { return {token[position], 1, 1}; }
};

/// Of `count` keys that a list tells, in ascending order: those that stand at least `distance` before the query.
struct listed_before {
  using option_kind = option::mask;
  std::int32_t const* token = nullptr;
  index_t count = 0, distance = 0;

  template <class U>
  key_range bounds(tile_rows<U> const& rows) const {
    return {0, std::upper_bound(token, token + count, rows.last_position - distance, detail::ascending{}) - token};
  }

  template <class U>
  visibility classify(tile_rows<U> const& rows, key_range range) const {
    if (token[range.last - 1] <= rows.first_position - distance) return visibility::all;
    return token[range.first] <= rows.last_position - distance ? visibility::some : visibility::none;
  }
  template <class U>
  ATTEND_INLINE auto visible(mask_place<U> const& place) const {
    return simd::integers<U>(static_cast<position_t<U>>(token[place.key_index] + distance)) <= place.query_position;
  }
};

/// Where rows stand between their blocks. `sum` and `mass` are relative to `maximum`; where that is -inf, they hold
/// nothing.
template <class A>
class row_states {
 public:
  /// Rows that have seen nothing.
  row_states(scratch& memory, index_t rows, index_t dimension)
      : dimension_(dimension),
        sum_(memory.allocate<A>(rows * dimension)),
        maximum_(memory.allocate<A>(rows)),
        mass_(memory.allocate<A>(rows)) {
    std::fill_n(maximum_, rows, -infinity<A>);
  }

  A* sum(index_t row) const { return sum_ + row * dimension_; }
  A& maximum(index_t row) const { return maximum_[row]; }
  A& weight_sum(index_t row) const { return mass_[row]; }

  /// Writes a row's output and log-sum-exp.
  template <Element T>
  void write(index_t row, problem<T> const& p, index_t batch, index_t head, index_t query) const {
    bool const none = maximum_[row] == -infinity<A> || mass_[row] == 0;
    A const factor = none ? A(0) : 1 / mass_[row];
    if (dimension_ > 0)
      merge_rows(&factor, 1, [&](index_t) { return sum(row); }, dimension_, &p.output(batch, head, query, 0));
    if (p.log_sum_exp.data())
      p.log_sum_exp(batch, head, query) =
          none ? -infinity<A> : maximum_[row] + std::log(mass_[row] / detail::weight_unit<A>);
  }

 private:
  index_t dimension_;
  A* sum_;
  A* maximum_;
  A* mass_;
};

template <Element T>
class gathered_tiles {
 public:
  using A = accumulation_t<T>;
  static constexpr int lanes = simd::tile_lanes<A>;
  /// Rows that share a block of keys while it is near.
  static constexpr index_t max_rows = tiling::max_tiles * lanes;

  /// One of the group's rows.
  struct row {
    index_t head, query;
  };

  gathered_tiles(problem<T> const& p, index_t batch, scratch& memory)
      : p_(p),
        sequence_(p.sequences[batch]),
        batch_(batch),
        padded_value_dimension_(round_up(p.shape.value_dimension, simd::register_rows)),
        tiles_(memory.allocate<tile<A>>(tiling::max_tiles)),
        logits_(memory.allocate<A>(max_block_keys * lanes)),
        rows_(memory.allocate<A>(lanes * p.shape.value_dimension)),
        ahead_{memory.allocate<void const*>(max_rows + lanes), memory.allocate<void const*>(max_rows)},
        listed_{memory.allocate<void const*>(2 * max_block_keys), memory.allocate<void const*>(2 * max_block_keys)} {
    index_t const dimensions = std::max<index_t>(p.shape.key_dimension + p.shape.value_dimension, 1);
    block_keys_ = std::clamp<index_t>(
        tiling::cache_for_block / (dimensions * static_cast<index_t>(sizeof(A))) / 32 * 32, 32, max_block_keys);
    for (index_t t = 0; t < tiling::max_tiles; ++t) {
      packed_[t] = memory.allocate<A>(p.shape.key_dimension * lanes);
      tiles_[t].sum = memory.allocate<A>(padded_value_dimension_ * lanes);
    }
  }

  /// How blocks of keys must be made: see().
  block_shape shape_of_block() const { return {block_keys_, p_.shape.key_dimension, p_.shape.value_dimension, true}; }

  /// Turns to `count` rows, most_rows of them at most: row_at(i) is the i-th. They have seen nothing.
  template <class Row>
  void take(index_t count, Row const& row_at) {
    index_t const vectors = divide_up(count, simd::width<A>);
    tile_count_ = divide_up(vectors, simd::register_vectors);
    first_row_[0] = 0;
    for (index_t t = 0; t < tile_count_; ++t) {
      // Vectors are dealt out evenly, since a tile of one vector is slow.
      index_t const first = first_row_[t];
      first_row_[t + 1] = std::min((t + 1) * vectors / tile_count_ * simd::width<A>, count);
      tile<A>& tile = tiles_[t];
      tile.vectors = static_cast<int>(divide_up(first_row_[t + 1] - first, simd::width<A>));
      place(tile.rows, first, first_row_[t + 1] - first, row_at);
      tile.rows.used = tile.lanes();
    }
    restart();
    // The first tile's rows are wanted at once, the others' while it works.
    asked_ = 0;
    for (index_t t = 1; t < tile_count_; ++t)
      for (int lane = 0; lane < tiles_[t].rows.count; ++lane)
        ahead_[0][asked_++] = row_of_lane(p_.query, tiles_[t].rows, lane);
    prefetch_ = {};
    listed_next_ = 0;
    ask_for_queries();
  }

  /// Asks for what comes next, while the rows take their last keys: for the first of `count` rows of queries, and for
  /// the first of `keys` gathered rows.
  template <class Row, class Rows>
  void expect_next(index_t count, Row const& row_at, Rows const& rows, index_t keys) {
    for (index_t i = 0; i < std::min<index_t>(count, lanes); ++i)
      ahead_[0][asked_++] = &p_.query(batch_, row_at(i).head, sequence_.first_query + row_at(i).query, 0);
    ask_for_queries();
    listed_next_ = std::min(keys, block_keys_);
    list(rows, 0, listed_next_, max_block_keys);
  }

  /// Asks for the states that the rows will be folded into, while they take their keys.
  template <class State>
  void expect_fold(row_states<A> const& states, State const& state) {
    index_t const count = first_row_[tile_count_];
    for (index_t i = 0; i < count; ++i) ahead_[1][i] = states.sum(state(i));
    prefetch_.output = row_list_prefetch(ahead_[1], count, p_.shape.value_dimension * static_cast<index_t>(sizeof(A)));
  }

  /// The same rows have seen nothing again.
  void restart() {
    for (index_t t = 0; t < tile_count_; ++t) {
      tile<A>& tile = tiles_[t];
      std::fill_n(tile.maximum, lanes, -infinity<A>);
      std::fill_n(tile.weight_sum, lanes, A(0));
      tile.fresh = true;
    }
  }

  /// The rows take `count` rows of keys from `first` on, as far as the mask shows them. `block` is of the same rows. A
  /// gain, where there is one, multiplies the weights of pairs after they were summed up.
  template <class Rows, Mask M, class Gain = attend::detail::absent>
  void see(key_block<Rows>& block, Rows const& rows, index_t first, index_t count, M const& mask,
           Gain const& gain = {}) {
    // Blocks of one size: a short one at the end would cost a tile as much as a long one, but for its products.
    index_t const most = count > 0 ? round_up(divide_up(count, divide_up(count, block_keys_)), simd::register_rows) : 0;
    for (index_t const last = first + count; first < last; first += most) {
      key_range const range = block.move_to(first, std::min(most, last - first));
      expect(rows, first + range.count(), last);
      for (index_t t = 0; t < tile_count_; ++t) {
        // Rows of a list may be more than the sequence's keys, which is what `full` is bounded by.
        key_range seen = range;
        if constexpr (!std::same_as<M, full>) seen = intersection(range, mask.bounds(tiles_[t].rows));
        visibility const sight = seen.empty() ? visibility::none : mask.classify(tiles_[t].rows, seen);
        if (sight == visibility::none) continue;
        if (p_.counts) count_pairs(tiles_[t], seen, sight);
        attend(t, block, seen, mask, gain, sight == visibility::some);
      }
    }
  }

  /// The logits of `count` rows of keys from `first` on, -inf where the mask hides them, instead of seeing them: those
  /// of tile t and some keys go to where(t, keys), [key][lanes of the tile], with room for register_rows keys at least,
  /// and then(t, keys) is told. Lanes past the last row repeat it.
  template <class Rows, Mask M, class Where, class Then>
  void score(key_block<Rows>& block, Rows const& rows, index_t first, index_t count, M const& mask, Where const& where,
             Then const& then) {
    for (index_t const last = first + count; first < last; first += block_keys_) {
      key_range const range = block.move_to(first, std::min(block_keys_, last - first));
      expect(rows, first + range.count(), last);
      for (index_t t = 0; t < tile_count_; ++t) {
        visibility const sight = mask.classify(tiles_[t].rows, range);
        A* const to = where(t, range);
        if (sight == visibility::none)
          std::fill_n(to, range.count() * tiles_[t].lanes(), -infinity<A>);
        else
          multiply(t, block, range, mask, sight == visibility::some, to);
        then(t, range);
      }
    }
  }

  /// The rows take `count` rows of keys from `first` on by the logits that score() has formed of them, and that may
  /// have been changed since: those of tile t and some keys are at from(t, keys), -inf where they are hidden. They are
  /// lost.
  template <class Rows, class From>
  void see_scored(key_block<Rows>& block, Rows const& rows, index_t first, index_t count, From const& from) {
    for (index_t const last = first + count; first < last; first += block_keys_) {
      key_range const range = block.move_to(first, std::min(block_keys_, last - first));
      expect(rows, first + range.count(), last);
      for (index_t t = 0; t < tile_count_; ++t) {
        A* const logits = from(t, range);
        peaks peak = no_peaks();
        for (index_t j = 0; j < range.count(); ++j)
          for (int v = 0; v < tiles_[t].vectors; ++v)
            peak.of[v] = xsimd::max(peak.of[v], simd::load(logits + (j * tiles_[t].vectors + v) * simd::width<A>));
        take_logits(t, block, range, seen_parts(range.count()), peak, logits, attend::detail::absent{}, true);
      }
    }
  }

  index_t tile_count() const { return tile_count_; }
  /// Lanes in use of a tile, and how many of them are rows.
  int lanes_of(index_t t) const { return tiles_[t].lanes(); }
  int rows_in(index_t t) const { return tiles_[t].rows.count; }
  /// What a tile has seen, for what joins it in a way of its own. Its sum may be exchanged for one of the same size.
  tile<A>& tile_at(index_t t) { return tiles_[t]; }

  /// What the rows have seen goes to their states, row i to state(i). A gain is added to its logits.
  template <class State>
  void fold(row_states<A> const& states, State const& state, A gain = 0) {
    for (index_t t = 0; t < tile_count_; ++t) {
      tile<A> const& tile = tiles_[t];
      if (tile.fresh) continue;
      alignas(64) A seen[array_size(lanes)];
      A kept[array_size(lanes)];
      A* to[array_size(lanes)];
      for (int lane = 0; lane < tile.lanes(); ++lane) {
        to[lane] = nullptr;
        seen[lane] = kept[lane] = 0;
        if (lane >= tile.rows.count || tile.maximum[lane] == -infinity<A>) continue;
        index_t const number = state(first_row_[t] + lane);
        A& maximum = states.maximum(number);
        A const come = tile.maximum[lane] + gain, risen = std::max(maximum, come);
        kept[lane] = maximum == -infinity<A> ? A(0) : std::exp(maximum - risen);
        seen[lane] = std::exp(come - risen);
        states.weight_sum(number) =
            (kept[lane] == 0 ? A(0) : states.weight_sum(number) * kept[lane]) + tile.weight_sum[lane] * seen[lane];
        maximum = risen;
        // A state that holds nothing is written rather than added to.
        to[lane] = kept[lane] == 0 ? states.sum(number) : rows_ + lane * p_.shape.value_dimension;
      }
      if (p_.shape.value_dimension == 0) continue;
      simd::unpack_columns<A>(tile.sum, tile.lanes(), p_.shape.value_dimension, seen, to);
      for (int lane = 0; lane < tile.rows.count; ++lane) {
        if (!to[lane] || kept[lane] == 0) continue;
        A* const sum = states.sum(state(first_row_[t] + lane));
        A const factors[2] = {kept[lane], 1};
        merge_rows(factors, 2, [&](index_t part) { return part == 0 ? sum : to[lane]; }, p_.shape.value_dimension, sum);
      }
    }
  }

  /// Writes output and log-sum-exp of what the rows have seen together with their states, row i with state(i).
  template <class State>
  void write(row_states<A> const& states, State const& state) {
    for (index_t t = 0; t < tile_count_; ++t) {
      tile<A>& tile = tiles_[t];
      settle(tile, padded_value_dimension_);
      alignas(64) A seen[array_size(lanes)];
      A factors[array_size(lanes)][2];
      A* to[array_size(lanes)];
      for (int lane = 0; lane < tile.lanes(); ++lane) {
        to[lane] = nullptr;
        seen[lane] = 1;
        if (lane >= tile.rows.count) continue;
        to[lane] = rows_ + lane * p_.shape.value_dimension;
        index_t const number = state(first_row_[t] + lane);
        A const risen = std::max(states.maximum(number), tile.maximum[lane]);
        A const before = states.maximum(number) == -infinity<A> ? A(0) : std::exp(states.maximum(number) - risen);
        A const now = tile.maximum[lane] == -infinity<A> ? A(0) : std::exp(tile.maximum[lane] - risen);
        A const weight_sum = (before == 0 ? A(0) : before * states.weight_sum(number)) + now * tile.weight_sum[lane];
        factors[lane][0] = weight_sum == 0 ? A(0) : before / weight_sum;
        factors[lane][1] = weight_sum == 0 ? A(0) : now / weight_sum;
        if (p_.log_sum_exp.data())
          p_.log_sum_exp(tile.rows.batch, tile.rows.head[lane], tile.rows.query_token(lane)) =
              weight_sum == 0 ? -infinity<A> : risen + std::log(weight_sum / detail::weight_unit<A>);
      }
      if (p_.shape.value_dimension == 0) continue;
      simd::unpack_columns<A>(tile.sum, tile.lanes(), p_.shape.value_dimension, seen, to);
      for (int lane = 0; lane < tile.rows.count; ++lane) {
        A* const sum = states.sum(state(first_row_[t] + lane));
        merge_rows(
            factors[lane], 2, [&](index_t part) { return part == 0 ? sum : to[lane]; }, p_.shape.value_dimension,
            row_of_lane(p_.output, tile.rows, lane));
      }
    }
  }

  /// Adds each row's output, of what it has seen, to `to(i)`, or writes it there where is_first(i).
  template <class To, class First>
  void add(To const& to, First const& is_first) {
    static constexpr A ones[2] = {1, 1};
    if (p_.shape.value_dimension == 0) return;
    for (index_t t = 0; t < tile_count_; ++t) {
      tile<A>& tile = tiles_[t];
      settle(tile, padded_value_dimension_);
      alignas(64) A factor[array_size(lanes)];
      A* seen[array_size(lanes)] = {};
      for (int lane = 0; lane < tile.lanes(); ++lane) {
        factor[lane] = tile.weight_sum[lane] == 0 ? A(0) : 1 / tile.weight_sum[lane];
        if (lane >= tile.rows.count) continue;
        index_t const i = first_row_[t] + lane;
        seen[lane] = is_first(i) ? to(i) : rows_ + lane * p_.shape.value_dimension;
      }
      simd::unpack_columns<A>(tile.sum, tile.lanes(), p_.shape.value_dimension, factor, seen);
      for (int lane = 0; lane < tile.rows.count; ++lane) {
        if (is_first(first_row_[t] + lane)) continue;
        A* const sum = to(first_row_[t] + lane);
        merge_rows(ones, 2, [&](index_t part) { return part == 0 ? sum : seen[lane]; }, p_.shape.value_dimension, sum);
      }
    }
  }

  /// Writes output and log-sum-exp of the rows, which see nothing else.
  void write() {
    for (index_t t = 0; t < tile_count_; ++t) {
      tile<A>& tile = tiles_[t];
      settle(tile, padded_value_dimension_);
      alignas(64) A factor[array_size(lanes)];
      T* to[array_size(lanes)];
      for (int lane = 0; lane < tile.lanes(); ++lane) {
        to[lane] = nullptr;
        factor[lane] = 0;
        if (lane >= tile.rows.count) continue;
        A const weight_sum = tile.weight_sum[lane];
        if (weight_sum != 0) factor[lane] = 1 / weight_sum;
        to[lane] = row_of_lane(p_.output, tile.rows, lane);
        if (p_.log_sum_exp.data())
          p_.log_sum_exp(tile.rows.batch, tile.rows.head[lane], tile.rows.query_token(lane)) =
              weight_sum == 0 ? -infinity<A> : tile.maximum[lane] + std::log(weight_sum / detail::weight_unit<A>);
      }
      simd::unpack_columns<T>(tile.sum, tile.lanes(), p_.shape.value_dimension, factor, to);
    }
  }

 private:
  void ask_for_queries() {
    prefetch_.query = row_list_prefetch(ahead_[0], asked_, p_.shape.key_dimension * static_cast<index_t>(sizeof(T)));
  }

  template <class Row>
  void place(tile_rows<A>& rows, index_t first, index_t count, Row const& row_at) const {
    using integer = typename tile_rows<A>::integer;
    place_sequence(rows, p_.shape, batch_, sequence_);
    rows.count = static_cast<int>(count);
    rows.packed_query = nullptr;
    for (int lane = 0; lane < lanes; ++lane) {
      auto const [head, query] = row_at(first + std::min<index_t>(lane, count - 1));
      rows.head[lane] = static_cast<integer>(head);
      rows.query[lane] = static_cast<integer>(query);
      rows.token[lane] = static_cast<integer>(sequence_.first_query + query);
      rows.position[lane] = static_cast<integer>(query + sequence_.keys - sequence_.queries);
    }
    auto const ends = std::minmax_element(rows.position, rows.position + rows.count);
    rows.first_position = *ends.first;
    rows.last_position = *ends.second;
  }

  void pack(index_t t) {
    tile<A>& tile = tiles_[t];
    T const* query[array_size(lanes)] = {};
    for (int lane = 0; lane < tile.lanes(); ++lane) query[lane] = row_of_lane(p_.query, tile.rows, lane);
    simd::pack_columns(query, tile.lanes(), p_.shape.key_dimension, packed_[t], tile.lanes(), p_.scale);
    tile.rows.packed_query = packed_[t];
  }

  struct peaks {
    simd::vector<A> of[simd::register_vectors];
  };

  key_work<A> work_of(index_t t, rows_of<A> keys, index_t count) {
    if (!tiles_[t].rows.packed_query) pack(t);
    return {keys,
            std::max<index_t>(count, simd::register_rows),
            {0, count},
            tiles_[t].rows.packed_query,
            p_.shape.key_dimension,
            tiles_[t].lanes()};
  }

  /// Logits of one tile and one block.
  template <class Block, Mask M>
  void multiply(index_t t, Block& block, key_range range, M const& mask, bool masked, A* logits) {
    peaks peak = no_peaks();
    multiply_keys(tiles_[t].vectors, work_of(t, block.keys(range), range.count()), logits, peak.of, prefetch_);
    if (masked)
      apply_policies(tiles_[t].vectors, tiles_[t].rows, range, logits, peak.of,
                     detail::bind_mask(mask, tiles_[t].rows, range));
  }

  static peaks no_peaks() {
    peaks peak;
    for (auto& most : peak.of) most = simd::vector<A>(-infinity<A>);
    return peak;
  }

  /// One tile takes one block.
  template <class Block, Mask M, class Gain>
  void attend(index_t t, Block& block, key_range range, M const& mask, Gain const& gain, bool masked) {
    tile<A>& tile = tiles_[t];
    index_t const keys = range.count();
    seen_parts seen(keys);
    peaks peak = no_peaks();
    if (masked) {
      seen = seen_parts(tile.vectors, tile.rows, range, detail::bind_mask(mask, tile.rows, range), logits_);
      if (seen.empty()) return;
      multiply_keys(seen, tile.vectors, work_of(t, block.keys(range), keys), logits_, peak.of, prefetch_);
    } else {
      multiply_keys(tile.vectors, work_of(t, block.keys(range), keys), logits_, peak.of, prefetch_);
    }
    take_logits(t, block, range, seen, peak, logits_, gain, masked);
  }

  /// One tile takes a block by its logits, which become weights: what is seen of them.
  template <class Block, class Gain>
  void take_logits(index_t t, Block& block, key_range range, seen_parts const& seen, peaks const& peak, A* logits,
                   Gain const& gain, bool hides) {
    tile<A>& tile = tiles_[t];
    index_t const keys = range.count();
    bool hidden[array_size(max_block_keys * lanes)];
    bool const guarded = hides && !block.values_are_finite();
    if (guarded)
      for (index_t i = 0; i < keys * tile.lanes(); ++i) hidden[i] = logits[i] == -infinity<A>;
    raise_maximum(tile, peak.of, padded_value_dimension_);
    weigh(softmax{}, tile, seen.of_vectors(), logits);
    if constexpr (!std::same_as<Gain, attend::detail::absent>)
      multiply_pairs(tile.vectors, tile.rows, range, logits, gain.bind(tile.rows, range));
    if (guarded) {
      settle(tile, padded_value_dimension_);
      multiply_values_guarded(block.values(range), keys, logits, hidden, tile.lanes(), p_.shape.value_dimension,
                              tile.sum);
    } else if (!seen.empty()) {
      multiply_values(seen, tile, block.values(range), logits, padded_value_dimension_, prefetch_);
    } else {
      multiply_values(tile.vectors, block.values(range), keys, logits, tile.lanes(), padded_value_dimension_, tile.sum,
                      prefetch_, std::exchange(tile.fresh, false));
    }
  }

  /// Asks for the rows that lie behind the present ones, which are often the next: a part with each tile. Those of a
  /// list that goes on behind `last` are asked for one by one.
  template <class Rows>
  void expect(Rows const& rows, index_t next, index_t last) {
    if constexpr (key_block<Rows>::gathers) {
      prefetch_.key = prefetch_.value = {};
      index_t ahead = std::min(last - next, block_keys_), from = 0;
      if (ahead > 0)
        list(rows, next, ahead, from);
      else
        ahead = std::exchange(listed_next_, 0), from = max_block_keys;
      prefetch_.gathered_key =
          row_list_prefetch(listed_[0] + from, ahead, p_.shape.key_dimension * static_cast<index_t>(sizeof(T)));
      prefetch_.gathered_value =
          row_list_prefetch(listed_[1] + from, ahead, p_.shape.value_dimension * static_cast<index_t>(sizeof(T)));
      prefetch_.spread(steps_of_block());
    } else if constexpr (Rows::in_one_run) {
      prefetch_.key = prefetch_.value = {};
      if (next >= rows.stored()) return;
      auto const run = rows.rows(next);
      index_t const ahead = std::min(run.count, block_keys_);
      using Key = typename Rows::key_element;
      using Value = typename Rows::value_element;
      prefetch_.key = row_prefetch(rows_of<Key>{run.key, run.key_stride}, ahead, p_.shape.key_dimension);
      prefetch_.value = row_prefetch(rows_of<Value>{run.value, run.value_stride}, ahead, p_.shape.value_dimension);
      prefetch_.spread(steps_of_block());
    }
  }

  index_t steps_of_block() const {
    return tile_count_ *
           (divide_up(block_keys_, simd::register_rows) * divide_up(p_.shape.key_dimension, prefetch_depth) +
            padded_value_dimension_ / simd::register_rows);
  }

  /// Where rows lie, in the lists from `to` on.
  template <class Rows>
  void list(Rows const& rows, index_t first, index_t count, index_t to) {
    for (index_t j = 0; j < count; ++j) {
      auto const run = rows.rows(first + j);
      listed_[0][to + j] = run.key;
      listed_[1][to + j] = run.value;
    }
  }

  void count_pairs(tile<A> const& tile, key_range range, visibility sight) const {
    ++(sight == visibility::all ? p_.counts->full : p_.counts->masked);
    p_.counts->pairs += range.count() * tile.rows.count;
    p_.counts->padded_pairs += range.count() * tile.lanes();
  }

  problem<T> const& p_;
  detail::sequence sequence_;
  index_t batch_, padded_value_dimension_, block_keys_ = 0, tile_count_ = 0;
  tile<A>* tiles_;
  A* logits_;
  A* rows_;
  A* packed_[tiling::max_tiles];
  index_t first_row_[tiling::max_tiles + 1];
  void const** ahead_[2];   // queries and states that are asked for
  void const** listed_[2];  // keys and values, of the next block and of the next rows' first
  index_t asked_ = 0, listed_next_ = 0;
  block_prefetch prefetch_;
};

}  // namespace attend::inline ATTEND_TARGET::engine
