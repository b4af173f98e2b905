// SPDX-License-Identifier: BSD-3-Clause
// Selective attention: what temperatures for every query and gains for every value cost beside causal attention.
#include <attend/attention/softmax/selective_attention.hpp>

#include "benchmarks.hpp"
#include "softmax_call.hpp"
#include "visible_pairs.hpp"

namespace attend_bench {
namespace {

constexpr index_t heads = 8, tokens = 2048;
constexpr attention_shape shape{1, heads, heads, tokens, tokens, 128};

/// What the temperatures are made of; the same for queries and values.
struct learned {
  std::vector<float> token, position;

  attend::systems::selective_temperature<float> views() const {
    return {{token.data(), {1, heads, tokens}}, {position.data(), {heads}}};
  }
};

attention_call prepare() {
  auto const numbers =
      std::make_shared<learned>(learned{std::vector<float>(heads * tokens, 0.5f), std::vector<float>(heads, -2.0f)});
  return tensor_call<float>(
      shape, numbers, [numbers](auto&& query, auto&& key, auto&& value, auto&& output, auto const&... options) {
        attend::systems::selective_attention(query, key, value, output, numbers->views(), numbers->views(), options...);
      });
}

}  // namespace

void register_selective() {
  register_attention({"selective/prefill", element_type::f32, shape, "causal", window_pairs(tokens, tokens, -1, 0),
                      limit::arithmetic, prepare},
                     {1, 2});
}

}  // namespace attend_bench
