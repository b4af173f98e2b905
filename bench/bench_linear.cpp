// SPDX-License-Identifier: BSD-3-Clause
// Linear attention: prefill by chunks, decoding token by token, and from which length on it is faster than dense
// softmax attention.
//
//   linear/prefill/...   peak_fraction on the operations that the chunked algorithm needs with the chunk length that it
//                        uses (engine/chunked/chunked.hpp)
//   linear_backward/...  the same of gradients, with all of them asked for (engine/chunked/chunk_gradient.hpp)
//   linear/decode/...    bandwidth_fraction on the states, read once and written once
//   linear/crossover/... crossover_tokens: the length, causal, from which on linear attention takes less time
//   linear/growth/...    doubling: the time of twice as many tokens as a multiple, the largest from 4096 to 131072
#include <benchmark/benchmark.h>

#include <attend/attention/linear/linear_attention.hpp>
#include <attend/attention/linear/linear_attention_backward.hpp>
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/decay/feature_decay.hpp>
#include <attend/policy/decay/head_decay.hpp>
#include <attend/policy/decay/token_decay.hpp>

#include <chrono>
#include <cmath>
#include <memory>
#include <tuple>

#include "attention_benchmark.hpp"
#include "benchmarks.hpp"
#include "random_tensor.hpp"

namespace attend_bench {
namespace {

enum class system { plain, head_decay, token_decay, feature_decay, delta_rule, gated_delta_rule };

constexpr char const* name_of(system which) {
  switch (which) {
    case system::plain:
      return "plain";
    case system::head_decay:
      return "head_decay";
    case system::token_decay:
      return "token_decay";
    case system::feature_decay:
      return "feature_decay";
    case system::delta_rule:
      return "delta_rule";
    default:
      return "gated_delta_rule";
  }
}

constexpr bool has_delta_rule(system which) { return which == system::delta_rule || which == system::gated_delta_rule; }

template <class T>
struct linear_tensors {
  using A = attend::extend::accumulation_t<T>;

  random_tensor<T> query, key, value, output;
  random_tensor<A> state;
  std::vector<A> head_logs, token_logs, key_logs, rates;
  attention_shape shape;

  explicit linear_tensors(attention_shape const& s, system which, bool with_state)
      : query({s.batch, s.query_heads, s.queries, s.dimension}, 1),
        key({s.batch, s.key_heads, s.keys, s.dimension}, 2),
        value({s.batch, s.key_heads, s.keys, s.dimension}, 3),
        output({s.batch, s.query_heads, s.queries, s.dimension}, 4),
        state({with_state ? s.batch : 0, s.key_heads, s.dimension, s.dimension}, 5),
        shape(s) {
    // Delta rules want keys of length 1; decays of about 0.95 forget neither at once nor never.
    auto const keys = key.view();
    T const length = static_cast<T>(1 / std::sqrt(static_cast<double>(s.dimension)));
    for (index_t i = 0; i < s.batch * s.key_heads * s.keys * s.dimension; ++i) keys.data()[i] *= length;
    index_t const tokens = s.batch * s.key_heads * s.keys;
    head_logs = filled(s.key_heads);
    token_logs = filled(tokens);
    if (which == system::feature_decay) key_logs = filled(tokens * s.dimension);
    for (A log : token_logs) rates.push_back(std::exp(5 * log));
  }

  template <class Call>
  void with_options(system which, Call&& call) const {
    std::array<index_t, 3> const tokens{shape.batch, shape.key_heads, shape.keys};
    attend::tensor_view<A const, 3> const logs(token_logs.data(), tokens), beta(rates.data(), tokens);
    switch (which) {
      case system::plain:
        return call();
      case system::head_decay:
        return call(attend::linear::head_decay(head_logs));
      case system::token_decay:
        return call(attend::linear::token_decay(logs));
      case system::feature_decay:
        return call(attend::linear::feature_decay(attend::tensor_view<A const, 4>(
            key_logs.data(), {shape.batch, shape.key_heads, shape.keys, shape.dimension})));
      case system::delta_rule:
        return call(attend::linear::delta_rule(beta));
      default:
        return call(attend::linear::delta_rule(beta), attend::linear::token_decay(logs));
    }
  }

