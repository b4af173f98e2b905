// SPDX-License-Identifier: BSD-3-Clause
// Attention over chosen pairs: any queries against any blocks of keys.
//
// Some rows (queries of one group of query heads) are side by side in tiles. They process any number of blocks of keys,
// under any masks; their softmax states are then written as output, or merged into their states in memory
// (row_states.hpp).
//
// A choice of blocks that differs from query to query is inverted: for each block of keys, the list of rows that chose
// it. These rows fill tiles whatever else they chose, and only chosen pairs are computed. A row's state is read and
// written once for each of its blocks, which is 2 * value dimension elements for 2 * (key + value dimension) operations
// on each key of the block. The blocks of a row are merged exactly (join_parts.hpp).
//
// Keys are in runs, or are gathered as well, a block at a time (token_list). Positions in lists ascend.
//
// Enzhe Lu et al.: MoBA, 2025 (queries grouped by chosen block, merged with an online softmax).
#pragma once

#include "row_states.hpp"
#include "tile_queries.hpp"
#include "token_stride.hpp"

namespace attend::inline ATTEND_TARGET::engine {

template <Element T>
class gathered_tiles {
 public:
  using A = accumulation_t<T>;
  static constexpr int lanes = simd::tile_lanes<A>;
  /// The largest number of rows, all of which process a block of keys while it is in the cache.
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
    block_keys_ = tiling::keys_of_block<A>(p.shape.key_dimension + p.shape.value_dimension);
    for (index_t t = 0; t < tiling::max_tiles; ++t) {
      packed_[t] = memory.allocate<A>(p.shape.key_dimension * lanes);
      tiles_[t].sum = memory.allocate<A>(padded_value_dimension_ * lanes);
    }
  }

  /// The shape that blocks of keys must have for add_keys(), score() and add_scored_keys().
  block_shape shape_of_block() const { return {block_keys_, p_.shape.key_dimension, p_.shape.value_dimension, true}; }

  /// Sets the rows of the tiles: `count` rows, at most max_rows, of which row_at(i) is the i-th. Their states are those
  /// without keys.
  template <class Row>
  void set_rows(index_t count, Row const& row_at) {
    index_t const vectors = divide_up(count, simd::width<A>);
    tile_count_ = divide_up(vectors, simd::register_vectors);
    first_row_[0] = 0;
    for (index_t t = 0; t < tile_count_; ++t) {
      // Vectors are distributed evenly, since a tile of one vector keeps too few sums in flight.
      index_t const first = first_row_[t];
      first_row_[t + 1] = std::min((t + 1) * vectors / tile_count_ * simd::width<A>, count);
      tile<A>& tile = tiles_[t];
      tile.vectors = static_cast<int>(divide_up(first_row_[t + 1] - first, simd::width<A>));
      place(tile.rows, first, first_row_[t + 1] - first, row_at);
      tile.rows.used = tile.lanes();
    }
    restart();
    // The first tile's queries are read at once; those of the other tiles are prefetched during its work.
    asked_ = 0;
    for (index_t t = 1; t < tile_count_; ++t)
      for (int lane = 0; lane < tiles_[t].rows.count; ++lane)
        ahead_[0][asked_++] = row_of_lane(p_.query, tiles_[t].rows, lane);
    prefetch_ = {};
    listed_next_ = 0;
    ask_for_queries();
  }

  /// Prefetches the operands of the next rows during the last keys of the present ones: the first of `count` rows of
  /// queries, and the first of `keys` gathered rows of keys and values.
  template <class Row, class Rows>
  void prefetch_next(index_t count, Row const& row_at, Rows const& rows, index_t keys) {
    for (index_t i = 0; i < std::min<index_t>(count, lanes); ++i)
      ahead_[0][asked_++] =
          rows_of_head(p_.query, batch_, row_at(i).head, sequence_.first_query + row_at(i).query).data;
    ask_for_queries();
    listed_next_ = std::min(keys, block_keys_);
    list(rows, 0, listed_next_, max_block_keys);
  }

  /// Prefetches the states in memory that the rows will be merged into, during the work on their keys.
  template <class State>
  void prefetch_fold(row_states<A> const& states, State const& state) {
    index_t const count = first_row_[tile_count_];
    for (index_t i = 0; i < count; ++i) ahead_[1][i] = states.sum(state(i));
    prefetch_.output = row_list_prefetch(ahead_[1], count, p_.shape.value_dimension * static_cast<index_t>(sizeof(A)));
  }

