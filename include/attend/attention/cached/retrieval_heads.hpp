// SPDX-License-Identifier: BSD-3-Clause
// Which heads look far back, and how much the others keep: what RazorAttention finds out before it drops tokens.
//
// A prompt of random tokens is repeated with a period of P tokens, so that each token from the second copy on has
// earlier copies of itself. With p the weights of a head's causal softmax attention, means are over these tokens i:
//
//   echo        mean_i sum_(r >= 1) p(i, i - r P)         what a token gives to its copies
//   induction   mean_i sum_(r >= 1) p(i, i - r P + 1)     what it gives to the tokens behind them
//
// Of all key-value heads of a model, whose score is the largest of their query heads', those with the highest induction
// scores and those with the highest echo scores are retrieval heads. The other heads keep sinks and a window:
//
//   window = max(S, N / C)                                                        for a prompt of N tokens
//   window = (2 ||W_Q W_K'|| (||gamma||^2 + ||b||^2) - ln epsilon) / slope        with ALiBi
//
// Beyond the latter a weight is below epsilon, since queries and keys are projections of what layer normalization with
// gain gamma and bias b gives.
//
// Cost: logits of the whole prompt without values, and of the copies; no matrix of weights is stored. Sums of weights
// are quotients of denominators: exp(log-sum-exp over the copies - log-sum-exp over all).
//
// Hanlin Tang et al.: RazorAttention: Efficient KV Cache Compression Through Retrieval Heads, 2024. The release repeats
// 2500 tokens four times behind a first token of its own, and takes 14% and 1% of the heads. The bound for ALiBi is
// from memory of the paper.
#pragma once

#include <vector>

#include "../../policy/mask/residues.hpp"
#include "../softmax/softmax_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// The log-sum-exp of causal attention from tokens to keys of which, with `stride` above 1, only each stride-th before
/// a query's own is seen.
template <class T, class... Options>
void log_denominators(tensor_view<T const, 4> const& query, tensor_view<T const, 4> const& key, index_t stride,
                      tensor_view<accumulation_t<T>, 3> const& rows, Options const&... options) {
  // Values and outputs of no elements: logits alone are computed.
  tensor_view<T const, 4> const value(nullptr, {key.extent(0), key.extent(1), key.extent(2), 0});
  tensor_view<T, 4> const output(nullptr, {query.extent(0), query.extent(1), query.extent(2), 0});
  softmax_attention(query, key, value, output, causal{} & same_residue{stride}, log_sum_exp(rows), options...);
}

}  // namespace detail

namespace systems {

/// Where the copies of a prompt begin, and how many tokens each has.
struct repeated_prompt {
  index_t period = 2500;
  index_t first = 1;
};

/// Writes the echo and the induction score of each query head, means over all batches: query [batch, query head, token,
/// dimension] and key [batch, key-value head, token, dimension] are a layer's, rotated if the model rotates them, of a
/// prompt whose tokens repeat from `first` on; echo and induction are [query head] of double. Options: scale
/// (1/sqrt(dimension) unless given) and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, or where
/// the prompt has no second copy of a token.
///
///     std::vector<double> echo(8), induction(8);
///     copy_scores(q, k, {.period = 32, .first = 1}, echo, induction);
template <TensorArgument Query, TensorArgument Key, TensorArgument Echo, TensorArgument Induction, class... Options>
void copy_scores(Query const& query, Key const& key, repeated_prompt const& prompt, Echo&& echo, Induction&& induction,
                 Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Query const>;
  using A = accumulation_t<T>;
  call::allows<option::scale, option::executor>::check<Options...>();
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key));
  tensor_view<double, 1> const scores[2] = {view_of(echo), view_of(induction)};
  char const* const names[2] = {"echo", "induction"};
  index_t const batches = q.extent(0), heads = q.extent(1), tokens = q.extent(2);
  detail::check_view("query", q);
  detail::check_view("key", k);
  detail::check_extent("key", "tokens", k.extent(2), tokens, "query");
  for (int which = 0; which < 2; ++which) {
    detail::check_output_view(names[which], scores[which]);
    detail::check_extent(names[which], "heads", scores[which].extent(0), heads, "query");
    detail::check_apart(names[which], scores[which], "query", q);
    detail::check_apart(names[which], scores[which], "key", k);
  }
  detail::check_apart("echo", scores[0], "induction", scores[1]);
  if (prompt.period < 1 || prompt.period >= token_limit)
    fail("repeated_prompt", "expected a period of 1 to ", token_limit - 1, " tokens, got ", prompt.period);
  if (prompt.first < 0 || prompt.first > tokens || tokens - prompt.first <= prompt.period)
    fail("repeated_prompt", "expected more than one period of ", prompt.period, " tokens from token ", prompt.first,
         " on, got ", tokens, " tokens in all");

  // The queries that have copies, and as many keys: those from the first copy on, of which query i stands at its
  // nearest copy.
  index_t const copied = tokens - prompt.first - prompt.period;
  tensor_view<T const, 4> const asking = detail::part(q, 2, tokens - copied, copied);
  scratch memory;
  std::array const extents{batches, heads, copied};
  tensor_view<A, 3> const of_all(memory.allocate<A>(batches * heads * tokens), {batches, heads, tokens}),
      of_copies(memory.allocate<A>(batches * heads * copied), extents);
  detail::log_denominators<T>(q, k, 1, of_all, options...);
  for (index_t which = 0; which < 2; ++which) {
    detail::log_denominators<T>(asking, detail::part(k, 2, prompt.first + which, copied), prompt.period, of_copies,
                                options...);
    for (index_t h = 0; h < heads; ++h) {
      double sum = 0;
      for (index_t b = 0; b < batches; ++b)
        for (index_t i = 0; i < copied; ++i)
          sum += std::exp(static_cast<double>(of_copies(b, h, i)) -
                          static_cast<double>(of_all(b, h, tokens - copied + i)));
      scores[which](h) = sum / static_cast<double>(std::max<index_t>(batches * copied, 1));
    }
  }
}

