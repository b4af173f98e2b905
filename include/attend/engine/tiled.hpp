// The tiled engine: many queries, keys in blocks, an online normalizer (prefill, encoders).
//
// A task is some tiles of queries of one (sequence, head group): each block of keys is brought in once and taken by all
// tiles of the task before the next one. Tasks are made by shape alone and each writes its own rows of the output, so
// the same bits come out for any number of threads.
//
// Rows of a tile are (position, head) pairs of the query heads that share a key head, heads innermost: the group shares
// each key, and the positions in a tile are close together, so that a mask hides as many whole tiles as it can. Where a
// mask has a grain (queries or heads that see alike), tiles are cut there.
//
// A task visits just the runs of keys that its tiles' masks tell, in place: what lies between them is never looked at.
//
// Tri Dao, Daniel Y. Fu, Stefano Ermon, Atri Rudra, Christopher Re: FlashAttention, 2022 (tiling with an online softmax);
// Maxim Milakov, Natalia Gimelshein: Online normalizer calculation for softmax, 2018.
#pragma once

#include <cmath>

#include "../core/executor.hpp"
#include "tile.hpp"

namespace attend::engine {

/// How a problem is cut, by its shape.
struct tiling {
  index_t heads_together;   // query heads in a group
  index_t groups;           // groups of a sequence
  index_t unit_queries;     // tiles do not cross multiples of so many queries; 0: they may
  index_t block_keys;       // keys of a block
  index_t tiles_per_task;
  bool small;               // so little work that waking a thread would cost more

  template <Element T>
  static tiling of(problem<T> const& p, tile_grain grain) {
    using A = accumulation_t<T>;
    constexpr index_t lanes = simd::tile_lanes<A>;
    constexpr index_t size = sizeof(A);
    tiling t;
    t.heads_together = std::gcd(p.heads_together(), grain.heads);
    t.groups = p.shape.query_heads / t.heads_together;
    // Units that would not fill one vector are put together.
    t.unit_queries = grain.queries * divide_up(simd::width<A>, std::max<index_t>(grain.queries * t.heads_together, 1));
    index_t const dimensions = p.shape.key_dimension + p.shape.value_dimension;
    // Keys and values of a block should stay in the second-level cache beside the tiles.
    t.block_keys = std::clamp<index_t>(cache_for_block / std::max<index_t>(dimensions * size, 1) / 32 * 32, 32, most_block_keys);
    // Tiles that share a block: as many as fit in a part of that cache, but enough tasks for some threads.
    index_t const tile_bytes = dimensions * lanes * size;
    index_t const tiles = t.tiles_of<A>(p.shape.queries, t.heads_together) * t.groups * std::max<index_t>(p.shape.batches, 1);
    t.tiles_per_task = std::clamp<index_t>(cache_for_tiles / std::max<index_t>(tile_bytes, 1), 1, most_tiles);
    t.tiles_per_task = std::clamp<index_t>(tiles / wanted_tasks, 1, t.tiles_per_task);
    // Tiles of one unit share their keys: a task holds whole units where it can.
    index_t const parts = divide_up(t.unit_rows<A>(p.shape.queries, t.heads_together), lanes);
    if (t.tiles_per_task > parts) t.tiles_per_task = t.tiles_per_task / parts * parts;
    double const work = static_cast<double>(p.shape.batches) * static_cast<double>(p.shape.query_heads) *
                        static_cast<double>(p.shape.queries) * static_cast<double>(p.shape.keys) *
                        static_cast<double>(dimensions);
    t.small = work < 2e6;
    return t;
  }

