// SPDX-License-Identifier: BSD-3-Clause
// HiP attention (hierarchically pruned): a tree search finds, for each block of queries, the blocks of keys that hold
// its largest logits, and softmax attention sees just these.
//
// The key blocks before the local ones, behind the sinks, are cut into m intervals. Then, until all intervals are
// single blocks: each is halved, the score of a half is
//
//   score = max over queries of the block, and over the tokens that stand for the half, of q_i . k_token
//
// and the m best halves stay; ties to the lower block. The paper's text takes all queries and the half's middle token
// (or, as a variant, its first one), the authors' release every second query and all tokens of the half's first block:
// hip_form of select/interval_search.hpp. The list of a query block is
//
//   its own blocks and `local` before them, `sinks` first blocks, and the m that were found
//
//   query, key, value, output   as for softmax_attention, causal, aligned at the last token; a list for each query head
//
// Keys are taken to be like their neighbours: a passage as long as the first halves is found, and one key that is
// unlike what is around it only where it stands for a half at each cut.
//
// Cost: 2 * m * log2(blocks / m) products of a query block with one token each, O(T log T) in all, of which most of the
// keys are never read; then the work of the listed blocks. Memory: the table, and the scores of 2 m halves. Decoding is
// attention/sparse_decode/hip_selector.hpp.
//
// Heejun Lee et al.: HiP Attention: Sparse Sub-Quadratic Attention with Hierarchical Attention Pruning, 2024.
#pragma once

#include <bit>

#include "../../engine/softmax/row_parts.hpp"
#include "../../policy/mask/block_sparse.hpp"
#include "../../policy/mask/causal.hpp"
#include "../../select/interval_search.hpp"
#include "../softmax/softmax_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Says how many tokens a block of queries and one of keys have, and how many key blocks a block of queries sees: those
/// that the search finds, the local ones before its own, and the first ones. The caller rounds a budget of tokens to
/// blocks.
struct hip_options {
  index_t query_block = 64;
  index_t key_block = 64;
  index_t blocks = 16;
  index_t local = 1;
  index_t sinks = 1;
  hip_form form = hip_form::middle_token;
};

}  // namespace systems

namespace detail {

inline void check(hip_options const& settings) {
  for (index_t block : {settings.query_block, settings.key_block})
    if (block < 1 || block >= token_limit)
      fail("hip_options", "expected blocks of 1 to ", token_limit - 1, " tokens, got ", block);
  for (index_t count : {settings.blocks, settings.local, settings.sinks})
    if (count < 0 || count >= token_limit)
      fail("hip_options", "expected 0 to ", token_limit - 1, " blocks, got ", count);
}

}  // namespace detail

namespace systems {

/// Fills `table` with the lists that the search finds for query [batch, query head, query, dimension] and key [batch,
/// key head, key, dimension]. The table's storage is kept from call to call, and its lists may serve several calls:
/// those of the next layers, or of a few steps. Option: executor.
///
/// Throws argument_error, before anything is written, where the settings, shapes or strides do not fit.
///
///     hip_blocks(q, k, table, hip_options{.query_block = 32, .key_block = 64, .blocks = 16});
///     softmax_attention(q, k, v, o, block_sparse{table} & causal{});
template <TensorArgument Query, TensorArgument Key, class... Options>
void hip_blocks(Query const& query, Key const& key, block_table& table, hip_options const& settings,
                Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Query const>;
  static_assert(std::same_as<element_of_t<Key const>, T>, "attend: query and key must have one element type");
  call::allows<option::executor>::check<Options...>();
  detail::check(settings);
  auto& executor = call::executor_of(options...);
  auto const q = raise<4>(view_of(query));
  auto const k = raise<4>(view_of(key));
  problem_shape const shape = call::checked_shape<T>(q, k);
  engine::problem<T> problem(q, k, shape);
  problem.value = k;
  index_t const key_blocks = divide_up(shape.keys, settings.key_block);
  index_t const intervals = std::min(settings.blocks, key_blocks);
  block_grid const grid{shape.batches, shape.query_heads,    shape.queries,
                        shape.keys,    settings.query_block, settings.key_block};
  index_t const own_blocks = divide_up(std::min(settings.query_block, shape.queries), settings.key_block) + 1;
  table.reset(grid, std::min(key_blocks, intervals + std::min(settings.local, key_blocks) +
                                             std::min(settings.sinks, key_blocks) + own_blocks));
  if (shape.queries == 0 || shape.query_heads == 0) return;
  index_t const blocks = grid.query_blocks();
  // Halves of each round of the search, as if they were keys.
  index_t const scored = 2 * intervals * static_cast<index_t>(std::bit_width(static_cast<std::size_t>(key_blocks)));
  engine::for_row_parts(problem, 1, settings.query_block, scored, executor, [&](engine::row_part const& part) {
    index_t const head = part.batch * shape.query_heads + part.first_head, block = part.first / settings.query_block;
    index_t const row = head * blocks + block;
    key_range const own = grid.own_key_blocks(block);
    if (own.empty()) return;
    scratch memory;
    detail::interval_search search(settings.form, intervals, settings.key_block, memory);
    detail::largest_products<T> products(problem, part.batch, part.first_head, memory);
    auto const score = [&](std::span<std::int32_t const> tokens, float* to) {
      products.score(part.first, part.count, search.query_stride(settings.form), tokens, to);
    };
    index_t const local = std::max<index_t>(own.first - settings.local, 0), sinks = std::min(settings.sinks, local);
    for (index_t b = 0; b < sinks; ++b) table.add(row, b);
    for (std::int32_t const b : search.find(sinks, local, score)) table.add(row, b);
    for (index_t b = local; b < own.last; ++b) table.add(row, b);
  });
}

/// Calls hip_blocks, and attends to what it finds. Query, key, value and output have the shapes of softmax_attention.
/// Options: scale (1/sqrt(key dimension) unless given), log_sum_exp, count_tiles and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     hip_attention(q, k, v, o, table, hip_options{.query_block = 32, .key_block = 64, .blocks = 16});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void hip_attention(Query const& query, Key const& key, Value const& value, Output&& output, block_table& table,
                   hip_options const& settings, Options&&... options) {
  arithmetic_mode const arithmetic;
  call::system_options::check<Options...>();
  auto problem = call::problem_of(query, key, value, output);
  // A call that is refused leaves the table as it was.
  call::plan(problem, options...);
  hip_blocks(query, key, table, settings, call::executor_of(options...));
  softmax_attention(query, key, value, output, block_sparse{table} & causal{}, options...);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
