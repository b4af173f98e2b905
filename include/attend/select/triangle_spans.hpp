// SPDX-License-Identifier: BSD-3-Clause
// Divides tokens into spans that attend to themselves, by the weights of a causal map of few tokens.
//
//   mass(a, b)    = sum of w_ij over a <= j <= i < b              the triangle of a span [a, b) on the diagonal
//   area(a, b)    = (b - a) (b - a + 1) / 2
//   score         = mass - threshold * area,   or   mass / area - threshold
//   candidates    = all spans of the shortest to the longest length whose score is above 0
//   kept          = candidates in the order of their scores, unless one overlaps a kept one (non-maximum suppression)
//   confidence    = mass / (b - a)                                the share of its rows' weight that a span keeps
//
// The two scores have the same candidates. The mean prefers short ones. Of spans that keep all their weight the first
// score prefers those of about 1 / threshold tokens: a longer one loses more by its area than its tokens add.
//
// What is between the kept spans is divided too, so that each token is in one span: less than the shortest length joins
// the span before (or behind, at the beginning), and more than the longest is cut into pieces of at least that length.
//
// Cost: an addition for each candidate, since with the sums of the columns over the rows before b, the triangles that
// end at b are sums of neighbouring columns; then sorting the candidates. Scratch: 16 bytes for each candidate.
//
// Hongyin Tang et al.: Ltri-LLM: Streaming Long Context Inference for LLMs with Training-Free Dynamic Triangular
// Attention Pattern, 2024. The triangles and the suppression are the paper's. Of the two scores, summaries of the paper
// have the first. That what is between the spans is divided, and how, is this library's.
#pragma once

#include <span>

#include "../core/arithmetic_mode.hpp"
#include "../core/check.hpp"
#include "../core/scratch.hpp"

namespace attend::inline ATTEND_TARGET {

namespace selection {

/// How spans are scored by their triangles: by the mass above the threshold, or by the mean.
enum class triangle_score { excess, mean };

/// The weight that a pair has in a span that is a candidate, on average at least, and the lengths of candidates.
struct triangle_options {
  double threshold = 1.0 / 64;
  index_t shortest = 16, longest = 128;
  triangle_score score = triangle_score::excess;

  /// Throws argument_error, which names `argument`, where the threshold is not a number of at least 0, or where lengths
  /// do not ascend from 1.
  void check(char const* argument) const {
    if (!(threshold >= 0)) extend::fail(argument, "expected a threshold of at least 0, got ", threshold);
    if (shortest < 1 || longest < shortest)
      extend::fail(argument, "expected lengths that ascend from 1, got ", shortest, " and ", longest);
  }
  /// How many spans some tokens can have.
  index_t most_spans(index_t tokens) const { return std::max<index_t>(tokens / shortest, tokens > 0); }
};

/// The tokens [first, last), and the share of their weight that they give to each other.
struct token_span {
  index_t first, last;
  float confidence;
};

}  // namespace selection

namespace detail {

/// A candidate, in the order in which they are kept.
struct triangle_candidate {
  float score;
  std::int32_t first, last;

