// SPDX-License-Identifier: BSD-3-Clause
// ActQKV: one query that stands for a window of tokens chooses the pages that all of them see, and layers whose scores
// are spread wider may have more pages.
//
//   b_ic    = (q_ic - m_c)^2 / (v_c + mean of v / 100)          channels c of all heads; m, v over the window's tokens
//   w_i     = mean over c of b_ic, over its sum over i          activation_weights: the activation bias
//   probe_h = sum_i w_i q_ih / sum_i w_i                        probe_queries: for weights of any kind
//   pages   = those that a selector chooses for the probe; o = attention from the window's tokens to them
//   density = - sum_p s_p ln s_p / ln(pages),  s = softmax of a layer's scores of pages        information_density
//   budget  = total * density / sum of densities, layer by layer                               density_budgets
//
//   query  [sequence, query head, token, key dimension]   the tokens of a window, which were appended last
//   weights [sequence, token]
//   output [sequence, query head, token, value dimension]
//
// Cost: a few passes over the window's queries; the choice for one query; attention to the list.
//
// Qingfa Xiao, Jiachuan Wang, Haoyang Li, Cheng Deng, Jiaqi Tang, Shuangyin Li, Yongqi Zhang, Jun Wang, Lei Chen:
// Activation-aware Probe-Query: Effective Key-Value Retrieval for Long-Context LLMs Inference, 2025. The formulas are
// those of the authors' release, but for the mean and the variance, which run over earlier windows there: here they are
// the window's own, as in the paper's definition of the bias. The release compares pages, by representative keys of
// all heads, by cosines; here that is the selector's part, and its keys are each head's.
#pragma once

#include "../../select/page_selector.hpp"
#include "selected_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Writes how much each token of a window is to count, [sequence, token] of the accumulation type, whose sum is 1: more
/// where its query is further from the window's mean. Tokens with equal queries count the same.
///
/// Throws argument_error, before anything is written, where shapes, strides or memory do not fit.
///
///     std::vector<float> biases(8 * 512);
///     activation_weights(q, tensor_view(biases.data(), {8, 512}));
template <TensorArgument Query, TensorArgument Weights>
void activation_weights(Query const& query, Weights&& weights) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Query const>;
  using A = accumulation_t<T>;
  tensor_view<T const, 4> const q = raise<4>(view_of(query));
  tensor_view<A, 2> const w = raise<2>(view_of(weights));
  index_t const heads = q.extent(1), tokens = q.extent(2), dimension = q.extent(3), channels = heads * dimension;
  detail::check_view("query", q);
  detail::check_output_view("weights", w);
  detail::check_extent("weights", "sequences", w.extent(0), q.extent(0), "query");
  detail::check_extent("weights", "tokens", w.extent(1), tokens, "query");
  detail::check_apart("weights", raise<4>(w), "query", q);
  scratch memory;
  double* const mean = memory.allocate<double>(channels + 1);
  double* const variance = memory.allocate<double>(channels + 1);
  auto const tokens_as_double = static_cast<double>(tokens);
  for (index_t s = 0; s < q.extent(0); ++s) {
    // Calls function(number of the channel, its element) for all channels of a token.
    auto const for_channels = [&](index_t i, auto const& function) {
      for (index_t head = 0; head < heads; ++head) {
        T const* const row = &q(s, head, i, 0);
        for (index_t c = 0; c < dimension; ++c) function(head * dimension + c, static_cast<double>(row[c]));
      }
    };
    std::fill_n(mean, channels, 0.0);
    std::fill_n(variance, channels, 0.0);
    for (index_t i = 0; i < tokens; ++i) for_channels(i, [&](index_t c, double x) { mean[c] += x / tokens_as_double; });
    for (index_t i = 0; i < tokens; ++i)
      for_channels(i, [&](index_t c, double x) { variance[c] += (x - mean[c]) * (x - mean[c]) / tokens_as_double; });
    double all = 0, sum = 0;
    for (index_t c = 0; c < channels; ++c) all += variance[c] / static_cast<double>(channels);
    double* const bias = memory.allocate<double>(tokens + 1);
    for (index_t i = 0; i < tokens; ++i) {
      bias[i] = all > 0 ? 0 : 1;
      if (all > 0)
        for_channels(
            i, [&](index_t c, double x) { bias[i] += (x - mean[c]) * (x - mean[c]) / (variance[c] + all / 100); });
      sum += bias[i];
    }
    for (index_t i = 0; i < tokens; ++i) w(s, i) = static_cast<A>(bias[i] / sum);
  }
}

