// One step of decoding at 131072 keys, with 5% of them chosen: 32 query heads, 8 key-value heads, dimension 128,
// bfloat16. Half a gigabyte of keys and values, which no cache holds.
#pragma once

#include <attend/variant/selected_attention.hpp>

#include <memory>

#include "random_tensor.hpp"
#include "select_benchmark.hpp"

namespace attend_bench {

struct select_decode_problem {
  using T = attend::bfloat16;
  static constexpr attend::index_t query_heads = 32, key_heads = 8, keys = 131072, dimension = 128;
  static constexpr double budget = 0.05;

  random_tensor<T> query{{1, query_heads, 1, dimension}, 1}, key{{1, key_heads, keys, dimension}, 2},
      value{{1, key_heads, keys, dimension}, 3}, output{{1, query_heads, 1, dimension}, 4};
  attend::key_value_tensors<T> store{key.view(), value.view()};

  attend::cache_shape shape() const { return {1, key_heads, dimension, dimension}; }
  static constexpr double row_bytes = 2 * dimension * sizeof(T);
  static constexpr double dense_bytes = key_heads * keys * row_bytes;

  /// All benchmarks read the same keys, which take a while to make.
  static select_decode_problem& instance() {
    static select_decode_problem problem;
    return problem;
  }
};

/// make(problem) gives a selector of a cache's tokens that has seen none yet.
template <class Make>
void add_select_decode(std::string const& name, Make const& make) {
  for (int const threads : {1, 2})
    register_select(
        "select/decode/" + name + "/bf16/b1/hq32/hkv8/sq1/skv131072/d128/budget5/t" + std::to_string(threads), 5, [=] {
          auto& p = select_decode_problem::instance();
          using chooser = decltype(make(p));
          std::shared_ptr<chooser> const kept(new chooser(make(p)));
          if constexpr (requires { kept->update(p.store); }) kept->update(p.store);
          auto const bytes = [&p, kept] {
            double rows = 0;
            auto const& lists = kept->lists();
            for (attend::index_t h = 0; h < lists.heads(); ++h) rows += static_cast<double>(lists.size(0, h));
            double const heads_of_list = std::max(8.0 / static_cast<double>(lists.heads()), 1.0);
            return static_cast<double>(kept->bytes_scored()) + rows * heads_of_list * p.row_bytes;
          };
          return select_run{
              [&p, kept, threads] {
                attend::selected_attention(p.query.view(), p.store, *kept, p.output.view(), attend::threads{threads});
              },
              [&p, threads] {
                attend::decode_attention(p.query.view(), p.store, p.output.view(), attend::threads{threads});
              },
              [&p, bytes] { return p.dense_bytes / bytes(); }};
        });
}

}  // namespace attend_bench
