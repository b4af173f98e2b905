// SPDX-License-Identifier: BSD-3-Clause
// States carried through a sequence: prompts by chunks and steps of one token, for each decay and update. Steps begin
// with a state of the same class of numbers, and leave their own to the next.
#include <attend/attention/linear/linear_attention.hpp>
#include <attend/policy/decay/feature_decay.hpp>
#include <attend/policy/decay/head_decay.hpp>
#include <attend/policy/decay/token_decay.hpp>
#include <attend/policy/feature/elu.hpp>
#include <attend/policy/mask/causal.hpp>

#include <memory>

#include "data_rows.hpp"
#include "softmax_call.hpp"

namespace attend_bench {
namespace {

struct state_tensors : attention_tensors<float> {
  random_tensor<float> state;
  std::vector<float> head_logs, token_logs, key_logs, rates;
  attention_shape shape;

  state_tensors(attention_shape const& s, data_class data)
      : attention_tensors<float>(s), state({s.batch, s.key_heads, s.dimension, s.dimension}, 5), shape(s) {
    // Delta rules want keys of length 1; decays of about 0.9 forget neither at once nor never.
    multiply(key.view(), 1 / std::sqrt(static_cast<double>(s.dimension)));
    turn_into<float>(data, query.view(), key.view(), value.view());
    multiply(state.view(), size_of<float>(data));
    head_logs = filled(s.key_heads);
    token_logs = filled(s.key_heads * s.keys);
    key_logs = filled(s.key_heads * s.keys * s.dimension);
    for (float log : token_logs) rates.push_back(std::exp(5 * log));
  }

  auto head_decay() const { return attend::linear::head_decay(head_logs); }
  auto token_decay() const { return attend::linear::token_decay(of_tokens(token_logs)); }
  auto feature_decay() const {
    return attend::linear::feature_decay(
        attend::tensor_view<float const, 4>(key_logs.data(), {1, shape.key_heads, shape.keys, shape.dimension}));
  }
  auto delta_rule() const { return attend::linear::delta_rule(of_tokens(rates)); }

 private:
  static std::vector<float> filled(index_t count) {
    std::vector<float> logs;
    for (index_t i = 0; i < count; ++i)
      logs.push_back(static_cast<float>(-0.1 - 0.1 * std::sin(static_cast<double>(i))));
    return logs;
  }
  attend::tensor_view<float const, 3> of_tokens(std::vector<float> const& all) const {
    return {all.data(), {1, shape.key_heads, shape.keys}};
  }
};

/// options_of(tensors) gives a tuple of options.
template <class OptionsOf>
data_row row_of(char const* family, attention_shape const& shape, char const* name, bool steps,
                OptionsOf const& options_of) {
  attention_benchmark what{std::string("data/") + family, element_type::f32, shape, name, 0, limit::arithmetic, {}};
  // Reading a state and adding to it, which every form does.
  what.flops = 4.0 * static_cast<double>(shape.key_heads * shape.keys * shape.dimension * shape.dimension);
  return {what, [=](data_class data) {
            auto const t = std::make_shared<state_tensors>(shape, data);
            return attention_call{[=](attend::threads threads) {
                                    auto const call = [&](auto const&... options) {
                                      attend::linear_attention(t->query.view(), t->key.view(), t->value.view(),
                                                               t->output.view(), attend::causal{}, threads, options...);
                                    };
                                    std::apply(
                                        [&](auto const&... options) {
                                          if (steps)
                                            call(attend::linear::initial_state(t->state.view()),
                                                 attend::linear::final_state(t->state.view()), options...);
                                          else
                                            call(options...);
                                        },
                                        options_of(*t));
                                  },
                                  {}};
          }};
}

}  // namespace

std::vector<data_row> state_data_rows() {
  std::vector<data_row> rows;
  constexpr attention_shape prompt{1, 8, 8, 2048, 2048, 64}, step{1, 32, 32, 1, 1, 128};
  for (bool const steps : {false, true}) {
    auto const add = [&](char const* name, auto const& options_of) {
      rows.push_back(steps ? row_of("linear/step", step, name, true, options_of)
                           : row_of("linear/prefill", prompt, name, false, options_of));
    };
    add("plain", [](auto const&) { return std::tuple<>(); });
    add("head_decay", [](auto const& t) { return std::tuple(t.head_decay()); });
    add("token_decay", [](auto const& t) { return std::tuple(t.token_decay()); });
    add("feature_decay", [](auto const& t) { return std::tuple(t.feature_decay()); });
    add("delta_rule", [](auto const& t) { return std::tuple(t.delta_rule()); });
    add("gated_delta_rule", [](auto const& t) { return std::tuple(t.delta_rule(), t.token_decay()); });
  }
  rows.push_back(row_of("linear/prefill", prompt, "elu", false, [](auto const&) {
    return std::tuple(attend::linear::elu_features{}, attend::linear::key_sum{});
  }));
  return rows;
}

}  // namespace attend_bench
