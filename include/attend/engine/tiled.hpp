// The tiled engine: many queries, keys in blocks, an online normalizer (prefill, encoders).
//
// A task is some tiles of queries of one (sequence, head group): each block of keys is brought in once and taken by all
// tiles of the task before the next one. Tasks are made by shape alone and each writes its own rows of the output, so
// the same bits come out for any number of threads.
//
// Where queries are too few to make work for several threads and keys are many (a hundred heads that share one latent),
// the keys are split too: a task takes one part of them and leaves the state of its tiles, and a last pass merges the
// parts, each relative to its own maximum, and writes the rows.
//
// Rows of a tile are (position, head) pairs of the query heads that share a key head, heads innermost: the group shares
// each key, and the positions in a tile are close together, so that a mask hides as many whole tiles as it can.
//
// Tri Dao, Daniel Y. Fu, Stefano Ermon, Atri Rudra, Christopher Re: FlashAttention, 2022 (tiling with an online softmax);
// Maxim Milakov, Natalia Gimelshein: Online normalizer calculation for softmax, 2018.
#pragma once

#include <cmath>

#include "../core/executor.hpp"
#include "../policy/position/rotary.hpp"
#include "tile_states.hpp"

namespace attend::engine {

/// One task: its tiles, from the packing of the queries to the writing of the rows.
template <Element T, KeyValueSource Source, class Steering>
class task {
 public:
  using A = accumulation_t<T>;
  static constexpr int lanes = simd::tile_lanes<A>;

  using normalizer_type = typename Steering::normalizer_type;
  using position_type = typename Steering::position_type;
  static constexpr bool rotates = !std::same_as<position_type, attend::detail::absent>;

  task(problem<T> const& p, Source const& source, tiling const& cut, Steering const& steer)
      : p_(p), source_(source), cut_(cut), steer_(steer), normalizer_(steer.normalizer) {}

  /// Rows [first_row, ...) of a group of query heads of a sequence, tiles_per_task tiles at most.
  struct place {
    index_t number;  // among all
    index_t sequence_number;
    attend::detail::sequence sequence;
    index_t group, in_group;
  };

  /// All keys, and the rows are written.
  void run(place const& at) {
    tile<A>* const tiles = begin(at);
    see(tiles, 0, 0, p_.shape.keys);
    for (index_t t = 0; t < tile_count_; ++t) close(tiles[t]);
  }

  /// One part of the keys. The tiles' state is left.
  void run_part(place const& at, index_t part, tile_states<A> const& states) {
    tile<A>* const tiles = begin(at);
    see(tiles, part, part * cut_.keys_of_part, (part + 1) * cut_.keys_of_part);
    for (index_t t = 0; t < tile_count_; ++t) states.keep(at.number, part, t, tiles[t]);
  }

  /// The states that all parts left, as one, and the rows are written.
  void finish(place const& at, tile_states<A> const& states) {
    tile<A>* const tiles = begin(at);
    for (index_t t = 0; t < tile_count_; ++t) {
      states.template merge<normalizer_type::keeps_maximum>(at.number, t, tiles[t]);
      close(tiles[t]);
    }
  }

 private:
  // A tile with few rows uses fewer vectors of lanes.
  template <class Function>
  static void for_vectors(tile<A> const& tile, Function&& function) {
    switch (tile.vectors) {
      case 1:
        return function.template operator()<1>();
      case 2:
        return function.template operator()<2>();
      default:
        return function.template operator()<3>();
    }
  }
  static_assert(simd::register_vectors == 3);

  index_t padded_value_dimension() const { return round_up(p_.shape.value_dimension, simd::register_rows); }

