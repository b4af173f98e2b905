// SPDX-License-Identifier: BSD-3-Clause
// A task of the tiled engine: some tiles of queries of a group of heads, from the packing of the queries to the writing
// of the rows. All of its tiles take a block of keys before the next one is brought in.
//
// What a tile does with a block is in tile.hpp, which blocks there are in key_walk.hpp, and what a mask leaves of them
// in seen_parts.hpp.
#pragma once

#include <cmath>

#include "../../policy/position/rotary.hpp"
#include "key_walk.hpp"
#include "seen_parts.hpp"
#include "tile_states.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// One task: its tiles, from the packing of the queries to the writing of the rows.
template <Element T, KeyValueSource Source, class Steering>
class task {
 public:
  using A = accumulation_t<T>;
  static constexpr int lanes = simd::tile_lanes<A>;

  using normalizer_type = typename Steering::normalizer_type;
  using position_type = typename Steering::position_type;
  using order_type = typename Steering::order_type;
  using walk_type = key_walk<A, typename Steering::mask_type>;
  static constexpr bool rotates = !std::same_as<position_type, attend::detail::absent>;
  static_assert(!rotates || std::same_as<order_type, in_order>,
                "attend: rotary needs tokens in the tensors' own order");

  /// Some tiles of a group of query heads of a sequence, tiles_per_task of them at most.
  struct place {
    index_t sequence_number;
    attend::detail::sequence sequence;
    index_t group, in_group;
  };

  /// With all of its tiles, or with its first ones alone.
  task(problem<T> const& p, Source const& source, tiling const& cut, Steering const& steer, place const& at,
       index_t most = tiling::max_tiles)
      : p_(p),
        source_(source),
        cut_(cut),
        steer_(steer),
        normalizer_(steer.normalizer),
        at_(at),
        sequence_(at.sequence) {
    if constexpr (requires { normalizer_.for_keys(sequence_.keys); })
      normalizer_ = normalizer_.for_keys(sequence_.keys);
    first_head_ = at.group * cut_.heads_together;
    key_head_ = first_head_ / (p_.shape.query_heads / p_.shape.key_heads);
    value_head_ = first_head_ / (p_.shape.query_heads / p_.shape.value_heads);

    index_t* const heads = memory_.allocate<index_t>(cut_.heads_together);
    index_t active_heads = 0;
    for (index_t h = 0; h < cut_.heads_together; ++h)
      if (gate(first_head_ + h) != 0) heads[active_heads++] = first_head_ + h;

    index_t const first_tile = at.in_group * cut_.tiles_per_task;
    index_t const max_tiles =
        std::clamp<index_t>(cut_.template tiles_of<A>(sequence_.asked(), active_heads) - first_tile, 0,
                            std::min(most, cut_.tiles_per_task));
    tiles_ = memory_.allocate<tile<A>>(max_tiles);
    for (index_t t = first_tile; t < first_tile + max_tiles; ++t)
      if (key_range const rows = cut_.template rows_of_tile<A>(t, sequence_.asked(), active_heads); !rows.empty())
        place_rows(tiles_[tile_count_++], rows, heads, active_heads);
  }

  /// The first key that any of the tiles may see, or the number of keys.
  index_t first_key() const {
    index_t first = sequence_.keys;
    for (index_t t = 0; t < tile_count_; ++t)
      if (key_range const run = detail::next_run(steer_.mask, tiles_[t].rows, 0); !run.empty())
        first = std::min(first, run.first);
    return first;
  }

  /// All keys, and the rows are written. What the task that comes next wants first, if one is given, is asked for
  /// while this one takes its last keys: where few keys are seen, waiting for it would be a good part of the time.
  void run(task const* next = nullptr) {
    next_ = next;
    see(0, {0, p_.shape.keys});
    close();
  }

  /// One part of the keys, the last of which has the padding too. The tiles' state is left.
  void run_part(index_t part, tile_states<A> const& states) {
    index_t const end = part + 1 < cut_.parts ? (part + 1) * cut_.keys_of_part : p_.shape.keys;
    see(part, {part * cut_.keys_of_part, end});
    for (index_t t = 0; t < tile_count_; ++t) states.keep(part, t, tiles_[t]);
  }

  /// The states that the first `parts` left, as one, and the rows are written.
  void finish(index_t parts, tile_states<A> const& states) {
    for (index_t t = 0; t < tile_count_; ++t)
      states.template merge<normalizer_type::keeps_maximum>(parts, t, tiles_[t]);
    close();
  }

