// SPDX-License-Identifier: BSD-3-Clause
// One task of the split engine: a part of the keys of one (sequence, key-value head), for all query heads that share
// the head and for all queries. Where several heads share keys or values, their tasks take turns (split.hpp).
//
// Keys are read in place, from a KeyValueSource, in blocks (row_list.hpp); as many rows as a vector has lanes process a
// block at a time (split_step.hpp). The parts of one (sequence, head) are merged (join_parts.hpp) by whichever task
// finishes last, always in the same order. Slots are a part of their own, which the first task processes in tiles.
#pragma once

#include <atomic>
#include <new>
#include <optional>

#include "row_epilogue.hpp"
#include "split_groups.hpp"
#include "split_scores.hpp"
#include "tile_queries.hpp"
#include "turned_keys.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// The states of the parts of one (sequence, head), which their tasks share. Maximum and weight sum are stored apart:
/// in maximum + log(weight sum), a large maximum would leave no digits to the weight sum.
template <class A>
struct split_share {
  index_t first_task = 0;
  index_t parts = 0;        // the number of parts of the keys, each of which is a task
  index_t states = 0;       // the number of states that are merged: those of the parts, and that of the slots
  A* sum = nullptr;         // [state][row][stride], relative to the maximum
  A* maximum = nullptr;     // [state][row]
  A* weight_sum = nullptr;  // [state][row]
  statistics_part<A>* statistics = nullptr;  // [group of rows][part], where statistics are asked for
  std::atomic<index_t> finished{0};
};

/// The place of a task in the call.
struct split_place {
  index_t sequence_number;
  attend::detail::sequence sequence;
  index_t group;  // the key-value head
  index_t part, min_rows;
  /// Whether it takes turns with others, and whether it is the first of them that reads its keys, or its values.
  bool in_turns, reads_keys, reads_values;
  index_t heads_of_key;  // how many key-value heads share its keys
};

/// One task. `Integers` says whether stored integers are multiplied as such (split_integers.hpp).
template <Element T, KeyValueSource Source, class Access, bool Integers>
class split_task {
 public:
  using A = accumulation_t<T>;
  using Key = typename Source::key_element;
  using Value = typename Source::value_element;
  static constexpr int width = simd::width<A>;
  using position_type = typename Access::position_type;
  static constexpr bool rotates = !std::same_as<position_type, attend::detail::absent>;
  static constexpr bool turns_keys = attend::detail::rotates_keys<position_type>;
  static constexpr bool key_pairs = Integers && is_scaled<Key> && !turns_keys,
                        value_pairs = Integers && is_scaled<Value>;
  /// Keys that are rotated are read from copies.
  using Read = std::conditional_t<turns_keys, A, Key>;
  static constexpr bool may_use_pairs = may_split_in_pairs<T, Source, Access>;

