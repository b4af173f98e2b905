// SPDX-License-Identifier: BSD-3-Clause
// The gradients of softmax attention: the tiles and blocks of the tiled engine once more.
//
// Heads that share a key head or a value head are a unit, whose queries and keys are cut into as many ranges. A task is
// a range of queries with a range of keys of a unit, in an order that does not depend on threads (backward_rounds.hpp).
// Its tiles walk over its blocks of keys, and their sums are added to those of their queries and keys in memory: so no
// partial sums are kept.
//
// The gradients themselves are the sums where they have the accumulation type; 16-bit elements have sums of their own,
// as long as the gradients, which are rounded once at the end.
//
// Memory of a thread: the tiles that share a block (machine::tile_bytes, or twice as much for a matrix unit), the block
// with its keys and values, and three arrays of a tile's pairs: 1.1 MB in float with dimension 128.
//
// Tri Dao: FlashAttention-2, 2023 (its backward pass adds to the sums of queries in any order).
#pragma once

#include <array>
#include <bit>
#include <span>

#include "../../simd/dot.hpp"
#include "backward_order.hpp"
#include "backward_pairs.hpp"
#include "backward_rounds.hpp"
#include "backward_rows.hpp"
#include "tile_queries.hpp"

namespace attend::inline ATTEND_TARGET::engine {

template <Element T>
class backward_run {
 public:
  using A = accumulation_t<T>;

  backward_run(problem<T> const& p, gradients<T> const& g, any_backward_policies<A> const& call)
      : p_(p), g_(g), call_(call), sequences_(p.sequences.size()) {
    problem_shape const& shape = p.shape;
    option_gradients<A> const& of_options = g.of_options;
    if (of_options.bias.data() || of_options.logit_scale.data())
      of_options_ = option_sums<A>(of_options, shape, memory_);
    if (shape.query_heads == 0) return;
    heads_of_unit_ = std::lcm(shape.query_heads / shape.key_heads, shape.query_heads / shape.value_heads);
    heads_of_tile_ = std::gcd(p.heads_per_group(), call.grain(shape).heads);
    index_t const dimensions = shape.key_dimension + shape.value_dimension;
    if constexpr (takes_pairs)
      uses_pairs_ = simd::uses_pair_products() && !p.full_precision && shape.key_dimension > 0 &&
                    shape.value_dimension > 0 && !call.rotates_queries && !p.head_gates.data();
    // Sums of the block in float, and its rows, in float too or, twice for keys, in bfloat16.
    block_keys_ = tiling::keys_of_block<A>(uses_pairs_ ? dimensions + divide_up(dimensions + shape.key_dimension, 2)
                                                       : 2 * dimensions);
    lanes_ = uses_pairs_ ? pair_backward_tile::max_lanes : backward_tile<A>::max_lanes;
    // Of a lane: its sum in float, and its rows in two forms, in float or in bfloat16, for which weights and changes
    // are kept as well.
    index_t const bytes =
        index_t{sizeof(A)} * lanes_ * (shape.key_dimension + (uses_pairs_ ? dimensions + block_keys_ : 2 * dimensions));
    // Processors with a matrix unit have level-2 caches of 2 MiB, and less time to wait for what lies further away.
    attend::detail::machine const& machine = attend::detail::machine::here();
    index_t const room = (uses_pairs_ && machine.matrix_unit ? 2 : 1) * machine.tile_bytes;
    most_tiles_ = std::clamp<index_t>(room / std::max<index_t>(bytes, 1), 1,
                                      uses_pairs_ ? most_pair_lanes / lanes_ : tiling::max_tiles);
    units_at_once_ = std::max<index_t>(of_options_.heads_of_pairs(shape) / heads_of_unit_, 1);
    if (of_options_.pairs_share_batches(shape)) sequences_at_once_ = sequences_;
    for (index_t s = 0; s < sequences_; ++s)
      pairs_ += static_cast<double>(shape.query_heads) * static_cast<double>(p.sequences[s].queries) *
                static_cast<double>(p.sequences[s].keys);
    if (call.has_order) {
      index_t* const tokens = memory_.allocate<index_t>(shape.keys);
      call.list_tokens(shape.keys, tokens);
      tokens_ = tokens;
    }
    if (of_options.table.data()) {
      for (index_t s = 0; s < sequences_; ++s) most_ranges_ = std::max(most_ranges_, ranges_of(p.sequences[s]));
      table_size_ = of_options.table.extent(0) * of_options.table.extent(1);
      tables_ = memory_.allocate<A>(sequences_ * most_ranges_ * table_size_);
      std::fill_n(tables_, sequences_ * most_ranges_ * table_size_, A(0));
    }
  }

