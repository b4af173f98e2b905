// SPDX-License-Identifier: BSD-3-Clause
// Compiled twice: LINEAR_BITS names the function that is defined.
#include "linear_bits.hpp"

#include <Eigen/Core>
#include <attend/attention/linear/linear_attention.hpp>
#include <attend/policy/decay/token_decay.hpp>
#include <attend/policy/update/update.hpp>
#include <cstring>

attend_bits::result attend_bits::LINEAR_BITS() {
  using namespace attend;
  constexpr index_t tokens = 300, dimension = 40, columns = 72;
  // Numbers of many magnitudes, the same in any program: a linear congruential generator's.
  std::uint32_t seed = 1;
  auto const fill = [&](auto& numbers, index_t count, float low, float high) {
    for (index_t i = 0; i < count; ++i) {
      seed = seed * 1664525u + 1013904223u;
      float const x = low + (high - low) * static_cast<float>(seed >> 8) * 0x1p-24f;
      numbers.push_back(static_cast<typename std::remove_reference_t<decltype(numbers)>::value_type>(x));
    }
  };
  std::vector<bfloat16> query, key, value;
  std::vector<float> token_logs, gates;
  fill(query, tokens * dimension, -2, 2);
  fill(key, tokens * dimension, -0.3f, 0.3f);
  fill(value, tokens * columns, -2, 2);
  fill(token_logs, tokens, -0.2f, 0);
  fill(gates, tokens, 0, 1);
  using view = tensor_view<bfloat16 const, 4>;
  view const q(query.data(), {1, 1, tokens, dimension}), k(key.data(), {1, 1, tokens, dimension}),
      v(value.data(), {1, 1, tokens, columns});
  result all{simd::uses_pair_products() && engine::may_use_matrix_unit<bfloat16>, {}};
  auto const add = [&](auto const&... options) {
    std::vector<bfloat16> output(tokens * columns);
    std::vector<float> state(dimension * columns);
    linear_attention(q, k, v, tensor_view<bfloat16, 4>(output.data(), {1, 1, tokens, columns}), causal{}, options...,
                     linear::final_state(tensor_view<float, 4>(state.data(), {1, 1, dimension, columns})));
    for (bfloat16 const x : output) all.bits.push_back(std::bit_cast<std::uint16_t>(x));
    for (float const x : state) all.bits.push_back(std::bit_cast<std::uint32_t>(x));
  };
  add();
  add(linear::token_decay(tensor_view<float const, 3>(token_logs.data(), {1, 1, tokens})));
  add(linear::input_gates(tensor_view<float const, 3>(gates.data(), {1, 1, tokens})));
  return all;
}
