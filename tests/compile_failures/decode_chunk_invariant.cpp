// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: decode_attention splits keys: softmax_attention and cached_attention take chunk_invariant
// The engine that splits keys cuts them by their number, which grows from call to call.
#include <attend/attention/cached/decode_attention.hpp>
#include <attend/policy/invariance.hpp>

void call(attend::tensor_view<float, 4> const& t) {
  attend::decode_attention(t, t, t, t, attend::options::chunk_invariant{});
}