  /// A task, at its first block. `first` is the task that takes turns with it and reads its keys first, or null;
  /// `turns` is for keys that are rotated.
  split_task(problem<T> const& p, Source const& source, any_policies<A> const& call, Access const& access,
             attend::detail::turn_table<A> const& turns, split_place const& at, split_share<A>& share,
             split_task* first)
      : p_(p),
        source_(source),
        call_(call),
        access_(access),
        at_(at),
        share_(share),
        keys_(memory_, source.key_dimension()),
        values_(memory_, source.value_dimension()),
        sequence_(at.sequence),
        first_head_(at.group * heads_per_group()) {
    own_ = own_keys<A>(p_, sequence_, first_head_ / (p_.shape.query_heads / p_.shape.value_heads));
    stride_ = sum_stride(source_.value_dimension());
    if constexpr (may_use_pairs)
      if (splits_in_pairs<Source, Access>(p_, sequence_.asked() * heads_per_group())) {
        unit_.emplace();
        pairs_.emplace(*unit_, memory_, source_.key_dimension(), source_.value_dimension(), p_.scale);
      }
    // The values of this many keys stay in the level-1 cache beside the sums.
    constexpr index_t cached_bytes = attend::detail::machine::level_1_bytes / 8 * 3;
    value_step_ = std::min(divide_up(cached_bytes, std::max<index_t>(values_.bytes(), 1)), split_block_keys);
    heads_ = memory_.allocate<index_t>(heads_per_group());
    active_heads_ = list_active_heads(p_, sequence_.batch, first_head_, heads_per_group(), heads_);
    if (at.part == 0) clear_gated_heads(p_, sequence_, first_head_, heads_per_group());
    row_count_ = sequence_.asked() * active_heads_;
    if (row_count_ == 0) return;
    if constexpr (turns_keys)
      turned_.emplace(memory_, access_.position, turns, source.key_dimension(), p_.shape.key_dimension);
    open();
    any_positions_ = !call_.has_scores && !call_.has_pair_gain && !own_.weights && !own_.logits && !own_.value_gain &&
                     !p_.statistics.any() && (call_.shows_all || shows_all_rows());
    if (first)
      scores_ = first->scores_;
    else if (at.heads_of_key > 1 && !pairs_)
      scores_ = &own_scores_.emplace(
          memory_, p_, access_.position, source_, at.group, at.sequence_number, sequence_, first_head_,
          at.heads_of_key * heads_per_group(), key_vectors(),
          splits_in_pairs<Source, Access>(p_, sequence_.asked() * at.heads_of_key * heads_per_group()));

    key_range const wanted = part_of(stored_range(), at.part, at.min_rows);
    logits_ = memory_.allocate<A>(split_block_keys * width + width);
    block_ = new (memory_.allocate<block_type>(2)) block_type[2];
    upcoming_ = memory_.allocate<byte_run>(4 * row_list::most +
                                           split_block_keys * (keys_.bytes() + values_.bytes()) / piece_bytes);
    if (p_.statistics.any()) open_statistics(wanted);
    last_ = wanted.last;
    next_ = fill(block_[0], wanted.first);
  }

  /// The number of elements of a row of sums.
  static index_t sum_stride(index_t value_dimension) {
    return round_up(value_dimension, simd::group_elements<Value, value_pairs>);
  }

  /// Processes one block of keys. Returns whether there was one.
  bool add_block() {
    if (row_count_ == 0 || block_[now_].count == 0) return false;
    next_ = fill(block_[now_ ^ 1], next_);
    add_block(block_[now_], block_[now_ ^ 1]);
    if (joined_ && ends_group(block_[now_]))
      for (index_t g = 0; g < group_count_; ++g) joined_[g].join(groups_[g], is_in_last_group(block_[now_]));
    now_ ^= 1;
    return true;
  }

  /// Stores the states of the part's rows; the last part to finish also merges the states of all parts.
  void close() {
    if (row_count_ == 0) return;
    for (index_t g = 0; joined_ && g < group_count_; ++g) joined_[g].close(groups_[g]);
    for (index_t row = 0; row < row_count_; ++row) {
      split_rows<A> const& rows = groups_[row / width];
      int const lane = static_cast<int>(row % width);
      index_t const at = at_.part * row_count_ + row;
      share_.maximum[at] = rows.maximum[lane];
      share_.weight_sum[at] = 0;
      for (int l = lane; l < width; l += rows.lanes) share_.weight_sum[at] += rows.weight_sum[l];
      std::copy_n(rows.sum + lane * stride_, stride_, share_.sum + at * stride_);
    }
    if constexpr (Access::has_slots)
      if (at_.part == 0 && p_.slots() > 0) add_slots();
    if (share_.finished.fetch_add(1, std::memory_order_acq_rel) + 1 < share_.parts) return;
    A* const factor = memory_.allocate<A>(share_.states);
    A* const weight_sum = memory_.allocate<A>(share_.states);
    bool const tells = p_.statistics.any();
    finished_lanes<A> finished;
    if (tells) finished.clear();
    for (index_t row = 0; row < row_count_; ++row) {
      finish(row, factor, weight_sum, tells ? &finished : nullptr);
      if (!tells || (row % width < width - 1 && row < row_count_ - 1)) continue;
      index_t const g = row / width;
      statistics_writer<T>(p_, call_, groups_[g].rows, 1,
                           {share_.statistics + g * share_.parts, static_cast<std::size_t>(share_.parts)}, finished)
          .write();
    }
  }

