// SPDX-License-Identifier: BSD-3-Clause
// Sums that belong to keys, over the queries of weights that are known from the rows' log-sum-exps: a further pass over
// the tiles of the tiled engine.
//
//   mass_j = sum_i p_ij                 how much weight a key was given
//   sum_j  = sum_i p_ij x_i             the transposed weights times rows
//
// Keys are a call's own or those of a store. A task is a range of keys of the heads that are added up together. It
// walks over all tiles of queries in order, some tiles at a time, which share each block of keys. So each sum has one
// order for any number of threads and in any batch, and no partial sums are kept: the sums of a block over some tiles
// are added to those in memory. Logits come from tile_step.hpp, their weights from known_weights.hpp, and rows are
// multiplied as gradients multiply them (backward_tile.hpp), whose dV is such a sum.
//
// Where each query head has a mass of its own, heads that share keys still share tiles: the sums of a tile's lanes are
// kept apart, and each tile begins with the first of these heads.
//
// Cost, for each pair: 2 * key dimension operations and an exponential, and 2 * columns more for rows x.
#pragma once

#include "../../core/executor.hpp"
#include "../../core/order.hpp"
#include "../../policy/key_mass.hpp"
#include "any_source.hpp"
#include "backward_tile.hpp"
#include "key_walk.hpp"
#include "known_weights.hpp"
#include "row_epilogue.hpp"
#include "tile_queries.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// What is added up for the keys of a call; what is not wanted is empty. The number of heads says which query heads are
/// added up: those that share a head of the result.
template <Element T>
struct key_sums {
  using A = accumulation_t<T>;
  tensor_view<A, 3> mass;           // [batch, head, key]
  tensor_view<T const, 4> rows;     // x [batch, query head, query, column]
  tensor_view<A, 4> sums;           // [batch, head, key, column]
  attend::detail::query_choice of;  // the queries

  tensor_view<A const, 3> gain;  // [batch, query head, query]: what rows x are multiplied by, or empty

  // What is known of rows, [batch, query head, query]: the log-sum-exp, or what another normalizer multiplies its
  // weights by, where it has such a factor.
  tensor_view<A const, 3> log_sum_exp, factor;
};

template <Element T, KeyValueSource Source, class Position>
class key_sums_run {
 public:
  using A = accumulation_t<T>;
  static constexpr int max_lanes = simd::tile_lanes<A>;
  static constexpr int width = simd::width<A>;

  key_sums_run(problem<T> const& p, Source const& source, key_sums<T> const& wanted, any_policies<A> const& call,
               Position const& position)
      : p_(p), wanted_(wanted), call_(call), position_(position), source_(source) {
    problem_shape const& shape = p.shape;
    index_t const of_mass = wanted.mass.data() ? shape.query_heads / wanted.mass.extent(1) : 1;
    index_t const of_sums = wanted.sums.data() ? shape.query_heads / wanted.sums.extent(1) : 1;
    columns_ = wanted.sums.data() ? wanted.sums.extent(3) : 0;
    index_t const alike = std::gcd(p.heads_per_group(), call.grain(shape).heads);
    // Rows x of several heads have no sum in common where each head has its own.
    heads_of_tile_ = wanted.sums.data() && of_sums < alike ? 1 : alike;
    while (heads_of_tile_ > max_lanes || alike % heads_of_tile_ != 0) --heads_of_tile_;
    apart_ = wanted.mass.data() && of_mass < heads_of_tile_;
    rows_of_tile_ = apart_ ? max_lanes / heads_of_tile_ * heads_of_tile_ : max_lanes;
    heads_of_unit_ = std::max({of_mass, of_sums, heads_of_tile_});
    block_keys_ = tiling::keys_of_block<A>(shape.key_dimension + 2 * columns_);
    index_t const bytes = index_t{sizeof(A)} * max_lanes * (shape.key_dimension + columns_);
    tiles_at_once_ = std::clamp<index_t>(attend::detail::machine::here().tile_bytes / std::max<index_t>(bytes, 1), 1,
                                         tiling::max_tiles);
  }