  /// Resets the states of the same rows to those without keys.
  void restart() {
    for (index_t t = 0; t < tile_count_; ++t) engine::restart(tiles_[t]);
  }

  /// Processes `count` keys from `first` on, as far as the mask shows them. `block` is a block of `rows`. A gain
  /// multiplies the weights of pairs after they were added to the weight sums.
  template <class Rows, class M, class Gain = attend::detail::absent>
    requires attend::detail::has_kind<option::mask, M>
  void add_keys(key_block<Rows>& block, Rows const& rows, index_t first, index_t count, M const& mask,
                Gain const& gain = {}) {
    policies_for<M, Gain> const policies(mask, gain);
    add_keys(block, rows, first, count, policies.call);
  }

  /// Computes only the logits of `count` keys from `first` on, -inf where the mask hides a key. Those of tile t and a
  /// block of keys are written to where(t, keys), [key][lanes of the tile], with room for at least register_rows keys;
  /// then(t, keys) is called after that. Lanes past the last row repeat it.
  template <class Rows, class M, class Where, class Then>
    requires attend::detail::has_kind<option::mask, M>
  void score(key_block<Rows>& block, Rows const& rows, index_t first, index_t count, M const& mask, Where const& where,
             Then const& then) {
    policies_for<M> const policies(mask);
    for (index_t const last = first + count; first < last; first += block_keys_) {
      key_range const range = block.move_to(first, std::min(block_keys_, last - first));
      prefetch(rows, first + range.count(), last);
      for (index_t t = 0; t < tile_count_; ++t) {
        visibility const sight = mask.classify(tiles_[t].rows, range);
        A* const to = where(t, range);
        if (sight == visibility::none) {
          std::fill_n(to, range.count() * tiles_[t].lanes(), -infinity<A>);
        } else {
          tile_step<A> step = step_of(t, block, range, to);
          step.score(policies.call, false);
          if (sight == visibility::some) step.hide(policies.call);
        }
        then(t, range);
      }
    }
  }

  /// Processes `count` keys from `first` on by the logits that score() has computed and that may have been changed
  /// since: those of tile t and a block of keys are at from(t, keys), -inf where a key is hidden. The logits are
  /// overwritten.
  template <class Rows, class From>
  void add_scored_keys(key_block<Rows>& block, Rows const& rows, index_t first, index_t count, From const& from) {
    policies_for<full> const policies(full{});
    for (index_t const last = first + count; first < last; first += block_keys_) {
      key_range const range = block.move_to(first, std::min(block_keys_, last - first));
      prefetch(rows, first + range.count(), last);
      for (index_t t = 0; t < tile_count_; ++t) {
        tile_step<A> step = step_of(t, block, range, from(t, range));
        step.find_peaks();
        update_softmax<tile_step<A>, A>(step, policies.call, true, nullptr);
      }
    }
  }

  index_t tile_count() const { return tile_count_; }
  /// The number of lanes in use of a tile, and the number of its rows.
  int lanes_of(index_t t) const { return tiles_[t].lanes(); }
  int rows_in(index_t t) const { return tiles_[t].rows.count; }
  /// A tile with its state, for callers that merge it in another way. Its sum may be replaced by one of the same size.
  tile<A>& tile_at(index_t t) { return tiles_[t]; }

  /// Merges the state of each row i of the tiles into the state in memory with number state(i). `gain` is added to the
  /// logits of the tiles.
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
        A factors[2] = {states.maximum(number), tile.maximum[lane] + gain};
        states.maximum(number) = join_maxima(factors, 2);
        kept[lane] = factors[0];
        seen[lane] = factors[1];
        states.weight_sum(number) =
            (kept[lane] == 0 ? A(0) : states.weight_sum(number) * kept[lane]) + tile.weight_sum[lane] * seen[lane];
        // An empty state is written rather than added to, since its sum is undefined.
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

