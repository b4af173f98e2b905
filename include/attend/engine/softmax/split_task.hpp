// SPDX-License-Identifier: BSD-3-Clause
// One task of the split engine: some of the keys of one (sequence, key-value head), for all query heads that share it
// and all queries.
//
// Keys come through a KeyValueSource, where they lie, in blocks (row_list.hpp); block by block they are scored,
// weighed, and their values added up (split_block.hpp), for a vector's width of rows at a time (split_rows.hpp). The
// parts of one (sequence, head) are merged, as in merge.hpp, by whichever task is the last to finish, always in the
// same order.
#pragma once

#include <atomic>
#include <new>

#include "merge.hpp"
#include "row_list.hpp"
#include "split_rows.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// What the parts of one (sequence, head) share. Maximum and mass are kept apart: beside a large maximum, their
/// log-sum-exp would have no room for the mass.
template <class A>
struct split_share {
  index_t first_task = 0;
  index_t parts = 0;
  A* sum = nullptr;         // [part][row][stride], relative to the maximum
  A* maximum = nullptr;     // [part][row]
  A* weight_sum = nullptr;  // [part][row]
  std::atomic<index_t> finished{0};
};

/// One task.
template <Element T, KeyValueSource Source, class Steering>
class split_task {
 public:
  using A = accumulation_t<T>;
  using Key = typename Source::key_element;
  using Value = typename Source::value_element;
  using normalizer_type = typename Steering::normalizer_type;
  static constexpr int width = simd::width<A>;
  static constexpr bool rotates = !std::same_as<typename Steering::position_type, attend::detail::absent>;
  static_assert(!attend::detail::rotates_keys<typename Steering::position_type>,
                "attend: keys that are split are read as they are");

  split_task(problem<T> const& p, Source const& source, Steering const& steer)
      : p_(p),
        source_(source),
        steer_(steer),
        keys_(memory_, source.key_dimension()),
        values_(memory_, source.value_dimension()) {}

  /// Floats of a row of sums.
  static index_t sum_stride(index_t value_dimension) {
    return divide_up(value_dimension, simd::group_elements<Value>) * simd::group_elements<Value>;
  }

  void run(index_t sequence_number, attend::detail::sequence const& sequence, index_t group, index_t part,
           index_t min_rows, split_share<A>& share) {
    sequence_number_ = sequence_number;
    sequence_ = sequence;
    group_ = group;
    stride_ = sum_stride(source_.value_dimension());
    // All columns of so many values stay in the first cache.
    value_step_ = std::min(divide_up(read_ahead_distance, std::max<index_t>(values_.bytes(), 1)), split_block_keys);
    take_heads(part);
    row_count_ = sequence.asked() * active_heads_;
    if (row_count_ == 0) return;
    share_ = &share;
    open();

    key_range const wanted = part_of(stored_range(), part, min_rows);
    logits_ = memory_.allocate<A>(split_block_keys * width + width);
    split_block<Key, Value>* const block =
        new (memory_.allocate<split_block<Key, Value>>(2)) split_block<Key, Value>[2];
    upcoming_ = memory_.allocate<byte_run>(4 * row_list::most);
    auto const fill = [&](split_block<Key, Value>& to, index_t first) {
      return to.fill(source_, sequence_number, group, first, wanted.last, keys_.bytes(), values_.bytes(),
                     any_positions());
    };
    index_t next = fill(block[0], wanted.first);
    for (int now = 0; block[now].count > 0; now ^= 1) {
      next = fill(block[now ^ 1], next);
      take(block[now], block[now ^ 1]);
    }
    close(part);
  }

 private:
  /// Whether nothing depends on where a key stands: every query sees every row, and no score or weight is told apart by
  /// it. Rows from all over a sequence then make full blocks.
  bool any_positions() const {
    return std::same_as<typename Steering::mask_type, full> && std::tuple_size_v<typename Steering::scores_type> == 0 &&
           !p_.weights.data() && !p_.logits.data();
  }

  A gate(index_t head) const {
    if (!p_.head_gates.data()) return 1;
    return p_.head_gates(p_.head_gates.extent(0) == 1 ? 0 : sequence_.batch, head);
  }

