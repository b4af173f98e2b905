// SPDX-License-Identifier: BSD-3-Clause
// InfiniRetri: the sentences of a context that a question attends to are kept, as tokens, for the next part of a text.
//
//   mass_j      = sum over heads and the question's rows i of P_ij      of the last layer, over the context's keys j
//   phrase_j    = sum of mass over `phrase` tokens around j             a 1-D convolution with ones
//   chosen      = the sentences that hold one of the `tokens` tokens with the largest phrase_j
//
// A text of any length passes in parts: cached tokens, a part, and the question are the input; the chosen sentences'
// token ids are the cache beside the next part. The model and its tokens are the caller's.
//
// The convolution of each row, summed up over rows, is that of the rows' sum: so the weights are not needed, only their
// sums by columns. A window is centred (one token more on the right where its width is even), and ends at the context's
// ends. Equal scores at the threshold: the first tokens count.
//
// Cost: the products of queries and keys twice; memory for a few tiles, and two numbers for each key.
//
// Xiaoju Ye, Zhichun Wang, Jingyuan Wang: Infinite Retrieval: Attention Enhanced LLMs in Long-Context Processing, 2025;
// where a window stands is this library's reading.
#pragma once

#include "../../policy/mask/causal.hpp"
#include "../../select/top_k.hpp"
#include "key_sums.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// How many tokens make a phrase, and how many of the best tokens have their sentences kept.
struct infini_retri_options {
  index_t phrase = 3;
  index_t tokens = 300;
};

/// Writes which sentences a question keeps, ascending, and returns their number. query [query head, question token, key
/// dimension] are the question's queries, which stand behind the context, and key [key head, key, key dimension] all
/// keys: those of the context, and then the question's own. `sentences` are ascending ranges of the context's keys, and
/// `chosen` has room for as many. Options: scale (1/sqrt(key dimension) unless given) and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides or an option do not fit, there is more than
/// one batch, or a sentence sticks out of the context.
///
///     std::vector<key_range> const sentences{{0, 14}, {14, 40}};
///     std::vector<std::int32_t> chosen(sentences.size());
///     chosen.resize(infini_retri(q, k, sentences, {.phrase = 3, .tokens = 20}, chosen));
template <TensorArgument Query, TensorArgument Key, class... Options>
std::size_t infini_retri(Query const& query, Key const& key, std::span<key_range const> sentences,
                         infini_retri_options const& with, std::span<std::int32_t> chosen, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = std::remove_const_t<element_of_t<Query const>>;
  using A = accumulation_t<T>;
  call::allows<option::scale, option::executor>::check<Options...>();
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key));
  problem_shape const shape = call::checked_shape<T>(q, k);
  detail::check_extent("query", "batch", shape.batches, 1, "one question");
  index_t const context = shape.keys - shape.queries;
  if (context < 0) fail("query", "expected at most ", shape.keys, " tokens (as key), got ", shape.queries);
  if (with.phrase < 1) fail("infini_retri_options", "expected phrases of at least 1 token, got ", with.phrase);
  if (with.tokens < 0) fail("infini_retri_options", "expected at least 0 tokens, got ", with.tokens);
  index_t end = 0;
  for (key_range const& sentence : sentences) {
    if (sentence.first < end || sentence.last < sentence.first || sentence.last > context)
      fail("sentences", "expected ascending ranges of keys from 0 to ", context, ", got ", sentence.first, " to ",
           sentence.last);
    end = sentence.last;
  }
  if (chosen.size() < sentences.size())
    fail("chosen", "expected room for ", sentences.size(), " sentences, got ", chosen.size());

  scratch memory;
  tensor_view<A, 3> const mass(memory.allocate<A>(shape.keys), {1, 1, shape.keys});
  attention_key_mass(q, k, tensor_view<A, 3>(), key_mass(mass), causal{}, options...);
  auto* const scores = memory.allocate<float>(context + 1);
  for (index_t j = 0; j < context; ++j) {
    index_t const first = std::max<index_t>(j - (with.phrase - 1) / 2, 0);
    double sum = 0;
    for (index_t t = first; t < std::min(j - (with.phrase - 1) / 2 + with.phrase, context); ++t)
      sum += static_cast<double>(mass(0, 0, t));
    scores[j] = static_cast<float>(sum);
  }
  auto* const best = memory.allocate<std::int32_t>(context + 1);
  index_t const found = top_k(scores, context, with.tokens, best);
  std::size_t count = 0;
  index_t at = 0;
  for (std::size_t s = 0; s < sentences.size(); ++s) {
    while (at < found && best[at] < sentences[s].first) ++at;
    if (at < found && best[at] < sentences[s].last) chosen[count++] = static_cast<std::int32_t>(s);
  }
  return count;
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