  /// Writes the output and the log-sum-exp of each row i: of its state in the tile, merged with the state in memory
  /// with number state(i).
  template <class State>
  void write(row_states<A> const& states, State const& state) {
    policies_for<full> const policies(full{});
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
        factors[lane][0] = states.maximum(number);
        factors[lane][1] = tile.maximum[lane];
        A const weight_sums[2] = {states.weight_sum(number), tile.weight_sum[lane]};
        row_epilogue(p_, policies.call, tile.rows, lane, factors[lane], weight_sums, 2);
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

  /// Adds the output of each row i to the row to(i), or writes it there where is_first(i).
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

  /// Writes the output and the log-sum-exp of the rows, for which the tiles have processed all keys.
  void write() {
    policies_for<full> const policies(full{});
    for (index_t t = 0; t < tile_count_; ++t) {
      tile<A>& tile = tiles_[t];
      settle(tile, padded_value_dimension_);
      alignas(64) A factor[array_size(lanes)] = {};
      T* to[array_size(lanes)] = {};
      for (int lane = 0; lane < tile.rows.count; ++lane) {
        factor[lane] = tile.maximum[lane];
        row_epilogue(p_, policies.call, tile.rows, lane, &factor[lane], &tile.weight_sum[lane], 1);
        to[lane] = row_of_lane(p_.output, tile.rows, lane);
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

  /// The policies of a call with a mask, a gain and no score. M is not constrained by a concept, since clang 14 does
  /// not compile that.
  template <class M, class Gain = attend::detail::absent>
  struct policies_for {
    using policies_type = policies<M, std::tuple<>, softmax, attend::detail::absent, Gain>;

    explicit policies_for(M const& mask, Gain const& of_pairs = {})
        : gain(of_pairs), all{mask, scores, normalizer, position, gain}, call(all) {}
    policies_for(policies_for const&) = delete;

    std::tuple<> scores;
    softmax normalizer;
    attend::detail::absent position;
    Gain gain;
    policies_type all;
    erased_policies<A, policies_type> call;
  };

  template <class Rows>
  void add_keys(key_block<Rows>& block, Rows const& rows, index_t first, index_t count, any_policies<A> const& call) {
    own_keys<A> const own;
    // All blocks have about the same size: a short block at the end would cost a tile as much as a long one, except for
    // its products.
    index_t const most = count > 0 ? round_up(divide_up(count, divide_up(count, block_keys_)), simd::register_rows) : 0;
    for (index_t const last = first + count; first < last; first += most) {
      key_range const range = block.move_to(first, std::min(most, last - first));
      prefetch(rows, first + range.count(), last);
      for (index_t t = 0; t < tile_count_; ++t) {
        tile<A>& tile = tiles_[t];
        // The bounds of the mask `full` are the sequence's keys, but a list may have more rows than that.
        key_range const seen = call.shows_all ? range : intersection(range, call.bounds(tile.rows));
        visibility const sight = seen.empty() ? visibility::none : call.classify(tile.rows, seen);
        if (sight == visibility::none) continue;
        count_pairs(p_.counts, tile.rows, seen, sight, tile.lanes());
        tile_step<A> step = step_of(t, block, seen, logits_);
        softmax_step(step, call, sight == visibility::some, &own);
      }
    }
  }

  tile_step<A> step_of(index_t t, block_rows<A>& block, key_range range, A* logits) {
    if (!tiles_[t].rows.packed_query) pack_queries(p_, attend::detail::absent{}, tiles_[t], packed_[t]);
    return tile_step<A>(tiles_[t], block, range, p_.shape.key_dimension, logits, prefetch_);
  }

  /// Prefetches the rows behind the present block, which are often the next ones, a part of them with each tile.
  /// Gathered rows are prefetched through a list, which continues behind `last` with the first rows of prefetch_next().
  template <class Rows>
  void prefetch(Rows const& rows, index_t next, index_t last) {
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

  /// Writes the addresses of rows to the lists, from `to` on.
  template <class Rows>
  void list(Rows const& rows, index_t first, index_t count, index_t to) {
    for (index_t j = 0; j < count; ++j) {
      auto const run = rows.rows(first + j);
      listed_[0][to + j] = run.key;
      listed_[1][to + j] = run.value;
    }
  }

  problem<T> const& p_;
  detail::sequence sequence_;
  index_t batch_, padded_value_dimension_, block_keys_ = 0, tile_count_ = 0;
  tile<A>* tiles_;
  A* logits_;
  A* rows_;
  A* packed_[tiling::max_tiles];
  index_t first_row_[tiling::max_tiles + 1];
  void const** ahead_[2];   // the addresses of queries and states that are prefetched
  void const** listed_[2];  // the addresses of keys and values: of the next block, and of the next rows' first block
  index_t asked_ = 0, listed_next_ = 0;
  block_prefetch prefetch_;
};

}  // namespace attend::inline ATTEND_TARGET::engine