  void run(attend::detail::any_executor const& executor) {
    query_sum_ = sums_of(g_.of_query);
    key_sum_ = sums_of(g_.of_key);
    value_sum_ = sums_of(g_.of_value);
    for (auto const* sum : {&query_sum_, &key_sum_, &value_sum_})
      for_rows(executor, *sum, [](A* row, index_t, index_t, index_t, index_t count) { std::fill_n(row, count, A(0)); });
    backward_rounds rounds(memory_, sequences_ / sequences_at_once_, units_apart(),
                           [&](index_t group) { return ranges_of(p_.sequences[group * sequences_at_once_]); });
    rounds.run(executor, cost(), [&](index_t group, index_t first_unit, index_t queries, index_t keys) {
      for (index_t s = group * sequences_at_once_; s < (group + 1) * sequences_at_once_; ++s)
        for (index_t unit = first_unit * units_at_once_; unit < (first_unit + 1) * units_at_once_; ++unit) {
          index_t const ranges = ranges_of(p_.sequences[s]);
          run_task(s, unit, {queries, ranges}, {keys, ranges});
        }
    });
    if (sums_pairs()) of_options_.finish();
    if (tables_)
      sum_shared_axes<A>(tensor_view<A const, 3>(tables_, {sequences_ * most_ranges_, table_size_, 1}),
                         tensor_view<A, 3>(g_.of_options.table.data(), {1, table_size_, 1}));
    backward_rows<T> const rows(p_, g_, call_, executor);
    rows.sum_rows(memory_);
    rows.turn_back(query_sum_, key_sum_);
    rows.end_values(value_sum_, memory_);
    if constexpr (!std::same_as<T, A>) {
      round(executor, query_sum_, g_.of_query);
      round(executor, key_sum_, g_.of_key);
      round(executor, value_sum_, g_.of_value);
    }
  }

 private:
  /// One of equal parts of a sequence: of twice as many pieces, one from its beginning and one from its end. Under a
  /// causal mask each part of the queries then sees as many keys of each part, so that no task is empty:
  ///
  ///   pieces i and n - 1 - i of the queries see 2 of the 4 products with pieces j and n - 1 - j of the keys
  struct part {
    index_t number, count;

    std::array<key_range, 2> of(index_t tokens, index_t grain) const {
      index_t const grains = divide_up(tokens, grain), last = 2 * count - 1 - number;
      auto const start = [&](index_t piece) { return std::min(grains * piece / (2 * count) * grain, tokens); };
      if (number + 1 == count) return {key_range{start(number), start(number + 2)}, key_range{}};
      return {key_range{start(number), start(number + 1)}, key_range{start(last), start(last + 1)}};
    }
  };

  /// Ranges of a sequence: so many that a few heads are enough work for many threads, each of some hundred tokens.
  /// Sequences that are run together are cut as the longest would be.
  index_t ranges_of(attend::detail::sequence const& sequence) const {
    bool const alone = sequences_at_once_ == 1;
    index_t const queries = alone ? sequence.queries : p_.shape.queries;
    index_t const wanted = divide_up(wanted_tasks, std::max<index_t>(units_apart(), 1));
    // A power of two, as numbers of threads are: twelve heads of three ranges would be two rounds and a quarter.
    return std::clamp<index_t>(std::min(queries * heads_of_tile_, keys_of(sequence)) / min_range, 1,
                               static_cast<index_t>(std::bit_ceil(static_cast<std::size_t>(wanted))));
  }
  index_t keys_of(attend::detail::sequence const& sequence) const {
    return sequences_at_once_ == 1 ? sequence.keys : p_.shape.keys;
  }
  /// Units, or groups of units that add to the same sums, that are apart from each other.
  index_t units_apart() const { return p_.shape.query_heads / heads_of_unit_ / units_at_once_; }