  /// The group's query heads but those whose gate is 0.
  void take_heads(index_t part) {
    index_t const group_size = p_.shape.query_heads / source_.key_value_heads();
    heads_ = memory_.allocate<index_t>(group_size);
    active_heads_ = 0;
    for (index_t head = group_ * group_size; head < (group_ + 1) * group_size; ++head)
      if (gate(head) != 0)
        heads_[active_heads_++] = head;
      else if (part == 0)
        clear_rows(p_, sequence_.batch, head, sequence_.first_query + sequence_.answered, sequence_.asked());
  }

  void open() {
    group_count_ = divide_up(row_count_, width);
    groups_ = new (memory_.allocate<split_rows<A>>(group_count_)) split_rows<A>[static_cast<std::size_t>(group_count_)];
    bounds_ = {0, 0};
    for (index_t g = 0; g < group_count_; ++g) {
      split_rows<A>& rows = groups_[g];
      index_t const first = g * width;
      place_rows(rows.rows, p_.shape, sequence_number_, sequence_, heads_, active_heads_,
                 sequence_.answered * active_heads_ + first,
                 static_cast<int>(std::min<index_t>(width, row_count_ - first)));
      rows.open(memory_, keys_.vectors(), stride_);
      rows.bounds = steer_.mask.bounds(rows.rows);
      bounds_ = hull(bounds_, rows.bounds);
    }
    widened_ = memory_.allocate<A>(std::max(p_.shape.key_dimension, stride_));
    if constexpr (rotates) angles_ = memory_.allocate<A>(steer_.position.buffer_size());
    packed_ = false;
  }

  void pack_queries(float const* channel_scale) {
    packed_ = true;
    channel_scale_ = channel_scale;
    for (index_t g = 0; g < group_count_; ++g)
      groups_[g].template pack<Key>(p_, steer_.position, channel_scale, keys_.vectors(), widened_, angles_);
  }

  /// The first stored row at a position or after it.
  index_t stored_from(index_t position, index_t stored) const {
    index_t low = 0, high = stored;
    while (low < high) {
      index_t const middle = low + (high - low) / 2;
      auto const run = source_.rows(sequence_number_, group_, middle);
      if (run.position >= position)
        high = middle;
      else if (position - run.position <= run.count)
        return std::min(middle + (position - run.position), stored);
      else
        low = middle + run.count;
    }
    return low;
  }

  key_range stored_range() const {
    index_t const stored = source_.stored(sequence_number_, group_);
    if (bounds_.empty()) return {0, 0};
    return {stored_from(bounds_.first, stored), stored_from(bounds_.last, stored)};
  }

  key_range part_of(key_range all, index_t part, index_t min_rows) const {
    if (all.empty()) return {0, 0};
    index_t const rows = std::max(round_up(divide_up(all.count(), share_->parts), split_block_keys), min_rows);
    return {all.first + part * rows, std::min(all.first + (part + 1) * rows, all.last)};
  }

  using block_type = split_block<Key, Value>;

  void take(block_type const& block, block_type const& next) {
    if (!packed_ || block.channel_scale != channel_scale_) pack_queries(block.channel_scale);
    block_ = &block;
    key_rows_ = keys_.read(block.keys.row, split_block_keys);
    value_rows_ = values_.read(block.values.row, block.count);
    // The first rows to take the block read ahead, for all.
    index_t const distance = std::min(read_ahead_distance, split_block_keys * (keys_.bytes() + values_.bytes()));
    byte_run* end = upcoming_;
    for (row_list const* list : {&block.keys, &block.values, &next.keys, &next.values})
      end = std::copy_n(list->run, list->runs, end);
    read_ahead ahead_of_keys(upcoming_, end, distance), ahead_of_values(upcoming_ + block.keys.runs, end, distance);
    ahead_of_keys_ = &ahead_of_keys;
    ahead_of_values_ = &ahead_of_values;
    key_range const range{block.position, block.position + block.count};
    for (index_t g = 0; g < group_count_; ++g) {
      split_rows<A>& rows = groups_[g];
      visibility sight = visibility::all;
      if (!any_positions()) {
        key_range const seen = intersection(range, rows.bounds);
        if (seen.empty()) continue;
        sight = steer_.mask.classify(rows.rows, seen);
        if (sight == visibility::none) continue;
        if (seen.count() < range.count()) sight = visibility::some;
      }
      if (p_.counts) {
        ++(sight == visibility::all ? p_.counts->full : p_.counts->masked);
        p_.counts->pairs += range.count() * rows.rows.count;
      }
      attend(rows, range, sight == visibility::some);
      ahead_of_keys_ = ahead_of_values_ = nullptr;
    }
  }