/// Writes the weighted mean of a window's queries, [sequence, query head, 1, key dimension].
///
/// Throws argument_error, before anything is written, where shapes, strides or memory do not fit, or where the weights
/// of a sequence are not numbers of at least 0 with a sum above 0.
///
///     std::vector<float> const biases(8 * 512, 1.f);
///     probe_queries(q, tensor_view(biases.data(), {8, 512}), o);
template <TensorArgument Query, TensorArgument Weights, TensorArgument Probe>
void probe_queries(Query const& query, Weights const& weights, Probe&& probe) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Query const>;
  using A = accumulation_t<T>;
  tensor_view<T const, 4> const q = raise<4>(view_of(query));
  tensor_view<A const, 2> const w = raise<2>(view_of(weights));
  tensor_view<T, 4> const to = raise<4>(view_of(probe));
  index_t const tokens = q.extent(2);
  detail::check_view("query", q);
  detail::check_view("weights", w);
  detail::check_output_view("probe", to);
  detail::check_extent("weights", "sequences", w.extent(0), q.extent(0), "query");
  detail::check_extent("weights", "tokens", w.extent(1), tokens, "query");
  detail::check_extent("probe", "sequences", to.extent(0), q.extent(0), "query");
  detail::check_extent("probe", "heads", to.extent(1), q.extent(1), "query");
  detail::check_extent("probe", "tokens", to.extent(2), 1, "one for a window");
  detail::check_extent("probe", "head dimension", to.extent(3), q.extent(3), "query");
  detail::check_apart("probe", to, "query", q);
  detail::check_apart("probe", to, "weights", raise<4>(w));
  for (index_t s = 0; s < q.extent(0); ++s) {
    A sum = 0;
    for (index_t i = 0; i < tokens; ++i) {
      if (!(w(s, i) >= 0)) fail("weights", "expected numbers of at least 0, got ", w(s, i));
      sum += w(s, i);
    }
    if (!(sum > 0 && sum < infinity<A>)) fail("weights", "expected a sum above 0 (sequence ", s, "), got ", sum);
  }
  scratch memory;
  A* const mean = memory.allocate<A>(q.extent(3) + 1);
  for (index_t s = 0; s < q.extent(0); ++s)
    for (index_t head = 0; head < q.extent(1); ++head) {
      A sum = 0;
      std::fill_n(mean, q.extent(3), A(0));
      for (index_t i = 0; i < tokens; ++i) sum += w(s, i);
      // Divided before they are added up, queries stay as large as they are.
      for (index_t i = 0; i < tokens; ++i)
        for (index_t c = 0; c < q.extent(3); ++c) mean[c] += w(s, i) / sum * static_cast<A>(q(s, head, i, c));
      for (index_t c = 0; c < q.extent(3); ++c) to(s, head, 0, c) = static_cast<T>(mean[c]);
    }
}

/// Attends from the tokens of a window, which the cache and the selector have, to what the selector chooses for their
/// weighted mean; shapes stand at the beginning of this file. Each sees the chosen tokens up to its own: the last ones
/// that the selector takes in any case should be the window, and what is local to its first token. Options are those of
/// softmax_attention to a cache but for a mask.
///
/// Throws argument_error, before the output is written, where shapes, weights or an option do not fit, or where the
/// selector was not told of all tokens.
///
///     std::vector<float> biases(8 * 512);
///     activation_weights(q, tensor_view(biases.data(), {8, 512}));
///     mean_page_selector<float> selector(shape, 32, 4096, kinetics_blocks({.tokens = 1024, .last = 512}));
///     selector.update(cache);
///     probe_attention(q, tensor_view(biases.data(), {8, 512}), cache, selector, o);
template <TensorArgument Query, TensorArgument Weights, KeyValueSource Cache, class S, TensorArgument Output,
          class... Options>