 private:
  static std::vector<A> filled(index_t count) {
    std::vector<A> logs;
    for (index_t i = 0; i < count; ++i) logs.push_back(static_cast<A>(-0.1 - 0.1 * std::sin(static_cast<double>(i))));
    return logs;
  }
};

template <class T>
attention_call linear_call(attention_shape const& shape, system which, bool with_state) {
  auto const tensors = std::make_shared<linear_tensors<T>>(shape, which, with_state);
  auto const run = [=](attend::threads threads) {
    tensors->with_options(which, [&](auto const&... options) {
      auto& t = *tensors;
      if (with_state)
        attend::linear_attention(t.query.view(), t.key.view(), t.value.view(), t.output.view(), attend::causal{},
                                 options..., attend::linear::initial_state(t.state.view()),
                                 attend::linear::final_state(t.state.view()), threads);
      else
        attend::linear_attention(t.query.view(), t.key.view(), t.value.view(), t.output.view(), attend::causal{},
                                 options..., threads);
    });
  };
  return {run, [run](attend::threads threads, attend::options::tile_counts&) { run(threads); }};
}

/// What engine/chunked/chunked.hpp says that a token needs; heads that share a state share the writing of it.
double operations_of(element_type type, attention_shape const& s, system which) {
  using enum attend::extend::decay_kind;
  attend::extend::decay_kind const decay = which == system::feature_decay                          ? vector
                                           : which == system::plain || which == system::delta_rule ? none
                                                                                                   : scalar;
  bool const by_unit = type == element_type::bf16 && !has_delta_rule(which) && decay != vector &&
                       attend::simd::uses_pair_products() && attend::engine::may_use_matrix_unit<attend::bfloat16>;
  using cut = attend::engine::chunk_cut;
  double const d = static_cast<double>(s.dimension),
               chunk = static_cast<double>(by_unit ? cut::longest_usual
                                                   : cut::chunk_for(s.dimension, s.dimension, s.dimension, decay));
  double const own = (chunk + 1) / 2 * 2 * d, earlier = (chunk - 1) / 2 * 2 * d;
  double const read = d * d + own, write = d * d + (has_delta_rule(which) ? d * d + earlier : 0);
  return 2.0 * static_cast<double>(s.batch * s.keys) *
         (static_cast<double>(s.query_heads) * read + static_cast<double>(s.key_heads) * write);
}

void add_prefill(element_type type, attention_shape const& shape, system which) {
  attention_benchmark what{"linear/prefill", type, shape, name_of(which), 0, limit::arithmetic, {}};
  what.flops = operations_of(type, shape, which);
  what.prepare = [=] {
    return with_element_type(type, [&]<class T>() { return linear_call<T>(shape, which, false); });
  };
  register_attention(what, {1, 2});
}

/// The gradients that a call is asked for: of its tensors, and of each of its options.
template <class T>
struct asked_gradients {
  using A = attend::extend::accumulation_t<T>;

  random_tensor<T> of_output, of_query, of_key, of_value;
  random_tensor<A> of_features, of_tokens, of_rates;
  std::vector<A> of_heads;

  asked_gradients(attention_shape const& s, system which)
      : of_output({s.batch, s.query_heads, s.queries, s.dimension}, 5),
        of_query({s.batch, s.query_heads, s.queries, s.dimension}, 6),
        of_key({s.batch, s.key_heads, s.keys, s.dimension}, 7),
        of_value({s.batch, s.key_heads, s.keys, s.dimension}, 8),
        of_features({which == system::feature_decay ? s.batch : 0, s.key_heads, s.keys, s.dimension}, 9),
        of_tokens({1, s.batch, s.key_heads, s.keys}, 10),
        of_rates({1, s.batch, s.key_heads, s.keys}, 11),
        of_heads(static_cast<std::size_t>(s.key_heads)) {}

