// SPDX-License-Identifier: BSD-3-Clause
// Compiled once for each instruction set: the calls of attend.
#include "kernels.hpp"

#include <attend/dispatch.hpp>

#include <attend/attention/linear/linear_attention.hpp>
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/mask/window.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>

namespace {

template <class T>
attend::tensor_view<T, 4> view(attention_tensor const& tensor) {
  std::array<attend::index_t, 4> extents, strides;
  std::copy_n(tensor.extents, 4, extents.begin());
  std::copy_n(tensor.strides, 4, strides.begin());
  return {static_cast<T*>(tensor.data), extents, strides};
}

template <class T>
void run_softmax(attention_tensor const& query, attention_tensor const& key, attention_tensor const& value,
                 attention_tensor const& output, attention_options const& options) {
  double const usual = 1 / std::sqrt(static_cast<double>(std::max<std::int64_t>(query.extents[3], 1)));
  attend::softmax_attention(view<T const>(query), view<T const>(key), view<T const>(value), view<T>(output),
                            attend::window{options.window_left, options.causal ? 0 : options.window_right},
                            attend::scale{std::isnan(options.scale) ? usual : options.scale},
                            attend::threads{options.threads});
}

void run_linear(attention_tensor const& query, attention_tensor const& key, attention_tensor const& value,
                attention_tensor const& state, attention_tensor const& output) {
  attend::linear_attention(
      view<float const>(query), view<float const>(key), view<float const>(value), view<float>(output), attend::causal{},
      attend::linear::initial_state(view<float const>(state)), attend::linear::final_state(view<float>(state)));
}

}  // namespace

template <>
kernels attend::compiled<kernels, attend::this_target>() {
  return {attend::runtime::target, run_softmax<float>, run_softmax<attend::half>, run_linear};
}
