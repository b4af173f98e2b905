// SPDX-License-Identifier: BSD-3-Clause
// What ONNX's softmax attention operators come down to, once heads are split: one call for all of them.
//
//   s = scale * q.k; softcap; bias; more scores; -inf outside of the window, past a sequence's keys, where the mask is
//   false and past the last column of mask and bias; softmax, with a sink in the denominator where there are sinks
//
// It is softmax_attention whose options are known when the program runs: three instances of the engines serve all.
#pragma once

#include "../call/plan.hpp"
#include "../policy/mask/boolean_mask.hpp"
#include "../policy/mask/window.hpp"
#include "../policy/normalizer/sinks.hpp"
#include "../policy/score/bias.hpp"
#include "../policy/score/softcap.hpp"
#include "tensors.hpp"

namespace attend::inline ATTEND_TARGET::detail {

inline void check_softcap(double softcap) {
  check_finite("softcap", softcap);
  if (softcap < 0) fail("softcap", "expected at least 0, got ", softcap);
}

/// Tensors are [batch, head, token, dimension]. What is not given is not asked for.
template <Element T>
struct softmax_call {
  using A = accumulation_t<T>;

  tensor_view<T const, 4> query, key, value;
  tensor_view<T, 4> output;
  double scale = 1;
  /// 0 for none.
  double softcap = 0;
  window seen;
  /// The keys of each batch, and its queries: all where there are none.
  index_list key_lengths, query_lengths;
  onnx::optional_tensor<bool const, 4> mask;
  onnx::optional_tensor<T const, 4> bias;
  /// A logit for each query head.
  onnx::optional_tensor<A const, 1> sinks;
  tensor_view<A, 4> weights, logits;
};

/// A bias of all pairs: batch and head may be 1 and then hold for all.
template <Element T>
void check_attention_bias(onnx::optional_tensor<T const, 4> const& bias, std::array<index_t, 4> const& pairs) {
  if (!bias) return;
  check_view("attention_bias", bias.view());
  auto const& got = bias.view().extents();
  if ((got[0] != pairs[0] && got[0] != 1) || (got[1] != pairs[1] && got[1] != 1) || got[2] != pairs[2] ||
      got[3] != pairs[3])
    fail("attention_bias", "expected shape ", list_text(pairs), " with 1 for a batch or head that is shared, got ",
         list_text(got));
}

/// scale * q.k as it is, and after the softcap: without masks, biases and values.
template <Element T>
softmax_call<T> logits_alone(softmax_call<T> const& whole, double softcap, tensor_view<accumulation_t<T>, 4> pairs) {
  softmax_call<T> products;
  products.query = whole.query;
  products.key = whole.key;
  products.scale = whole.scale;
  products.softcap = softcap;
  products.logits = pairs;
  return products;
}

/// Runs it. `prepare` is called once everything is checked, before anything is read.
template <Element T, class E, class Prepare, class... MoreScores>
void run_softmax_call(softmax_call<T> const& call, E& executor, Prepare const& prepare, MoreScores const&... more) {
  arithmetic_mode const arithmetic;
  using A = accumulation_t<T>;
  bool const has_values = call.output.data() || call.value.data() || !call.logits.data();
  engine::problem<T> p = has_values
                             ? call::tensor_problem<T>(call.query, call.key, call.value, call.output)
                             : engine::problem<T>(call.query, call.key, call::checked_shape<T>(call.query, call.key));
  p.weights = call.weights;
  p.logits = call.logits;

  scratch memory;
  index_t const batches = p.shape.batches;
  auto const lengths = [&](index_list const& given, index_t all) {
    auto* const each = memory.allocate<std::int64_t>(batches + 1);
    for (index_t b = 0; b < batches; ++b) each[b] = given.size() ? given[b] : all;
    return tensor_view<std::int64_t const, 1>(each, {batches});
  };
  padded const sequences(lengths(call.query_lengths, p.shape.queries), lengths(call.key_lengths, p.shape.keys));
  attend::scale const factor(call.scale);
  bool const all = true;
  T const nothing = T(0);
  A const none = -infinity<A>;
  auto const mask = call.seen & (call.mask ? boolean_mask(call.mask.view()).padded()
                                           : boolean_mask(tensor_view<bool const, 4>(&all, {1, 1, 1, 1})));
  bias<T> const added =
      call.bias ? bias<T>(call.bias.view()).padded() : bias<T>(tensor_view<T const, 4>(&nothing, {1, 1, 1, 1}));
  attend::options::sinks<A> const sink(call.sinks ? call.sinks.view() : tensor_view<A const, 1>(&none, {1}));

  auto const run = [&](auto const&... scores) {
    auto plan = call::plan(p, factor, mask, sink, sequences, scores..., executor);
    prepare();
    if (has_values)
      call::run(plan, engine::problem_rows(p));
    else
      engine::run_tiled(p, engine::problem_rows(p), plan.policies(), executor);
  };
  if constexpr (sizeof...(MoreScores) > 0) {
    run(added, more...);
  } else {
    if (call.softcap > 0)
      run(attend::options::softcap(call.softcap), added);
    else if (call.bias)
      run(added);
    else
      run();
  }
}

}  // namespace attend::inline ATTEND_TARGET::detail
