// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a mask's positions are vectors, not numbers: for tokens of the same document use
// attend::options::documents{ids} The rule of documents, as it would be written for one query and one key.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/mask/predicate.hpp>

void call(attend::tensor_view<float, 4> const& t, std::vector<int> const& id) {
  attend::softmax_attention(t, t, t, t, attend::mask([&](auto i, auto j) { return id[i] == id[j]; }));
}
