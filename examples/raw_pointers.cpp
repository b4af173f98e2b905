// SPDX-License-Identifier: BSD-3-Clause
// Attention on buffers of one's own, without Eigen's tensors: pointers with extents and strides.
//
// A projection leaves one buffer [batch, token, query/key/value, head, dimension]. Its three parts are views, which are
// read where they lie; the output is written in the same layout [batch, token, head, dimension], ready for the next
// projection. Nothing is copied or transposed.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/mask/causal.hpp>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <random>
#include <vector>

namespace {

using attend::index_t;

constexpr index_t batches = 2, tokens = 75, heads = 3, dimension = 32, width = heads * dimension;

/// The numbers of one head in a buffer [batch, token, part, head, dimension].
float const* row(std::vector<float> const& buffer, index_t parts, index_t part, index_t batch, index_t token,
                 index_t head) {
  return buffer.data() + ((batch * tokens + token) * parts + part) * width + head * dimension;
}

/// Causal attention of one query, as the textbook has it, in double.
std::vector<double> naive(std::vector<float> const& packed, index_t batch, index_t head, index_t query) {
  std::vector<double> weights, output(dimension);
  for (index_t key = 0; key <= query; ++key) {
    float const* const q = row(packed, 3, 0, batch, query, head);
    float const* const k = row(packed, 3, 1, batch, key, head);
    double logit = 0;
    for (index_t i = 0; i < dimension; ++i) logit += static_cast<double>(q[i]) * static_cast<double>(k[i]);
    weights.push_back(std::exp(logit / std::sqrt(static_cast<double>(dimension))));
  }
  double sum = 0;
  for (double weight : weights) sum += weight;
  for (index_t key = 0; key <= query; ++key)
    for (index_t i = 0; i < dimension; ++i)
      output[static_cast<std::size_t>(i)] +=
          weights[static_cast<std::size_t>(key)] / sum * static_cast<double>(row(packed, 3, 2, batch, key, head)[i]);
  return output;
}

}  // namespace

int main() {
  std::vector<float> packed(batches * tokens * 3 * width), output(batches * tokens * width);
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  for (float& number : packed) number = normal(engine);

  // Extents are [batch, head, token, dimension] whatever the layout: the strides say where the numbers lie. They count
  // elements, and the last one is 1.
  auto const part = [&](index_t which) {
    return attend::tensor_view(packed.data() + which * width, {batches, heads, tokens, dimension},
                               {tokens * 3 * width, dimension, 3 * width, 1});
  };
  attend::tensor_view const result(output.data(), {batches, heads, tokens, dimension},
                                   {tokens * width, dimension, width, 1});
  attend::softmax_attention(part(0), part(1), part(2), result, attend::causal{});

  double difference = 0;
  for (index_t batch = 0; batch < batches; ++batch)
    for (index_t head = 0; head < heads; ++head)
      for (index_t query = 0; query < tokens; ++query) {
        std::vector<double> const expected = naive(packed, batch, head, query);
        float const* const got = row(output, 1, 0, batch, query, head);
        for (index_t i = 0; i < dimension; ++i)
          difference =
              std::max(difference, std::abs(static_cast<double>(got[i]) - expected[static_cast<std::size_t>(i)]));
      }
  std::cout << "packed [" << batches << ", " << tokens << ", 3, " << heads << ", " << dimension
            << "]: differs from a plain loop in double by at most " << difference << '\n';

  // One row-major piece needs no strides, and leading axes may be left out: a head alone is [token, dimension].
  std::vector<float> const one(tokens * dimension, 1.f);
  std::vector<float> mean(tokens * dimension);
  attend::tensor_view const ones(one.data(), {tokens, dimension});
  attend::softmax_attention(ones, ones, ones, attend::tensor_view(mean.data(), {tokens, dimension}));
  float const deviation = std::abs(*std::max_element(mean.begin(), mean.end()) - 1.f);
  std::cout << "the mean of ones differs from one by " << deviation << '\n';
  return difference < 1e-5 && deviation < 1e-6f ? 0 : 1;
}
