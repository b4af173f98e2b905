// SPDX-License-Identifier: BSD-3-Clause
// HyperAttention: the largest weights are found by sorting queries and keys by a hash, the rest is estimated from a
// sample of the keys.
//
//   Hyper(Q, K, V):  keys and queries are sorted by their buckets (select/sorted_hashing.hpp), and both cut into
//                    ceil(keys / B) blocks
//       own part     exact attention of a block of queries to the matching block of keys
//       residual     attention to m keys drawn with replacement, but those of the own block; ln(keys / m) on each logit
//       both         under one softmax
//   causal C(1..n):  exact for n <= N_0; else C of the first half, and for the second half C of it and Hyper of its
//                    queries to the first half's keys, under one softmax
//
//   query, key, value, output   as for softmax_attention; causal{} needs as many queries as keys
//
// The residual's denominator is right on average over the draws. A query and the key that it looks for fall into equal
// buckets, but their places among all queries and all keys differ by about sqrt(n): a block must be longer than that
// for such a key to be in it.
//
// Hyper of fewer than N_0 queries, or to a single block of keys, is exact too. The draws depend on the seed and the
// place in the recursion alone.
//
// Cost: 2 * (B + m) * (key + value dimension) operations for each query and level, log2(n / N_0) levels, and N_0 / 2
// keys in the exact pieces: near-linear. Memory: a head's states, (value dimension + 2) * queries, and its sorted
// orders.
//
// Insu Han et al.: HyperAttention: Long-context Attention in Near-Linear Time, 2023; without its sampling of the values
// by norm, which its code leaves out too.
#pragma once

#include "../../call/plan.hpp"
#include "../../core/head_loop.hpp"
#include "../../engine/softmax/gathered.hpp"
#include "../../engine/softmax/row_parts.hpp"
#include "../../policy/mask/causal.hpp"
#include "../../select/row_products.hpp"
#include "../../select/sorted_hashing.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Gives B (tokens of a block), m (sampled keys) and N_0 (tokens that are attended to exactly) of the formula, and the
/// seed of the draws.
struct hyper_options {
  index_t block = 256;
  index_t samples = 256;
  index_t exact_below = 4096;
  std::uint64_t seed = 0;
};

}  // namespace systems

namespace detail {

/// The t-th draw from `keys`, for the queries from first_query on.
inline index_t hyper_draw(std::uint64_t seed, index_t first_query, index_t t, index_t keys) {
  // splitmix64 of a counter; the high half of a product is a number below `keys`.
  std::uint64_t x =
      seed + 0x9e3779b97f4a7c15u * (static_cast<std::uint64_t>(first_query) * 0x10001u +
                                    static_cast<std::uint64_t>(keys) * 0x3c6ef372u + static_cast<std::uint64_t>(t) + 1);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  x ^= x >> 31;
  return static_cast<index_t>(((x >> 32) * static_cast<std::uint64_t>(keys)) >> 32);
}

/// The work of hyper_attention on one head, checked.
template <Element T>
class hyper_head {
 public:
  using A = accumulation_t<T>;

  hyper_head(engine::problem<T> const& p, hash_directions const& directions, hyper_options const& settings,
             index_t batch, index_t head, scratch& memory)
      : p_(p),
        directions_(directions),
        settings_(settings),
        batch_(batch),
        head_(head),
        source_(p),
        keys_{&source_, batch, head / p.heads_per_group()},
        states_(memory, p.shape.queries, p.shape.value_dimension),
        query_bucket_(memory.allocate<std::uint16_t>(p.shape.queries)),
        key_bucket_(memory.allocate<std::uint16_t>(p.shape.keys)),
        sorted_queries_(memory.allocate<std::int32_t>(p.shape.queries)),
        sorted_keys_(memory.allocate<std::int32_t>(p.shape.keys)) {}