  attend::detail::loop_cost cost() const {
    return {5 * pairs_ * static_cast<double>(p_.shape.key_dimension + p_.shape.value_dimension)};
  }

  tensor_view<A, 4> sums_of(tensor_view<T, 4> const& gradient) {
    if constexpr (std::same_as<T, A>)
      return gradient;
    else
      return tensor_view<A, 4>(
          memory_.allocate<A>(gradient.extent(0) * gradient.extent(1) * gradient.extent(2) * gradient.extent(3)),
          gradient.extents());
  }

  template <class Body>
  void for_rows(attend::detail::any_executor const& executor, tensor_view<A, 4> const& rows, Body const& body) const {
    index_t const heads = rows.extent(1), tokens = rows.extent(2), columns = rows.extent(3);
    index_t const tasks = rows.extent(0) * heads;
    executor.run(tasks, tasks * attend::detail::loop_cost::of(0, tokens * columns * index_t{sizeof(A)}),
                 [&](index_t task) {
                   if (columns == 0) return;
                   for (index_t t = 0; t < tokens; ++t)
                     body(&rows(task / heads, task % heads, t, 0), task / heads, task % heads, t, columns);
                 });
  }

  void round(attend::detail::any_executor const& executor, tensor_view<A, 4> const& sum,
             tensor_view<T, 4> const& gradient) const {
    for_rows(executor, sum, [&](A const* row, index_t b, index_t h, index_t t, index_t columns) {
      simd::narrow_row(row, &gradient(b, h, t, 0), columns);
    });
  }

  void run_task(index_t s, index_t unit, part queries, part keys) const {
    attend::detail::sequence const sequence = p_.sequences[s];
    std::array<key_range, 2> wanted = keys.of(keys_of(sequence), key_grain);
    for (key_range& piece : wanted) piece = intersection(piece, {0, sequence.keys});
    if (wanted[0].empty() && wanted[1].empty()) return;
    // Other tasks are at work on other batches, ranges of queries or heads, and so on other parts of the tables.
    A* const table = tables_ ? tables_ + (s * most_ranges_ + queries.number) * table_size_ : nullptr;
    scratch memory;
    index_t* const heads = memory.allocate<index_t>(heads_of_tile_);
    for (index_t head = unit * heads_of_unit_; head < (unit + 1) * heads_of_unit_; head += heads_of_tile_) {
      index_t const active = list_active_heads(p_, sequence.batch, head, heads_of_tile_, heads);
      if (active == 0) continue;
      std::array<key_range, 2> const rows = queries.of(sequence.queries * active, lanes_);
      index_t const tiles_of_first = divide_up(rows[0].count(), lanes_),
                    tiles = tiles_of_first + divide_up(rows[1].count(), lanes_);
      scratch of_heads;
      key_range* const rows_of_tile = of_heads.allocate<key_range>(tiles);
      for (index_t t = 0; t < tiles; ++t) {
        key_range const& piece = rows[t < tiles_of_first ? 0 : 1];
        index_t const first = piece.first + (t < tiles_of_first ? t : t - tiles_of_first) * lanes_;
        rows_of_tile[t] = {first, std::min(first + lanes_, piece.last)};
      }
      for (index_t first = 0; first < tiles; first += most_tiles_) {
        auto const of_tiles = index_span(rows_of_tile + first, std::min(most_tiles_, tiles - first));
        if constexpr (takes_pairs) {
          if (uses_pairs_) {
            run_tiles<pair_backward_step>(s, sequence, index_span(heads, active), of_tiles, wanted, table);
            continue;
          }
        }
        run_tiles<backward_step<A>>(s, sequence, index_span(heads, active), of_tiles, wanted, table);
      }
    }
  }