  /// The tiles, with their rows.
  tile<A>* begin(place const& at) {
    sequence_ = at.sequence;
    sequence_number_ = at.sequence_number;
    group_ = at.group;
    if constexpr (requires { normalizer_.for_keys(sequence_.keys); }) normalizer_ = normalizer_.for_keys(sequence_.keys);
    first_head_ = at.group * cut_.heads_together;
    key_head_ = first_head_ / (p_.shape.query_heads / p_.shape.key_heads);
    value_head_ = first_head_ / (p_.shape.query_heads / p_.shape.value_heads);

    heads_ = memory_.take<index_t>(cut_.heads_together);
    active_heads_ = 0;
    for (index_t h = 0; h < cut_.heads_together; ++h)
      if (gate(first_head_ + h) != 0)
        heads_[active_heads_++] = first_head_ + h;
      else if (at.in_group == 0)
        clear_rows(p_, sequence_.batch, first_head_ + h, sequence_.first_query, sequence_.queries);

    index_t const rows = sequence_.queries * active_heads_;
    index_t const first_row = at.in_group * cut_.tiles_per_task * lanes;
    tile_count_ = std::clamp<index_t>(divide_up(rows - first_row, lanes), 0, cut_.tiles_per_task);
    tile<A>* const tiles = memory_.take<tile<A>>(std::max<index_t>(tile_count_, 0));
    for (index_t t = 0; t < tile_count_; ++t) place_rows(tiles[t], at.sequence_number, first_row + t * lanes, rows);
    return tiles;
  }

  /// The tiles take keys [first, last); the first part takes the slots too.
  void see(tile<A>* tiles, index_t part, index_t first_key, index_t last_key) {
    if (tile_count_ <= 0) return;
    source_rows<Source> const rows{&source_, sequence_number_, group_};
    key_block block(memory_, rows, cut_.block_keys, p_.shape.key_dimension, p_.shape.value_dimension, tile_count_ > 1,
                    steer_.position);
    logits_ = memory_.take<A>(most_block_keys * lanes);
    if constexpr (rotates) {
      rotated_ = memory_.take<A>(p_.shape.key_dimension * lanes);
      angles_ = memory_.take<A>(steer_.position.buffer_size());
    }
    key_range wanted{0, 0};
    for (index_t t = 0; t < tile_count_; ++t) {
      open(tiles[t], {first_key, last_key});
      wanted = hull(wanted, tiles[t].bounds);
    }
    wanted = intersection(wanted, {first_key, last_key});

    if (part == 0) take_slots(tiles);
    index_t const stored = rows.stored();
    index_t row = first_row_from(rows, wanted.first) / cut_.block_keys * cut_.block_keys;
    for (index_t next; row < stored; row = next) {
      next = row + consecutive_rows(rows, row, cut_.block_keys);
      key_range const in_block = block.move_to(row, next - row, &sequence_);
      if (in_block.first >= wanted.last) break;
      key_range const range = intersection(in_block, wanted);
      expect(rows, next, wanted.last);
      for (index_t t = 0; t < tile_count_; ++t) {
        key_range const seen = intersection(range, tiles[t].bounds);
        if (seen.empty()) continue;
        visibility const sight = steer_.mask.classify(tiles[t].rows, seen);
        if (sight == visibility::none) continue;
        count(tiles[t], seen, sight);
        for_vectors(tiles[t], [&]<int Vectors>() {
          attend<Vectors, true>(tiles[t], block, seen, sight == visibility::some, p_.has_values);
        });
      }
    }
  }

  A gate(index_t head) const {
    if (!p_.head_gates.data()) return 1;
    return p_.head_gates(p_.head_gates.extent(0) == 1 ? 0 : sequence_.batch, head);
  }

  void place_rows(tile<A>& tile, index_t sequence_number, index_t first_row, index_t all_rows) {
    tile_rows<A>& rows = tile.rows;
    engine::place_rows(rows, p_.shape, sequence_number, sequence_, heads_, active_heads_, first_row,
                       static_cast<int>(std::min<index_t>(lanes, all_rows - first_row)));
    tile.vectors = static_cast<int>(divide_up(rows.count, simd::width<A>));
  }