  bool operator<(triangle_candidate const& other) const {
    if (score != other.score) return score > other.score;
    return first != other.first ? first < other.first : last < other.last;
  }
};

/// Marks the tokens of the spans that are kept: owner[t] is the first token of t's span, or -1.
inline void keep_triangles(tensor_view<float const, 2> const& weights, selection::triangle_options const& options,
                           std::int32_t* owner) {
  index_t const tokens = weights.extent(0), longest = std::min(options.longest, tokens);
  scratch memory;
  double* const column = memory.allocate<double>(tokens + 1);
  auto* const candidate =
      memory.allocate<triangle_candidate>(tokens * std::max<index_t>(longest - options.shortest + 1, 0) + 1);
  index_t found = 0;
  std::fill_n(column, tokens, 0.0);
  for (index_t last = 1; last <= tokens; ++last) {
    for (index_t j = 0; j < last; ++j) column[j] += static_cast<double>(weights(last - 1, j));
    double mass = 0;
    for (index_t first = last - 1; first >= std::max<index_t>(last - longest, 0); --first) {
      mass += column[first];
      index_t const length = last - first;
      if (length < options.shortest) continue;
      double const area = 0.5 * static_cast<double>(length * (length + 1));
      auto const score =
          static_cast<float>(options.score == selection::triangle_score::excess ? mass - options.threshold * area
                                                                                : mass / area - options.threshold);
      if (score > 0) candidate[found++] = {score, static_cast<std::int32_t>(first), static_cast<std::int32_t>(last)};
    }
  }
  std::sort(candidate, candidate + found);
  std::fill_n(owner, tokens, -1);
  for (index_t i = 0; i < found; ++i) {
    auto* const begin = owner + candidate[i].first;
    auto* const end = owner + candidate[i].last;
    if (std::all_of(begin, end, [](std::int32_t one) { return one < 0; })) std::fill(begin, end, candidate[i].first);
  }
}

/// The share of the weights of rows [first, last) that is in their triangle.
inline float share_of_triangle(tensor_view<float const, 2> const& weights, index_t first, index_t last) {
  double mass = 0;
  for (index_t i = first; i < last; ++i)
    for (index_t j = first; j <= i; ++j) mass += static_cast<double>(weights(i, j));
  return static_cast<float>(mass / static_cast<double>(last - first));
}

}  // namespace detail

namespace selection {

/// Writes the spans into which `weights` [token, token] divide their tokens to `to`, in ascending order, and returns
/// their number. Row i has the weights of token i for the tokens up to i; what is behind them is not read.
///
/// Throws argument_error, before anything is written, where the map is not square, where an option is out of range, or
/// where there is no room for options.most_spans(tokens) spans.
///
///     std::vector<float> const map(256 * 256, 1.f / 256);
///     std::vector<token_span> spans(16);
///     index_t const found = triangle_spans(tensor_view(map.data(), {256, 256}), {}, spans);
inline index_t triangle_spans(tensor_view<float const, 2> const& weights, triangle_options const& options,
                              std::span<token_span> to) {
  extend::arithmetic_mode const arithmetic;
  index_t const tokens = weights.extent(0);
  detail::check_view("weights", weights);
  detail::check_extent("weights", "keys", weights.extent(1), tokens, "its tokens");
  options.check("triangles");
  if (static_cast<index_t>(to.size()) < options.most_spans(tokens))
    extend::fail("to", "expected room for ", options.most_spans(tokens), " spans, got ", to.size());
  extend::scratch memory;
  auto* const owner = memory.allocate<std::int32_t>(tokens + 1);
  detail::keep_triangles(weights, options, owner);
  index_t found = 0;
  auto const add = [&](index_t first, index_t last) { to[static_cast<std::size_t>(found++)] = {first, last, 0}; };
  index_t open = 0;  // a gap at the beginning that is too short for a span
  for (index_t first = 0, last = 0; first < tokens; first = last) {
    while (last < tokens && owner[last] == owner[first]) ++last;
    index_t const length = last - first;
    if (owner[first] >= 0 || length >= options.shortest) {
      index_t const pieces = owner[first] >= 0 ? 1 : std::max<index_t>(length / options.longest, 1);
      for (index_t piece = 0; piece < pieces; ++piece)
        add(piece == 0 ? open : first + length * piece / pieces, first + length * (piece + 1) / pieces);
    } else if (found > 0) {
      to[static_cast<std::size_t>(found - 1)].last = last;
    } else {
      continue;
    }
    open = last;
  }
  if (found == 0 && tokens > 0) add(0, tokens);
  for (token_span& one : to.first(static_cast<std::size_t>(found)))
    one.confidence = detail::share_of_triangle(weights, one.first, one.last);
  return found;
}

}  // namespace selection

}  // namespace attend::inline ATTEND_TARGET