  template <class E>
  void run(bool causal, E& executor) {
    index_t const queries = p_.shape.queries, keys = p_.shape.keys;
    hash(p_.query, head_, queries, query_bucket_, executor);
    hash(p_.key, head_ / (p_.shape.query_heads / p_.shape.key_heads), keys, key_bucket_, executor);
    if (causal)
      halve(0, queries, executor);
    else
      cross({0, queries}, {0, keys}, executor);
    index_t const numbers = 2 * p_.shape.value_dimension;
    for_tokens(executor, 1, 1, queries, loop_cost::of(numbers, numbers * static_cast<index_t>(sizeof(A))),
               [&](index_t, index_t, index_t first, index_t last) {
                 for (index_t i = first; i < last; ++i) states_.write(i, p_, batch_, head_, i);
               });
  }

 private:
  static constexpr index_t max_rows = engine::gathered_tiles<T>::max_rows;
  using tiles_type = engine::gathered_tiles<T>;
  using row = typename tiles_type::row;

  template <class E>
  void hash(tensor_view<T const, 4> const& tokens, index_t head, index_t count, std::uint16_t* bucket,
            E& executor) const {
    constexpr index_t group_size = 1024;
    index_t const bits = directions_.bits(), dimension = directions_.dimension();
    scratch memory;
    A* const matrix = memory.allocate<A>(bits * dimension);
    std::copy_n(directions_.view().data(), bits * dimension, matrix);
    for_heads(executor, 1, divide_up(count, group_size),
              loop_cost::of(2 * std::min(count, group_size) * bits * dimension), [&](index_t, index_t part) {
                index_t const first = part * group_size;
                row_products(
                    tensor_view<A const, 2>(matrix, {bits, dimension}), std::min(group_size, count - first),
                    row_order::own_bits,
                    [&](index_t i) { return engine::rows_of_head(tokens, batch_, head, first + i).data; },
                    [&](index_t i, A const* products) {
                      std::uint32_t code = 0;
                      for (index_t t = 0; t < bits; ++t) code |= std::uint32_t{products[t] > 0} << t;
                      bucket[first + i] = static_cast<std::uint16_t>(gray_place(code));
                    });
              });
  }

  /// Causal attention among tokens [first, last).
  template <class E>
  void halve(index_t first, index_t last, E& executor) {
    if (last - first <= settings_.exact_below || last - first < 2)
      return exact({first, last}, {first, last}, true, executor);
    index_t const middle = first + (last - first) / 2;
    halve(first, middle, executor);
    halve(middle, last, executor);
    cross({middle, last}, {first, middle}, executor);
  }

  /// Some rows take a run of keys.
  template <class E>
  void exact(key_range queries, key_range keys, bool causal, E& executor) const {
    if (keys.empty()) return;
    key_range const all{0, queries.count()};
    engine::for_block_parts(p_, 1, all, all.last, max_rows, causal ? keys.count() / 2 : keys.count(), executor,
                            [&](index_t, key_range part) {
                              scratch memory;
                              index_t const first = queries.first + part.first;
                              tiles_type tiles(p_, batch_, memory);
                              engine::key_block block(memory, keys_, tiles.shape_of_block());
                              auto const query = [&](index_t i) { return first + i; };
                              tiles.set_rows(part.count(), [&](index_t i) { return row{head_, query(i)}; });
                              if (causal)
                                tiles.add_keys(block, keys_, keys.first,
                                               std::min(keys.last, first + max_rows) - keys.first, attend::causal{});
                              else
                                tiles.add_keys(block, keys_, keys.first, keys.count(), full{});
                              tiles.fold(states_, query);
                            });
  }