  /// Rows that are cut into tiles on their own, the last of them excepted.
  template <class A>
  index_t unit_rows(index_t queries, index_t heads) const {
    return unit_queries > 0 ? std::min(unit_queries, queries) * heads : simd::tile_lanes<A>;
  }
  /// Tiles of a group, some of which may be empty.
  template <class A>
  index_t tiles_of(index_t queries, index_t heads) const {
    index_t const unit = unit_rows<A>(queries, heads);
    return unit > 0 ? divide_up(queries * heads, unit) * divide_up(unit, simd::tile_lanes<A>) : 0;
  }
  /// The rows of a tile: the vectors of a unit are dealt out evenly, since a tile of one vector is slow.
  template <class A>
  key_range rows_of_tile(index_t tile, index_t queries, index_t heads) const {
    index_t const unit = unit_rows<A>(queries, heads), parts = divide_up(unit, simd::tile_lanes<A>);
    index_t const vectors = divide_up(unit, simd::width<A>), part = tile % parts, start = tile / parts * unit;
    index_t const end = std::min(start + unit, queries * heads);
    return {std::min(start + part * vectors / parts * simd::width<A>, end),
            std::min(start + (part + 1) * vectors / parts * simd::width<A>, end)};
  }

  static constexpr index_t cache_for_block = 256 * 1024;
  static constexpr index_t cache_for_tiles = 600 * 1024;
  static constexpr index_t most_tiles = 8;
  static constexpr index_t wanted_tasks = 16;
};

/// Rows that see nothing: output 0, log-sum-exp -inf, weights 0.
template <Element T>
void clear_rows(problem<T> const& p, index_t batch, index_t head, index_t first, index_t count) {
  for (index_t query = first; query < first + count; ++query) {
    if (p.has_values && p.shape.value_dimension > 0) std::fill_n(&p.output(batch, head, query, 0), p.shape.value_dimension, T(0));
    if (p.log_sum_exp.data()) p.log_sum_exp(batch, head, query) = -infinity<accumulation_t<T>>;
    if (p.weights.data() && p.shape.keys > 0)
      std::fill_n(&p.weights(batch, head, query, 0), p.shape.keys, accumulation_t<T>(0));
  }
}

/// One task: its tiles, from the packing of the queries to the writing of the rows.
template <Element T, class Steering>
class task {
 public:
  using A = accumulation_t<T>;
  static constexpr int lanes = simd::tile_lanes<A>;

  using normalizer_type = typename Steering::normalizer_type;
  using block_type = key_block<T, typename Steering::order_type>;

  task(problem<T> const& p, tiling const& cut, Steering const& steer)
      : p_(p), cut_(cut), steer_(steer), normalizer_(steer.normalizer) {}