/// The share of a model's heads that are retrieval heads for their echo and for their induction score.
struct retrieval_share {
  double echo = 0.01;
  double induction = 0.14;
};

/// Says which key-value heads of a model are retrieval heads: echo and induction are [layer, query head] of double,
/// streams [layer, key-value head] of std::int32_t, which becomes 0 for a retrieval head and 1 for any other, so that
/// a row of it makes a head_policy_cache. Of heads with equal scores the first is taken; a score that is NaN counts as
/// lowest. The numbers of heads are rounded to the nearest.
///
/// Throws argument_error, before anything is written, where shapes or shares do not fit.
///
///     std::vector<double> echo(8, 0.25), induction(8, 0.5);
///     std::vector<std::int32_t> kinds(2);
///     choose_retrieval_heads(tensor_view<double const, 2>(echo.data(), {1, 8}),
///                            tensor_view<double const, 2>(induction.data(), {1, 8}), {.echo = 0, .induction = 0.5},
///                            tensor_view<std::int32_t, 2>(kinds.data(), {1, 2}));
inline void choose_retrieval_heads(tensor_view<double const, 2> echo, tensor_view<double const, 2> induction,
                                   retrieval_share const& share, tensor_view<std::int32_t, 2> streams) {
  index_t const layers = echo.extent(0), heads = echo.extent(1), stored = streams.extent(1);
  detail::check_view("echo", echo);
  detail::check_view("induction", induction);
  detail::check_output_view("streams", streams);
  detail::check_extent("induction", "layers", induction.extent(0), layers, "echo");
  detail::check_extent("induction", "heads", induction.extent(1), heads, "echo");
  detail::check_extent("streams", "layers", streams.extent(0), layers, "echo");
  if (stored == 0 ? heads > 0 : heads % stored != 0)
    fail("streams", "expected a divisor of ", heads, " heads (as echo), got ", stored);
  for (double one : {share.echo, share.induction})
    if (!(one >= 0 && one <= 1)) fail("retrieval_share", "expected shares from 0 to 1, got ", one);

  std::vector<double> score(static_cast<std::size_t>(layers * stored));
  std::vector<std::size_t> order(score.size());
  for (index_t layer = 0; layer < layers; ++layer)
    for (index_t head = 0; head < stored; ++head) streams(layer, head) = 1;
  for (auto const& [of_heads, part] : {std::pair(echo, share.echo), std::pair(induction, share.induction)}) {
    for (std::size_t i = 0; i < score.size(); ++i) {
      index_t const layer = static_cast<index_t>(i) / stored, group = heads / stored;
      score[i] = -infinity<double>;
      for (index_t head = 0; head < group; ++head) {
        double const one = of_heads(layer, static_cast<index_t>(i) % stored * group + head);
        if (one > score[i]) score[i] = one;
      }
      order[i] = i;
    }
    std::sort(order.begin(), order.end(),
              [&](std::size_t a, std::size_t b) { return score[a] > score[b] || (score[a] == score[b] && a < b); });
    order.resize(static_cast<std::size_t>(std::lround(part * static_cast<double>(order.size()))));
    for (std::size_t const i : order) streams(static_cast<index_t>(i) / stored, static_cast<index_t>(i) % stored) = 0;
    order.resize(score.size());
  }
}

/// The window of heads that are no retrieval heads, for a prompt of so many tokens: a share of them, and at least so
/// many.
///
///     compensated_cache<float> kept(shape, {4, razor_window(32768)}, 64);
inline index_t razor_window(index_t tokens, index_t least = 4000, index_t parts = 5) {
  if (tokens < 0) fail("tokens", "expected at least 0, got ", tokens);
  if (least < 1) fail("least", "expected a window of at least 1 token, got ", least);
  if (parts < 1) fail("parts", "expected at least 1, got ", parts);
  return std::max(least, tokens / parts);
}

/// The distance beyond which ALiBi with this slope leaves less than `epsilon` of a weight, rounded up: `product_norm`
/// is the spectral norm of W_Q W_K', gain and bias are the norms of the parameters of the layer normalization before
/// them. Logits are those of unscaled queries and keys: a scale belongs into product_norm.
///
///     compensated_cache<float> kept(shape, {4, alibi_window(0.25, 1.5, 2.0, 0.5)}, 64);
inline index_t alibi_window(double slope, double product_norm, double gain, double bias, double epsilon = 1e-3) {
  if (!(slope > 0) || !std::isfinite(slope)) fail("slope", "expected a number above 0, got ", slope);
  for (auto const& [name, norm] :
       {std::pair("product_norm", product_norm), std::pair("gain", gain), std::pair("bias", bias)})
    if (!(norm >= 0) || !std::isfinite(norm)) fail(name, "expected a norm of at least 0, got ", norm);
  if (!(epsilon > 0 && epsilon < 1)) fail("epsilon", "expected a number between 0 and 1, got ", epsilon);
  double const distance = (2 * product_norm * (gain * gain + bias * bias) - std::log(epsilon)) / slope;
  return static_cast<index_t>(std::ceil(std::min(distance, static_cast<double>(token_limit - 1))));
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
