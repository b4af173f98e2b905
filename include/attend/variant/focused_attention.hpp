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
// Cost: the logits of the demonstrations twice, and a selection in each row. Kept: the weights of one query for all
// heads, or of some more if they are small.
//
// Peiwen Yuan et al.: Focused Large Language Models are Stable Many-Shot Learners (FocusICL), 2024; the filter over all
// demonstrations of a row.
#pragma once

#include "../core/order.hpp"
#include "../policy/functions.hpp"
#include "../policy/mask/boolean_mask.hpp"
#include "../policy/mask/causal.hpp"
#include "softmax_attention.hpp"

namespace attend::inline ATTEND_TARGET {

/// What a question stands behind, and how much of it is filtered out.
struct demonstrations {
  index_t tokens;      // the first so many keys
  index_t batches;     // that they were encoded in
  double trivial = 0;  // the part of them that each query leaves out, from 0 up to 1
};

/// Queries are the question's tokens, or the last of them. Options, in any order: scale and executor.
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void focused_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                       demonstrations const& shown, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  static_assert((detail::is_option<Options, option::scale, option::executor> && ...), "attend: unknown option");
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key)), v = raise<4>(view_of(value));
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  detail::tensor_problem<T>(q, k, v, o);
  index_t const batches = q.extent(0), heads = q.extent(1), queries = q.extent(2), keys = k.extent(2);
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
    return select(at.key >= first, s + often, s);
  });
  if (hidden == 0) return softmax_attention(q, k, v, o, causal{}, counted, options...);

  serial alone;
  auto& executor = detail::find_option<option::executor>(alone, options...);
  constexpr index_t kept = index_t{1} << 18;
  index_t const most = std::clamp<index_t>(kept / std::max<index_t>(batches * heads * keys, 1), 1, 512);
  for (index_t first = 0; first < queries; first += most) {
    index_t const count = std::min(most, queries - first), seen = keys - queries + first + count;
    index_t const rows = batches * heads * count;
    scratch memory;
    tensor_view<A, 4> const weights(memory.take<A>(rows * shown.tokens), {batches, heads, count, shown.tokens});
    tensor_view<bool, 4> const matters(memory.take<bool>(rows * seen), {batches, heads, count, seen});
    A* const sorted = memory.take<A>(rows * shown.tokens);
    auto const some = detail::part(q, 2, first, count);
    attention_weights(some, detail::part(k, 2, 0, shown.tokens), weights, options...);
    detail::parallel_for(executor, rows, [&](index_t row) {
      A const* const weight = weights.data() + row * shown.tokens;
      A* const own = sorted + row * shown.tokens;
      std::copy_n(weight, shown.tokens, own);
      A const threshold =
          hidden < shown.tokens
              ? (std::nth_element(own, own + hidden, own + shown.tokens, detail::ascending{}), own[hidden])
              : infinity<A>;
      bool* const to = matters.data() + row * seen;
      for (index_t j = 0; j < shown.tokens; ++j) to[j] = weight[j] >= threshold;
      std::fill(to + shown.tokens, to + seen, true);
    });
    softmax_attention(some, detail::part(k, 2, 0, seen), detail::part(v, 2, 0, seen), detail::part(o, 2, first, count),
                      boolean_mask(matters) & causal{}, counted, options...);
  }
}

}  // namespace attend::inline ATTEND_TARGET