  /// The tile's queries packed, its sums at nothing, and so the weights of these keys.
  void open(tile<A>& tile, key_range keys) {
    tile_rows<A> const& rows = tile.rows;
    tile.bounds = steer_.mask.bounds(rows);
    std::fill_n(tile.maximum, lanes, -infinity<A>);
    std::fill_n(tile.mass, lanes, A(0));
    int const used = tile.lanes();
    index_t const packed = p_.shape.key_dimension * used, summed = padded_value_dimension() * used;
    tile.packed_query = memory_.take<A>(packed);
    pack_queries(tile);
    for (index_t i = 0; i < packed; i += simd::width<A>)
      simd::store(tile.packed_query + i, simd::load(tile.packed_query + i) * simd::vector<A>(p_.scale));
    tile.sum = memory_.take<A>(summed);
    std::fill_n(tile.sum, summed, A(0));
    if (p_.weights.data()) {
      index_t const last = std::min(keys.last, p_.shape.keys);
      for (int lane = 0; lane < rows.count; ++lane) {
        A* const to = row_of_lane(p_.weights, rows, lane);
        std::fill(to + keys.first, to + last, -infinity<A>);
      }
    }
  }

  void pack_queries(tile<A>& tile) {
    tile_rows<A> const& rows = tile.rows;
    index_t const dimension = p_.shape.key_dimension;
    std::conditional_t<rotates, A, T> const* packed[lanes];
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
    simd::pack_columns(packed, tile.lanes(), dimension, tile.packed_query);
  }

  void take_slots(tile<A>* tiles) {
    if (p_.slots() == 0) return;
    scratch memory;
    tensor_rows<T> const slots{
        rows_of_head(p_.slot_key, sequence_.batch, key_head_, 0),
        p_.slots_have_values ? rows_of_head(p_.slot_value, sequence_.batch, value_head_, 0) : rows_of<T>{}, p_.slots()};
    key_block block(memory, slots, std::min(cut_.block_keys, p_.slots()), p_.shape.key_dimension,
                    p_.shape.value_dimension, tile_count_ > 1, steer_.position);
    for (index_t first = 0; first < p_.slots(); first += cut_.block_keys) {
      key_range const range = block.move_to(first, std::min(cut_.block_keys, p_.slots() - first));
      for (index_t t = 0; t < tile_count_; ++t)
        for_vectors(tiles[t], [&]<int Vectors>() {
          attend<Vectors, false>(tiles[t], block, range, false, p_.slots_have_values);
        });
    }
  }

  /// Spreads the prefetch of the next block, which begins at row `next`, over the tiles of the present one.
  template <class Rows>
  void expect(Rows const& rows, index_t next, index_t last_position) {
    using Key = typename Rows::key_element;
    using Value = typename Rows::value_element;
    prefetch_ = {};
    if (next >= rows.stored()) return;
    auto const run = rows.rows(next);
    key_range const ahead{0, std::min({run.count, cut_.block_keys, last_position - run.position})};
    if (ahead.empty()) return;
    prefetch_.key = row_prefetch(rows_of<Key>{run.key, run.key_stride}, ahead,
                                 attend::detail::row_elements<Key>(p_.shape.key_dimension));
    if (!values_in_keys(source_))
      prefetch_.value = row_prefetch(rows_of<Value>{run.value, run.value_stride}, ahead,
                                     attend::detail::row_elements<Value>(p_.shape.value_dimension));
    index_t const steps_of_keys = cut_.block_keys / simd::register_rows * divide_up(p_.shape.key_dimension, prefetch_depth);
    index_t const steps =
        std::max<index_t>(tile_count_ * (steps_of_keys + padded_value_dimension() / simd::register_rows), 1);
    prefetch_.lines_per_step = divide_up(std::max(prefetch_.key.lines(), prefetch_.value.lines()), steps);
  }

