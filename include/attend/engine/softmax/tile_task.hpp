// SPDX-License-Identifier: BSD-3-Clause
// A task of the tiled engine: some tiles of queries of a group of query heads, from packing the queries to writing the
// rows of the output. All of its tiles process a block of keys before the next one is read.
//
// tile_step.hpp says what a tile does with a block, key_walk.hpp which blocks there are, and visible_parts.hpp which
// parts of a block the mask shows.
#pragma once

#include <optional>

#include "key_walk.hpp"
#include "pair_pipeline.hpp"
#include "row_epilogue.hpp"
#include "tile_queries.hpp"
#include "tile_states.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// One task.
template <Element T, KeyValueSource Source, class Access>
class task {
 public:
  using A = accumulation_t<T>;
  static constexpr int lanes = simd::tile_lanes<A>;

  using position_type = typename Access::position_type;
  using order_type = typename Access::order_type;
  using walk_type = key_walk<A, any_policies<A>>;
  static constexpr bool rotates = !std::same_as<position_type, attend::detail::absent>;
  /// Whether blocks may be read in place (key_block.hpp).
  static constexpr bool reads_in_place = std::same_as<typename Source::key_element, A> &&
                                         std::same_as<typename Source::value_element, A> && !rotates &&
                                         std::same_as<order_type, in_order>;
  /// Whether a matrix unit may compute the products (pair_pipeline.hpp).
  static constexpr bool may_use_pairs = engine::may_use_pairs<T, Source> && std::same_as<order_type, in_order>;
  static_assert(!rotates || std::same_as<order_type, in_order>,
                "attend: rotary needs tokens in the tensors' own order");

  static bool uses_pairs(problem<T> const& p) {
    return may_use_pairs && simd::uses_pair_products() && !p.full_precision && p.shape.key_dimension > 0;
  }
  /// The most keys of a block. With a matrix unit there are more: each time that a tile adds values, it reads and
  /// writes its sums.
  static index_t most_block_keys(problem<T> const& p) { return uses_pairs(p) ? 2 * max_block_keys : max_block_keys; }
  /// The size of an element of packed queries.
  static index_t query_bytes(problem<T> const& p) {
    return uses_pairs(p) ? pair_parts<position_type> * sizeof(std::uint16_t) : sizeof(A);
  }

  /// Sums of values have so many rows, in whole register tiles or in those of a matrix unit.
  static index_t padded_value_dimension(problem<T> const& p) {
    return round_up(p.shape.value_dimension, uses_pairs(p) ? simd::pair_tile : index_t{simd::register_rows});
  }

  /// The place of a task in the call: `in_group` is its number among the tasks of its group of query heads.
  struct place {
    index_t sequence_number;
    attend::detail::sequence sequence;
    index_t group, in_group;
  };

  /// A task with all of its tiles, or with the first `most` of them.
  task(problem<T> const& p, Source const& source, tiling const& cut, any_policies<A> const& call, Access const& access,
       place const& at, index_t most = tiling::max_tiles)
      : p_(p),
        source_(source),
        cut_(cut),
        call_(call),
        access_(access),
        at_(at),
        sequence_(at.sequence),
        first_head_(at.group * cut.heads_per_group),
        own_(p, at.sequence, first_head_ / (p.shape.query_heads / p.shape.value_heads)),
        uses_pairs_(uses_pairs(p)) {
    index_t* const heads = memory_.allocate<index_t>(cut_.heads_per_group);
    index_t const active_heads = list_active_heads(p_, sequence_.batch, first_head_, cut_.heads_per_group, heads);

    index_t const first_tile = at.in_group * cut_.tiles_per_task;
    index_t const max_tiles =
        std::clamp<index_t>(cut_.template tiles_of<A>(sequence_.asked(), active_heads) - first_tile, 0,
                            std::min(most, cut_.tiles_per_task));
    tiles_ = memory_.allocate<tile<A>>(max_tiles);
    for (index_t t = first_tile; t < first_tile + max_tiles; ++t)
      if (key_range const rows = cut_.template rows_of_tile<A>(t, sequence_.asked(), active_heads); !rows.empty())
        place_rows(tiles_[tile_count_++], rows, heads, active_heads);
    own_tiles_ = {0, tile_count_};
  }