  template <class U>
  static std::span<U const> index_span(U const* first, index_t count) {
    return {first, static_cast<std::size_t>(count)};
  }

  template <class Step>
  void run_tiles(index_t s, attend::detail::sequence const& sequence, std::span<index_t const> heads,
                 std::span<key_range const> rows, std::array<key_range, 2> const& keys, A* table) const {
    using tile_type = typename Step::tile_type;
    scratch memory;
    auto* const tiles = memory.allocate<tile_type>(std::ssize(rows));
    index_t count = 0;
    for (key_range const& of_tile : rows) {
      tile_type& tile = tiles[count];
      auto const place = [&](auto const& order) {
        place_rows(tile.rows, p_.shape, s, sequence, heads.data(), std::ssize(heads), of_tile.first, of_tile.count(),
                   order);
      };
      if (tokens_)
        place(listed_order{tokens_});
      else
        place(in_order{});
      key_range const bounds = call_.bounds(tile.rows);
      if (!intersection(bounds, keys[0]).empty() || !intersection(bounds, keys[1]).empty()) tile.number = count++;
    }
    if (count == 0) return;

    problem_shape const& shape = p_.shape;
    Step step(memory, shape, p_.scale, count);
    A const scale_of_sums = Step::scales_changes ? A(1) : p_.scale;
    step.extras = option_step<A>::of(call_, of_options_, table, Step::lanes, memory);
    reordered_block<T> const ordered(tokens_, tokens_ ? block_keys_ : 0, shape, memory);
    for (index_t t = 0; t < count; ++t) open(tiles[t], step, memory);
    auto block = Step::block_type::of(memory, block_keys_, shape.key_dimension, shape.value_dimension);
    index_t const key_head = heads.front() / (shape.query_heads / shape.key_heads);
    index_t const value_head = heads.front() / (shape.query_heads / shape.value_heads);
    index_t const blocks_of_first = divide_up(keys[0].count(), block_keys_),
                  blocks = blocks_of_first + divide_up(keys[1].count(), block_keys_);
    auto const block_at = [&](index_t number) -> key_range {
      if (number == blocks) return {};
      key_range const& piece = keys[number < blocks_of_first ? 0 : 1];
      index_t const first = piece.first + (number < blocks_of_first ? number : number - blocks_of_first) * block_keys_;
      return {first, std::min(first + block_keys_, piece.last)};
    };
    for (index_t number = 0; number < blocks; ++number) {
      key_range const wanted = block_at(number);
      index_t const first = wanted.first;
      bool is_read = false, takes_block = true;
      for (index_t t = 0; t < count && takes_block; ++t) {
        for (key_range run = next_run(tiles[t].rows, wanted, wanted.first); !run.empty();
             run = next_run(tiles[t].rows, wanted, run.last)) {
          visibility const sight = call_.classify(tiles[t].rows, run);
          if (sight == visibility::none) continue;
          if (!std::exchange(is_read, true)) {
            read(block, ordered, s, sequence, key_head, value_head, wanted);
            step.extras.value_gain = value_gains(sequence, value_head, wanted.first);
            takes_block = step.takes(block);
            if (!takes_block) break;
            if (tokens_)
              block.begin_sums({ordered.key_sum, shape.key_dimension, shape.key_dimension},
                               {ordered.value_sum, shape.value_dimension, shape.value_dimension});
            else
              block.begin_sums(rows_from(key_sum_, sequence.batch, key_head, sequence.first_key + first),
                               rows_from(value_sum_, sequence.batch, value_head, sequence.first_key + first));
            key_range const next = block_at(number + 1);
            index_t const steps = count * Step::prefetch_steps(wanted.count(), shape.key_dimension);
            if (!tokens_) step.ahead = prefetch_of(p_.key, p_.value, sequence, key_head, value_head, next, steps);
            if (!tokens_) step.sums = prefetch_of(key_sum_, value_sum_, sequence, key_head, value_head, next, steps);
          }
          step.add(tiles[t], block, call_, run, run.first - first, sight == visibility::some);
        }
        step.end_tile(tiles[t], block);
      }
      if (!takes_block) run_in_float(s, sequence, heads, rows, wanted, table);
      if (is_read && takes_block) {
        step.end_block(block);
        if (tokens_) ordered.put_back(key_sum_, value_sum_, sequence, key_head, value_head, wanted);
      }
    }
    for (index_t t = 0; t < count; ++t) {
      if (!tiles[t].touched) continue;
      tile_rows<A> const& of = tiles[t].rows;
      auto const sum = step.rows_of_sum(tiles[t]);
      for (int lane = 0; lane < of.count; ++lane) {
        add_row(query_sum_, of.batch, of.head[lane], of.query_token(lane), sum.row(lane), scale_of_sums);
        if (sums_pairs()) of_options_.add_row(of, lane, tiles[t].of_bias[lane], tiles[t].of_scale[lane]);
      }
    }
  }

