// SPDX-License-Identifier: BSD-3-Clause
// Decoding with a state in place of a cache: the gated delta rule takes a prompt at once, and then token after token.
//
//   S_t = a_t S_{t-1} + b_t k_t (v_t - a_t S_{t-1}^T k_t)^T,   o_t = S_t^T q_t
//
// The state is all that a step needs of the tokens before, so its time does not grow with their number. The steps give
// what one call over the whole sequence gives, but for rounding; chunk_invariant{} in all calls makes that the same
// bits.
#include <attend/attention/linear/linear_attention.hpp>
#include <attend/core/target.hpp>
#include <attend/policy/decay/token_decay.hpp>
#include <attend/policy/update/update.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>
#include <random>
#include <vector>

namespace {

using attend::index_t;

constexpr index_t heads = 8, dimension = 64, prompt = 384, steps = 256, tokens = prompt + steps;

/// Tokens [first, first + count) of a buffer [head, token, dimension], as [batch, head, token, dimension].
template <class T>
attend::tensor_view<T, 4> rows(T* buffer, index_t first, index_t count) {
  return {buffer + first * dimension, {1, heads, count, dimension}, {0, tokens * dimension, dimension, 1}};
}
/// The same of a number for each token.
attend::tensor_view<float const, 3> numbers(std::vector<float> const& buffer, index_t first, index_t count) {
  return {buffer.data() + first, {1, heads, count}, {0, tokens, 1}};
}

}  // namespace

int main() {
  std::cout << "compiled for " << attend::runtime::target() << '\n';

  // What the layer's projections would give.
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform(0, 1);
  std::vector<float> q(heads * tokens * dimension), k(q.size()), v(q.size()), rates(heads * tokens),
      decays(rates.size());
  for (auto* buffer : {&q, &k, &v})
    for (float& number : *buffer) number = normal(engine);
  for (float& rate : rates) rate = uniform(engine);
  for (float& decay : decays) decay = -0.1f * uniform(engine);  // the logarithm of a_t
  // Keys have unit length: what the delta rule replaces is then what stands under the key.
  for (auto key = k.begin(); key != k.end(); key += dimension) {
    float squares = 0;
    for (index_t i = 0; i < dimension; ++i) squares += key[i] * key[i];
    for (index_t i = 0; i < dimension; ++i) key[i] /= std::sqrt(squares);
  }

  // Attention of some tokens to themselves and to what the state holds of those before.
  auto const attend_to = [&](std::vector<float>& output, index_t first, index_t count, auto const&... state) {
    attend::linear_attention(rows(q.data(), first, count), rows(k.data(), first, count), rows(v.data(), first, count),
                             rows(output.data(), first, count), attend::causal{},
                             attend::linear::delta_rule(numbers(rates, first, count)),
                             attend::linear::token_decay(numbers(decays, first, count)), state...);
  };

  std::vector<float> at_once(q.size()), in_steps(q.size()), memory(heads * dimension * dimension);
  attend::tensor_view const state(memory.data(), {1, heads, dimension, dimension});
  attend_to(at_once, 0, tokens);

  using seconds = std::chrono::duration<double>;
  auto const start = std::chrono::steady_clock::now();
  attend_to(in_steps, 0, prompt, attend::linear::final_state(state));
  auto const middle = std::chrono::steady_clock::now();
  // The state is read and written where it stands.
  for (index_t token = prompt; token < tokens; ++token)
    attend_to(in_steps, token, 1, attend::linear::initial_state(state), attend::linear::final_state(state));
  auto const end = std::chrono::steady_clock::now();

  std::cout << "prompt: " << static_cast<double>(prompt) / seconds(middle - start).count() << " tokens per second\n"
            << "decoding: " << static_cast<double>(steps) / seconds(end - middle).count() << " tokens per second, "
            << memory.size() * sizeof(float) / 1024 << " KiB of state\n";

  float difference = 0, largest = 0;
  for (std::size_t i = 0; i < at_once.size(); ++i) {
    difference = std::max(difference, std::abs(at_once[i] - in_steps[i]));
    largest = std::max(largest, std::abs(at_once[i]));
  }
  std::cout << "differs from the whole sequence at once by at most " << difference << ", of numbers up to " << largest
            << '\n';
  return difference < 1e-4f && largest > 1 ? 0 : 1;
}