  /// The first key that may be visible to any of the tiles, or the number of keys if there is none.
  index_t first_key() const {
    index_t first = sequence_.keys;
    for (index_t t = 0; t < tile_count_; ++t)
      if (key_range const run = call_.next(tiles_[t].rows, 0); !run.empty()) first = std::min(first, run.first);
    return first;
  }

  /// Processes all keys and writes the rows. The first queries and keys of the task `next`, if one is given, are
  /// prefetched during the last keys of this task: where few keys are visible, waiting for them would be a good part of
  /// the time.
  void run(task const* next = nullptr) {
    next_ = next;
    add_keys(0, {0, p_.shape.keys});
    close();
  }

  /// Processes all keys and writes the rows of these tiles alone. Blocks of keys are those of all tiles, and so a row's
  /// bits are the same.
  void run_share(key_range tiles) {
    if (tiles.first > 0 && tiles.first >= tile_count_) return;
    own_tiles_ = {tiles.first, std::min(tiles.last, tile_count_)};
    run();
  }

  /// Processes one part of the keys, and stores the states of the tiles. The last part includes the padding.
  void run_part(index_t part, tile_states<A> const& states) {
    index_t const end = part + 1 < cut_.parts ? (part + 1) * cut_.keys_of_part : p_.shape.keys;
    states_ = &states;
    add_keys(part, {part * cut_.keys_of_part, end});
    for (index_t t = 0; t < tile_count_; ++t) states.keep(part, t, tiles_[t]);
  }

  /// Merges the states of the first `parts` parts and writes the rows.
  void finish(index_t parts, tile_states<A> const& states) {
    for (index_t t = 0; t < tile_count_; ++t) states.merge(parts, t, tiles_[t], call_.keeps_maximum);
    states_ = &states;
    merged_parts_ = parts;
    close();
  }

  /// The number of parts that must be processed: keys behind the last visible one change nothing, unless weights or
  /// logits are written.
  index_t needed_parts() const {
    if (p_.weights.data() || p_.logits.data()) return cut_.parts;
    index_t last = 0;
    for (index_t t = 0; t < tile_count_; ++t) last = std::max(last, call_.bounds(tiles_[t].rows).last);
    return std::clamp<index_t>(divide_up(last, cut_.keys_of_part), 1, cut_.parts);
  }

 private:
  std::span<tile<A>> own_tiles() const {
    return {tiles_ + own_tiles_.first, static_cast<std::size_t>(own_tiles_.count())};
  }

  index_t padded_value_dimension() const { return padded_value_dimension(p_); }

  block_shape shape_of_block(index_t max_keys) const {
    return {max_keys, p_.shape.key_dimension, p_.shape.value_dimension, own_tiles_.count() > 1};
  }

  auto rows_of_keys() const {
    source_rows<Source> const in_memory{&source_, at_.sequence_number, first_head_ / p_.heads_per_group()};
    if constexpr (std::same_as<order_type, in_order>)
      return in_memory;
    else
      return ordered_rows<source_rows<Source>, order_type>{in_memory, access_.order};
  }

  /// Processes the keys whose positions are in `part`, and with the first part also the slots.
  void add_keys(index_t number, key_range part) {
    if (own_tiles_.empty()) return;
    auto const rows = rows_of_keys();
    key_block block(memory_, rows, shape_of_block(cut_.block_keys), &access_.position, sequence_);
    logits_ = memory_.allocate<A>(max_block_keys * lanes);
    if constexpr (!std::same_as<order_type, in_order>)
      for (void const**& list : gathered_) list = memory_.allocate<void const*>(cut_.block_keys);
    if constexpr (rotates) {
      rotated_ = memory_.allocate<A>(p_.shape.key_dimension * lanes);
      angles_ = memory_.allocate<A>(access_.position.buffer_size());
    }
    for (tile<A>& tile : own_tiles()) open(tile, intersection(part, {0, p_.shape.keys}));
    part = intersection(part, {0, sequence_.keys});
    if (p_.statistics.any()) open_statistics(number, part);
    prefetch_rows();
    if constexpr (Access::has_slots)
      if (number == 0) add_slots();

    walk_type walk(memory_, call_, tiles_, tile_count_, part, cut_.block_keys, p_.chunk_invariant);
    if constexpr (requires { source_.sinks(); }) walk.end_blocks_at(source_.sinks());
    if constexpr (may_use_pairs)
      if (uses_pairs_) {
        simd::pair_unit unit;
        pair_block pairs(memory_, rows, shape_of_block(cut_.block_keys), access_.position, sequence_,
                         p_.chunk_invariant);
        pair_pipeline pipeline(unit, memory_, p_, own_, call_, cut_.block_keys, pairs.key_depth(), prefetch_);
        walk_blocks(
            rows, walk,
            [&](index_t row, index_t count) {
              block.move_to(row, count);
              pairs.move_to(row, count);
            },
            [&](tile<A>& tile, key_range keys, bool masked) { pipeline.add(tile, pairs, block, keys, masked); });
        return pipeline.finish();
      }
    walk_blocks(
        rows, walk, [&](index_t row, index_t count) { block.move_to(row, count); },
        [&](tile<A>& tile, key_range keys, bool masked) {
          tile_step<A> step(tile, block, keys, p_.shape.key_dimension, logits_, prefetch_, p_.has_values,
                            p_.chunk_invariant);
          softmax_step(step, call_, masked, &own_);
        });
  }