  /// The same by the float step, whose tiles may have more lanes.
  void run_in_float(index_t s, attend::detail::sequence const& sequence, std::span<index_t const> heads,
                    std::span<key_range const> rows, key_range keys, A* table) const {
    static_assert(!takes_pairs || pair_backward_tile::max_lanes <= backward_tile<A>::max_lanes);
    run_tiles<backward_step<A>>(s, sequence, heads, rows, {keys, key_range{}}, table);
  }

  bool sums_pairs() const { return of_options_.of_bias() || of_options_.of_logit_scale(); }

  template <class U>
  static block_prefetch prefetch_of(tensor_view<U, 4> const& key, tensor_view<U, 4> const& value,
                                    attend::detail::sequence const& sequence, index_t key_head, index_t value_head,
                                    key_range keys, index_t steps) {
    block_prefetch ahead;
    auto const rows = [&](tensor_view<U, 4> const& tensor, index_t head) {
      return row_prefetch(
          rows_of_head<std::remove_const_t<U>>(tensor, sequence.batch, head, sequence.first_key + keys.first),
          keys.count(), tensor.extent(3));
    };
    ahead.key = rows(key, key_head);
    ahead.value = rows(value, value_head);
    ahead.spread(steps);
    return ahead;
  }

  key_range next_run(tile_rows<A> const& rows, key_range block, index_t from) const {
    return from < block.last ? intersection(call_.next(rows, from), block) : key_range{};
  }

  static void add_row(tensor_view<A, 4> const& sums, index_t batch, index_t head, index_t token, A const* from,
                      A factor) {
    if (sums.extent(3) == 0) return;
    A* const to = &sums(batch, head, token, 0);
    for (index_t c = 0; c < sums.extent(3); ++c) to[c] += factor * from[c];
  }

  void open(backward_tile<A>& tile, backward_step<A>&, scratch& memory) const {
    problem_shape const& shape = p_.shape;
    tile_rows<A>& rows = tile.rows;
    tile.vectors = static_cast<int>(divide_up(rows.count, simd::width<A>));
    rows.used = tile.lanes();
    index_t const lanes = tile.lanes();
    tile.query = memory.allocate<A>(shape.key_dimension * lanes);
    tile.gradient = memory.allocate<A>(shape.value_dimension * lanes);
    tile.query_rows = padded_rows<A>::of(memory, lanes, shape.key_dimension);
    tile.gradient_rows = padded_rows<A>::of(memory, lanes, shape.value_dimension);
    tile.sum = padded_rows<A>::of(memory, lanes, shape.key_dimension);
    tile.sum.clear({0, round_up(lanes, simd::register_rows)});
    tile.touched = false;
    T const* query[array_size(backward_tile<A>::max_lanes)];
    T const* gradient[array_size(backward_tile<A>::max_lanes)];
    A* const turn_buffer = memory.allocate<A>(call_.rotation_size);
    options::rotation<A> turn{};
    for (int lane = 0; lane < lanes; ++lane) {
      int const row = std::min(lane, rows.count - 1);
      query[lane] = row_of_lane(p_.query, rows, row);
      gradient[lane] = row_of_lane(g_.of_output, rows, row);
      tile.query_rows.set(lane, query[lane]);
      A* const query_row = tile.query_rows.row(lane);
      if (call_.rotates_queries) {
        if (lane == 0 || rows.query[lane] != rows.query[lane - 1])
          turn = call_.query_rotation(rows.place_of(row), turn_buffer);
        turn.apply(query_row, query_row, shape.key_dimension);
      }
      for (index_t c = 0; c < shape.key_dimension; ++c) query_row[c] *= p_.scale;
      tile.gradient_rows.set(lane, gradient[lane]);
      set_row_numbers(tile, lane, row, [&] { return tile.gradient_rows.row(lane); });
      A const gate = head_gate(p_, rows.batch, rows.head[row]);
      for (index_t c = 0; gate != 1 && c < shape.value_dimension; ++c) tile.gradient_rows.row(lane)[c] *= gate;
    }
    pack(tile.query_rows, query, call_.rotates_queries, p_.scale, lanes, tile.query);
    pack(tile.gradient_rows, gradient, p_.head_gates.data() != nullptr, 1, lanes, tile.gradient);
    rows.packed_query = tile.query;
    tile.finite = are_finite(tile.query_rows, rows.count) && are_finite(tile.gradient_rows, rows.count);
  }

