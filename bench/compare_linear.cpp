// SPDX-License-Identifier: BSD-3-Clause
// Linear attention: a state in place of pairs. Its error says how far such a model is from softmax attention on the
// same numbers, which it was not trained for; its rounding how well the chunks keep to the definition token by token.
//
// How far may the output be from its definition? With u the unit roundoff of the accumulation type and n tokens, each
// term of a sum is a few roundings, say 32, of a dot product of D terms, sqrt(D), and of a sum of n, sqrt(n):
//   - with positive features and a divisor, the weights add up to 1: that many u of the largest value;
//   - with a decay, times scale |q| |k| and the number of tokens that are not yet forgotten;
//   - under the delta rule with rates 1 / |k|^2, a token writes k b w, with w no larger than twice the values and b |k|
//     no larger than 1 / |k|. What was written never grows, and rounding errors of n tokens add up as random numbers
//     do.
#include <attend/attention/linear/linear_attention.hpp>
#include <attend/policy/decay/head_decay.hpp>
#include <attend/policy/feature/elu.hpp>
#include <attend/policy/update/update.hpp>
#include <attend/reference/linear_attention.hpp>

#include "compare_softmax.hpp"

namespace attend_bench {
namespace {

/// call(query, key, value, output, threads) and its definition. `allowed` is in units of u times the largest value.
template <class T, class Call>
prepared_variant state_variant(problem const& p, reference::linear_options const& with, double allowed,
                               Call const& call) {
  using A = attend::extend::accumulation_t<T>;
  auto const tensors = std::make_shared<typed_tensors<T>>(p);
  // As many as the chunked algorithm needs (engine/chunked/chunked.hpp).
  constexpr double chunk = 64;
  double const d = static_cast<double>(p.dimension()), columns = static_cast<double>(p.value_dimension());
  double const of_token = 4 * d * columns + (with.causal ? (chunk + 1) * (d + columns) : 0);
  double const operations = of_token * static_cast<double>(p.batch() * p.heads() * p.queries());
  auto const define = [=](row_sample const& rows) {
    tensor<double> whole(tensors->output.extents);
    whole.elements =
        reference::linear_attention<T>(std::as_const(tensors->query).view(), std::as_const(tensors->key).view(),
                                       std::as_const(tensors->value).view(), with)
            .output;
    defined_rows defined{sampled(rows, whole), {}};
    // What is below the normal range becomes 0.
    double const everywhere =
        allowed * unit_roundoff<A>() * largest_magnitude(tensors->value) + double{std::numeric_limits<A>::min()};
    for (double const x : defined.output)
      defined.allowed.push_back(everywhere + (std::same_as<T, A> ? 0 : unit_roundoff<T>() * std::abs(x)));
    return defined;
  };
  return {type_of<T>(), operations,
          [tensors, call](attend::threads threads) {
            call(tensors->query.view(), tensors->key.view(), tensors->value.view(), tensors->output.view(), threads);
          },
          [=](row_sample const& rows) { return sampled(rows, tensors->output); }, define};
}

/// All queries, no mask but causal, and heads that share nothing: what the definition above is for.
bool fits(problem const& p, bool causal) {
  bool const masked = p.mask.left >= 0 || (p.mask.right >= 0 && !(causal && p.mask.right == 0));
  return !masked && p.queries() == p.keys() && p.key_heads() == p.heads() && p.value_heads() == p.heads();
}

double roundings(problem const& p) {
  return 32 + std::sqrt(static_cast<double>(p.dimension())) + std::sqrt(static_cast<double>(p.keys()));
}

template <class T, bool Causal>
std::optional<prepared_variant> prepare_elu(problem const& p) {
  if (!fits(p, Causal)) return std::nullopt;
  reference::linear_options with;
  with.causal = Causal;
  with.divisor = reference::state_divisor::key_sum;
  with.features = [](std::vector<double> row, bool, index_t, index_t, index_t) {
    for (double& x : row) x = x > 0 ? x + 1 : std::exp(x);
    return row;
  };
  return state_variant<T>(p, with, 2 * roundings(p), [](auto&&... tensors_and_threads) {
    if constexpr (Causal)
      attend::linear_attention(tensors_and_threads..., attend::linear::elu_features{}, attend::linear::key_sum{},
                               attend::causal{});
    else
      attend::linear_attention(tensors_and_threads..., attend::linear::elu_features{}, attend::linear::key_sum{});
  });
}

template <class T>
std::optional<prepared_variant> prepare_retention(problem const& p) {
  using A = attend::extend::accumulation_t<T>;
  if (!fits(p, true)) return std::nullopt;
  std::vector<float> const published = attend::systems::retention_decays(p.heads());
  auto const logs = std::make_shared<std::vector<A>>(published.begin(), published.end());
  double const scale = 1 / std::sqrt(static_cast<double>(p.dimension()));
  reference::linear_options with;
  with.scale = scale;
  with.log_decay = [logs](index_t, index_t head, index_t, index_t) {
    return static_cast<double>((*logs)[static_cast<std::size_t>(head)]);
  };
  double const kept = std::min(static_cast<double>(p.keys()), 1 / -std::expm1(static_cast<double>(logs->back())));
  double const allowed = roundings(p) * scale * largest_norm(p.query) * largest_norm(p.key) * kept;
  return state_variant<T>(p, with, allowed, [logs, scale](auto&&... tensors_and_threads) {
    attend::linear_attention(tensors_and_threads..., attend::causal{}, attend::scale{scale},
                             attend::linear::head_decay(*logs));
  });
}

template <class T>
std::optional<prepared_variant> prepare_delta(problem const& p) {
  using A = attend::extend::accumulation_t<T>;
  if (!fits(p, true)) return std::nullopt;
  std::array<index_t, 3> const extents{p.batch(), p.heads(), p.keys()};
  auto const rates = std::make_shared<std::vector<A>>();
  double least = attend::extend::infinity<double>;
  for (std::size_t at = 0; at < p.key.elements.size(); at += static_cast<std::size_t>(p.dimension())) {
    double square = 0;
    for (index_t c = 0; c < p.dimension(); ++c) square += std::pow(p.key.elements[at + static_cast<std::size_t>(c)], 2);
    least = std::min(least, square);
    rates->push_back(static_cast<A>(1 / square));
  }
  if (!(1 / least <= double{std::numeric_limits<A>::max()})) return std::nullopt;
  auto const view = [=] { return attend::tensor_view<A const, 3>(rates->data(), extents); };
  reference::linear_options with;
  with.update = reference::state_update::delta;
  with.rate = [view](index_t b, index_t head, index_t token) { return static_cast<double>(view()(b, head, token)); };
  double const allowed =
      roundings(p) * std::sqrt(static_cast<double>(p.keys())) * 2 * largest_norm(p.query) / std::sqrt(least);
  return state_variant<T>(p, with, allowed, [view](auto&&... tensors_and_threads) {
    attend::linear_attention(tensors_and_threads..., attend::causal{}, attend::linear::delta_rule(view()));
  });
}

}  // namespace

std::vector<variant> linear_variants() {
  return {{"linear", "features elu + 1, every query reads the whole state",
           for_each_type([]<class T>(problem const& p) { return prepare_elu<T, false>(p); })},
          {"linear_causal", "features elu + 1, a query reads the state of its token",
           for_each_type([]<class T>(problem const& p) { return prepare_elu<T, true>(p); }), true},
          {"retention", "a state that each head forgets at a rate of its own",
           for_each_type([]<class T>(problem const& p) { return prepare_retention<T>(p); }), true},
          {"delta_rule", "a state that moves towards each value by 1 / |key|^2",
           for_each_type([]<class T>(problem const& p) { return prepare_delta<T>(p); }), true}};
}

}  // namespace attend_bench
