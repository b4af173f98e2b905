// SPDX-License-Identifier: BSD-3-Clause
// The gradients of softmax attention, beside the call that they belong to, in the same run:
//
//   backward/call        the call, which writes its log-sum-exp: 4 * dimension operations for each allowed pair
//   backward/gradients   those of queries, keys and values, from what it wrote: 10 * dimension
#include <attend/attention/softmax/softmax_attention_backward.hpp>
#include <attend/policy/mask/causal.hpp>

#include "benchmarks.hpp"
#include "softmax_call.hpp"
#include "visible_pairs.hpp"

namespace attend_bench {
namespace {

/// The tensors of a call, with its gradients.
template <class T>
struct gradient_tensors : attention_tensors<T> {
  random_tensor<T> of_output, of_query, of_key, of_value;
  random_tensor<float> log_sum_exp;

  explicit gradient_tensors(attention_shape const& s)
      : attention_tensors<T>(s),
        of_output({s.batch, s.query_heads, s.queries, s.dimension}, 5),
        of_query({s.batch, s.query_heads, s.queries, s.dimension}, 6),
        of_key({s.batch, s.key_heads, s.keys, s.dimension}, 7),
        of_value({s.batch, s.key_heads, s.keys, s.dimension}, 8),
        log_sum_exp({s.batch, s.query_heads, s.queries, 1}, 9) {}

  attend::tensor_view<float, 3> sums() {
    auto const all = log_sum_exp.view();
    return {all.data(), {all.extent(0), all.extent(1), all.extent(2)}};
  }
};

template <class T, class... Options>
attention_call gradient_call(attention_shape const& shape, bool gradients, Options const&... options) {
  auto const of = std::make_shared<gradient_tensors<T>>(shape);
  auto const call = [=](attend::threads threads) {
    attend::softmax_attention(of->query.view(), of->key.view(), of->value.view(), of->output.view(),
                              attend::options::log_sum_exp(of->sums()), threads, options...);
  };
  auto const backward = [=](attend::threads threads) {
    attend::options::softmax_attention_backward(of->query.view(), of->key.view(), of->value.view(), of->output.view(),
                                                of->sums(), of->of_output.view(), of->of_query.view(),
                                                of->of_key.view(), of->of_value.view(), threads, options...);
  };
  if (gradients) call(attend::threads{1});
  auto const run = [=](attend::threads threads) { gradients ? backward(threads) : call(threads); };
  return {run, [run](attend::threads threads, attend::options::tile_counts&) { run(threads); }};
}

void add(element_type type, attention_shape const& shape, bool causal) {
  double const pairs = static_cast<double>(shape.batch * shape.query_heads) *
                       window_pairs(shape.queries, shape.keys, -1, causal ? 0 : -1);
  for (bool const gradients : {false, true}) {
    attention_benchmark what{gradients ? "backward/gradients" : "backward/call",
                             type,
                             shape,
                             causal ? "causal" : "dense",
                             0,
                             limit::arithmetic,
                             {}};
    what.flops = (gradients ? 10 : 4) * pairs * static_cast<double>(shape.dimension);
    what.prepare = [=] {
      return with_element_type(type, [&]<class T>() {
        // No row has doubles, whose log-sum-exp would be of doubles.
        if constexpr (std::same_as<attend::extend::accumulation_t<T>, float>)
          return causal ? gradient_call<T>(shape, gradients, attend::causal{}) : gradient_call<T>(shape, gradients);
        else
          return attention_call{};
      });
    };
    register_attention(what, {1, 2});
  }
}

}  // namespace

void register_backward() {
  for (element_type const type : {element_type::f32, element_type::bf16})
    for (index_t const dimension : {64, 128})
      for (bool const causal : {false, true}) add(type, {1, 8, 8, 2048, 2048, dimension}, causal);
  // Few heads over many tokens, whose ranges follow each other the longest, and query heads that share keys.
  add(element_type::f32, {1, 1, 1, 8192, 8192, 128}, true);
  add(element_type::f32, {1, 32, 8, 1024, 1024, 128}, true);
}

}  // namespace attend_bench