  /// Moves to each block of the walk with move(row, count), and has its tiles process it by step(tile, keys, whether
  /// some of the pairs are hidden).
  template <class Rows, class Move, class Step>
  void walk_blocks(Rows const& rows, walk_type& walk, Move const& move, Step const& step) {
    for_blocks(rows, walk, cut_.block_keys, [&](index_t row, key_range keys) {
      move(row, keys.count());
      prefetch(rows, walk);
      for (auto const& [index, keys_of_tile] : walk.pieces())
        if (own_tiles_.contains(index)) add_keys(tiles_[index], keys_of_tile, step);
    });
  }

  template <class Step>
  void add_keys(tile<A>& tile, key_range seen, Step const& step) {
    visibility const sight = call_.classify(tile.rows, seen);
    if (sight == visibility::none) return;
    count_pairs(p_.counts, tile.rows, seen, sight, tile.lanes());
    if (!tile.rows.packed_query && !tile.query_pairs) pack_queries(tile);
    step(tile, seen, sight == visibility::some);
  }

  void place_rows(tile<A>& tile, key_range which, index_t const* heads, index_t head_count) {
    engine::place_rows(tile.rows, p_.shape, at_.sequence_number, sequence_, heads, head_count,
                       sequence_.answered * head_count + which.first, which.count(), access_.order);
    if constexpr (rotates) place_on_head(tile.rows, source_, first_head_ / p_.heads_per_group());
    tile.vectors = static_cast<int>(divide_up(tile.rows.count, simd::width<A>));
  }

  /// Resets the state of a tile, and the logits of these keys to those of hidden keys. The queries are packed only when
  /// they are first needed.
  void open(tile<A>& tile, key_range keys) {
    tile_rows<A> const& rows = tile.rows;
    restart(tile);
    tile.rows.packed_query = nullptr;
    tile.query_pairs = nullptr;
    tile.rows.used = tile.lanes();
    tile.sum = memory_.allocate<A>(padded_value_dimension() * tile.lanes());
    for (tensor_view<A, 4> const* pairs : {&p_.weights, &p_.logits})
      if (pairs->data())
        for (int lane = 0; lane < rows.count; ++lane)
          std::fill_n(row_of_lane(*pairs, rows, lane) + keys.first, keys.count(), -infinity<A>);
  }

  [[gnu::noinline]] void open_statistics(index_t part, key_range keys) {
    own_.statistics =
        &statistics_.emplace(memory_, p_.statistics, call_.keeps_maximum, at_.sequence_number, keys, uses_pairs_);
    for (index_t t = own_tiles_.first; t < own_tiles_.last; ++t) {
      tile<A>& tile = tiles_[t];
      auto const layout = statistics_->layout(tile.lanes());
      tile.statistics = states_ ? states_->statistics(part, t, tile.lanes()).state : memory_.allocate<A>(layout.size());
      statistics_->open(layout, tile.statistics);
    }
  }

  [[gnu::noinline]] void write_statistics(tile<A> const& tile, finished_lanes<A> const& finished) {
    scratch memory;
    index_t const count = states_ ? merged_parts_ : 1;
    auto* const parts = memory.allocate<statistics_part<A>>(count);
    if (states_)
      for (index_t part = 0; part < count; ++part)
        parts[part] = states_->statistics(part, &tile - tiles_, tile.lanes());
    else
      parts[0] = {statistics_->layout(tile.lanes()), tile.statistics};
    statistics_writer<T>(p_, call_, tile.rows, tile.vectors, {parts, static_cast<std::size_t>(count)}, finished)
        .write();
  }

