// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: relative_bias and relative_embeddings given: a call takes one of them
// Both say what the distance of two tokens adds to a logit.
#include <attend/attend.hpp>

void call(attend::tensor_view<float, 4> const& t, attend::tensor_view<float const, 2> const& table) {
  attend::grids::neighborhood_attention<1>(t, t, t, t, {8}, {{{.window = 3}}}, attend::grids::relative_bias(table),
                                           attend::grids::relative_embeddings(table));
}