  /// Hyper of some queries and keys.
  template <class E>
  void cross(key_range queries, key_range keys, E& executor) const {
    index_t const blocks = divide_up(keys.count(), settings_.block);
    if (queries.count() < settings_.exact_below || blocks <= 1) return exact(queries, keys, false, executor);
    index_t const buckets = index_t{1} << directions_.bits();
    sort_by_bucket(query_bucket_, buckets, queries.first, queries.count(), sorted_queries_ + queries.first);
    sort_by_bucket(key_bucket_, buckets, keys.first, keys.count(), sorted_keys_ + keys.first);
    A const gain =
        settings_.samples > 0 ? std::log(static_cast<A>(keys.count()) / static_cast<A>(settings_.samples)) : A(0);
    loop_cost const of_block =
        loop_cost::of(2 * divide_up(queries.count(), blocks) * (settings_.block + settings_.samples) *
                      (p_.shape.key_dimension + p_.shape.value_dimension));
    for_heads(executor, 1, blocks, of_block, [&](index_t, index_t b) {
      key_range const own{b * keys.count() / blocks, (b + 1) * keys.count() / blocks};
      key_range const rows{b * queries.count() / blocks, (b + 1) * queries.count() / blocks};
      scratch memory;
      std::int32_t const* const key = sorted_keys_ + keys.first;
      auto* const drawn = memory.allocate<std::int32_t>(settings_.samples);
      index_t draws = 0;
      for (index_t t = 0; t < settings_.samples; ++t) {
        index_t const at = hyper_draw(settings_.seed, queries.first, t, keys.count());
        if (at < own.first || at >= own.last) drawn[draws++] = key[at];
      }
      tiles_type tiles(p_, batch_, memory);
      for (index_t first = rows.first; first < rows.last; first += max_rows) {
        auto const query = [&](index_t i) { return sorted_queries_[queries.first + first + i]; };
        tiles.set_rows(std::min(max_rows, rows.last - first), [&](index_t i) { return row{head_, query(i)}; });
        add_keys(tiles, key + own.first, own.count());
        tiles.fold(states_, query);
        if (draws == 0) continue;
        tiles.restart();
        add_keys(tiles, drawn, draws);
        tiles.fold(states_, query, gain);
      }
    });
  }

  void add_keys(tiles_type& tiles, std::int32_t const* list, index_t count) const {
    scratch memory;
    engine::ordered_rows<engine::source_rows<engine::problem_rows<T>>, engine::token_list> const rows{keys_, {list}};
    engine::key_block block(memory, rows, tiles.shape_of_block());
    tiles.add_keys(block, rows, 0, count, full{});
  }

  engine::problem<T> const& p_;
  hash_directions const& directions_;
  hyper_options settings_;
  index_t batch_, head_;
  engine::problem_rows<T> source_;
  engine::source_rows<engine::problem_rows<T>> keys_;
  engine::row_states<A> states_;
  std::uint16_t *query_bucket_, *key_bucket_;
  std::int32_t *sorted_queries_, *sorted_keys_;
};

}  // namespace detail

namespace systems {

/// Attends to sorted blocks and a sample. Query, key, value and output have the shapes of softmax_attention. Options:
/// causal{}, scale (1/sqrt(key dimension) unless given), log_sum_exp (that of the estimate) and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, the
/// directions have another dimension than the keys, or a block has no key.
///
///     hyper_attention(q, k, v, o, hash_directions(7, 128, 1), hyper_options{.block = 256}, causal{});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void hyper_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                     hash_directions const& directions, hyper_options const& settings, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  call::check_only_causal<Options...>();
  static constexpr bool is_causal = detail::has_kind<option::mask, Options...>;
  auto problem = call::problem_of(query, key, value, output);
  detail::check_extent("directions", "dimension", directions.dimension(), problem.shape.key_dimension, "query");
  if (settings.block < 1 || settings.block >= token_limit)
    fail("hyper_options", "expected blocks of 1 to ", token_limit - 1, " keys, got ", settings.block);
  if (settings.samples < 0 || settings.samples >= token_limit)
    fail("hyper_options", "expected 0 to ", token_limit - 1, " samples, got ", settings.samples);
  if (is_causal) detail::check_extent("key", "tokens", problem.shape.keys, problem.shape.queries, "query: causal");
  full everything;
  detail::check_last_at_last(detail::find_option<option::mask>(everything, options...), problem.shape);
  auto plan =
      call::plan<call::allows<option::mask, option::scale, option::log_sum_exp, option::executor>>(problem, options...);
  for (index_t task = 0; task < problem.shape.batches * problem.shape.query_heads; ++task) {
    scratch memory;
    detail::hyper_head<T>(problem, directions, settings, task / problem.shape.query_heads,
                          task % problem.shape.query_heads, memory)
        .run(is_causal, plan.executor);
  }
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