  void pack_queries(tile<A>& tile) {
    if constexpr (may_use_pairs)
      if (uses_pairs_) {
        tile.query_pairs = pack_query_pairs(p_, access_.position, tile.rows, tile.lanes(), memory_, rotated_, angles_);
        // Slots are multiplied without the unit, and scores may read queries.
        if (p_.slots() == 0 && !call_.has_scores) return;
      }
    engine::pack_queries(p_, access_.position, tile, memory_.allocate<A>(p_.shape.key_dimension * tile.lanes()),
                         rotated_, angles_);
  }

  /// Prefetches the rows of queries and output during the first keys, and the first queries of the next task.
  void prefetch_rows() {
    void const** const queries = memory_.allocate<void const*>((own_tiles_.count() + 1) * lanes);
    void const** const outputs = memory_.allocate<void const*>(own_tiles_.count() * lanes);
    index_t count = 0;
    for (tile<A> const& tile : own_tiles())
      for (int lane = 0; lane < tile.rows.count; ++lane, ++count) {
        queries[count] = row_of_lane(p_.query, tile.rows, lane);
        outputs[count] = p_.has_values ? row_of_lane(p_.output, tile.rows, lane) : nullptr;
      }
    // The first tile's queries are read at once: a prefetch would come too late.
    index_t const at_once = own_tiles().front().rows.count;
    index_t asked = count;
    if (next_ && next_->tile_count_ > 0)
      for (int lane = 0; lane < next_->tiles_[0].rows.count; ++lane)
        queries[asked++] = row_of_lane(p_.query, next_->tiles_[0].rows, lane);
    prefetch_.query =
        row_list_prefetch(queries + at_once, asked - at_once, p_.shape.key_dimension * static_cast<index_t>(sizeof(T)));
    prefetch_.output = row_list_prefetch(outputs, count, p_.shape.value_dimension * static_cast<index_t>(sizeof(T)));
  }

  void add_slots() {
    if (p_.slots() == 0) return;
    for (tile<A>& tile : own_tiles()) {
      pack_queries(tile);
      // Slots write whole register tiles alone.
      if (uses_pairs_) settle(tile, padded_value_dimension());
    }
    engine::add_slots(p_, call_, sequence_.batch, first_head_, own_tiles(), logits_, prefetch_);
  }

  /// Spreads the prefetch of the next block over the register tiles of the present one.
  template <class Rows>
  void prefetch(Rows const& rows, walk_type const& walk) {
    prefetch_.key = prefetch_.value = {};
    prefetch_.gathered_key = prefetch_.gathered_value = {};
    if (key_range const next = walk.next(); !next.empty()) {
      ask_for(rows, next);
    } else if (next_ && next_->tile_count_ > 0) {
      key_range const run = call_.next(next_->tiles_[0].rows, 0);
      ask_for(next_->rows_of_keys(), {run.first, std::min(run.last, run.first + cut_.block_keys)});
    }
    index_t steps = 0;
    for (auto const& piece : walk.pieces())
      if (own_tiles_.contains(piece.tile))
        steps += uses_pairs_
                     ? prefetch_steps_of_pairs(piece.keys.count()) + prefetch_steps_of_pairs(p_.shape.value_dimension)
                     : divide_up(piece.keys.count(), simd::register_rows) *
                               divide_up(p_.shape.key_dimension, prefetch_depth) +
                           padded_value_dimension() / simd::register_rows;
    prefetch_.spread(steps);
  }