  auto of(attend::linear::head_decay<A> const&) { return std::tuple(attend::linear::gradient_of_decay(of_heads)); }
  auto of(attend::linear::token_decay<A> const&) {
    return std::tuple(attend::linear::gradient_of_decay(by_tokens(of_tokens)));
  }
  auto of(attend::linear::feature_decay<A> const&) {
    return std::tuple(attend::linear::gradient_of_decay(of_features.view()));
  }
  auto of(attend::linear::delta_rule<A> const&) {
    return std::tuple(attend::linear::gradient_of_rates(by_tokens(of_rates)));
  }

 private:
  static attend::tensor_view<A, 3> by_tokens(random_tensor<A>& tensor) {
    auto const view = tensor.view();
    return {view.data(), {view.extent(1), view.extent(2), view.extent(3)}};
  }
};

/// What chunk_gradient.hpp says that a token needs, a delta rule's system solved once; the states are computed once.
double backward_operations_of(attention_shape const& s, system which) {
  double const d = static_cast<double>(s.dimension),
               chunk = static_cast<double>(attend::engine::gradient_layout<float>::usual_chunk(2 * s.dimension));
  double const own = (chunk + 1) / 2 * d, earlier = (chunk - 1) / 2 * d;
  double const query = 2 * d * d + 5 * own, key = 3 * d * d + (has_delta_rule(which) ? 3 * d * d + 6 * earlier : 0);
  return 2.0 * static_cast<double>(s.batch * s.keys) *
         (static_cast<double>(s.query_heads) * query + static_cast<double>(s.key_heads) * key);
}

void add_backward(element_type type, attention_shape const& shape, system which) {
  attention_benchmark what{"linear_backward", type, shape, name_of(which), 0, limit::arithmetic, {}};
  what.flops = backward_operations_of(shape, which);
  what.prepare = [=] {
    return with_element_type(type, [&]<class T>() {
      auto const tensors = std::make_shared<linear_tensors<T>>(shape, which, false);
      auto const asked = std::make_shared<asked_gradients<T>>(shape, which);
      auto const run = [=](attend::threads threads) {
        tensors->with_options(which, [&](auto const&... options) {
          std::apply(
              [&](auto const&... gradients) {
                attend::linear::linear_attention_backward(
                    tensors->query.view(), tensors->key.view(), tensors->value.view(), asked->of_output.view(),
                    asked->of_query.view(), asked->of_key.view(), asked->of_value.view(), attend::causal{}, options...,
                    gradients..., threads);
              },
              std::tuple_cat(asked->of(options)...));
        });
      };
      return attention_call{run, [run](attend::threads threads, attend::options::tile_counts&) { run(threads); }};
    });
  };
  register_attention(what, {1, 2});
}

void add_decode(attention_shape const& shape, system which) {
  attention_benchmark what{"linear/decode", element_type::f32, shape, name_of(which), 0, limit::bandwidth, {}};
  double const state = static_cast<double>(shape.batch * shape.key_heads * shape.dimension * shape.dimension);
  what.flops = state * (has_delta_rule(which) ? 6 : 4);
  what.bytes = state * 2 * sizeof(float);
  what.prepare = [=] { return linear_call<float>(shape, which, true); };
  register_attention(what, {1, 2});
}

/// The best of some runs.
template <class Call>
double seconds_of(Call&& call) {
  using clock = std::chrono::steady_clock;
  double best = attend::extend::infinity<double>;
  for (int run = 0; run < 7; ++run) {
    auto const begin = clock::now();
    call();
    best = std::min(best, std::chrono::duration<double>(clock::now() - begin).count());
  }
  return best;
}

/// Bisects to 16 tokens: both times grow with the length, softmax's faster.
index_t crossover(index_t dimension, system which) {
  index_t slower = 0, faster = 4096;
  while (faster - slower > 16) {
    index_t const tokens = (slower + faster) / 2;
    linear_tensors<float> t({1, 8, 8, tokens, tokens, dimension}, which, false);
    double linear = 0;
    t.with_options(which, [&](auto const&... options) {
      linear = seconds_of([&] {
        attend::linear_attention(t.query.view(), t.key.view(), t.value.view(), t.output.view(), attend::causal{},
                                 options...);
      });
    });
    double const softmax = seconds_of([&] {
      attend::softmax_attention(t.query.view(), t.key.view(), t.value.view(), t.output.view(), attend::causal{});
    });
    (linear < softmax ? faster : slower) = tokens;
  }
  return faster;
}

/// One head on one thread.
double largest_doubling(index_t dimension, system which) {
  double largest = 0, before = 0;
  for (index_t tokens = 4096; tokens <= 131072; tokens *= 2) {
    linear_tensors<float> t({1, 1, 1, tokens, tokens, dimension}, which, false);
    double seconds = 0;
    t.with_options(which, [&](auto const&... options) {
      seconds = seconds_of([&] {
        attend::linear_attention(t.query.view(), t.key.view(), t.value.view(), t.output.view(), attend::causal{},
                                 options...);
      });
    });
    if (before > 0) largest = std::max(largest, seconds / before);
    before = seconds;
  }
  return largest;
}

/// A benchmark that measures by itself.
template <class Measure>
void add_measured(std::string const& family, index_t dimension, system which, std::string const& counter,
                  Measure const& measure) {
  std::string const path = family + "/f32/d" + std::to_string(dimension) + "/" + name_of(which);
  benchmark::RegisterBenchmark(path.c_str(),
                               [=](benchmark::State& state) {
                                 for (auto _ : state)
                                   state.counters[counter] = static_cast<double>(measure(dimension, which));
                               })
      ->Iterations(1)
      ->Unit(benchmark::kMillisecond);
}

constexpr attention_shape tokens_of(index_t tokens, index_t heads, index_t dimension) {
  return {1, heads, heads, tokens, tokens, dimension};
}

}  // namespace

void register_linear() {
  using enum element_type;
  using enum system;
  for (system const which : {plain, head_decay, token_decay, feature_decay, delta_rule, gated_delta_rule}) {
    for (index_t const dimension : {64, 128}) add_prefill(f32, tokens_of(4096, 8, dimension), which);
    // Four query heads share a state.
    add_prefill(f32, {1, 32, 8, 2048, 2048, 128}, which);
    // One head for all threads.
    add_prefill(f32, tokens_of(65536, 1, 128), which);
  }
  for (system const which : {plain, head_decay, token_decay, feature_decay, delta_rule, gated_delta_rule}) {
    for (index_t const dimension : {64, 128}) add_backward(f32, tokens_of(4096, 8, dimension), which);
    add_backward(f32, {1, 32, 8, 2048, 2048, 128}, which);
  }
  for (element_type const type : {f64, bf16}) add_backward(type, tokens_of(4096, 8, 128), token_decay);
  for (index_t const tokens : {4096, 8192, 16384, 32768, 131072}) add_prefill(f32, tokens_of(tokens, 1, 128), plain);
  for (element_type const type : {f64, f16}) add_prefill(type, tokens_of(4096, 8, 128), token_decay);
  // By a matrix unit, where there is one; peak_fraction is that of multiply-adds of floats.
  for (system const which : {plain, head_decay, token_decay, feature_decay})
    for (index_t const dimension : {64, 128}) add_prefill(bf16, tokens_of(4096, 8, dimension), which);
  for (system const which : {plain, token_decay, feature_decay, gated_delta_rule})
    add_decode({64, 32, 32, 1, 1, 128}, which);
  for (index_t const dimension : {64, 128})
    for (system const which : {plain, token_decay, feature_decay, gated_delta_rule})
      add_measured("linear/crossover", dimension, which, "crossover_tokens", crossover);
  for (system const which : {plain, token_decay, feature_decay, gated_delta_rule})
    add_measured("linear/growth", 128, which, "doubling", largest_doubling);
}

}  // namespace attend_bench
