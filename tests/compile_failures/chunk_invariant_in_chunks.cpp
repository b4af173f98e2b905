// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: chunk_invariant takes token after token, in no chunks
#include <attend/attention/linear/linear_attention.hpp>
#include <attend/policy/mask/causal.hpp>

void call(attend::tensor_view<float, 4> const& t) {
  attend::linear_attention(t, t, t, t, attend::causal{}, attend::options::chunk_invariant{},
                           attend::linear::chunk_length{8});
}
