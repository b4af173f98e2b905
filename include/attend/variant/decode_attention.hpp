// Decoding: a few queries per sequence against its keys and values so far, which are read once.
//
//   query  [sequence, query head, query, key dimension]      1 to 16 queries: the tokens that were appended last
//   output [sequence, query head, query, value dimension]
//
// Query i of a sequence of n tokens and m queries stands at n - m + i. With several queries, say causal{}: a new token
// must not see the ones after it.
#pragma once

#include "../cache/contiguous.hpp"
#include "../policy/mask/mask.hpp"
#include "../policy/output.hpp"
#include "../policy/score/score.hpp"

namespace attend {

/// Attention of the last tokens of each sequence to all that its cache holds. Options as for softmax_attention: a mask,
/// scores, scale, softmax or sinks, log_sum_exp, executor.
///
/// Throws argument_error, before anything is written, where shapes or an option do not fit.
template <TensorLike Query, KeyValueSource Source, TensorLike Output, class... Options>
  requires(!TensorLike<Source>)
void decode_attention(Query const& query, Source const& cache, Output&& output, Options&&... options);

/// The same, over tensors [sequence, key-value head, token, dimension].
template <TensorLike Query, TensorLike Key, TensorLike Value, TensorLike Output, class... Options>
void decode_attention(Query const& query, Key const& key, Value const& value, Output&& output, Options&&... options);

}  // namespace attend
