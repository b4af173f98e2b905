// SPDX-License-Identifier: BSD-3-Clause
// Mixture of block attention (MoBA): each query sees the blocks of keys whose mean key it likes best, and its own.
//
//   kbar_J = mean of the keys of block J                          J = floor(j / B)
//   g_iJ   = q_i . kbar_J, no scale; +inf for the query's own block, -inf for later ones
//   o_i    = softmax attention of q_i to the keys of the k blocks with the largest g_iJ, causal
//
// The own block counts in k. A query with fewer than k blocks sees all of them; equal gates go to the lower block.
// Query heads choose for themselves, also where they share keys. A mean over hundreds of keys says little of one among
// them: long blocks find a topic, not a needle.
//
//   query, key, value, output   as for softmax_attention, causal, aligned at the last token
//
// Cost: a gate product of queries * blocks, and 2 * (key dimension + value dimension) operations for each chosen pair
// of a query and a key: some thousands of rows are taken together, and the rows that chose a block meet it as tiles
// (engine/softmax/gathered.hpp). Memory: the means, and the states of those rows for each thread.
//
// Enzhe Lu et al.: MoBA: Mixture of Block Attention for Long-Context LLMs, 2025.
#pragma once

#include "../../call/plan.hpp"
#include "../../engine/softmax/gathered.hpp"
#include "../../engine/softmax/row_parts.hpp"
#include "../../policy/mask/causal.hpp"
#include "../../select/mean_blocks.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Says how many keys a block has, and how many blocks a query sees, its own among them.
struct moba_options {
  index_t block = 512;
  index_t top = 3;
};

}  // namespace systems

namespace detail {

/// The work of moba_attention, checked.
template <Element T>
class block_mixing {
 public:
  using A = accumulation_t<T>;

  block_mixing(engine::problem<T> const& p, moba_options const& settings, scratch& memory)
      : p_(p),
        settings_(settings),
        heads_per_group_(p.heads_per_group()),
        choice_(p, settings.block, settings.top, memory) {
    // As many rows as make a few tiles for each block.
    index_t const wanted = wanted_rows * choice_.blocks() / settings.top;
    index_t const rows = std::max(min_rows, std::min(wanted, machine::here().mixture_rows));
    queries_ = std::max<index_t>(rows / heads_per_group_, 1);
  }

  template <class E>
  void run(E& executor) const {
    choice_.compute_means(executor);
    engine::for_row_parts(p_, heads_per_group_, queries_ * heads_per_group_,
                          std::min(settings_.top * settings_.block, p_.shape.keys), executor,
                          [&](engine::row_part const& part) { attend(part); });
  }

 private:
  static constexpr index_t wanted_rows = 128, min_rows = 512;

  /// The rows (query, head) of some queries of a group of heads, heads innermost: they choose, and then each block is
  /// met by those that chose it.
  void attend(engine::row_part const& row) const {
    scratch memory;
    index_t const rows = row.count, blocks = choice_.own_block(row.last_query()) + 1;
    auto* const chosen = memory.allocate<std::int32_t>(rows * settings_.top);
    auto* const first_of_block = memory.allocate<index_t>(blocks + 1);
    choice_.choose(row, chosen);
    // Rows by block: counted, and dealt out in their order.
    std::fill_n(first_of_block, blocks + 1, 0);
    auto const for_chosen = [&](auto const& function) {
      for (index_t i = 0; i < rows; ++i)
        for (index_t c = 0; c < choice_.list_size(row(i).query); ++c) function(i, chosen[i * settings_.top + c]);
    };
    for_chosen([&](index_t, index_t block) { ++first_of_block[block + 1]; });
    std::partial_sum(first_of_block, first_of_block + blocks + 1, first_of_block);
    auto* const list = memory.allocate<std::int32_t>(first_of_block[blocks]);
    for_chosen([&](index_t i, index_t block) { list[first_of_block[block]++] = static_cast<std::int32_t>(i); });

    engine::row_states<A> const states(memory, rows, p_.shape.value_dimension);
    engine::problem_rows<T> const source(p_);
    engine::source_rows<engine::problem_rows<T>> const keys{&source, row.batch, row.first_head / heads_per_group_};
    engine::gathered_tiles<T> tiles(p_, row.batch, memory);
    engine::key_block block(memory, keys, tiles.shape_of_block());
    index_t first = 0;
    for (index_t b = 0; b < blocks; ++b) {
      for (index_t const last = first_of_block[b]; first < last;) {
        index_t const count = std::min(last - first, tiles.max_rows);
        std::int32_t const* const choosers = list + first;
        auto const state = [&](index_t i) { return choosers[i]; };
        tiles.set_rows(count, [&](index_t i) { return row(choosers[i]); });
        tiles.prefetch_fold(states, state);
        tiles.add_keys(block, keys, b * settings_.block, std::min(settings_.block, p_.shape.keys - b * settings_.block),
                       causal{});
        tiles.fold(states, state);
        first += count;
      }
    }
    for (index_t i = 0; i < rows; ++i) states.write(i, p_, row.batch, row(i).head, row(i).query);
  }

  engine::problem<T> const& p_;
  moba_options settings_;
  index_t heads_per_group_, queries_ = 1;
  mean_blocks<T> choice_;
};

}  // namespace detail

namespace systems {

/// Attends from each query to the blocks whose mean key fits best. Query, key, value and output have the shapes of
/// softmax_attention. Options: scale (1/sqrt(key dimension) unless given), log_sum_exp, count_tiles and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, or where a
/// block has no token or a query no block.
///
///     moba_attention(q, k, v, o, moba_options{.block = 512, .top = 3});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void moba_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                    moba_options const& settings, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  if (settings.block < 1 || settings.block >= token_limit)
    fail("moba_options", "expected blocks of 1 to ", token_limit - 1, " keys, got ", settings.block);
  if (settings.top < 1) fail("moba_options", "expected at least 1 block for a query, got ", settings.top);
  auto problem = call::problem_of(query, key, value, output);
  auto plan = call::plan<call::system_options>(problem, options...);
  if (problem.shape.query_heads == 0) return;
  moba_options const within{settings.block, std::min(settings.top, divide_up(problem.shape.keys, settings.block) + 1)};
  scratch memory;
  detail::block_mixing<T>(problem, within, memory).run(plan.executor);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
