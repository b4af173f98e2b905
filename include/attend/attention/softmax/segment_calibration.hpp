// SPDX-License-Identifier: BSD-3-Clause
// Factors and choices of segments of keys, from how much weight rows give them (range_mass): a second call applies them
// (policy/segment_gain.hpp).
//
//   calibrated_gains   Found-in-the-middle: a document's weight by how much more it gets than a dummy in its place
//     a_s = mass_s - baseline_s          g_s = softmax_s(a / t) * sum_r mass_r / mass_s
//   best_segments      parallel context encoding: of each row the K segments with the largest scores
//     b_s = 0 for these, -inf for the others
//
//   mass, baseline, scores, gains, biases   [batch, query head, query, segment]
//
// Gains leave the documents' sum of weights, and so each row's, as it was, where mass is the sum over a document's keys
// (or its mean, and all documents have one length). A document without weight has none to give or to scale: it takes no
// part. A constant that is added to all a_s changes nothing.
//
// The score of a piece is an aggregate of its logits: by log-sum-exps, the order of pieces is that of their masses
// under one softmax; by means, their scores are the logits of mean keys (attention_logits). For a chunk of queries that
// chooses together, the scores are those of the chunk, given once for each.
//
// Cost: two exponentials, or K comparisons, for each number.
//
// Cheng-Yu Hsieh et al.: Found in the Middle: Calibrating Positional Attention Bias Improves Long Context Utilization,
// 2024 (all heads of the last 16 layers). Zhisong Zhang et al.: Attention Entropy is a Key Factor: An Analysis of
// Parallel Context Encoding with Full-attention-based Pre-trained Language Models, 2024; the aggregate is this
// library's reading.
#pragma once

#include <cmath>

#include "../../call/allows.hpp"
#include "../../core/check.hpp"
#include "../../core/scratch.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// Calls row(numbers of each tensor) for each row of tensors [.., .., .., segment] of one shape, which are checked.
template <class A, class Row>
void for_segment_rows(tensor_view<A, 4> const& written, char const* name, Row const& row) {
  check_output_view(name, written);
  for (index_t b = 0; b < written.extent(0); ++b)
    for (index_t h = 0; h < written.extent(1); ++h)
      for (index_t i = 0; i < written.extent(2); ++i)
        if (written.extent(3) > 0) row(b, h, i);
}

template <class A, class B>
void check_same_segments(char const* argument, tensor_view<A, 4> const& tensor, char const* as,
                         tensor_view<B, 4> const& other) {
  static constexpr char const* axes[] = {"batch", "heads", "tokens", "segments"};
  check_view(argument, tensor);
  for (int axis = 0; axis < 4; ++axis) check_extent(argument, axes[axis], tensor.extent(axis), other.extent(axis), as);
}

}  // namespace detail

namespace systems {

/// Writes the gains of segments by Found-in-the-middle, for segment_gain: `mass` are the rows' weights on each
/// document, `baseline` those on a dummy document in its place, all [batch, query head, query, segment]. The
/// temperature is above 0. Leading axes may be left out.
///
/// Throws argument_error, before anything is written, where shapes, memory or the temperature do not fit.
///
///     calibrated_gains(pairs, pairs2, 0.1, state);  // pairs: what range_mass wrote
///     softmax_attention(q, k, v, o, causal{}, segment_gain(std::vector<key_range>{{0, 64}, {64, 128}}, state));
template <TensorArgument Mass, TensorArgument Baseline, TensorArgument Gains>
void calibrated_gains(Mass const& mass, Baseline const& baseline, double temperature, Gains&& gains) {
  using namespace detail;
  arithmetic_mode const arithmetic;
  using A = element_of_t<Gains>;
  tensor_view<A const, 4> const m = raise<4>(view_of(mass)), dummy = raise<4>(view_of(baseline));
  tensor_view<A, 4> const to = raise<4>(view_of(gains));
  check_view("mass", m);
  check_same_segments("baseline", dummy, "mass", m);
  check_output_view("gains", to);
  check_same_segments("gains", to, "mass", m);
  check_apart("gains", to, "mass", m);
  check_apart("gains", to, "baseline", dummy);
  if (!(temperature > 0)) fail("temperature", "expected above 0, got ", temperature);
  index_t const segments = m.extent(3);
  for_segment_rows(to, "gains", [&](index_t b, index_t h, index_t i) {
    A const *of = &m(b, h, i, 0), *without = &dummy(b, h, i, 0);
    A* const gain = &to(b, h, i, 0);
    double most = -std::numeric_limits<double>::infinity(), all = 0, sum = 0;
    auto const logit = [&](index_t s) {
      return (static_cast<double>(of[s]) - static_cast<double>(without[s])) / temperature;
    };
    for (index_t s = 0; s < segments; ++s) {
      if (of[s] == 0) continue;
      most = std::max(most, logit(s));
      all += static_cast<double>(of[s]);
    }
    for (index_t s = 0; s < segments; ++s)
      if (of[s] != 0) sum += std::exp(logit(s) - most);
    for (index_t s = 0; s < segments; ++s)
      gain[s] = of[s] == 0 ? A(1) : static_cast<A>(std::exp(logit(s) - most) / sum * all / static_cast<double>(of[s]));
  });
}

/// Writes 0 for the `count` segments of each row with the largest scores, and -inf for the others, for segment_bias. Of
/// equal scores the first ones count; a segment whose score is -inf or NaN is not chosen. Scores and biases are [batch,
/// query head, query, segment]; leading axes may be left out. Segments that every row sees have scores of +inf, and
/// count.
///
/// Throws argument_error, before anything is written, where shapes, memory or the count do not fit.
///
///     best_segments(pairs, 4, pairs2);
template <TensorArgument Scores, TensorArgument Biases>
void best_segments(Scores const& scores, index_t count, Biases&& biases) {
  using namespace detail;
  arithmetic_mode const arithmetic;
  using A = element_of_t<Biases>;
  tensor_view<A const, 4> const from = raise<4>(view_of(scores));
  tensor_view<A, 4> const to = raise<4>(view_of(biases));
  check_view("scores", from);
  check_output_view("biases", to);
  check_same_segments("biases", to, "scores", from);
  check_apart("biases", to, "scores", from);
  if (count < 0) fail("count", "expected at least 0 segments, got ", count);
  index_t const segments = from.extent(3);
  for_segment_rows(to, "biases", [&](index_t b, index_t h, index_t i) {
    A const* const score = &from(b, h, i, 0);
    A* const bias = &to(b, h, i, 0);
    std::fill_n(bias, segments, -infinity<A>);
    for (index_t chosen = 0; chosen < std::min(count, segments); ++chosen) {
      index_t best = -1;
      for (index_t s = 0; s < segments; ++s)
        if (bias[s] != 0 && score[s] > (best < 0 ? -infinity<A> : score[best])) best = s;
      if (best < 0) return;
      bias[best] = 0;
    }
  });
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