  /// Packs a tile's rows into lanes: the tensor's, scaled, or those of the tile, which are scaled, if they differ.
  static void pack(padded_rows<A> const& own, T const* const* of_tensor, bool differ, A scale, index_t lanes, A* to) {
    A const* row[array_size(backward_tile<A>::max_lanes)];
    for (index_t lane = 0; lane < lanes; ++lane) row[lane] = own.row(lane);
    if (differ)
      simd::pack_columns(row, static_cast<int>(lanes), own.columns, to, lanes);
    else
      simd::pack_columns(of_tensor, static_cast<int>(lanes), own.columns, to, lanes, scale);
  }

  template <std::same_as<pair_backward_tile> Tile>
  void open(Tile& tile, pair_backward_step& step, scratch& memory) const {
    problem_shape const& shape = p_.shape;
    tile_rows<A>& rows = tile.rows;
    constexpr int lanes = Tile::max_lanes;
    rows.used = lanes;
    float* const packed = memory.allocate<float>(shape.key_dimension * lanes);
    step.open(tile, memory);
    scratch own;
    pair_row_copies query_rows(own, lanes, shape.key_dimension), gradient_rows(own, lanes, shape.value_dimension);
    float* const gradient = own.allocate<float>(shape.value_dimension);
    T const* query[array_size(lanes)];
    for (int lane = 0; lane < lanes; ++lane) {
      int const row = std::min(lane, rows.count - 1);
      query[lane] = row_of_lane(p_.query, rows, row);
      query_rows.set(lane, query[lane]);
      T const* const of_output = row_of_lane(g_.of_output, rows, row);
      gradient_rows.set(lane, of_output);
      set_row_numbers(tile, lane, row, [&] {
        simd::widen_row(of_output, gradient, shape.value_dimension);
        return gradient;
      });
    }
    simd::pack_columns(query, lanes, shape.key_dimension, packed, lanes, p_.scale);
    rows.packed_query = packed;
    step.take(tile, query_rows, gradient_rows);
  }

  /// Sets what is known of a lane's row besides its tensors; row_of_gradient() is that of the output's gradient in A.
  template <class Tile, class Row>
  void set_row_numbers(Tile& tile, int lane, int row, Row const& row_of_gradient) const {
    tile_rows<A> const& rows = tile.rows;
    tile.log_sum_exp[lane] =
        g_.log_sum_exp.data() ? g_.log_sum_exp(rows.batch, rows.head[row], rows.query_token(row)) : A(0);
    tile.delta[lane] = call_.normalizes
                           ? simd::dot(row_of_lane(g_.output, rows, row), row_of_gradient(), p_.shape.value_dimension) -
                                 g_.of_log_sum_exp(rows, row)
                           : A(0);
    tile.of_bias[lane] = tile.of_scale[lane] = A(0);
  }