  /// Parts that the tiles must take: none of what lies behind the last key that they see changes a bit.
  index_t needed_parts() const {
    if (p_.weights.data() || p_.logits.data()) return cut_.parts;
    index_t last = 0;
    for (index_t t = 0; t < tile_count_; ++t) last = std::max(last, steer_.mask.bounds(tiles_[t].rows).last);
    return std::clamp<index_t>(divide_up(last, cut_.keys_of_part), 1, cut_.parts);
  }

 private:
  index_t padded_value_dimension() const { return round_up(p_.shape.value_dimension, simd::register_rows); }

  block_shape shape_of_block(index_t max_keys) const {
    return {max_keys, p_.shape.key_dimension, p_.shape.value_dimension, tile_count_ > 1};
  }

  auto rows_of_keys() const {
    source_rows<Source> const in_memory{&source_, at_.sequence_number, first_head_ / p_.heads_together()};
    if constexpr (std::same_as<order_type, in_order>)
      return in_memory;
    else
      return ordered_rows<source_rows<Source>, order_type>{in_memory, steer_.order};
  }

  /// The tiles take the keys whose positions are in `part`; the first part takes the slots too.
  void see(index_t number, key_range part) {
    if (tile_count_ == 0) return;
    auto const rows = rows_of_keys();
    key_block block(memory_, rows, shape_of_block(cut_.block_keys), &steer_.position, sequence_);
    logits_ = memory_.allocate<A>(max_block_keys * lanes);
    if constexpr (!std::same_as<order_type, in_order>)
      for (void const**& list : gathered_) list = memory_.allocate<void const*>(cut_.block_keys);
    if constexpr (rotates) {
      rotated_ = memory_.allocate<A>(p_.shape.key_dimension * lanes);
      angles_ = memory_.allocate<A>(steer_.position.buffer_size());
    }
    for (index_t t = 0; t < tile_count_; ++t) open(tiles_[t], intersection(part, {0, p_.shape.keys}));
    part = intersection(part, {0, sequence_.keys});
    expect_rows();
    if constexpr (Steering::has_slots)
      if (number == 0) take_slots();

    walk_type walk(memory_, steer_.mask, tiles_, tile_count_, part, cut_.block_keys, p_.chunk_invariant);
    if constexpr (requires { source_.mask().sinks; }) walk.end_blocks_at(source_.mask().sinks);
    for (key_range wanted = walk.next(); !wanted.empty(); wanted = walk.next()) {
      index_t const row = rows.first_row_from(wanted.first);
      if (row >= rows.stored()) break;
      index_t const first = rows.rows(row).position;
      if (first > wanted.first) {
        // The store has dropped what stood before.
        walk.forget_before(first);
        continue;
      }
      key_range const keys = walk.take({first, first + rows.consecutive(row, cut_.block_keys)});
      block.move_to(row, keys.count());
      expect(rows, walk);
      for (auto const& [index, taken] : walk.pieces()) take_keys(tiles_[index], block, taken);
    }
  }

  template <class Block>
  void take_keys(tile<A>& tile, Block& block, key_range seen) {
    visibility const sight = steer_.mask.classify(tile.rows, seen);
    if (sight == visibility::none) return;
    count(tile, seen, sight);
    attend<true>(tile, block, seen, sight == visibility::some, p_.has_values);
  }

  A gate(index_t head) const {
    if (!p_.head_gates.data()) return 1;
    return p_.head_gates(p_.head_gates.extent(0) == 1 ? 0 : sequence_.batch, head);
  }

  void place_rows(tile<A>& tile, key_range which, index_t const* heads, index_t head_count) {
    engine::place_rows(tile.rows, p_.shape, at_.sequence_number, sequence_, heads, head_count,
                       sequence_.answered * head_count + which.first, which.count(), steer_.order);
    tile.vectors = static_cast<int>(divide_up(tile.rows.count, simd::width<A>));
  }

  /// The tile's sums at nothing, and so the weights of these keys. Its queries are packed when they are first needed.
  void open(tile<A>& tile, key_range keys) {
    tile_rows<A> const& rows = tile.rows;
    std::fill_n(tile.maximum, lanes, -infinity<A>);
    std::fill_n(tile.weight_sum, lanes, A(0));
    tile.rows.packed_query = nullptr;
    tile.rows.used = tile.lanes();
    tile.sum = memory_.allocate<A>(padded_value_dimension() * tile.lanes());
    tile.fresh = true;
    for (tensor_view<A, 4> const* pairs : {&p_.weights, &p_.logits})
      if (pairs->data())
        for (int lane = 0; lane < rows.count; ++lane)
          std::fill_n(row_of_lane(*pairs, rows, lane) + keys.first, keys.count(), -infinity<A>);
  }

