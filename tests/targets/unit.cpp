// SPDX-License-Identifier: BSD-3-Clause
// Compiled for several instruction sets, as the function UNIT.
#include <attend/attend.hpp>

#include "results.hpp"

namespace {

using tensor = Eigen::Tensor<float, 4, Eigen::RowMajor>;
using half_tensor = Eigen::Tensor<Eigen::half, 4, Eigen::RowMajor>;

template <class T>
Eigen::Tensor<T, 4, Eigen::RowMajor> copy(float const* from, int heads) {
  Eigen::Tensor<T, 4, Eigen::RowMajor> to(1, heads, results::tokens, results::dimension);
  for (int i = 0; i < to.size(); ++i) to.data()[i] = static_cast<T>(from[i]);
  return to;
}

template <class T>
void write(Eigen::Tensor<T, 4, Eigen::RowMajor> const& from, float* to) {
  for (int i = 0; i < from.size(); ++i) to[i] = static_cast<float>(from.data()[i]);
}

template <class T>
void attend_through_cache(inputs const& in, float* to) {
  auto const query = copy<T>(in.query, results::heads), key = copy<T>(in.key, results::key_heads),
             value = copy<T>(in.value, results::key_heads);
  Eigen::Tensor<T, 4, Eigen::RowMajor> output(1, results::heads, results::tokens, results::dimension);
  attend::contiguous_cache<T> cache({.sequences = 1,
                                     .key_value_heads = results::key_heads,
                                     .key_dimension = results::dimension,
                                     .value_dimension = results::dimension},
                                    results::tokens);
  attend::cached_attention(cache, query, key, value, output);
  write(output, to);
}

}  // namespace

void UNIT(inputs const& in, results& out) {
  tensor const query = copy<float>(in.query, results::heads), key = copy<float>(in.key, results::key_heads),
               value = copy<float>(in.value, results::key_heads);
  tensor output(1, results::heads, results::tokens, results::dimension);
  attend::softmax_attention(query, key, value, output, attend::causal{}, attend::threads{2});
  write(output, out.softmax);
  attend::linear_attention(query, key, value, output, attend::causal{});
  write(output, out.linear);
  attend_through_cache<float>(in, out.cached);
  attend_through_cache<Eigen::half>(in, out.cached_half);
  out.refused = false;
  try {
    attend::softmax_attention(query, key, value, output, attend::window{-7, 0});
  } catch (attend::argument_error const&) {
    out.refused = true;
  }
}
