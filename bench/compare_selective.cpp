// SPDX-License-Identifier: BSD-3-Clause
// Selective attention: temperatures and gains that depend on the token and its position.
#include <attend/attention/softmax/selective_attention.hpp>

#include "compare_softmax.hpp"

namespace attend_bench {
namespace {

/// In the accumulation type: one number for each token, another for each head.
template <class A>
struct learned {
  std::array<index_t, 3> extents;
  std::vector<A> token, position;

  learned(index_t batch, index_t heads, index_t tokens) : extents{batch, heads, tokens} {
    for (index_t i = 0; i < batch * heads * tokens; ++i)
      token.push_back(static_cast<A>(std::sin(static_cast<double>(i))));
    for (index_t head = 0; head < heads; ++head)
      position.push_back(static_cast<A>(-2 - 0.25 * static_cast<double>(head % 4)));
  }

  attend::systems::selective_temperature<A> views() const {
    return {{token.data(), extents}, {position.data(), {extents[1]}}};
  }

  double temperature(index_t b, index_t h, index_t i) const {
    auto const token_at = static_cast<std::size_t>((b * extents[1] + h) * extents[2] + i);
    double const slope = 1 / (1 + std::exp(-static_cast<double>(position[static_cast<std::size_t>(h)])));
    return std::tanh(static_cast<double>(token[token_at])) + 1 + slope * std::log(static_cast<double>(i + 1));
  }
  double largest() const {
    double result = 0;
    for (index_t b = 0; b < extents[0]; ++b)
      for (index_t h = 0; h < extents[1]; ++h)
        for (index_t i = 0; i < extents[2]; ++i) result = std::max(result, temperature(b, h, i));
    return result;
  }
};

template <class T>
std::optional<prepared_variant> prepare(problem const& p) {
  using A = attend::extend::accumulation_t<T>;
  // It brings its own mask, which is causal.
  if (p.queries() != p.keys() || p.mask.left >= 0) return std::nullopt;
  auto const queries = std::make_shared<learned<A>>(p.batch(), p.heads(), p.queries());
  auto const values = std::make_shared<learned<A>>(p.batch(), p.value_heads(), p.keys());
  softmax_definition definition{.mask = {-1, 0}, .logit_factor = queries->largest(), .value_factor = values->largest()};
  definition.options.scores = {[queries](double s, reference::place const& at) {
    return s * queries->temperature(at.batch, at.head, at.query);
  }};
  definition.options.value_gain = [values](index_t batch, index_t head, index_t key) {
    return values->temperature(batch, head, key);
  };
  return call_variant<T>(
      p, definition,
      [queries, values](auto const& query, auto const& key, auto const& value, auto&& output, auto threads) {
        attend::systems::selective_attention(query, key, value, output, queries->views(), values->views(), threads);
      });
}

}  // namespace

std::vector<variant> selective_variants() {
  return {{"selective_attention", "causal, s * t(query) and g(key) * value",
           [](problem const& p, element_type type) {
             return with_element_type(type, [&]<class T>() { return prepare<T>(p); });
           },
           true}};
}

}  // namespace attend_bench