  void pack_queries(tile<A>& tile) {
    tile_rows<A> const& rows = tile.rows;
    index_t const dimension = p_.shape.key_dimension;
    A* const packed_query = memory_.allocate<A>(dimension * tile.lanes());
    std::conditional_t<rotates, A, T> const* packed[array_size(lanes)];
    std::fill_n(packed, lanes, nullptr);
    if constexpr (rotates) {
      rotation<A> turn{};
      for (int lane = 0; lane < rows.count; ++lane) {
        // Heads are innermost: those of one query are next to each other.
        if (lane == 0 || rows.query[lane] != rows.query[lane - 1])
          turn = steer_.position.query_rotation(rows.batch, rows.query_token(lane), rows.position[lane], angles_);
        turn.apply(row_of_lane(p_.query, rows, lane), rotated_ + lane * dimension, dimension);
        packed[lane] = rotated_ + lane * dimension;
      }
    } else {
      for (int lane = 0; lane < rows.count; ++lane) packed[lane] = row_of_lane(p_.query, rows, lane);
    }
    simd::pack_columns(packed, tile.lanes(), dimension, packed_query, tile.lanes(), p_.scale);
    tile.rows.packed_query = packed_query;
  }

  /// Asks for the rows of queries and output while the first keys are taken, and for the queries that the next task
  /// begins with.
  void expect_rows() {
    void const** const queries = memory_.allocate<void const*>((tile_count_ + 1) * lanes);
    void const** const outputs = memory_.allocate<void const*>(tile_count_ * lanes);
    index_t count = 0;
    for (index_t t = 0; t < tile_count_; ++t)
      for (int lane = 0; lane < tiles_[t].rows.count; ++lane, ++count) {
        queries[count] = row_of_lane(p_.query, tiles_[t].rows, lane);
        outputs[count] = p_.has_values ? row_of_lane(p_.output, tiles_[t].rows, lane) : nullptr;
      }
    // The first tile's queries are wanted at once.
    index_t const at_once = tiles_[0].rows.count;
    index_t asked = count;
    if (next_ && next_->tile_count_ > 0)
      for (int lane = 0; lane < next_->tiles_[0].rows.count; ++lane)
        queries[asked++] = row_of_lane(p_.query, next_->tiles_[0].rows, lane);
    prefetch_.query =
        row_list_prefetch(queries + at_once, asked - at_once, p_.shape.key_dimension * static_cast<index_t>(sizeof(T)));
    prefetch_.output = row_list_prefetch(outputs, count, p_.shape.value_dimension * static_cast<index_t>(sizeof(T)));
  }

  void take_slots() {
    if (p_.slots() == 0) return;
    // What the tiles keep must be taken before the memory that is given back below.
    for (index_t t = 0; t < tile_count_; ++t) pack_queries(tiles_[t]);
    scratch memory;
    tensor_rows<T> const slots{
        rows_of_head(p_.slot_key, sequence_.batch, key_head_, 0),
        p_.slots_have_values ? rows_of_head(p_.slot_value, sequence_.batch, value_head_, 0) : rows_of<T>{}, p_.slots()};
    key_block<tensor_rows<T>> block(memory, slots, shape_of_block(std::min(cut_.block_keys, p_.slots())));
    for (index_t first = 0; first < p_.slots(); first += cut_.block_keys) {
      key_range const range = block.move_to(first, std::min(cut_.block_keys, p_.slots() - first));
      for (index_t t = 0; t < tile_count_; ++t) attend<false>(tiles_[t], block, range, false, p_.slots_have_values);
    }
  }