  /// One tile takes one block. Own keys have policies; slots have none.
  template <int Vectors, bool OwnKeys, class Rows>
  void attend(tile<A>& tile, key_block<Rows, position_type>& block, key_range range, bool masked, bool with_values) {
    index_t const keys = range.count();
    simd::vector<A> peak[Vectors];
    for (int v = 0; v < Vectors; ++v) peak[v] = simd::vector<A>(-infinity<A>);
    multiply_keys<Vectors>(block.keys(range), std::max<index_t>(keys, simd::register_rows), tile.packed_query,
                           p_.shape.key_dimension, logits_, peak, prefetch_);
    bool may_hide = masked;
    if constexpr (OwnKeys) {
      std::apply(
          [&]<class... Scores>(Scores const&... scores) {
            may_hide = may_hide || (Scores::may_hide || ...);
            if (masked)
              apply_policies<Vectors>(tile.rows, range, logits_, peak, detail::bind_mask(steer_.mask, tile.rows, range),
                                      detail::bind_score(scores, tile.rows, range)...);
            else if constexpr (sizeof...(Scores) > 0)
              apply_policies<Vectors>(tile.rows, range, logits_, peak, detail::absent{},
                                      detail::bind_score(scores, tile.rows, range)...);
          },
          steer_.scores);
      if (p_.weights.data()) keep_logits<Vectors>(tile, range);
    }

    bool const guarded = with_values && may_hide && !block.values_are_finite();
    bool hidden[most_block_keys * lanes];
    if (guarded)
      for (index_t i = 0; i < keys * tile.lanes(); ++i) hidden[i] = logits_[i] == -infinity<A>;

    if constexpr (normalizer_type::keeps_maximum) raise_maximum<Vectors>(tile, peak, block.padded_value_dimension());
    weigh<Vectors>(normalizer_, tile, keys, logits_);
    if (!with_values) return;
    if (OwnKeys && p_.value_gain.data()) multiply_gain<Vectors>(range);
    if (guarded)
      multiply_values_guarded<Vectors>(block.values(range), keys, logits_, hidden, p_.shape.value_dimension, tile.sum);
    else
      multiply_values<Vectors>(block.values(range), keys, logits_, block.padded_value_dimension(), tile.sum, prefetch_);
  }

  /// The final logits go where the weights will stand; close() turns them into weights once the row's sum is known.
  template <int Vectors>
  void keep_logits(tile<A> const& tile, key_range range) {
    constexpr int used = Vectors * simd::width<A>;
    alignas(64) A one[used];
    A* to[used];
    for (int lane = 0; lane < used; ++lane) {
      one[lane] = 1;
      to[lane] = lane < tile.rows.count ? row_of_lane(p_.weights, tile.rows, lane) + range.first : nullptr;
    }
    simd::unpack_columns<A>(logits_, used, range.count(), one, to);
  }

  template <int Vectors>
  void multiply_gain(key_range range) {
    index_t const batch = p_.value_gain.extent(0) == 1 ? 0 : sequence_.batch;
    index_t const head = p_.value_gain.extent(1) == 1 ? 0 : value_head_;
    for (index_t key = range.first; key < range.last; ++key) {
      simd::vector<A> const gain(p_.value_gain(batch, head, sequence_.first_key + key));
      for (int v = 0; v < Vectors; ++v) {
        A* const at = logits_ + ((key - range.first) * Vectors + v) * simd::width<A>;
        // A hidden key's weight is 0 and must stay so, whatever its gain is.
        simd::vector<A> const weight = simd::load(at), nothing(A(0));
        simd::store(at, xsimd::select(weight == nothing, nothing, weight * gain));
      }
    }
  }

  /// Divides, and writes output, log-sum-exp and weights.
  void close(tile<A>& tile) {
    tile_rows<A> const& rows = tile.rows;
    alignas(64) A factor[lanes];
    T* output_row[lanes];
    for (int lane = 0; lane < tile.lanes(); ++lane) {
      output_row[lane] = nullptr;
      factor[lane] = 0;
      if (lane >= rows.count) continue;
      A shrink = 1;
      if constexpr (requires { normalizer_.sink(rows, lane); }) shrink = take_sink(tile, lane, normalizer_.sink(rows, lane));
      A const scale = normalizer_.template factor<A>(tile.mass[lane]);
      if (p_.weights.data()) finish_weights(tile, lane, scale);
      factor[lane] = shrink * scale * gate(rows.head[lane]);
      if (p_.has_values) output_row[lane] = row_of_lane(p_.output, rows, lane);
      if (p_.log_sum_exp.data())
        p_.log_sum_exp(rows.batch, rows.head[lane], rows.query_token(lane)) =
            tile.mass[lane] == 0 ? -infinity<A>
                                 : tile.maximum[lane] + std::log(tile.mass[lane]);
    }
    if (p_.has_values) simd::unpack_columns<T>(tile.sum, tile.lanes(), p_.shape.value_dimension, factor, output_row);
  }