 private:
  using block_type = split_block<Key, Value>;

  index_t heads_per_group() const { return p_.shape.query_heads / source_.key_value_heads(); }
  source_rows<Source> rows_of_source() const { return {&source_, at_.sequence_number, at_.group}; }
  /// The vectors of a key as it is read.
  index_t key_vectors() const {
    if constexpr (turns_keys)
      return turned_->vectors();
    else
      return keys_.vectors();
  }

  void open() {
    group_count_ = divide_up(row_count_, width);
    groups_ = new (memory_.allocate<split_rows<A>>(group_count_)) split_rows<A>[static_cast<std::size_t>(group_count_)];
    bounds_ = {0, 0};
    for (index_t g = 0; g < group_count_; ++g) {
      split_rows<A>& rows = groups_[g];
      index_t const first = g * width;
      place_rows(rows.rows, p_.shape, at_.sequence_number, sequence_, heads_, active_heads_,
                 sequence_.answered * active_heads_ + first,
                 static_cast<int>(std::min<index_t>(width, row_count_ - first)));
      simd::pair_bits const* query_pairs = nullptr;
      if constexpr (may_use_pairs)
        if (pairs_) query_pairs = pack_query_pairs(p_, access_.position, rows.rows, width, memory_);
      if constexpr (rotates) place_on_head(rows.rows, source_, at_.group);
      rows.open(memory_, key_vectors(), stride_, key_pairs, query_pairs);
      rows.bounds = call_.bounds(rows.rows);
      bounds_ = hull(bounds_, rows.bounds);
    }
    if (p_.group_rows > 0) {
      joined_ =
          new (memory_.allocate<split_groups<A>>(group_count_)) split_groups<A>[static_cast<std::size_t>(group_count_)];
      for (index_t g = 0; g < group_count_; ++g) joined_[g].open(memory_, groups_[g]);
    }
    widened_ = memory_.allocate<A>(std::max(p_.shape.key_dimension, stride_));
    if constexpr (rotates) angles_ = memory_.allocate<A>(access_.position.buffer_size());
    packed_ = pairs_.has_value();
  }

  void pack_queries(float const* channel_scale) {
    packed_ = true;
    channel_scale_ = channel_scale;
    if (own_scores_)
      return own_scores_->pack_queries(access_.position, channel_scale, key_vectors(), widened_, angles_);
    for (index_t g = 0; g < group_count_; ++g)
      groups_[g].template pack<Read>(p_, access_.position, channel_scale, key_vectors(), widened_, angles_);
  }

  [[gnu::noinline]] void open_statistics(key_range stored) {
    source_rows<Source> const rows = rows_of_source();
    key_range const keys = stored.empty()
                               ? key_range{0, 0}
                               : key_range{rows.rows(stored.first).position, rows.rows(stored.last - 1).position + 1};
    own_.statistics = &statistics_.emplace(memory_, p_.statistics, call_.keeps_maximum, at_.sequence_number, keys);
    for (index_t g = 0; g < group_count_; ++g) {
      statistics_part<A>& part = share_.statistics[g * share_.parts + at_.part];
      part.layout = statistics_->layout(width);
      groups_[g].statistics = part.state;
      statistics_->open(part.layout, part.state);
    }
  }

  key_range stored_range() const {
    source_rows<Source> const rows = rows_of_source();
    if (bounds_.empty()) return {0, 0};
    return {std::min(rows.first_row_from(bounds_.first), rows.stored()),
            std::min(rows.first_row_from(bounds_.last), rows.stored())};
  }

  /// Whether the mask shows all stored rows to all queries, as a causal one does to the last token's.
  bool shows_all_rows() const {
    source_rows<Source> const rows = rows_of_source();
    // Rows of one run need nobody's positions.
    if (source_rows<Source>::in_one_run || rows.stored() == 0) return false;
    key_range const all{rows.rows(0).position, rows.rows(rows.stored() - 1).position + 1};
    return std::all_of(groups_, groups_ + group_count_, [&](split_rows<A> const& group) {
      return intersection(all, group.bounds).count() == all.count() &&
             call_.classify(group.rows, all) == visibility::all;
    });
  }