  void run(attend::detail::any_executor const& executor) const {
    clear(executor);
    index_t const sequences = p_.sequences.size(), units = p_.shape.query_heads / heads_of_unit_;
    scratch memory;
    index_t* const first = memory.allocate<index_t>(sequences + 1);
    attend::detail::loop_cost cost;
    first[0] = 0;
    for (index_t s = 0; s < sequences; ++s) {
      attend::detail::sequence const sequence = p_.sequences[s];
      first[s + 1] = first[s] + units * ranges_of(sequence);
      cost.operations += 2 * static_cast<double>(p_.shape.query_heads * wanted_.of.count(sequence.queries)) *
                         static_cast<double>(sequence.keys) * static_cast<double>(p_.shape.key_dimension + columns_);
    }
    // The first keys run first: under a causal mask they have the most queries.
    executor.run(first[sequences], cost, [&](index_t number) {
      index_t const s = std::upper_bound(first, first + sequences + 1, number, attend::detail::ascending{}) - first - 1;
      attend::detail::sequence const sequence = p_.sequences[s];
      index_t const range = (number - first[s]) / units;
      index_t const length = round_up(divide_up(sequence.keys, ranges_of(sequence)), block_keys_);
      run_task(s, (number - first[s]) % units * heads_of_unit_,
               intersection({range * length, (range + 1) * length}, {0, sequence.keys}));
    });
  }

 private:
  /// What a task adds up for a block of keys before it goes to memory.
  struct block_sums {
    A* mass;                // [key][mass_lanes]
    padded_rows<A> values;  // [key][column]
  };

  /// Parts of the keys of a sequence: so many that a few heads are enough work for many threads.
  index_t ranges_of(attend::detail::sequence const& sequence) const {
    index_t const units = p_.shape.query_heads / heads_of_unit_;
    return std::clamp<index_t>(divide_up(wanted_tasks, units), 1, std::max<index_t>(sequence.keys / min_range, 1));
  }

  void clear(attend::detail::any_executor const& executor) const {
    auto const of = [&](auto const& sums, index_t elements) {
      index_t const heads = sums.extent(1), tasks = sums.extent(0) * heads;
      executor.run(tasks, tasks * attend::detail::loop_cost::of(0, elements * index_t{sizeof(A)}), [&](index_t task) {
        for (index_t key = 0; key < sums.extent(2); ++key) clear_key(sums, task / heads, task % heads, key);
      });
    };
    if (wanted_.mass.data()) of(wanted_.mass, p_.shape.keys);
    if (wanted_.sums.data()) of(wanted_.sums, p_.shape.keys * columns_);
  }
  static void clear_key(tensor_view<A, 3> const& mass, index_t b, index_t h, index_t key) { mass(b, h, key) = 0; }
  static void clear_key(tensor_view<A, 4> const& sums, index_t b, index_t h, index_t key) {
    if (sums.extent(3) > 0) std::fill_n(&sums(b, h, key, 0), sums.extent(3), A(0));
  }

  /// The lanes of a tile whose masses are kept apart.
  index_t mass_lanes() const { return apart_ ? max_lanes : width; }