  /// Calls function.template operator()<R>() for the rows of the register tiles.
  template <class Function>
  static void for_tile_rows(split_rows<A> const& rows, Function&& function) {
    switch (rows.tile_rows_count()) {
      case 1:
        return function.template operator()<1>();
      case 2:
        return function.template operator()<std::min(2, max_split_rows<A>)>();
      default:
        return function.template operator()<max_split_rows<A>>();
    }
  }

  /// Some rows take the block.
  void attend(split_rows<A>& rows, key_range range, bool masked) {
    index_t const keys = range.count(), padded = round_up(keys, width / rows.tile_rows_count());
    for_tile_rows(rows, [&]<int R>() {
      auto const score = [&]<int Step>() {
        score_keys<Key, R, Step>(key_rows_, block_->key_scale, padded, rows.query, keys_.vectors(), rows.lanes, logits_,
                                 ahead_of_keys_);
      };
      if (keys_.vectors() % line_vectors<Key> == 0)
        score.template operator()<line_vectors<Key>>();
      else
        score.template operator()<simd::row_group<Key>>();
    });
    bool may_hide = masked;
    std::apply(
        [&]<class... Scores>(Scores const&... scores) {
          may_hide = may_hide || (Scores::may_hide || ...);
          if (masked)
            apply(rows, range, attend::detail::bind_mask(steer_.mask, rows.rows, range),
                  attend::detail::bind_score(scores, rows.rows, range)...);
          else if constexpr (sizeof...(Scores) > 0)
            apply(rows, range, attend::detail::absent{}, attend::detail::bind_score(scores, rows.rows, range)...);
        },
        steer_.scores);
    for (tensor_view<A, 4> const* pairs : {&p_.weights, &p_.logits})
      if (pairs->data())
        for (int lane = 0; lane < rows.rows.count; ++lane) {
          A* const to = row_of_lane(*pairs, rows.rows, lane) + range.first;
          for (index_t j = 0; j < keys; ++j) to[j] = logits_[j * rows.lanes + lane];
        }
    std::fill(logits_ + keys * rows.lanes, logits_ + padded * rows.lanes, -infinity<A>);

    index_t const vectors = padded * rows.lanes / width;
    rows.raise_maximum(largest_of(logits_, vectors));
    bool hidden[array_size(split_block_keys * width)];
    if (may_hide)
      for (index_t i = 0; i < keys * rows.lanes; ++i) hidden[i] = logits_[i] == -infinity<A>;
    rows.template weigh<Value>(steer_.normalizer, logits_, vectors, block_->value_scale);
    value_work<A> const work{value_rows_,       keys,     logits_, may_hide ? hidden : nullptr, rows.lanes,
                             values_.vectors(), rows.sum, stride_};
    for_tile_rows(rows, [&]<int R>() { add_values_in_steps<Value, R>(work, value_step_, ahead_of_values_); });
  }

  /// Scores and mask. Policies see one key at a time, with the rows in lanes.
  template <class BoundMask, class... BoundScores>
  void apply(split_rows<A>& rows, key_range range, BoundMask const& mask, BoundScores const&... scores) {
    alignas(64) A wide[array_size(split_block_keys * width)];
    index_t const keys = range.count();
    for (index_t j = 0; j < keys; ++j)
      simd::store(wide + j * width, simd::vector<A>::load_unaligned(logits_ + j * rows.lanes));
    simd::vector<A> peak[1];
    apply_policies(1, rows.rows, range, wide, peak, mask, scores...);
    for (index_t j = 0; j < keys; ++j) std::copy_n(wide + j * width, rows.lanes, logits_ + j * rows.lanes);
  }

  /// Writes the part's rows; the last part to come also merges them all.
  void close(index_t part) {
    split_share<A>& share = *share_;
    for (index_t row = 0; row < row_count_; ++row) {
      split_rows<A> const& rows = groups_[row / width];
      int const lane = static_cast<int>(row % width);
      index_t const at = part * row_count_ + row;
      share.maximum[at] = rows.maximum[lane];
      share.weight_sum[at] = 0;
      for (int l = lane; l < width; l += rows.lanes) share.weight_sum[at] += rows.weight_sum[l];
      std::copy_n(rows.sum + lane * stride_, stride_, share.sum + at * stride_);
    }
    if (share.finished.fetch_add(1, std::memory_order_acq_rel) + 1 < share.parts) return;
    A* const factor = memory_.allocate<A>(share.parts);
    for (index_t row = 0; row < row_count_; ++row) finish(row, factor);
  }

