// SPDX-License-Identifier: BSD-3-Clause
// Attention of a question behind many demonstrations, kept on the question: demonstration tokens that hardly matter are
// filtered out, and the question's own tokens count once for each batch of demonstrations.
//
//   keys            the tokens of the demonstrations, in B batches, then those of the question
//   trivial to i    the floor(p * demonstration tokens) demonstration keys with the least logits for query i
//   o_i             = sum_b Z_b o_b / sum_b Z_b,  o_b and Z_b = output and sum of exponentials of softmax attention to
//                     the keys of batch b that are not trivial to i, and to the question's keys up to i
//
// All batches see the same question, so this is one softmax in which ln(B) is added to the logits of its keys. Batches
// do not see each other: their own rows are `documents{batches} & causal{}`.
//
// Cost: dense causal attention, and the search for the threshold of each row among its logits of demonstrations, of
// which a tile's rows are searched side by side (select/column_ranks.hpp). Equal logits at the threshold all stay.
// Memory: the logits of a tile's rows, keys * lanes of them for each thread.
//
// Peiwen Yuan et al.: Focused Large Language Models are Stable Many-Shot Learners (FocusICL), 2024; the filter over all
// demonstrations of a row.
#pragma once

#include "../../engine/softmax/gathered.hpp"
#include "../../engine/softmax/row_parts.hpp"
#include "../../engine/softmax/scored_keys.hpp"
#include "../../policy/functions.hpp"
#include "../../policy/mask/causal.hpp"
#include "../../select/column_ranks.hpp"
#include "softmax_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Describes the demonstrations before a question, and how many of their tokens are filtered out.
struct focus_icl_options {
  index_t tokens;      // the first so many keys
  index_t batches;     // that they were encoded in
  double trivial = 0;  // the part of them that each query leaves out, from 0 up to 1
};

}  // namespace systems

namespace detail {

/// Some rows of a call with a filter that is checked: each leaves its `hidden` least logits of demonstrations out, and
/// ln(batches) is added to the others'.
template <Element T>
void focus_rows(engine::problem<T> const& p, engine::row_part const& part, focus_icl_options const& shown,
                index_t hidden) {
  using A = accumulation_t<T>;
  using tiles_type = engine::gathered_tiles<T>;
  index_t const seen = p.shape.keys - p.shape.queries + part.last_query() + 1;
  scratch memory;
  tiles_type tiles(p, part.batch, memory);
  tiles.set_rows(part.count, part);
  engine::problem_rows<T> const source(p);
  engine::source_rows<engine::problem_rows<T>> const rows{&source, part.batch, part.first_head / part.heads};
  engine::key_block block(memory, rows, tiles.shape_of_block());
  index_t const lanes = tiles.lanes_of(0);
  A* const logits = memory.allocate<A>((seen + simd::register_rows) * lanes);
  auto const where = [&](index_t, key_range keys) { return logits + keys.first * lanes; };
  tiles.score(block, rows, 0, shown.tokens, full{}, where, [](auto...) {});
  alignas(64) A threshold[array_size(tiles_type::lanes)];
  std::fill_n(threshold, lanes, infinity<A>);
  if (hidden < shown.tokens)
    for (index_t lane = 0; lane < lanes; lane += simd::width<A>)
      column_ranks(logits + lane, shown.tokens, lanes, hidden, threshold + lane);
  auto const often = static_cast<A>(std::log(static_cast<double>(shown.batches)));
  tiles.score(block, rows, shown.tokens, seen - shown.tokens, causal{}, where, [&](index_t, key_range keys) {
    engine::raise_logits(logits + keys.first * lanes, keys.count(), lanes, often);
  });
  tiles.add_scored_keys(block, rows, 0, seen, [&](index_t, key_range keys) {
    A* const from = logits + keys.first * lanes;
    engine::hide_below(from, std::min(keys.last, shown.tokens) - keys.first, lanes, threshold);
    return from;
  });
  tiles.write();
}

}  // namespace detail

namespace systems {

/// Attends from a question to itself and to the demonstrations before it. Query, key, value and output have the shapes
/// of softmax_attention; the queries are the question's tokens, or the last of them. Options, in any order: scale
/// (1/sqrt(key dimension) unless given) and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, there are
/// more queries than keys, or the demonstrations do not fit before the queries.
///
///     focus_icl_attention(q, k, v, o, {.tokens = 4096, .batches = 4, .trivial = 0.4});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void focus_icl_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                         focus_icl_options const& shown, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key)), v = raise<4>(view_of(value));
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  auto problem = call::tensor_problem<T>(q, k, v, o);
  index_t const queries = q.extent(2), keys = k.extent(2);
  if (queries > keys) fail("query", "expected at most ", keys, " tokens (as key), got ", queries);
  if (shown.tokens < 0 || shown.tokens > keys - queries)
    fail("demonstrations", "expected 0 to ", keys - queries, " tokens (the keys before the queries), got ",
         shown.tokens);
  if (shown.batches < 1) fail("demonstrations", "expected at least 1 batch, got ", shown.batches);
  if (!(shown.trivial >= 0 && shown.trivial <= 1))
    fail("demonstrations", "expected a trivial part from 0 to 1, got ", shown.trivial);

  auto const hidden = static_cast<index_t>(shown.trivial * static_cast<double>(shown.tokens));
  A const often = static_cast<A>(std::log(static_cast<double>(shown.batches)));
  auto const counted = score([=, first = static_cast<A>(shown.tokens)](auto const& s, auto const& at) {
    return select(at.key_position >= first, s + often, s);
  });
  if (hidden == 0) return softmax_attention(q, k, v, o, causal{}, counted, options...);

  auto plan = call::plan<call::allows<option::scale, option::executor>>(problem, options...);
  if (queries == 0 || problem.shape.query_heads == 0) return;
  engine::for_row_parts(problem, problem.heads_per_group(), engine::gathered_tiles<T>::lanes, keys, plan.executor,
                        [&](engine::row_part const& part) { detail::focus_rows(problem, part, shown, hidden); });
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