  void run_task(index_t s, index_t first_head, key_range keys) const {
    if (keys.empty()) return;
    attend::detail::sequence const sequence = p_.sequences[s];
    scratch memory;
    index_t* const heads = memory.allocate<index_t>(heads_of_tile_);
    auto* const tiles = memory.allocate<tile<A>>(tiles_at_once_);
    for (index_t head = first_head; head < first_head + heads_of_unit_; head += heads_of_tile_) {
      index_t const active = list_active_heads(p_, sequence.batch, head, heads_of_tile_, heads);
      if (active == 0) continue;
      index_t const rows_of_tile = apart_ ? max_lanes / active * active : rows_of_tile_;
      index_t count = 0;
      auto const add = [&] {
        if (count > 0)
          run_tiles(s, sequence, head, {heads, static_cast<std::size_t>(active)},
                    {tiles, static_cast<std::size_t>(count)}, keys);
        count = 0;
      };
      for (key_range run = wanted_.of.next(0, sequence.queries); !run.empty();
           run = wanted_.of.next(run.last, sequence.queries))
        for (index_t row = run.first * active, last = run.last * active; row < last; row += rows_of_tile) {
          tile<A>& next = tiles[count];
          restart(next);
          place_rows(next.rows, p_.shape, s, sequence, heads, active, row, std::min(rows_of_tile, last - row));
          if constexpr (!std::same_as<Position, attend::detail::absent>)
            place_on_head(next.rows, source_, head / p_.heads_per_group());
          if (intersection(call_.bounds(next.rows), keys).empty()) continue;
          next.vectors = static_cast<int>(divide_up(next.rows.count, width));
          next.rows.used = next.lanes();
          if (++count == tiles_at_once_) add();
        }
      add();
    }
  }

  /// Adds the weights of some tiles to the sums of these keys.
  void run_tiles(index_t s, attend::detail::sequence const& sequence, index_t first_head,
                 std::span<index_t const> heads, std::span<tile<A>> tiles, key_range keys) const {
    problem_shape const& shape = p_.shape;
    scratch memory;
    source_rows<Source> const rows{&source_, s, first_head / p_.heads_per_group()};
    key_block block(memory, rows, {block_keys_, shape.key_dimension, 0, tiles.size() > 1}, &position_, sequence);
    A* const weights = memory.allocate<A>((max_block_keys + simd::register_rows) * max_lanes);
    block_sums sums{memory.allocate<A>(block_keys_ * mass_lanes()),
                    padded_rows<A>::of(memory, block_keys_ + 2 * simd::register_rows, columns_)};
    [[maybe_unused]] A *rotated = nullptr, *angles = nullptr;
    if constexpr (!std::same_as<Position, attend::detail::absent>) {
      rotated = memory.allocate<A>(shape.key_dimension * max_lanes);
      angles = memory.allocate<A>(position_.buffer_size());
    }
    auto* const of_tiles = memory.allocate<padded_rows<A>>(static_cast<index_t>(tiles.size()));
    for (std::size_t t = 0; t < tiles.size(); ++t) {
      pack_queries(p_, position_, tiles[t], memory.allocate<A>(shape.key_dimension * tiles[t].lanes()), rotated,
                   angles);
      if (columns_ > 0) of_tiles[t] = rows_of(tiles[t], memory);
    }
    block_prefetch prefetch;
    key_walk<A, any_policies<A>> walk(memory, call_, tiles.data(), static_cast<index_t>(tiles.size()), keys,
                                      block_keys_);
    for_blocks(rows, walk, block_keys_, [&](index_t row, key_range here) {
      block.move_to(row, here.count());
      std::fill_n(sums.mass, here.count() * mass_lanes(), A(0));
      if (columns_ > 0) sums.values.clear({0, here.count()});
      for (auto const& [number, of_tile] : walk.pieces()) {
        tile<A>& tile = tiles[static_cast<std::size_t>(number)];
        visibility const sight = call_.classify(tile.rows, of_tile);
        if (sight == visibility::none) continue;
        bool const masked = sight == visibility::some;
        tile_step<A> step(tile, block, of_tile, shape.key_dimension, weights, prefetch, false);
        if (!step.score(call_, masked)) continue;
        step.apply(call_, masked);
        step.weigh(call_);
        index_t const first = of_tile.first - here.first;
        if (wanted_.mass.data()) add_mass(tile, step.seen(), weights, sums.mass + first * mass_lanes());
        if (columns_ > 0) add_rows(tile, of_tiles[number], step.seen(), of_tile.count(), weights, sums.values, first);
      }
      keep(sequence, heads, here, sums);
    });
  }

