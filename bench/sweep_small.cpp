// SPDX-License-Identifier: BSD-3-Clause
// Calls so small that waking a thread could cost more than it brings: time with threads{2} and threads{8}, as a part of
// the serial time. It should be at most 1.05, whatever the machine.
#include <attend/attention/linear/linear_attention.hpp>
#include <attend/attention/sparse_decode/quest_selector.hpp>
#include <attend/cache/contiguous.hpp>

#include <cstdio>
#include <string>

#include "random_tensor.hpp"
#include "sweep_engines.hpp"
#include "sweep_small.hpp"

namespace attend_bench {
namespace {

using attend::index_t;

void softmax(bool quick, index_t heads, index_t queries, index_t keys) {
  random_tensor<float> query({1, heads, queries, 64}, 1), key({1, heads, keys, 64}, 2), value({1, heads, keys, 64}, 3),
      output({1, heads, queries, 64}, 4);
  report_small("softmax " + std::to_string(heads) + " heads, " + std::to_string(queries) + " x " + std::to_string(keys),
               quick, [&](auto executor) {
                 attend::softmax_attention(query.view(), key.view(), value.view(), output.view(), executor);
               });
}

void linear(bool quick, index_t heads, index_t tokens) {
  random_tensor<float> query({1, heads, tokens, 64}, 1), key({1, heads, tokens, 64}, 2),
      value({1, heads, tokens, 64}, 3), output({1, heads, tokens, 64}, 4), state({1, heads, 64, 64}, 5),
      next({1, heads, 64, 64}, 6);
  report_small("linear " + std::to_string(heads) + " heads, " + std::to_string(tokens) + " tokens", quick,
               [&](auto executor) {
                 attend::linear_attention(query.view(), key.view(), value.view(), output.view(), attend::causal{},
                                          attend::linear::initial_state(state.view()),
                                          attend::linear::final_state(next.view()), executor);
               });
}

void pages(bool quick, index_t heads, index_t keys) {
  random_tensor<float> query({1, heads, 1, 64}, 1), key({1, heads, keys, 64}, 2), value({1, heads, keys, 64}, 3),
      output({1, heads, 1, 64}, 4);
  attend::caches::cache_shape const shape{1, heads, 64, 64};
  attend::contiguous_cache<float> cache(shape, keys);
  cache.append(key.view(), value.view());
  attend::systems::quest_selector<float> selector(shape, heads, keys, attend::systems::quest_pages({.tokens = 64}));
  selector.update(cache);
  report_small("chosen pages " + std::to_string(heads) + " heads, " + std::to_string(keys) + " keys", quick,
               [&](auto executor) {
                 attend::selection::selected_attention(query.view(), cache, selector, output.view(), executor);
               });
}

}  // namespace

void small(bool quick) {
  for (index_t heads : {1, 8, 32})
    for (index_t queries : {1, 8, 64})
      for (index_t keys : {64, 256, 1024}) softmax(quick, heads, queries, keys);
  for (index_t heads : {1, 8, 32})
    for (index_t tokens : {1, 16, 64, 256}) linear(quick, heads, tokens);
  for (index_t heads : {2, 8})
    for (index_t keys : {256, 1024, 4096}) pages(quick, heads, keys);
  prepared(quick);
  std::printf("at most %.2f of the serial time\n", worst_small_report());
}

}  // namespace attend_bench