  key_range part_of(key_range all, index_t part, index_t min_rows) const {
    if (all.empty()) return {0, 0};
    index_t rows = std::max(round_up(divide_up(all.count(), share_.parts), split_block_keys), min_rows);
    if (p_.group_rows > 0) rows = round_up(rows, p_.group_rows);
    return {all.first + part * rows, std::min(all.first + (part + 1) * rows, all.last)};
  }

  /// Fills a block with rows from `first` on, and returns the first row that is left.
  index_t fill(block_type& to, index_t first) const {
    index_t const last = p_.group_rows > 0 ? std::min(last_, (first / p_.group_rows + 1) * p_.group_rows) : last_;
    return to.fill(source_, at_.sequence_number, at_.group, first, last, keys_.bytes(), values_.bytes(),
                   any_positions_);
  }

  /// Whether a block is the end of a group, or of its part, and whether it is in the last group of all.
  bool ends_group(block_type const& block) const {
    index_t const end = block.first_row + block.count;
    return end % p_.group_rows == 0 || end == last_;
  }
  bool is_in_last_group(block_type const& block) const {
    return block.first_row / p_.group_rows == (source_.stored(at_.sequence_number, at_.group) - 1) / p_.group_rows;
  }

  void add_block(block_type const& block, block_type const& next) {
    bool const shares = own_scores_ || (scores_ && scores_->holds(block));
    // Copies of rotated keys are multiplied by their scales.
    float const* const channel_scale = turns_keys ? nullptr : block.channel_scale;
    if ((own_scores_ || !shares) && (!packed_ || channel_scale != channel_scale_)) pack_queries(channel_scale);
    read_ahead ahead = read_ahead_of(block, next);
    split_reading<Read, Value> reading{key_rows(block, own_scores_ || !shares, ahead),
                                       values_.read(block.values.row, block.count),
                                       block.key_scale,
                                       block.value_scale,
                                       key_vectors(),
                                       values_.vectors(),
                                       value_step_,
                                       &ahead,
                                       pairs_ ? &*pairs_ : nullptr,
                                       shares,
                                       joined_ && ends_group(block) && !is_in_last_group(block),
                                       turns_keys};
    if (own_scores_) own_scores_->move_to(block, reading);
    if constexpr (may_use_pairs)
      if (pairs_) pairs_->move_to(reading.key_rows, reading.value_rows, block.count);
    key_range const range{block.position, block.position + block.count};
    for (index_t g = 0; g < group_count_; ++g) {
      split_rows<A>& rows = groups_[g];
      visibility sight = visibility::all;
      if (!any_positions_) {
        key_range const seen = intersection(range, rows.bounds);
        if (seen.empty()) continue;
        sight = call_.classify(rows.rows, seen);
        if (sight == visibility::none) continue;
        if (seen.count() < range.count()) sight = visibility::some;
      }
      count_pairs(p_.counts, rows.rows, range, sight, 0);
      if (shares) scores_->copy_to(logits_, rows, g * width, heads_[0], active_heads_, call_, reading.ahead);
      split_step<Read, Value, key_pairs, value_pairs> step(rows, reading, range, logits_, p_.has_values,
                                                           joined_ ? joined_[g].gate() : nullptr);
      softmax_step(step, call_, sight == visibility::some, &own_);
      // Only the first rows to process the block prefetch: all rows read the same memory.
      reading.ahead = nullptr;
    }
  }

  /// The rows of a block's keys, where logits are to be computed.
  void const* const* key_rows(block_type const& block, [[maybe_unused]] bool scores,
                              [[maybe_unused]] read_ahead& ahead) {
    if constexpr (turns_keys)
      return scores ? turned_->read(rows_of_source(), sequence_, block, ahead) : nullptr;
    else
      return keys_.read(block.keys.row, split_block_keys);
  }

