// SPDX-License-Identifier: BSD-3-Clause
// Calls to measure: softmax_attention with options, and others that take the same tensors.
#pragma once

#include <attend/attention/softmax/softmax_attention.hpp>

#include <memory>

#include "attention_benchmark.hpp"
#include "random_tensor.hpp"

namespace attend_bench {

/// Query, key, value and output of a shape, filled with random numbers.
template <class T>
struct attention_tensors {
  random_tensor<T> query, key, value, output;

  explicit attention_tensors(attention_shape const& s)
      : query({s.batch, s.query_heads, s.queries, s.dimension}, 1),
        key({s.batch, s.key_heads, s.keys, s.dimension}, 2),
        value({s.batch, s.key_heads, s.keys, s.dimension}, 3),
        output({s.batch, s.query_heads, s.queries, s.dimension}, 4) {}
};

/// call(query, key, value, output, options...) on random tensors of the shape. `kept` is what it refers to.
template <class T, class Call>
attention_call tensor_call(attention_shape const& shape, std::shared_ptr<void const> kept, Call const& call) {
  auto const on_tensors = [tensors = std::make_shared<attention_tensors<T>>(shape), kept,
                           call](auto const&... options) {
    call(tensors->query.view(), tensors->key.view(), tensors->value.view(), tensors->output.view(), options...);
  };
  return {[=](attend::threads threads) { on_tensors(threads); },
          [=](attend::threads threads, attend::options::tile_counts& counts) {
            on_tensors(threads, attend::options::count_tiles(counts));
          }};
}

/// softmax_attention with these options. `kept` is what they refer to.
template <class T, class... Options>
attention_call softmax_call(attention_shape const& shape, std::shared_ptr<void const> kept, Options const&... options) {
  return tensor_call<T>(shape, kept, [options...](auto&&... more) { attend::softmax_attention(more..., options...); });
}

}  // namespace attend_bench