  /// Rows [first_row, ...) of a group of query heads of a sequence, tiles_per_task tiles at most.
  void run(index_t sequence_number, detail::sequence const& sequence, index_t group, index_t task_in_group) {
    sequence_ = sequence;
    if constexpr (requires { normalizer_.for_keys(sequence.keys); }) normalizer_ = normalizer_.for_keys(sequence.keys);
    first_head_ = group * cut_.heads_together;
    key_head_ = first_head_ / (p_.shape.query_heads / p_.shape.key_heads);
    value_head_ = first_head_ / (p_.shape.query_heads / p_.shape.value_heads);

    heads_ = memory_.take<index_t>(cut_.heads_together);
    active_heads_ = 0;
    for (index_t h = 0; h < cut_.heads_together; ++h)
      if (gate(first_head_ + h) != 0)
        heads_[active_heads_++] = first_head_ + h;
      else if (task_in_group == 0)
        clear_rows(p_, sequence.batch, first_head_ + h, sequence.first_query, sequence.queries);

    index_t const first_tile = task_in_group * cut_.tiles_per_task;
    index_t const most_tiles =
        std::min(cut_.template tiles_of<A>(sequence.queries, active_heads_) - first_tile, cut_.tiles_per_task);
    if (most_tiles <= 0) return;

    block_type block(memory_, std::max(cut_.block_keys, std::min(p_.slots(), most_block_keys)), p_.shape.key_dimension,
                     p_.shape.value_dimension, p_.key.stride(2), p_.has_values ? p_.value.stride(2) : 0, most_tiles > 1,
                     steer_.order);
    logits_ = memory_.take<A>(most_block_keys * lanes);
    tile<A>* const tiles = memory_.take<tile<A>>(most_tiles);
    void const** const query_rows = memory_.take<void const*>(most_tiles * lanes);
    void const** const output_rows = memory_.take<void const*>(most_tiles * lanes);
    index_t tile_count = 0, row_count = 0;
    for (index_t t = first_tile; t < first_tile + most_tiles; ++t)
      if (key_range const rows = cut_.template rows_of_tile<A>(t, sequence.queries, active_heads_); !rows.empty()) {
        tile<A>& opened = tiles[tile_count++];
        open(opened, sequence_number, rows, block.padded_value_dimension());
        opened.query_row = query_rows + row_count;
        for (int lane = 0; lane < opened.rows.count; ++lane, ++row_count) {
          query_rows[row_count] = row(p_.query, opened.rows, lane);
          output_rows[row_count] = p_.has_values ? row(p_.output, opened.rows, lane) : nullptr;
        }
      }
    // The first tile's queries are wanted at once.
    index_t const at_once = tile_count > 0 ? tiles[0].rows.count : 0;
    prefetch_.query = row_list_prefetch(query_rows + at_once, row_count - at_once,
                                        p_.shape.key_dimension * static_cast<index_t>(sizeof(T)));
    prefetch_.output = row_list_prefetch(output_rows, row_count, p_.shape.value_dimension * static_cast<index_t>(sizeof(T)));

    take_slots(tiles, tile_count, block);
    rows_of<T> const key = rows_of_head(p_.key, sequence.batch, key_head_, sequence.first_key);
    rows_of<T> const value =
        p_.has_values ? rows_of_head(p_.value, sequence.batch, value_head_, sequence.first_key) : rows_of<T>{};
    piece* const pieces = memory_.take<piece>(tile_count * most_block_keys);
    for (index_t t = 0; t < tile_count; ++t) tiles[t].run = run_of(tiles[t], 0);
    for (;;) {
      block_plan const plan = plan_block(tiles, tile_count, pieces);
      if (plan.range.empty()) break;
      block.move_to(key, value, plan.range);
      expect(key, value, first_runs(tiles, tile_count), plan.steps);
      for (index_t i = 0; i < plan.pieces; ++i) take_keys(*pieces[i].of, block, pieces[i].keys);
    }
    for (index_t t = 0; t < tile_count; ++t) close(tiles[t]);
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

  /// The first keys at or after `from` that a tile may see.
  key_range run_of(tile<A> const& tile, index_t from) const {
    if constexpr (detail::HasRuns<typename Steering::mask_type>)
      return steer_.mask.next(tile.rows, from);
    else
      return intersection(tile.bounds, {from, sequence_.keys});
  }

  /// Keys that one tile takes from a block, in one run.
  struct piece {
    tile<A>* of;
    key_range keys;
  };
  /// A block of keys: how many pieces are taken from it, and in how many register tiles of keys.
  struct block_plan {
    key_range range;
    index_t pieces = 0, steps = 0;
  };

  /// The hull of the tiles' next runs, as far as a block reaches.
  key_range first_runs(tile<A> const* tiles, index_t tile_count) const {
    key_range block{sequence_.keys, sequence_.keys};
    for (index_t t = 0; t < tile_count; ++t)
      if (!tiles[t].run.empty()) block.first = std::min(block.first, tiles[t].run.first);
    index_t const most = std::min(block.first + cut_.block_keys, sequence_.keys);
    block.last = block.first;
    for (index_t t = 0; t < tile_count; ++t)
      if (tiles[t].run.first < most) block.last = std::max(block.last, std::min(tiles[t].run.last, most));
    return block;
  }

  /// The next block, from the first key that a tile may see; the tiles' runs move on behind it.
  block_plan plan_block(tile<A>* tiles, index_t tile_count, piece* pieces) const {
    block_plan plan{first_runs(tiles, tile_count)};
    key_range const most{plan.range.first, plan.range.first + cut_.block_keys};
    for (index_t t = 0; t < tile_count; ++t)
      for (key_range& run = tiles[t].run; !run.empty() && run.first < most.last;) {
        key_range const keys = intersection(run, most);
        pieces[plan.pieces++] = {tiles + t, keys};
        plan.steps += divide_up(keys.count(), simd::register_rows);
        plan.range.last = std::max(plan.range.last, keys.last);
        if (run.last > most.last)
          run.first = most.last;
        else
          run = run_of(tiles[t], run.last);
      }
    return plan;
  }

  void take_keys(tile<A>& tile, block_type& block, key_range seen) {
    visibility const sight = steer_.mask.classify(tile.rows, seen);
    if (sight == visibility::none) return;
    count(tile, seen, sight);
    for_vectors(tile, [&]<int Vectors>() {
      attend<Vectors, true>(tile, block, seen, sight == visibility::some, p_.has_values);
    });
  }

  A gate(index_t head) const {
    if (!p_.head_gates.data()) return 1;
    return p_.head_gates(p_.head_gates.extent(0) == 1 ? 0 : sequence_.batch, head);
  }

  /// The tile's rows. Its queries are packed when they are first needed.
  void open(tile<A>& tile, index_t sequence_number, key_range which, index_t padded_dimension) {
    tile_rows<A>& rows = tile.rows;
    rows.shape = &p_.shape;
    rows.sequence = sequence_number;
    rows.batch = sequence_.batch;
    rows.first_query_token = sequence_.first_query;
    rows.first_key_token = sequence_.first_key;
    rows.queries = sequence_.queries;
    rows.keys = sequence_.keys;
    rows.take(which.first, which.count(), heads_, active_heads_, steer_.order);
    tile.vectors = static_cast<int>(divide_up(rows.count, simd::width<A>));
    for (int lane = 0; lane < lanes; ++lane) {
      tile.maximum[lane] = -infinity<A>;
      tile.mass[lane] = 0;
    }
    tile.bounds = steer_.mask.bounds(rows);
    rows.packed_query = nullptr;
    rows.used = tile.lanes();
    tile.sum = memory_.take<A>(padded_dimension * tile.lanes());
    std::fill_n(tile.sum, padded_dimension * tile.lanes(), A(0));
    if (p_.weights.data())
      for (int lane = 0; lane < rows.count; ++lane)
        std::fill_n(row(p_.weights, rows, lane), p_.weights.extent(3), -infinity<A>);
  }

  void pack_queries(tile<A>& tile) {
    if (tile.rows.packed_query) return;
    int const used = tile.lanes();
    T const* query_row[lanes];
    for (int lane = 0; lane < used; ++lane)
      query_row[lane] = lane < tile.rows.count ? static_cast<T const*>(tile.query_row[lane]) : nullptr;
    A* const packed = memory_.take<A>(p_.shape.key_dimension * used);
    simd::pack_columns(query_row, used, p_.shape.key_dimension, packed);
    for (index_t i = 0; i < p_.shape.key_dimension * used; i += simd::width<A>)
      simd::store(packed + i, simd::load(packed + i) * simd::vector<A>(p_.scale));
    tile.rows.packed_query = packed;
  }

  /// The row of a lane's query in a tensor [batch, head, token, ...].
  template <class U>
  static U* row(tensor_view<U, 4> const& tensor, tile_rows<A> const& rows, int lane) {
    return tensor.data() + rows.batch * tensor.stride(0) + rows.head[lane] * tensor.stride(1) +
           rows.query_token(lane) * tensor.stride(2);
  }

  void take_slots(tile<A>* tiles, index_t tile_count, block_type& block) {
    if (p_.slots() == 0) return;
    rows_of<T> const key = rows_of_head(p_.slot_key, sequence_.batch, key_head_, 0);
    rows_of<T> const value =
        p_.slots_have_values ? rows_of_head(p_.slot_value, sequence_.batch, value_head_, 0) : rows_of<T>{};
    for (index_t first = 0; first < p_.slots(); first += cut_.block_keys) {
      key_range const range{first, std::min(first + cut_.block_keys, p_.slots())};
      block.move_to(key, value, range);
      for (index_t t = 0; t < tile_count; ++t)
        for_vectors(tiles[t], [&]<int Vectors>() {
          attend<Vectors, false>(tiles[t], block, range, false, p_.slots_have_values);
        });
    }
  }

  /// Spreads the prefetch of the next block over the register tiles of the present one.
  void expect(rows_of<T> key, rows_of<T> value, key_range next, index_t steps) {
    if (next.empty() || block_type::gathers) next.last = next.first = 0;
    prefetch_.key = row_prefetch(key, next, p_.shape.key_dimension);
    prefetch_.value = row_prefetch(value, next, p_.shape.value_dimension);
    prefetch_.lines_per_step =
        divide_up(std::max(prefetch_.key.lines(), prefetch_.value.lines()), std::max<index_t>(steps, 1));
  }

  /// One tile takes one block. Own keys have policies; slots have none.
  template <int Vectors, bool OwnKeys>
  void attend(tile<A>& tile, block_type& block, key_range range, bool masked, bool with_values) {
    index_t const keys = range.count();
    pack_queries(tile);
    simd::vector<A> peak[Vectors];
    for (int v = 0; v < Vectors; ++v) peak[v] = simd::vector<A>(-infinity<A>);
    multiply_keys<Vectors>(block.keys(range), std::max<index_t>(keys, simd::register_rows), tile.rows.packed_query,
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
    if constexpr (OwnKeys && !std::same_as<typename Steering::pair_gain_type, detail::absent>)
      multiply_pairs<Vectors>(tile.rows, range, logits_, steer_.pair_gain.bind(tile.rows, range));
    if (guarded)
      multiply_values_guarded<Vectors>(block.values(range), keys, logits_, hidden, p_.shape.value_dimension, tile.sum);
    else
      multiply_values<Vectors>(block.values(range), keys, logits_, block.padded_value_dimension(), tile.sum);
  }

  /// The final logits go where the weights will stand; close() turns them into weights once the row's sum is known.
  template <int Vectors>
  void keep_logits(tile<A> const& tile, key_range range) {
    constexpr int used = Vectors * simd::width<A>;
    alignas(64) A one[used];
    A* to[used];
    for (int lane = 0; lane < used; ++lane) {
      one[lane] = 1;
      to[lane] = lane < tile.rows.count ? row(p_.weights, tile.rows, lane) + range.first : nullptr;
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
      if (p_.has_values) output_row[lane] = row(p_.output, rows, lane);
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
    A* const to = row(p_.weights, tile.rows, lane);
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
  tiling const& cut_;
  Steering const& steer_;
  normalizer_type normalizer_;
  scratch memory_;
  detail::sequence sequence_{};
  index_t first_head_ = 0, key_head_ = 0, value_head_ = 0, active_heads_ = 0;
  index_t* heads_ = nullptr;
  A* logits_ = nullptr;
  block_prefetch prefetch_;
};

/// Runs a problem whose arguments are checked.
template <Element T, class Steering, class E>
void run_tiled(problem<T> const& p, Steering const& steer, E& executor) {
  if (p.shape.batches == 0 || p.shape.query_heads == 0 || p.shape.queries == 0) return;
  tiling const cut = tiling::of(p, attend::detail::grain_of(steer.mask, p.shape));
  index_t const sequences = p.sequences.size();

  scratch memory;
  index_t* const first_task = memory.take<index_t>(sequences + 1);
  first_task[0] = 0;
  auto const tasks_in_group = [&](detail::sequence const& s) {
    return divide_up(cut.tiles_of<accumulation_t<T>>(s.queries, cut.heads_together), cut.tiles_per_task);
  };
  for (index_t s = 0; s < sequences; ++s) {
    detail::sequence const sequence = p.sequences[s];
    first_task[s + 1] = first_task[s] + tasks_in_group(sequence) * cut.groups;
    if (!p.sequences.packed())
      for (index_t head = 0; head < p.shape.query_heads; ++head)
        clear_rows(p, s, head, sequence.queries, p.shape.queries - sequence.queries);
  }

  auto const run_task = [&](index_t number) {
    // The last tasks first: under a causal mask they are the longest, and should not be left to the end.
    number = first_task[sequences] - 1 - number;
    index_t const s = std::upper_bound(first_task, first_task + sequences + 1, number) - first_task - 1;
    detail::sequence const sequence = p.sequences[s];
    index_t const in_sequence = number - first_task[s], per_group = tasks_in_group(sequence);
    task<T, Steering>(p, cut, steer).run(s, sequence, in_sequence / per_group, in_sequence % per_group);
  };
  serial alone;
  if (cut.small)
    detail::parallel_for(alone, first_task[sequences], run_task);
  else
    detail::parallel_for(executor, first_task[sequences], run_task);
}

}  // namespace attend::engine