void probe_attention(Query const& query, Weights const& weights, Cache const& cache, S& selector, Output&& output,
                     Options&&... options) {
  static_assert(!detail::has_kind<option::mask, Options...>, "attend: each token of the window sees what is before it");
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  tensor_view<T const, 4> const q = raise<4>(view_of(query));
  scratch memory;
  index_t const numbers = q.extent(0) * q.extent(1) * q.extent(3);
  tensor_view<T, 4> const probe(memory.allocate<T>(numbers + 1), {q.extent(0), q.extent(1), 1, q.extent(3)});
  probe_queries(q, weights, probe);
  selector.select(tensor_view<T const, 4>(probe), cache, call::executor_of(options...));
  softmax_attention(q, selected_rows(cache, selector.lists()), output, causal{}, options...);
}

/// The entropy of the softmax of scores, as a share of the most that it can be: 1 where all are equal, towards 0 where
/// one stands out. Of fewer than two scores it is 0. Scores that are not finite count as none.
///
///     std::vector<float> const scores{1, 1, 1};
///     double const density = information_density(scores);  // 1
inline double information_density(std::span<float const> scores) {
  arithmetic_mode const arithmetic;
  double largest = -infinity<double>, sum = 0, products = 0;
  for (float const one : scores)
    if (std::isfinite(one)) largest = std::max(largest, static_cast<double>(one));
  for (float const one : scores) {
    if (!std::isfinite(one)) continue;
    double const below = static_cast<double>(one) - largest;
    sum += std::exp(below);
    products += std::exp(below) * below;
  }
  if (scores.size() < 2 || !(sum > 0)) return 0;
  return std::max(std::log(sum) - products / sum, 0.0) / std::log(static_cast<double>(scores.size()));
}

/// Divides a number of tokens, or of pages, among layers by their densities, which may be means over steps. One layer
/// after the other gets its share of what is left, rounded, but at least `least` and at most `most`. Layers of which no
/// density is above 0 get equal shares.
///
/// Throws argument_error, before anything is written, where there are not as many budgets as densities, where a density
/// is not a number of at least 0, or where numbers of tokens do not ascend from 0.
///
///     std::vector<double> const densities{0.5, 0.25, 0.25};
///     std::vector<index_t> budgets(3);
///     density_budgets(4096, densities, 64, 4096, budgets);  // 2048, 1024, 1024
inline void density_budgets(index_t total, std::span<double const> densities, index_t least, index_t most,
                            std::span<index_t> budgets) {
  detail::check_extent("budgets", "numbers", static_cast<index_t>(budgets.size()),
                       static_cast<index_t>(densities.size()), "densities");
  for (double const one : densities)
    if (!(one >= 0) || !std::isfinite(one)) fail("densities", "expected numbers of at least 0, got ", one);
  if (total < 0) fail("total", "expected at least 0, got ", total);
  if (least < 0 || most < least) fail("least", "expected bounds that ascend from 0, got ", least, " and ", most);
  index_t left = total;
  for (std::size_t layer = 0; layer < budgets.size(); ++layer) {
    double sum = 0;
    for (double const one : densities.subspan(layer)) sum += one;
    double const share = sum > 0 ? densities[layer] / sum : 1 / static_cast<double>(budgets.size() - layer);
    auto const wanted = static_cast<index_t>(std::llround(share * static_cast<double>(std::max<index_t>(left, 0))));
    budgets[layer] = std::clamp(wanted, least, most);
    left -= budgets[layer];
  }
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