  /// The factor of a row's weights.
  A factor_of(tile_rows<A> const& rows, int lane) const {
    return wanted_.factor.data() ? wanted_.factor(rows.batch, rows.head[lane], rows.query_token(lane)) : A(1);
  }

  /// The rows x of a tile's queries, times the factors of their weights.
  padded_rows<A> rows_of(tile<A> const& tile, scratch& memory) const {
    auto const rows = padded_rows<A>::of(memory, tile.lanes(), columns_);
    for (int lane = 0; lane < tile.rows.count; ++lane) {
      rows.set(lane, row_of_lane(wanted_.rows, tile.rows, lane));
      A factor = factor_of(tile.rows, lane);
      if (wanted_.gain.data())
        factor *= wanted_.gain(tile.rows.batch, tile.rows.head[lane], tile.rows.query_token(lane));
      for (index_t c = 0; c < columns_; ++c) rows.row(lane)[c] *= factor;
    }
    return rows;
  }

  void add_mass(tile<A> const& tile, visible_parts const& seen, A const* weights, A* to) const {
    using namespace simd;
    index_t const lanes = tile.lanes(), stride = mass_lanes();
    vector<A> const nothing(A(0));
    for (int v = 0; v < tile.vectors; ++v) {
      int const lane = v * width;
      bool const whole = lane + width <= tile.rows.count && !wanted_.factor.data();
      alignas(64) A factors[array_size(width)];
      for (int i = 0; i < width; ++i) factors[i] = lane + i < tile.rows.count ? factor_of(tile.rows, lane + i) : A(0);
      vector<A> const factor = load(factors);
      key_range const range = seen.of_vectors()[v];
      for (index_t j = range.first; j < range.last; ++j) {
        A* const sum = to + j * stride + (apart_ ? lane : 0);
        vector<A> weight = load(weights + j * lanes + lane);
        // A lane without a row repeats the last one.
        if (!whole) weight = simd::select(factor == nothing, nothing, weight * factor);
        store(sum, load(sum) + weight);
      }
    }
  }

  void add_rows(tile<A> const& tile, padded_rows<A> const& rows, visible_parts const& seen, index_t keys, A* weights,
                padded_rows<A> const& to, index_t first) const {
    index_t const stride = tile.lanes();
    // The last register tile has rows of keys that are not there.
    std::fill(weights + keys * stride, weights + round_up(keys, simd::register_rows) * stride, A(0));
    bool const finite = are_finite(rows, tile.rows.count);
    auto const add = [&](visible_part const& part) {
      index_t const lane = part.low * width, at = part.keys.first * stride + lane;
      index_t const depth = std::min<index_t>(part.vectors * width, tile.rows.count - lane);
      padded_rows<A> const of_part{rows.row(lane), rows.stride, rows.columns};
      A* const sums = to.row(first + part.keys.first);
      if (finite)
        add_products<false>(weights + at, stride, part.keys.count(), of_part, depth, sums, to.stride);
      else
        add_products_guarded<false>(weights + at, stride, part.keys.count(), of_part, depth, sums, to.stride);
    };
    if (seen.empty()) return add({{0, keys}, 0, tile.vectors, true});
    for (visible_part const& part : seen) add(part);
  }

  /// Adds the sums of a block to those in memory.
  void keep(attend::detail::sequence const& sequence, std::span<index_t const> heads, key_range keys,
            block_sums const& from) const {
    index_t const lanes = mass_lanes();
    for (index_t j = 0; j < keys.count(); ++j) {
      index_t const token = sequence.first_key + keys.first + j;
      if (wanted_.mass.data()) {
        index_t const group = p_.shape.query_heads / wanted_.mass.extent(1);
        A const* const of_key = from.mass + j * lanes;
        auto const count = apart_ ? static_cast<index_t>(heads.size()) : 1;
        for (index_t i = 0; i < count; ++i) {
          A sum = 0;
          for (index_t lane = i; lane < lanes; lane += count) sum += of_key[lane];
          wanted_.mass(sequence.batch, heads[static_cast<std::size_t>(i)] / group, token) += sum;
        }
      }
      if (columns_ > 0) {
        index_t const group = p_.shape.query_heads / wanted_.sums.extent(1);
        A* const to = &wanted_.sums(sequence.batch, heads[0] / group, token, 0);
        A const* const row = from.values.row(j);
        for (index_t c = 0; c < columns_; ++c) to[c] += row[c];
      }
    }
  }

