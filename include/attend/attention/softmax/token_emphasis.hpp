// SPDX-License-Identifier: BSD-3-Clause
// Token emphasis with head modulation: some of an image's tokens get more weight, the more so in heads that look at the
// image.
//
//   local stream    the tokens whose saliency is highest above the mean of their neighbours' in the image
//   spatial stream  of each cell of a coarse grid over the image the token of highest saliency
//   E               both together                                                         emphasized_tokens
//   gamma_h = 1 + strength * m_h / max_h m_h        m_h the mass that head h gives to the image
//   p'_hij  = gamma_h p_hij / (its row's sum) for keys j in E, p_hij / (the same) for others
//
// which is softmax attention with ln gamma_h added to the logits of the keys in E: a bias [1, head, 1, key]
// (emphasis_bias), and nothing is computed twice. Saliency and masses come from the weights that the image's tokens
// get: key_mass, or range_mass.
//
// Cost: beside attention with a bias, a few operations for each token of the image and each key.
//
// Kazi Hasan Ibn Arif, Sajib Acharjee Dip, Khizar Hussain, Lang Zhang, Chris Thomas: Fixing Imbalanced Attention to
// Mitigate In-Context Hallucination of Large Vision-Language Model, 2025. The paper's abstract names the two streams
// and heads modulated by their visual sensitivity; the formulas are the simplest reading of it.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "../../core/check.hpp"

namespace attend::inline ATTEND_TARGET::systems {

/// An image's tokens in row-major order, and how many of them each stream takes: `local` tokens, and one of each of
/// `cells` * `cells` cells.
struct emphasized_image {
  index_t rows, columns;
  index_t local = 16;
  index_t cells = 4;
};

/// Gives the emphasized tokens of an image, ascending: saliency [token] has rows * columns numbers. Neighbours are the
/// up to eight around a token that are numbers; of equal tokens the first is taken; a saliency that is no number counts
/// as lowest.
///
/// Throws argument_error where shapes or numbers do not fit.
///
///     std::vector<std::int64_t> const tokens =
///         emphasized_tokens(std::vector<float>(576), {.rows = 24, .columns = 24});
template <TensorArgument Saliency>
std::vector<std::int64_t> emphasized_tokens(Saliency const& saliency, emphasized_image const& image) {
  auto const given = view_of(saliency);
  detail::check_view("saliency", given);
  if (image.rows < 0 || image.columns < 0 || image.local < 0 || image.cells < 0)
    fail("image", "expected numbers of at least 0, got ",
         detail::list_text(std::array{image.rows, image.columns, image.local, image.cells}));
  detail::check_extent("saliency", "tokens", given.extent(0), image.rows * image.columns, "rows * columns");
  auto const at = [&](index_t row, index_t column) {
    double const x = static_cast<double>(given(row * image.columns + column));
    return std::isnan(x) ? -std::numeric_limits<double>::infinity() : x;
  };
  std::vector<std::int64_t> tokens;
  std::vector<std::pair<double, index_t>> above;
  for (index_t r = 0; r < image.rows; ++r)
    for (index_t c = 0; c < image.columns; ++c) {
      double sum = 0, count = 0;
      for (index_t i = std::max<index_t>(r - 1, 0); i <= std::min(r + 1, image.rows - 1); ++i)
        for (index_t j = std::max<index_t>(c - 1, 0); j <= std::min(c + 1, image.columns - 1); ++j)
          if ((i != r || j != c) && std::isfinite(at(i, j))) sum += at(i, j), ++count;
      above.emplace_back(at(r, c) - sum / std::max(count, 1.0), r * image.columns + c);
    }
  std::sort(above.begin(), above.end(), [](auto const& a, auto const& b) {
    return a.first > b.first || (a.first == b.first && a.second < b.second);
  });
  for (std::size_t n = 0; n < above.size() && static_cast<index_t>(n) < image.local; ++n)
    tokens.push_back(above[n].second);
  for (index_t i = 0; i < image.cells; ++i)
    for (index_t j = 0; j < image.cells; ++j) {
      index_t best = -1;
      for (index_t r = i * image.rows / image.cells; r < (i + 1) * image.rows / image.cells; ++r)
        for (index_t c = j * image.columns / image.cells; c < (j + 1) * image.columns / image.cells; ++c)
          if (best < 0 || at(r, c) > at(best / image.columns, best % image.columns)) best = r * image.columns + c;
      if (best >= 0) tokens.push_back(best);
    }
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  return tokens;
}

/// Writes the bias of the emphasized keys: masses [query head] are what heads give to the image, keys the emphasized
/// keys of the call, which are the image's tokens moved to where the image begins, and bias is [1, query head, 1, key]
/// of the accumulation type. Where no head gives anything to the image, no head is modulated.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or a key do not fit, a mass is
/// negative or not finite, or the strength is.
///
///     std::vector<std::int64_t> const keys{40, 57, 80};
///     emphasis_bias(numbers, keys, 0.5, pairs);
///     softmax_attention(q, k, v, o, causal{}, bias(pairs));
template <TensorArgument Masses, TensorArgument Keys, TensorArgument Bias>
void emphasis_bias(Masses const& masses, Keys const& keys, double strength, Bias&& bias) {
  using A = element_of_t<Bias>;
  auto const of_heads = view_of(masses);
  auto const chosen = view_of(keys);
  tensor_view<A, 4> const to = raise<4>(view_of(bias));
  detail::check_view("masses", of_heads);
  detail::check_view("keys", chosen);
  detail::check_output_view("bias", to);
  detail::check_extent("bias", "batch", to.extent(0), 1, "one for all");
  detail::check_extent("bias", "heads", to.extent(1), of_heads.extent(0), "masses");
  detail::check_extent("bias", "queries", to.extent(2), 1, "one for all");
  if (!(strength >= 0) || !std::isfinite(strength)) fail("strength", "expected at least 0, got ", strength);
  double most = 0;
  for (index_t h = 0; h < of_heads.extent(0); ++h) {
    double const mass = static_cast<double>(of_heads(h));
    if (!(mass >= 0) || !std::isfinite(mass)) fail("masses", "expected finite numbers of at least 0, got ", mass);
    most = std::max(most, mass);
  }
  for (index_t n = 0; n < chosen.extent(0); ++n)
    if (chosen(n) < 0 || chosen(n) >= to.extent(3))
      fail("keys", "expected keys from 0 to ", to.extent(3) - 1, ", got ", chosen(n));
  for (index_t h = 0; h < to.extent(1); ++h) {
    for (index_t j = 0; j < to.extent(3); ++j) to(0, h, 0, j) = A(0);
    double const share = most > 0 ? static_cast<double>(of_heads(h)) / most : 0;
    for (index_t n = 0; n < chosen.extent(0); ++n)
      to(0, h, 0, static_cast<index_t>(chosen(n))) = static_cast<A>(std::log1p(strength * share));
  }
}

}  // namespace attend::inline ATTEND_TARGET::systems
