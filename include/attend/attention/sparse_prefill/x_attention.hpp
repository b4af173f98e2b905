// SPDX-License-Identifier: BSD-3-Clause
// XAttention: softmax attention to the fewest blocks of keys that hold most of the mass which sums along antidiagonals
// promise.
//
//   mass_IJ   of select/antidiagonal_masses.hpp: a softmax of sums over antidiagonals of S x S logits
//   list of I = block 0 and the blocks of the queries themselves, and of the others those of largest mass, as few as
//               give  sum of mass >= share * sum of all mass;  ties to the lower block
//   o         = softmax over the listed blocks, causal
//
//   query, key, value, output   as for softmax_attention, causal, aligned at the last token; a list for each query head
//
// The key tensors may be those of a cache, to which a chunk of a prompt was appended: its queries are the last tokens.
//
// Cost: 1/S of the logits, in the accumulation type, and the work of the listed blocks. Memory: a table with room for
// all pairs of blocks, and tiles of sums.
//
// Ruyi Xu, Guangxuan Xiao, Haofeng Huang, Junxian Guo, Song Han: XAttention: Block Sparse Attention with Antidiagonal
// Scoring, 2025. That block 0 and the own ones are always kept, and count first, is the authors' code's.
#pragma once

#include "../../cache/contiguous.hpp"
#include "../../policy/mask/block_sparse.hpp"
#include "../../policy/mask/causal.hpp"
#include "../../select/antidiagonal_masses.hpp"
#include "../../select/page_selector.hpp"
#include "../../select/top_k.hpp"
#include "../cached/cached_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Says how many tokens a block has, every how many tokens an antidiagonal lies, which divides the block, and the share
/// of the mass that a list holds, from 0 to 1; 1 lists all blocks.
struct x_attention_options {
  index_t block = 128;
  index_t stride = 8;
  double share = 0.9;
};

}  // namespace systems

namespace detail {

inline void check(x_attention_options const& settings) {
  if (settings.block < 1 || settings.block >= token_limit)
    fail("x_attention_options", "expected blocks of 1 to ", token_limit - 1, " tokens, got ", settings.block);
  if (settings.stride < 1 || settings.block % settings.stride != 0)
    fail("x_attention_options", "expected a stride that divides blocks of ", settings.block, " tokens, got ",
         settings.stride);
  if (!(settings.share >= 0 && settings.share <= 1))
    fail("x_attention_options", "expected a share from 0 to 1, got ", settings.share);
}

/// Adds the blocks to a row of a table that hold the share of the mass; block 0 and the own ones come first.
inline void add_blocks_of_mass(float const* mass, key_range own, double share, index_t row, block_table& table) {
  scratch memory;
  float* const left = memory.allocate<float>(own.last);
  auto* const order = memory.allocate<std::int32_t>(own.last);
  bool* const listed = memory.allocate<bool>(own.last);
  double all = 0, held = 0;
  for (index_t block = 0; block < own.last; ++block) {
    listed[block] = share == 1 || block == 0 || own.contains(block);
    all += static_cast<double>(mass[block]);
    if (listed[block]) held += static_cast<double>(mass[block]);
    left[block] = listed[block] ? -infinity<float> : mass[block];
  }
  top_k(left, own.last, own.last, order, top_k_order::score);
  for (index_t i = 0; i < own.last && held < share * all && !listed[order[i]]; ++i) {
    listed[order[i]] = true;
    held += static_cast<double>(mass[order[i]]);
  }
  for (index_t block = 0; block < own.last; ++block)
    if (listed[block]) table.add(row, block);
}

/// Fills a table from queries and the keys of a store, in which sequences may have different lengths; the longest has
/// `keys` tokens.
template <Element T, KeyValueSource Source, class E>
void fill_by_antidiagonals(tensor_view<T const, 4> const& query, Source const& source, index_t keys, block_table& table,
                           x_attention_options const& settings, accumulation_t<T> scale, E& executor) {
  index_t const heads = query.extent(1), queries = query.extent(2);
  block_grid const grid{query.extent(0), heads, queries, keys, settings.block, settings.block};
  table.reset(grid, grid.key_blocks());
  if (grid.rows() == 0) return;
  antidiagonal_masses<T, Source> const masses(query, source, settings.block / settings.stride, settings.stride, scale);
  index_t const at_once = masses.blocks_of_tile(), parts = divide_up(grid.query_blocks(), at_once);
  index_t const tasks = query.extent(0) * heads * parts;
  // Half of the pairs of groups.
  loop_cost const cost = loop_cost::of(queries * keys / settings.stride * query.extent(3));
  parallel_for(executor, tasks, query.extent(0) * heads * cost, [&](index_t number) {
    // The last ones first: they have the most keys.
    index_t const task = tasks - 1 - number, part = task % parts, head = task / parts % heads;
    index_t const sequence = task / parts / heads, first = part * at_once;
    block_grid own = grid;
    own.keys = source.size(sequence);
    index_t const count = std::min(at_once, grid.query_blocks() - first);
    scratch memory;
    float* const mass = memory.allocate<float>(count * grid.key_blocks() + 1);
    masses.write(sequence, head, first, count, grid.key_blocks(), mass);
    for (index_t i = 0; i < count; ++i)
      if (key_range const range = own.own_key_blocks(first + i); !range.empty())
        add_blocks_of_mass(mass + i * grid.key_blocks(), range, settings.share, table.row(sequence, head, first + i),
                           table);
  });
}

}  // namespace detail