  /// What is prefetched while `block` is read: all of the next block in turns, which the level-1 cache would not hold
  /// beside it, or the memory that is read some bytes after each line. What another task reads first is left out; what
  /// is read again stays in all levels of the cache.
  read_ahead read_ahead_of(block_type const& block, block_type const& next) {
    using attend::detail::prefetch_hint;
    bool const keys = at_.reads_keys || !at_.reads_values, values = at_.reads_values;
    if (machine_.pages_in_turns && is_in_pages(next.keys, keys_.bytes()) && is_in_pages(next.values, values_.bytes())) {
      if (keys != values) {
        row_list const& only = keys ? next.keys : next.values;
        byte_run cut[2][most_runs_in_pages + 1];
        auto const first = cut_in_two(only.first_half(), cut[0]), second = cut_in_two(only.second_half(), cut[1]);
        std::span<byte_run const> const streams[] = {first[0], first[1], second[0], second[1]};
        return {upcoming_, list_in_turns(streams, upcoming_), 0, prefetch_hint::level_2};
      }
      std::span<byte_run const> const streams[] = {next.keys.first_half(), next.values.first_half(),
                                                   next.keys.second_half(), next.values.second_half()};
      return {upcoming_, list_in_turns(streams, upcoming_), 0, prefetch_hint::level_2};
    }
    byte_run* end = upcoming_;
    index_t bytes = 0;
    for (block_type const* of : {&block, &next}) {
      if (keys) end = std::copy_n(of->keys.run, of->keys.runs, end);
      if (values) end = std::copy_n(of->values.run, of->values.runs, end);
    }
    if (keys) bytes += keys_.bytes();
    if (values) bytes += values_.bytes();
    return {upcoming_, end, std::min(machine_.read_ahead, split_block_keys * bytes),
            at_.in_turns ? prefetch_hint::level_1 : machine_.hint()};
  }

  static constexpr index_t most_runs_in_pages = 8;

  /// Whether each half of a block of rows is a stream of its own: it fills a page, since hardware follows one stream in
  /// a page, in so few runs that there is something to follow.
  static bool is_in_pages(row_list const& rows, index_t row_bytes) {
    constexpr index_t page_bytes = 4096;
    return row_list::half * row_bytes >= page_bytes && rows.runs > 0 && rows.runs <= most_runs_in_pages;
  }

  /// Adds the slots, whose state is the last of the states.
  void add_slots() {
    constexpr int lanes = simd::tile_lanes<A>;
    index_t const dimension = p_.shape.value_dimension, padded = round_up(dimension, simd::register_rows);
    scratch memory;
    tile<A> tile;
    tile.sum = memory.allocate<A>(padded * lanes);
    A* const logits = memory.allocate<A>(max_block_keys * lanes);
    A* const packed = memory.allocate<A>(p_.shape.key_dimension * lanes);
    A* const rotated = memory.allocate<A>(rotates ? p_.shape.key_dimension * lanes : 0);
    A* const sums = memory.allocate<A>(dimension * lanes);
    alignas(64) A one[array_size(lanes)];
    std::fill_n(one, lanes, A(1));
    block_prefetch none;
    for (index_t first = 0; first < row_count_; first += lanes) {
      index_t const count = std::min<index_t>(lanes, row_count_ - first), at = share_.parts * row_count_ + first;
      place_rows(tile.rows, p_.shape, at_.sequence_number, sequence_, heads_, active_heads_,
                 sequence_.answered * active_heads_ + first, count);
      if constexpr (rotates) place_on_head(tile.rows, source_, at_.group);
      tile.vectors = static_cast<int>(divide_up(count, width));
      tile.rows.used = tile.lanes();
      restart(tile);
      engine::pack_queries(p_, access_.position, tile, packed, rotated, angles_);
      engine::add_slots(p_, call_, sequence_.batch, first_head_, std::span(&tile, 1), logits, none);
      settle(tile, padded);
      std::copy_n(tile.maximum, count, share_.maximum + at);
      std::copy_n(tile.weight_sum, count, share_.weight_sum + at);
      A* to[array_size(lanes)] = {};
      for (index_t row = 0; row < count; ++row) to[row] = sums + row * dimension;
      simd::unpack_columns<A>(tile.sum, tile.lanes(), dimension, one, to);
      for (index_t row = 0; row < count; ++row)
        for (index_t i = 0; i < stride_; ++i) {
          index_t const column = simd::stored_column<Value, value_pairs>(i / width, i % width);
          share_.sum[(at + row) * stride_ + i] = column < dimension ? to[row][column] : A(0);
        }
    }
  }