  static padded_rows<A> rows_from(tensor_view<A, 4> const& sums, index_t batch, index_t head, index_t token) {
    index_t const columns = sums.extent(3);
    return {columns > 0 ? &sums(batch, head, token, 0) : nullptr, sums.stride(2), columns};
  }

  template <class Block>
  void read(Block& block, reordered_block<T> const& ordered, [[maybe_unused]] index_t number,
            attend::detail::sequence const& sequence, index_t key_head, index_t value_head, key_range keys) const {
    rows_of<T> key{ordered.key, p_.shape.key_dimension}, value{ordered.value, p_.shape.value_dimension};
    if (tokens_) {
      ordered.take(p_.key, sequence, key_head, keys, ordered.key);
      ordered.take(p_.value, sequence, value_head, keys, ordered.value);
      ordered.take(key_sum_, sequence, key_head, keys, ordered.key_sum);
      ordered.take(value_sum_, sequence, value_head, keys, ordered.value_sum);
    } else {
      key = rows_of_head(p_.key, sequence.batch, key_head, sequence.first_key + keys.first);
      value = rows_of_head(p_.value, sequence.batch, value_head, sequence.first_key + keys.first);
    }
    block.set(key, value, keys.count());
    if constexpr (requires { block.key.columns; })
      if (call_.rotates_keys) {
        scratch memory;
        A* const buffer = memory.allocate<A>(call_.rotation_size);
        for (index_t j = 0; j < keys.count(); ++j)
          call_.key_rotation(backward_rows<T>::place_of(number, sequence, keys.first + j), buffer)
              .apply(block.key.row(j), block.key.row(j), p_.shape.key_dimension);
      }
    block.prepare();
  }

  /// The gains of a value head from a key of a sequence on, if values have gains.
  A const* value_gains(attend::detail::sequence const& sequence, index_t value_head, index_t key) const {
    tensor_view<A const, 3> const& gains = p_.value_gain;
    if (!gains.data()) return nullptr;
    return &gains(gains.extent(0) == 1 ? 0 : sequence.batch, gains.extent(1) == 1 ? 0 : value_head,
                  sequence.first_key + key);
  }

  // Twice as many as sixteen threads need, since tasks differ under a mask.
  static constexpr index_t wanted_tasks = 32;
  // At which pieces of the keys begin: finer than blocks, so that they are equal, and whole groups of the matrix unit.
  static constexpr index_t key_grain = 32;
  // Rows and keys of a range, of two pieces: with half as many, tiles are opened twice as often, a tenth of the time.
  static constexpr index_t min_range = 512;

  // Whether the products may be those of pairs. More lanes than these would share a block's sums hardly better.
  static constexpr bool takes_pairs = simd::has_pair_products && std::same_as<T, bfloat16>;
  static constexpr index_t most_pair_lanes = 512;

  problem<T> const& p_;
  gradients<T> const& g_;
  any_backward_policies<A> const& call_;
  index_t sequences_, heads_of_unit_ = 1, heads_of_tile_ = 1, block_keys_ = 1, most_tiles_ = 1, lanes_ = 1;
  index_t sequences_at_once_ = 1, units_at_once_ = 1;  // which one task runs, one after the other
  bool uses_pairs_ = false;
  double pairs_ = 0;
  scratch memory_;
  tensor_view<A, 4> query_sum_, key_sum_, value_sum_;
  option_sums<A> of_options_;
  index_t const* tokens_ = nullptr;  // in the call's order, if it is not the tensors'
  index_t most_ranges_ = 1;
  A* tables_ = nullptr;  // [sequence][range of queries][query head][place]
  index_t table_size_ = 0;
};

template <Element T>
void run_backward_tasks(problem<T> const& p, gradients<T> const& g,
                        any_backward_policies<accumulation_t<T>> const& call,
                        attend::detail::any_executor const& executor) {
  backward_run<T>(p, g, call).run(executor);
}

}  // namespace attend::inline ATTEND_TARGET::engine