  /// One row of the output, from its parts.
  void finish(index_t row, A* factor) {
    split_share<A> const& share = *share_;
    tile_rows<A> const& rows = groups_[row / width].rows;
    int const lane = static_cast<int>(row % width);
    A most = -infinity<A>, sink = -infinity<A>, weight_sum = 0;
    if constexpr (requires { steer_.normalizer.sink(rows, lane); }) most = sink = steer_.normalizer.sink(rows, lane);
    for (index_t i = 0; i < share.parts; ++i) most = std::max(most, share.maximum[i * row_count_ + row]);
    // Nothing was seen, or NaN alone, whose weights are relative to 0.
    if (most == -infinity<A>) most = 0;
    for (index_t i = 0; i < share.parts; ++i) {
      index_t const at = i * row_count_ + row;
      factor[i] = share.weight_sum[at] == 0 ? A(0) : std::exp(share.maximum[at] - most);
      if (factor[i] != 0 || std::isnan(share.weight_sum[at])) weight_sum += factor[i] * share.weight_sum[at];
    }
    if (sink != -infinity<A>) weight_sum += std::exp(sink - most) * attend::detail::weight_unit<A>;
    A const scale = steer_.normalizer.template factor<A>(weight_sum);
    if (p_.log_sum_exp.data())
      p_.log_sum_exp(rows.batch, rows.head[lane], rows.query_token(lane)) =
          weight_sum == 0 ? -infinity<A> : most + std::log(weight_sum / attend::detail::weight_unit<A>);
    if (p_.weights.data()) finish_weights(row_of_lane(p_.weights, rows, lane), most, scale);

    index_t const dimension = p_.shape.value_dimension;
    if (dimension == 0) return;
    A* const merged = groups_[0].sum;  // no longer needed
    for (index_t i = 0; i < share.parts; ++i) factor[i] *= scale;
    merge_rows(
        factor, share.parts, [&](index_t i) { return share.sum + (i * row_count_ + row) * stride_; }, stride_, merged);
    A const gain = gate(rows.head[lane]);
    for (index_t v = 0; v < values_.vectors(); ++v)
      for (index_t l = 0; l < width; ++l)
        if (index_t const column = simd::stored_column<Value>(v, l); column < dimension)
          widened_[column] = merged[v * width + l] * gain;
    simd::narrow_row(widened_, row_of_lane(p_.output, rows, lane), dimension);
  }

  /// Logits become weights.
  void finish_weights(A* row, A most, A scale) const {
    using namespace simd;
    index_t const keys = p_.weights.extent(3);
    auto const weigh = [&](vector<A> const& s) {
      return steer_.normalizer.template weight<A>(s, vector<A>(most)) * vector<A>(scale);
    };
    index_t key = 0;
    for (; key + width <= keys; key += width) weigh(widen(row + key)).store_unaligned(row + key);
    if (key < keys) narrow_part(row + key, weigh(widen_part(row + key, keys - key)), keys - key);
  }

  problem<T> const& p_;
  Source const& source_;
  Steering const& steer_;
  scratch memory_;
  whole_rows<Key> keys_;
  whole_rows<Value> values_;
  attend::detail::sequence sequence_{};
  index_t sequence_number_ = 0, group_ = 0, stride_ = 0, value_step_ = 1, active_heads_ = 0, row_count_ = 0,
          group_count_ = 0;
  index_t* heads_ = nullptr;
  split_rows<A>* groups_ = nullptr;
  key_range bounds_;
  split_share<A>* share_ = nullptr;
  A* widened_ = nullptr;
  A* angles_ = nullptr;
  A* logits_ = nullptr;
  bool packed_ = false;
  float const* channel_scale_ = nullptr;
  block_type const* block_ = nullptr;
  byte_run* upcoming_ = nullptr;  // of this block and the next, in the order in which they are read
  void const* const* key_rows_ = nullptr;
  void const* const* value_rows_ = nullptr;
  read_ahead *ahead_of_keys_ = nullptr, *ahead_of_values_ = nullptr;
};

}  // namespace attend::inline ATTEND_TARGET::engine