  /// One more term in the denominator: mass and maximum become those of the keys and the sink together. Gives what the
  /// sum, which is relative to the maximum before, must be multiplied by.
  static A take_sink(tile<A>& tile, int lane, A sink) {
    A const risen = std::max(tile.maximum[lane], sink);
    if (risen == -infinity<A>) return 1;
    A const shrink = std::exp(tile.maximum[lane] - risen);
    tile.mass[lane] = tile.mass[lane] * shrink + std::exp(sink - risen);
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
  }

  problem<T> const& p_;
  Source const& source_;
  tiling const& cut_;
  Steering const& steer_;
  normalizer_type normalizer_;
  scratch memory_;
  detail::sequence sequence_{};
  index_t sequence_number_ = 0, group_ = 0;
  index_t first_head_ = 0, key_head_ = 0, value_head_ = 0, active_heads_ = 0, tile_count_ = 0;
  index_t* heads_ = nullptr;
  A* logits_ = nullptr;
  A* rotated_ = nullptr;  // the queries of one tile, rotated
  A* angles_ = nullptr;
  block_prefetch prefetch_;
};

/// Runs a problem whose arguments are checked, with keys and values from a source: head g of it for the g-th group of
/// query heads.
template <Element T, KeyValueSource Source, class Steering, class E>
void run_tiled(problem<T> const& p, Source const& source, Steering const& steer, E& executor) {
  using task = task<T, Source, Steering>;
  if (p.shape.batches == 0 || p.shape.query_heads == 0 || p.shape.queries == 0) return;
  tiling cut = tiling::of(p, values_in_keys(source));
  index_t const sequences = p.sequences.size();

  scratch memory;
  index_t* const first_task = memory.take<index_t>(sequences + 1);
  first_task[0] = 0;
  auto const tasks_in_group = [&](detail::sequence const& s) {
    return divide_up(s.queries * cut.heads_together, task::lanes * cut.tiles_per_task);
  };
  for (index_t s = 0; s < sequences; ++s) {
    detail::sequence const sequence = p.sequences[s];
    first_task[s + 1] = first_task[s] + tasks_in_group(sequence) * cut.groups;
    if (!p.sequences.packed())
      for (index_t head = 0; head < p.shape.query_heads; ++head)
        clear_rows(p, s, head, sequence.queries, p.shape.queries - sequence.queries);
  }

  index_t const tasks = first_task[sequences];
  auto const place_of = [&](index_t number) {
    index_t const s = std::upper_bound(first_task, first_task + sequences + 1, number) - first_task - 1;
    detail::sequence const sequence = p.sequences[s];
    index_t const in_sequence = number - first_task[s], per_group = tasks_in_group(sequence);
    return typename task::place{number, s, sequence, in_sequence / per_group, in_sequence % per_group};
  };
  serial alone;
  auto const for_tasks = [&](index_t count, auto const& function) {
    if (cut.small)
      detail::parallel_for(alone, count, function);
    else
      detail::parallel_for(executor, count, function);
  };

  cut.split_keys(tasks, p.shape.keys);
  if (cut.parts == 1) {
    // The last tasks first: under a causal mask they are the longest, and should not be left to the end.
    for_tasks(tasks, [&](index_t number) { task(p, source, cut, steer).run(place_of(tasks - 1 - number)); });
    return;
  }
  tile_states<accumulation_t<T>> const states(memory, tasks, cut,
                                              round_up(p.shape.value_dimension, simd::register_rows));
  for_tasks(tasks * cut.parts, [&](index_t number) {
    task(p, source, cut, steer).run_part(place_of(number / cut.parts), number % cut.parts, states);
  });
  for_tasks(tasks, [&](index_t number) { task(p, source, cut, steer).finish(place_of(number), states); });
}

}  // namespace attend::engine
