// SPDX-License-Identifier: BSD-3-Clause
// What is done with a decoder and some keeping of keys and values: text is continued, each character the likeliest one,
// or text that is there already is scored.
//
//   score over pieces of a text:   the first half of a piece is the prompt; of each character of the second half
//     choice           the likeliest character, given the text's characters before it, not the model's own
//     log-likelihood   ln of the probability that the text's character had, mean over all of them
#pragma once

#include <algorithm>
#include <chrono>
#include <span>
#include <string>
#include <vector>

#include "../io/logits.hpp"
#include "decoder.hpp"
#include "policies.hpp"

namespace generate {

/// Seconds and tokens of what took them.
struct speed {
  double tokens = 0, seconds = 0;

  /// Runs what handles so many tokens, and counts them.
  template <class Work>
  auto measure(std::size_t count, Work const& work) {
    using clock = std::chrono::steady_clock;
    auto const start = clock::now();
    auto result = work();
    seconds += std::chrono::duration<double>(clock::now() - start).count();
    tokens += static_cast<double>(count);
    return result;
  }
  double per_second() const { return tokens / seconds; }
};

/// Logits of what follows a prompt, which comes in pieces.
inline row_vector read_prompt(decoder const& model, std::span<int const> prompt, layer_attention& attention) {
  row_vector logits;
  for (std::size_t first = 0; first < prompt.size(); first += prompt_piece)
    logits =
        model.forward(prompt.subspan(first, std::min<std::size_t>(prompt_piece, prompt.size() - first)), attention);
  return logits;
}

/// The `count` characters that follow a prompt. each(character) is called with each as it comes. Prompt and text
/// together are at most as long as the model's context.
template <class Each>
std::string continued(decoder const& model, std::span<int const> prompt, index_t count, layer_attention& attention,
                      Each const& each) {
  std::string text;
  row_vector logits = read_prompt(model, prompt, attention);
  for (index_t i = 0; i < count; ++i) {
    int const token = attend_io::likeliest(logits);
    text += model.character(token);
    each(text.back());
    if (i + 1 < count) logits = model.forward(std::span(&token, 1), attention);
  }
  return text;
}

struct text_score {
  std::vector<int> choices;
  double log_likelihood = 0;
  speed prompt, steps;
};

/// Scores whole pieces, of which each is as long as the model's context, and begins with nothing kept.
inline text_score score(decoder const& model, std::span<int const> tokens, policy const& kept,
                        attend::threads executor) {
  text_score result;
  auto const length = static_cast<std::size_t>(model.shape().context), half = length / 2;
  double sum = 0;
  for (std::size_t first = 0; first + length <= tokens.size(); first += length) {
    auto const piece = tokens.subspan(first, length);
    auto const attention = kept.begin(model, executor);
    row_vector logits = result.prompt.measure(half, [&] { return read_prompt(model, piece.first(half), *attention); });
    for (std::size_t i = half; i < length; ++i) {
      result.choices.push_back(attend_io::likeliest(logits));
      sum += attend_io::log_probability(logits, piece[i]);
      if (i + 1 < length)
        logits = result.steps.measure(1, [&] { return model.forward(piece.subspan(i, 1), *attention); });
    }
  }
  result.log_likelihood = sum / static_cast<double>(result.choices.size());
  return result;
}

/// The share of a that b has in common with it before they first differ.
inline double same_beginning(std::string const& a, std::string const& b) {
  auto const same = std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
  return a.empty() ? 1 : static_cast<double>(same) / static_cast<double>(a.size());
}

/// The share of choices that are the same.
inline double same_choices(std::vector<int> const& a, std::vector<int> const& b) {
  index_t same = 0;
  for (std::size_t i = 0; i < a.size(); ++i) same += a[i] == b[i];
  return static_cast<double>(same) / static_cast<double>(a.size());
}

}  // namespace generate