  /// Spreads the prefetch of the next block over the register tiles of the present one.
  template <class Rows>
  void expect(Rows const& rows, walk_type const& walk) {
    prefetch_.key = prefetch_.value = {};
    prefetch_.gathered_key = prefetch_.gathered_value = {};
    if (key_range const next = walk.next(); !next.empty()) {
      ask_for(rows, next);
    } else if (next_ && next_->tile_count_ > 0) {
      key_range const run = detail::next_run(steer_.mask, next_->tiles_[0].rows, 0);
      ask_for(next_->rows_of_keys(), {run.first, std::min(run.last, run.first + cut_.block_keys)});
    }
    index_t steps = 0;
    for (auto const& piece : walk.pieces())
      steps += divide_up(piece.keys.count(), simd::register_rows) * divide_up(p_.shape.key_dimension, prefetch_depth) +
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

  /// One tile takes one block. Own keys have policies; slots have none.
  template <bool OwnKeys, class Block>
  void attend(tile<A>& tile, Block& block, key_range range, bool masked, bool with_values) {
    index_t const keys = range.count(), lanes_used = tile.lanes();
    if (!tile.rows.packed_query) pack_queries(tile);
    simd::vector<A> peak[simd::register_vectors];
    for (auto& most : peak) most = simd::vector<A>(-infinity<A>);
    key_work<A> work{block.keys(range),
                     std::max<index_t>(keys, simd::register_rows),
                     {0, keys},
                     tile.rows.packed_query,
                     p_.shape.key_dimension,
                     lanes_used};
    seen_parts seen(keys);
    if (OwnKeys && masked) {
      seen = seen_parts(tile.vectors, tile.rows, range, detail::bind_mask(steer_.mask, tile.rows, range), logits_);
      if (seen.empty()) return;
      multiply_keys(seen, tile.vectors, work, logits_, peak, prefetch_);
      // What others see must not change the order of sums.
      if (p_.chunk_invariant) seen = seen_parts(keys);
    } else {
      multiply_keys(tile.vectors, work, logits_, peak, prefetch_);
    }
    bool may_hide = masked;
    if constexpr (OwnKeys) {
      std::apply(
          [&]<class... Scores>(Scores const&... scores) {
            may_hide = may_hide || (Scores::may_hide || ...);
            if constexpr (sizeof...(Scores) > 0) {
              if (masked)
                apply_policies(tile.vectors, tile.rows, range, logits_, peak,
                               detail::bind_mask(steer_.mask, tile.rows, range),
                               detail::bind_score(scores, tile.rows, range)...);
              else
                apply_policies(tile.vectors, tile.rows, range, logits_, peak, detail::absent{},
                               detail::bind_score(scores, tile.rows, range)...);
            }
          },
          steer_.scores);
      if (p_.weights.data()) keep_logits(tile, range, p_.weights);
      if (p_.logits.data()) keep_logits(tile, range, p_.logits);
    }

    bool const guarded = with_values && may_hide && !block.values_are_finite();
    bool hidden[array_size(max_block_keys * lanes)];
    if (guarded)
      for (index_t i = 0; i < keys * lanes_used; ++i) hidden[i] = logits_[i] == -infinity<A>;

    if constexpr (normalizer_type::keeps_maximum) raise_maximum(tile, peak, block.padded_value_dimension());
    weigh(normalizer_, tile, seen.of_vectors(), logits_);
    if (!with_values) return;
    if (OwnKeys && p_.value_gain.data()) multiply_gain(tile, range);
    if constexpr (OwnKeys && !std::same_as<typename Steering::pair_gain_type, detail::absent>)
      multiply_pairs(tile.vectors, tile.rows, range, logits_, steer_.pair_gain.bind(tile.rows, range));
    rows_of<A> const value = block.values(range);
    if (guarded) {
      settle(tile, block.padded_value_dimension());
      multiply_values_guarded(value, keys, logits_, hidden, lanes_used, p_.shape.value_dimension, tile.sum);
    } else if (OwnKeys && masked && !p_.chunk_invariant) {
      multiply_values(seen, tile, value, logits_, block.padded_value_dimension(), prefetch_);
    } else {
      // Written or added to 0, a sum may be a zero of another sign.
      if (p_.chunk_invariant) settle(tile, block.padded_value_dimension());
      multiply_values(tile.vectors, value, keys, logits_, lanes_used, block.padded_value_dimension(), tile.sum,
                      prefetch_, std::exchange(tile.fresh, false));
    }
  }

  /// The final logits go where they are asked for, and where the weights will stand: close() turns those into weights
  /// once the row's sum is known.
  void keep_logits(tile<A> const& tile, key_range range, tensor_view<A, 4> const& pairs) {
    alignas(64) A one[array_size(lanes)];
    A* to[array_size(lanes)];
    for (int lane = 0; lane < tile.lanes(); ++lane) {
      one[lane] = 1;
      to[lane] = lane < tile.rows.count ? row_of_lane(pairs, tile.rows, lane) + range.first : nullptr;
    }
    simd::unpack_columns<A>(logits_, tile.lanes(), range.count(), one, to);
  }

  void multiply_gain(tile<A> const& tile, key_range range) {
    index_t const batch = p_.value_gain.extent(0) == 1 ? 0 : sequence_.batch;
    index_t const head = p_.value_gain.extent(1) == 1 ? 0 : value_head_;
    A* at = logits_;
    for (index_t key = range.first; key < range.last; ++key) {
      simd::vector<A> const gain(p_.value_gain(batch, head, sequence_.first_key + key));
      for (int v = 0; v < tile.vectors; ++v, at += simd::width<A>) {
        // A hidden key's weight is 0 and must stay so, whatever its gain is.
        simd::vector<A> const weight = simd::load(at), nothing(A(0));
        simd::store(at, simd::select(weight == nothing, nothing, weight * gain));
      }
    }
  }

  /// Writes the rows of all tiles, and of the heads that have none.
  void close() {
    for (index_t t = 0; t < tile_count_; ++t) close(tiles_[t]);
    for (index_t h = 0; h < cut_.heads_together && at_.in_group == 0; ++h)
      if (gate(first_head_ + h) == 0)
        clear_rows(p_, sequence_.batch, first_head_ + h, sequence_.first_query + sequence_.answered, sequence_.asked());
  }

  /// Divides, and writes output, log-sum-exp and weights.
  void close(tile<A>& tile) {
    tile_rows<A> const& rows = tile.rows;
    settle(tile, padded_value_dimension());
    alignas(64) A factor[array_size(lanes)];
    T* output_row[array_size(lanes)];
    for (int lane = 0; lane < tile.lanes(); ++lane) {
      output_row[lane] = nullptr;
      factor[lane] = 0;
      if (lane >= rows.count) continue;
      A shrink = 1;
      if constexpr (requires { normalizer_.sink(rows, lane); })
        shrink = take_sink(tile, lane, normalizer_.sink(rows, lane));
      A const scale = normalizer_.template factor<A>(tile.weight_sum[lane]);
      if (p_.weights.data()) finish_weights(tile, lane, scale);
      factor[lane] = shrink * scale * gate(rows.head[lane]);
      if (p_.has_values) output_row[lane] = row_of_lane(p_.output, rows, lane);
      if (p_.log_sum_exp.data())
        p_.log_sum_exp(rows.batch, rows.head[lane], rows.query_token(lane)) =
            tile.weight_sum[lane] == 0 ? -infinity<A>
                                       : tile.maximum[lane] + std::log(tile.weight_sum[lane] / detail::weight_unit<A>);
    }
    if (p_.has_values) simd::unpack_columns<T>(tile.sum, tile.lanes(), p_.shape.value_dimension, factor, output_row);
  }

  /// One more term in the denominator: mass and maximum become those of the keys and the sink together. Gives what the
  /// sum, which is relative to the maximum before, must be multiplied by.
  static A take_sink(tile<A>& tile, int lane, A sink) {
    A const risen = std::max(tile.maximum[lane], sink);
    if (risen == -infinity<A>) return 1;
    A const shrink = std::exp(tile.maximum[lane] - risen);
    tile.weight_sum[lane] = tile.weight_sum[lane] * shrink + std::exp(sink - risen) * detail::weight_unit<A>;
    tile.maximum[lane] = risen;
    return shrink;
  }

  void finish_weights(tile<A> const& tile, int lane, A factor) {
    constexpr int step = simd::width<A>;
    A* const to = row_of_lane(p_.weights, tile.rows, lane);
    A const maximum = tile.maximum[lane] == -infinity<A> ? 0 : tile.maximum[lane];
    auto const weigh = [&](simd::vector<A> const& s) {
      return normalizer_.template weight<A>(s, simd::vector<A>(maximum)) * simd::vector<A>(factor);
    };
    index_t const keys = p_.weights.extent(3);
    index_t key = 0;
    for (; key + step <= keys; key += step) weigh(simd::widen(to + key)).store_unaligned(to + key);
    if (key < keys) simd::narrow_part(to + key, weigh(simd::widen_part(to + key, keys - key)), keys - key);
  }

  void count(tile<A> const& tile, key_range range, visibility sight) const {
    if (!p_.counts) return;
    ++(sight == visibility::all ? p_.counts->full : p_.counts->masked);
    p_.counts->pairs += range.count() * tile.rows.count;
    p_.counts->padded_pairs += range.count() * tile.lanes();
  }

  problem<T> const& p_;
  Source const& source_;
  tiling const& cut_;
  Steering const& steer_;
  normalizer_type normalizer_;
  place at_;
  detail::sequence sequence_;
  scratch memory_;
  index_t first_head_ = 0, key_head_ = 0, value_head_ = 0, tile_count_ = 0;
  tile<A>* tiles_ = nullptr;
  A* logits_ = nullptr;
  A* rotated_ = nullptr;  // the queries of one tile, rotated
  A* angles_ = nullptr;
  block_prefetch prefetch_;
  task const* next_ = nullptr;
  void const** gathered_[2] = {};  // keys and values that are asked for
};

}  // namespace attend::inline ATTEND_TARGET::engine