  // Twice as many as sixteen threads need, since tasks differ under a mask.
  static constexpr index_t wanted_tasks = 32;
  // Keys of a task: packing the queries is then a few percent of its work.
  static constexpr index_t min_range = 256;

  problem<T> const& p_;
  key_sums<T> const& wanted_;
  any_policies<A> const& call_;
  Position const& position_;
  Source const& source_;
  index_t columns_ = 0, heads_of_tile_ = 1, rows_of_tile_ = 1, heads_of_unit_ = 1, block_keys_ = 1, tiles_at_once_ = 1;
  bool apart_ = false;  // whether the query heads of a tile have masses of their own
};

/// Adds up what is wanted for keys, by policies that give the weights.
template <Element T, KeyValueSource Source, class Policies, class E>
void run_key_sums_of(problem<T> const& p, Source const& source, key_sums<T> const& wanted, Policies const& policies,
                     E& executor) {
  erased_policies<accumulation_t<T>, Policies> const call(policies);
  auto const of_engine = source_of_engine(source);
  key_sums_run<T, std::remove_const_t<decltype(of_engine)>, typename Policies::position_type>(p, of_engine, wanted,
                                                                                              call, policies.position)
      .run(attend::detail::any_executor(executor));
}

/// Whether the weights of a normalizer are known only with what a row's denominator is.
template <class N>
inline constexpr bool has_row_factors = !N::keeps_maximum && N::has_weight_sum;

/// Adds up what is wanted for keys, with the call's policies.
template <Element T, KeyValueSource Source, class Policies, class E>
void run_key_sums(problem<T> const& p, Source const& source, key_sums<T> const& wanted, Policies const& of_call,
                  E& executor) {
  using A = accumulation_t<T>;
  if (p.shape.query_heads == 0 || p.shape.batches == 0 || p.shape.keys == 0) return;
  using mask = typename Policies::mask_type;
  using position = typename Policies::position_type;
  attend::detail::absent none;
  if constexpr (Policies::normalizer_type::keeps_maximum) {
    auto const scores = scores_of_weights<false, A>(of_call.scores, wanted.log_sum_exp);
    known_weights<false> const known;
    run_key_sums_of(p, source, wanted,
                    policies<mask, std::remove_const_t<decltype(scores)>, known_weights<false>, position>{
                        of_call.mask, scores, known, of_call.position, none},
                    executor);
  } else {
    run_key_sums_of(p, source, wanted,
                    policies<mask, typename Policies::scores_type, typename Policies::normalizer_type, position>{
                        of_call.mask, of_call.scores, of_call.normalizer, of_call.position, none},
                    executor);
  }
}

/// Has a run of the call keep what the pass needs to know of its rows.
template <class Normalizer, Element T>
void keep_rows(problem<T>& p, key_sums<T>& wanted, scratch& memory) {
  using A = accumulation_t<T>;
  std::array const extents{p.shape.batches, p.shape.query_heads, p.shape.queries};
  index_t const rows = extents[0] * extents[1] * extents[2];
  if constexpr (Normalizer::keeps_maximum) {
    if (!p.log_sum_exp.data()) p.log_sum_exp = {memory.allocate<A>(rows), extents};
    wanted.log_sum_exp = p.log_sum_exp;
  } else if constexpr (has_row_factors<Normalizer>) {
    p.row_factor = {memory.allocate<A>(rows), extents};
    wanted.factor = p.row_factor;
  }
}

}  // namespace attend::inline ATTEND_TARGET::engine
