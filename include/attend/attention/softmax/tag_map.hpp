// SPDX-License-Identifier: BSD-3-Clause
// TAG: where in an image the words of a text are, from the weights of a multimodal model that was not trained for it.
//
//   self-attention of the model: text and the image's tokens v are keys; T are the chosen tokens of the text
//     S[h, v] = mean_{i in T} p_h(i, v)
//     H       = the heads of largest sum_v S[h, v]
//     w_v     = mean_{h in H} S[h, v]                    what the chosen tokens give to the image's tokens
//   cross-attention by which the image's tokens read its patches j, with weights c_h(v, j):
//     map_j   = mean_h sum_v w_v c_h(v, j)               transposed_attention of w
//
// Where image tokens are patches themselves, w is the map. S comes from key_mass of the chosen queries or, divided by
// nothing, from range_mass with a range for each image token.
//
// Cost: attention of the chosen queries, and half of the cross-attention; no weights are stored.
//
// Hai-Ming Xu, Qi Chen, Lei Wang, Lingqiao Liu: Attention-driven GUI Grounding: Leveraging Pretrained Multimodal Large
// Language Models without Fine-Tuning, 2024 (overviews of the paper: how it chooses tokens of the text is not known
// here).
#pragma once

#include <numeric>
#include <span>
#include <vector>

#include "../../core/check.hpp"
#include "../../policy/tile.hpp"

namespace attend::inline ATTEND_TARGET::systems {

/// The `count` heads, or all if there are fewer, that give most weight to the image, as a list in ascending order.
/// `masses` is [query head, key], of the chosen tokens, as key_mass writes it, and `image` are the keys of the image's
/// tokens. Of equal heads the first are taken; a mass that is no number counts as lowest. Throws argument_error where
/// keys or count do not fit.
///
///     std::vector<std::int64_t> const chosen{500, 501, 505};
///     tensor<2> masses(32, 512);
///     attention_key_mass(q, k, tensor_view<float, 3>(), key_mass(masses, query_list{chosen}), causal{});
///     std::vector<index_t> const heads = tag_heads(masses, {10, 490}, 8);
template <TensorArgument Masses>
std::vector<index_t> tag_heads(Masses const& masses, key_range image, index_t count) {
  auto const of_heads = raise<2>(view_of(masses));
  detail::check_view("masses", of_heads);
  if (image.first < 0 || image.last < image.first || image.last > of_heads.extent(1))
    fail("image", "expected keys within ", of_heads.extent(1), ", got ",
         detail::list_text(std::array{image.first, image.last}));
  if (count < 0) fail("count", "expected at least 0 heads, got ", count);
  std::vector<double> sums;
  for (index_t h = 0; h < of_heads.extent(0); ++h) {
    double sum = 0;
    for (index_t j = image.first; j < image.last; ++j) sum += static_cast<double>(of_heads(h, j));
    sums.push_back(sum == sum ? sum : -infinity<double>);
  }
  std::vector<index_t> heads(sums.size());
  std::iota(heads.begin(), heads.end(), index_t{0});
  std::sort(heads.begin(), heads.end(), [&](index_t a, index_t b) {
    double const of_a = sums[static_cast<std::size_t>(a)], of_b = sums[static_cast<std::size_t>(b)];
    return of_a > of_b || (of_a == of_b && a < b);
  });
  heads.resize(std::min(heads.size(), static_cast<std::size_t>(count)));
  std::sort(heads.begin(), heads.end());
  return heads;
}

/// Writes what `tokens` chosen tokens give on average to each token of the image, averaged over the chosen heads:
/// `weights` has one number for each of them. Throws argument_error, before anything is written, where shapes, keys or
/// heads do not fit, or where no token or head is chosen.
///
///     std::vector<index_t> const heads{3, 17};
///     tensor<2> masses(32, 512);
///     tensor<1> of_image(480);
///     tag_weights(masses, {10, 490}, heads, 3, of_image);
template <TensorArgument Masses, TensorArgument Weights>
void tag_weights(Masses const& masses, key_range image, std::span<index_t const> heads, index_t tokens,
                 Weights&& weights) {
  using A = element_of_t<Weights>;
  auto const of_heads = raise<2>(view_of(masses));
  tensor_view<A, 1> const to = view_of(weights);
  detail::check_view("masses", of_heads);
  detail::check_output_view("weights", to);
  detail::check_apart("weights", to, "masses", of_heads);
  if (image.first < 0 || image.last < image.first || image.last > of_heads.extent(1))
    fail("image", "expected keys within ", of_heads.extent(1), ", got ",
         detail::list_text(std::array{image.first, image.last}));
  detail::check_extent("weights", "tokens", to.extent(0), image.count(), "image");
  if (heads.empty()) fail("heads", "expected at least 1 head, got none");
  if (tokens < 1) fail("tokens", "expected at least 1, got ", tokens);
  for (index_t const h : heads)
    if (h < 0 || h >= of_heads.extent(0)) fail("heads", "expected heads below ", of_heads.extent(0), ", got ", h);
  double const factor = 1 / (static_cast<double>(heads.size()) * static_cast<double>(tokens));
  for (index_t j = 0; j < image.count(); ++j) {
    double sum = 0;
    for (index_t const h : heads) sum += static_cast<double>(of_heads(h, image.first + j));
    to(j) = static_cast<A>(sum * factor);
  }
}

}  // namespace attend::inline ATTEND_TARGET::systems