namespace systems {

/// Fills `table` with the lists for query [batch, query head, query, dimension] and key [batch, key head, key,
/// dimension]. The table's storage is kept from call to call. Options: scale (1/sqrt(dimension) unless given) and
/// executor.
///
/// Throws argument_error, before anything is written, where the settings, shapes or strides do not fit.
///
///     x_attention_blocks(q, k, table, {.block = 128, .stride = 16, .share = 0.9});
///     softmax_attention(q, k, v, o, block_sparse{table} & causal{});
template <TensorArgument Query, TensorArgument Key, class... Options>
void x_attention_blocks(Query const& query, Key const& key, block_table& table, x_attention_options const& settings,
                        Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Query const>;
  static_assert(std::same_as<element_of_t<Key const>, T>, "attend: query and key must have one element type");
  call::allows<option::scale, option::executor>::check<Options...>();
  detail::check(settings);
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key));
  problem_shape const shape = call::checked_shape<T>(q, k);
  auto const factor = detail::scale_or<accumulation_t<T>>(detail::usual_scale(shape.key_dimension), options...);
  auto& executor = call::executor_of(options...);
  detail::fill_by_antidiagonals(q, key_value_tensors<T>(k, k), shape.keys, table, settings, factor, executor);
}

/// Does the same for the keys of a cache that has all of its tokens, the queries' own among them.
///
///     x_attention_blocks(q, cache, table, {.block = 128, .stride = 16, .share = 0.9});
template <TensorArgument Query, detail::StoreLike Cache, class... Options>
  requires(!TensorArgument<Cache>)
void x_attention_blocks(Query const& query, Cache const& cache, block_table& table, x_attention_options const& settings,
                        Options&&... options) {
  static_assert(detail::has_store_members<Cache>());
  arithmetic_mode const arithmetic;
  using T = element_of_t<Query const>;
  call::allows<option::scale, option::executor>::check<Options...>();
  detail::check(settings);
  tensor_view<T const, 4> const q = raise<4>(view_of(query));
  detail::check_view("query", q);
  detail::check_extent("query", "sequences", q.extent(0), cache.sequences(), "the cache");
  detail::check_extent("query", "head dimension", q.extent(3), cache.key_dimension(), "the cache");
  detail::check_query_heads(q.extent(1), {cache.sequences(), cache.key_value_heads(), cache.key_dimension()});
  detail::check_readable(cache);
  for (index_t s = 0; s < cache.sequences(); ++s)
    for (index_t head = 0; head < cache.key_value_heads(); ++head)
      detail::check_extent("cache", "stored tokens", cache.stored(s, head), cache.size(s), "appended");
  auto const factor = detail::scale_or<accumulation_t<T>>(detail::usual_scale(q.extent(3)), options...);
  auto& executor = call::executor_of(options...);
  detail::fill_by_antidiagonals(q, cache, call::longest_in(cache, 0), table, settings, factor, executor);
}

/// Calls x_attention_blocks, and attends to what it finds. Query, key, value and output have the shapes of
/// softmax_attention. Options: scale (1/sqrt(key dimension) unless given), log_sum_exp, count_tiles and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     x_attention(q, k, v, o, table, {.block = 128, .stride = 16, .share = 0.9});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void x_attention(Query const& query, Key const& key, Value const& value, Output&& output, block_table& table,
                 x_attention_options const& settings, Options&&... options) {
  arithmetic_mode const arithmetic;
  using A = accumulation_t<element_of_t<Output>>;
  call::system_options::check<Options...>();
  auto problem = call::problem_of(query, key, value, output);
  // A call that is refused leaves the table as it was.
  call::plan(problem, options...);
  scale const factor(detail::scale_or<A>(detail::usual_scale(problem.shape.key_dimension), options...));
  x_attention_blocks(query, key, table, settings, factor, call::executor_of(options...));
  softmax_attention(query, key, value, output, block_sparse{table} & causal{}, options...);
}

/// Does the same for the last tokens of a cache's sequences: a chunk of a prompt that was appended before.
///
///     x_attention(q, cache, o, table, {.block = 128, .stride = 16, .share = 0.9});
template <TensorArgument Query, detail::StoreLike Cache, TensorArgument Output, class... Options>
  requires(!TensorArgument<Cache>)
void x_attention(Query const& query, Cache const& cache, Output&& output, block_table& table,
                 x_attention_options const& settings, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  call::system_options::check<Options...>();
  auto problem = call::cache_problem<T>(raise<4>(view_of(query)), cache, raise<4>(view_of(output)));
  scratch memory;
  call::plan_on_cache(problem, cache, padded_keys(call::lengths_in(cache, 0, memory)), options...);
  scale const factor(detail::scale_or<accumulation_t<T>>(detail::usual_scale(problem.shape.key_dimension), options...));
  x_attention_blocks(query, cache, table, settings, factor, call::executor_of(options...));
  softmax_attention(query, cache, output, block_sparse{table} & causal{}, options...);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