  /// Writes one row of the output, merged from its states.
  void finish(index_t row, A* factor, A* weight_sum, finished_lanes<A>* finished) {
    tile_rows<A> const& rows = groups_[row / width].rows;
    int const lane = static_cast<int>(row % width);
    for (index_t i = 0; i < share_.states; ++i) {
      factor[i] = share_.maximum[i * row_count_ + row];
      weight_sum[i] = share_.weight_sum[i * row_count_ + row];
    }
    A const total = row_epilogue(p_, call_, rows, lane, factor, weight_sum, share_.states, finished);
    index_t const dimension = p_.shape.value_dimension;
    if (dimension == 0) return;
    A* const merged = groups_[0].sum;  // its own sums are no longer needed
    merge_rows(
        factor, share_.states, [&](index_t i) { return share_.sum + (i * row_count_ + row) * stride_; }, stride_,
        merged);
    A const gain = head_gate(p_, rows.batch, rows.head[lane]);
    for (index_t v = 0; v < values_.vectors(); ++v)
      for (index_t l = 0; l < width; ++l)
        if (index_t const column = simd::stored_column<Value, value_pairs>(v, l); column < dimension)
          widened_[column] = merged[v * width + l] * gain;
    simd::narrow_row(widened_, row_of_lane(p_.output, rows, lane), dimension);
    add_head_vector(p_, rows, lane, total);
  }

  problem<T> const& p_;
  Source const& source_;
  any_policies<A> const& call_;
  Access const& access_;
  split_place at_;
  split_share<A>& share_;
  attend::detail::machine const& machine_ = attend::detail::machine::here();
  scratch memory_;
  whole_rows<Key, key_pairs> keys_;
  whole_rows<Value, value_pairs> values_;
  attend::detail::sequence sequence_;
  index_t first_head_;
  own_keys<A> own_;
  std::optional<row_statistics<A>> statistics_;  // where they are asked for
  bool any_positions_ = false;  // no policy asks for positions: rows from anywhere in a sequence may fill a block
  index_t stride_ = 0, value_step_ = 1, active_heads_ = 0, row_count_ = 0, group_count_ = 0;
  index_t* heads_ = nullptr;
  split_rows<A>* groups_ = nullptr;
  split_groups<A>* joined_ = nullptr;  // of each of them, where keys are in groups
  key_range bounds_;
  block_type* block_ = nullptr;  // [2], the present block and the next
  int now_ = 0;                  // which of them is the present one
  index_t next_ = 0, last_ = 0;  // the rows of the part that are in neither
  A* widened_ = nullptr;
  A* angles_ = nullptr;
  A* logits_ = nullptr;
  bool packed_ = false;
  using turned_type = std::conditional_t<turns_keys, std::optional<turned_keys<Key, position_type>>, unturned_keys>;
  [[no_unique_address]] turned_type turned_;
  using scores_type = split_scores<T, Key, Value, key_pairs, value_pairs, may_use_pairs, Read>;
  std::optional<scores_type> own_scores_;  // of all heads that share its keys, where it is the first of several
  scores_type* scores_ = nullptr;          // its own, or those of the first
  std::optional<simd::pair_unit> unit_;
  std::optional<split_pairs> pairs_;  // where the unit is used
  float const* channel_scale_ = nullptr;
  byte_run* upcoming_ = nullptr;  // the runs of this block and the next, in the order in which they are prefetched
};

}  // namespace attend::inline ATTEND_TARGET::engine