  template <class Rows>
  void ask_for(Rows const& rows, key_range next) {
    index_t const row = rows.first_row_from(next.first);
    if (row >= rows.stored()) return;
    using Key = typename Rows::key_element;
    using Value = typename Rows::value_element;
    index_t const key_elements = attend::detail::row_elements<Key>(p_.shape.key_dimension);
    index_t const value_elements = attend::detail::row_elements<Value>(p_.shape.value_dimension);
    auto const run = rows.rows(row);
    bool const in_keys = values_in_keys(run, p_.shape.key_dimension, p_.shape.value_dimension);
    if constexpr (requires { rows.order; }) {
      if (run.count < next.count()) {
        index_t token[max_block_keys];
        index_t const count = std::min<index_t>(next.count(), cut_.block_keys);
        rows.order.tokens_at({next.first, next.first + count}, token);
        auto const all = rows.in_memory.rows(0);
        for (index_t j = 0; j < count; ++j) {
          gathered_[0][j] = all.key + token[j] * all.key_stride;
          gathered_[1][j] = all.value + token[j] * all.value_stride;
        }
        prefetch_.gathered_key =
            row_list_prefetch(gathered_[0], count, key_elements * static_cast<index_t>(sizeof(Key)));
        if (!in_keys)
          prefetch_.gathered_value =
              row_list_prefetch(gathered_[1], count, value_elements * static_cast<index_t>(sizeof(Value)));
        return;
      }
    }
    index_t const ahead = std::min(run.count, next.count());
    prefetch_.key = row_prefetch(rows_of<Key>{run.key, run.key_stride}, ahead, key_elements);
    if (!in_keys) prefetch_.value = row_prefetch(rows_of<Value>{run.value, run.value_stride}, ahead, value_elements);
  }

  /// Writes the rows of the tiles, and those of the heads whose gate is 0, which have no tiles.
  void close() {
    for (tile<A>& tile : own_tiles()) close(tile);
    if (at_.in_group == 0 && own_tiles_.first == 0) clear_gated_heads(p_, sequence_, first_head_, cut_.heads_per_group);
  }

  /// Multiplies the sums by the factors of the rows, and writes output, log-sum-exp and weights.
  void close(tile<A>& tile) {
    tile_rows<A> const& rows = tile.rows;
    settle(tile, padded_value_dimension());
    if (p_.chunk_invariant) clear_signs_of_zero(tile.sum, padded_value_dimension() * tile.lanes());
    alignas(64) A factor[array_size(lanes)] = {}, weights[array_size(lanes)] = {};
    T* output_row[array_size(lanes)] = {};
    bool const tells = p_.statistics.any();
    finished_lanes<A> finished;
    if (tells) finished.clear();
    for (int lane = 0; lane < rows.count; ++lane) {
      factor[lane] = tile.maximum[lane];
      weights[lane] =
          row_epilogue(p_, call_, rows, lane, &factor[lane], &tile.weight_sum[lane], 1, tells ? &finished : nullptr);
      factor[lane] *= head_gate(p_, rows.batch, rows.head[lane]);
      if (p_.has_values) output_row[lane] = row_of_lane(p_.output, rows, lane);
    }
    if (p_.has_values) simd::unpack_columns<T>(tile.sum, tile.lanes(), p_.shape.value_dimension, factor, output_row);
    if (p_.of_output.rows.data())
      for (int lane = 0; lane < rows.count; ++lane) add_head_vector(p_, rows, lane, weights[lane]);
    if (tells) write_statistics(tile, finished);
  }

  /// Where a row sees nothing of a block that is processed for other rows, 0 is added to its sums, which makes 0 of -0.
  static void clear_signs_of_zero(A* sum, index_t count) {
    for (A* at = sum; at < sum + count; at += simd::width<A>) simd::store(at, simd::load(at) + simd::vector<A>(A(0)));
  }

  problem<T> const& p_;
  Source const& source_;
  tiling const& cut_;
  any_policies<A> const& call_;
  Access const& access_;
  place at_;
  detail::sequence sequence_;
  index_t first_head_;
  own_keys<A> own_;
  bool uses_pairs_;
  scratch memory_;
  std::optional<row_statistics<A>> statistics_;  // where they are asked for
  tile_states<A> const* states_ = nullptr;       // where keys are split into parts
  index_t merged_parts_ = 1;                     // of the states that are merged
  index_t tile_count_ = 0;
  tile<A>* tiles_ = nullptr;
  key_range own_tiles_{0, 0};  // those of `tiles_` that are processed
  A* logits_ = nullptr;
  A* rotated_ = nullptr;  // the queries of one tile, rotated
  A* angles_ = nullptr;
  block_prefetch prefetch_;
  task const* next_ = nullptr;
  void const** gathered_[2] = {};  // the addresses of gathered keys and values that are prefetched
};

}  // namespace attend::inline ATTEND_TARGET::engine
