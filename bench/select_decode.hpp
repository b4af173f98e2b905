// SPDX-License-Identifier: BSD-3-Clause
// One step of decoding at 131072 keys, with 5% of them chosen: 32 query heads, 8 key-value heads, dimension 128,
// bfloat16. Half a gigabyte of keys and values, which no cache holds.
#pragma once

#include <attend/attention/sparse_decode/selected_attention.hpp>

#include <algorithm>
#include <memory>

#include "random_tensor.hpp"
#include "select_benchmark.hpp"

namespace attend_bench {

using attend::index_t;

struct select_decode_problem {
  using T = attend::bfloat16;
  static constexpr index_t query_heads = 32, key_heads = 8, keys = 131072, dimension = 128;
  static constexpr double budget = 0.05;
  static constexpr double row_bytes = 2 * dimension * sizeof(T);

  random_tensor<T> query{{1, query_heads, 1, dimension}, 1}, output{{1, query_heads, 1, dimension}, 2};
  attend::contiguous_cache<T> store{shape(), keys};

  select_decode_problem() {
    constexpr index_t group_size = 8192;
    for (index_t first = 0; first < keys; first += group_size) {
      auto const seed = static_cast<unsigned>(2 + 2 * first / group_size);
      random_tensor<T> key({1, key_heads, group_size, dimension}, seed + 1),
          value({1, key_heads, group_size, dimension}, seed + 2);
      store.append(key.view(), value.view());
    }
  }

  static attend::caches::cache_shape shape() { return {1, key_heads, dimension, dimension}; }

  /// All benchmarks read the same keys, which take a while to make.
  static select_decode_problem& instance() {
    static select_decode_problem problem;
    return problem;
  }
};

/// Bytes of the keys and values of all lists; fewer lists than key heads are read by each of them.
inline double list_bytes(attend::selection::token_lists const& lists) {
  using problem = select_decode_problem;
  double rows = 0;
  for (index_t head = 0; head < lists.heads(); ++head) rows += static_cast<double>(lists.size(0, head));
  return rows * static_cast<double>(std::max<index_t>(problem::key_heads / lists.heads(), 1)) * problem::row_bytes;
}

/// make(problem) gives a chooser; call(problem, chooser, threads) is a step through it, and bytes(chooser) what the
/// last step had to read.
template <class Make, class Call, class Bytes>
void add_select_decode(std::string const& name, Make const& make, Call const& call, Bytes const& bytes) {
  using problem = select_decode_problem;
  for (int const threads : {1, 2})
    register_select(
        "select/decode/" + name + "/bf16/b1/hq32/hkv8/sq1/skv131072/d128/budget5/t" + std::to_string(threads), 5, [=] {
          problem& p = problem::instance();
          using chooser = decltype(make(p));
          std::shared_ptr<chooser> const kept(new chooser(make(p)));
          if constexpr (requires { kept->update(p.store); }) kept->update(p.store);
          return select_run{
              [&p, kept, call, threads] { call(p, *kept, attend::threads{threads}); },
              [&p, threads] {
                attend::decode_attention(p.query.view(), p.store, p.output.view(), attend::threads{threads});
              },
              [kept, bytes] {
                return problem::row_bytes * static_cast<double>(problem::key_heads * problem::keys) / bytes(*kept);
              }};
        });
}

/// Through a selector that tells what its choice reads.
template <class Make>
void add_select_decode(std::string const& name, Make const& make) {
  add_select_decode(
      name, make,
      [](select_decode_problem& p, auto& chooser, attend::threads threads) {
        attend::selection::selected_attention(p.query.view(), p.store, chooser, p.output.view(), threads);
      },
      [](auto const& chooser) { return static_cast<double>(chooser.bytes_scored()) + list_bytes(chooser.lists()); });
}

}  // namespace attend_bench
