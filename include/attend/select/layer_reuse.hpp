// SPDX-License-Identifier: BSD-3-Clause
// Which layers of a model choose tokens themselves, and which take the choice of an earlier layer (HyLRA): found out
// once, from the lists and outputs of some prompts, before hylra_attention runs with it.
//
//   similarity(a, b)   |I_a and I_b| / |I_b|, the share of layer b's list that layer a's has: the mean over lists
//   sensitivity(b)     ||o_b - o'_b|| / ||o_b||, how much the output of layer b changes if it attends to a list
//                      instead of all tokens: the mean over prompts
//
// Layer b, which reuses the list of the last full layer a, harms by
//
//   harm(a, b) = sensitivity(b) (1 - similarity(a, b))
//
// and may do so only where its sensitivity is at most, and the similarity at least, what is asked. The policy has the
// first layer full, as few full layers as that allows, or a given number, and of all such policies the least sum of
// harms: by dynamic programming over the last full layer, since what a layer reuses depends on that layer alone:
//
//   best(n, b) = min over a < b of best(n - 1, a) + sum over a < c < b of harm(a, c)
//
// Cost: layers^2 steps for each number of full layers.
//
// HyLRA: Hybrid Layer Reuse Attention for Efficient Long-Context Inference, 2026. The abstract names the sensitivity
// within a layer, the similarity between layers and the dynamic programme; how they are put together here is this
// library's reading.
#pragma once

#include <vector>

#include "../core/check.hpp"
#include "../core/eigen_tensor.hpp"
#include "token_lists.hpp"

namespace attend::inline ATTEND_TARGET {

namespace selection {

/// What layers' lists have in common, and how much a list changes a layer's output: means over what was added.
///
///     layer_profile profile(2);
///     token_lists const lists(8, 8, 1024);
///     profile.add_lists({&lists, &lists});  // of each layer, in one step
///     profile.add_outputs(1, o, o2);         // of layer 1: with all tokens, and with its list
class layer_profile {
 public:
  /// Throws argument_error where there is no layer.
  explicit layer_profile(index_t layers) : layers_(layers) {
    if (layers < 1) extend::fail("layers", "expected at least 1, got ", layers);
    common_.assign(static_cast<std::size_t>(layers * layers), 0);
    change_.assign(static_cast<std::size_t>(layers), 0);
    steps_.assign(static_cast<std::size_t>(layers), 0);
  }

  index_t layers() const { return layers_; }
  /// Adds what the lists of all layers, one of each, have in common. Lists without rows are left out. Throws
  /// argument_error where a list of lists lacks, or numbers of sequences or heads differ.
  void add_lists(std::span<token_lists const* const> of_layer) {
    detail::check_extent("of_layer", "layers", static_cast<index_t>(of_layer.size()), layers_, "the profile");
    for (token_lists const* const lists : of_layer) {
      if (!lists) extend::fail("of_layer", "expected the lists of each layer, got null");
      detail::check_extent("of_layer", "sequences", lists->sequences(), of_layer[0]->sequences(), "the first layer");
      detail::check_extent("of_layer", "heads", lists->heads(), of_layer[0]->heads(), "the first layer");
    }
    for (index_t s = 0; s < of_layer[0]->sequences(); ++s)
      for (index_t head = 0; head < of_layer[0]->heads(); ++head) {
        if (std::any_of(of_layer.begin(), of_layer.end(), [&](auto const* of) { return of->size(s, head) == 0; }))
          continue;
        ++lists_;
        for (index_t a = 0; a < layers_; ++a)
          for (index_t b = a + 1; b < layers_; ++b)
            common_[place(a, b)] += share_of((*at(of_layer, a))(s, head), (*at(of_layer, b))(s, head));
      }
  }
  void add_lists(std::initializer_list<token_lists const*> of_layer) {
    add_lists(std::span<token_lists const* const>(of_layer.begin(), of_layer.size()));
  }

  /// Adds by how much the output of a layer changes: of_all and of_list have the same shape, [sequence, query head,
  /// token, value dimension]. An output of zeros alone is left out. Throws argument_error where the layer or a shape
  /// does not fit.
  template <extend::TensorArgument All, extend::TensorArgument List>
  void add_outputs(index_t layer, All const& with_all, List const& with_list) {
    auto const of_all = extend::raise<4>(extend::view_of(with_all));
    auto const of_list = extend::raise<4>(extend::view_of(with_list));
    check_layer(layer);
    detail::check_view("of_all", of_all);
    detail::check_view("of_list", of_list);
    if (of_list.extents() != of_all.extents())
      extend::fail("of_list", "expected shape ", detail::list_text(of_all.extents()), " (as of_all), got ",
                   detail::list_text(of_list.extents()));
    double difference = 0, norm = 0;
    for (index_t s = 0; s < of_all.extent(0); ++s)
      for (index_t head = 0; head < of_all.extent(1); ++head)
        for (index_t t = 0; t < of_all.extent(2); ++t)
          for (index_t c = 0; c < of_all.extent(3); ++c) {
            double const x = static_cast<double>(of_all(s, head, t, c)),
                         y = static_cast<double>(of_list(s, head, t, c));
            difference += (x - y) * (x - y);
            norm += x * x;
          }
    if (norm == 0) return;
    change_[static_cast<std::size_t>(layer)] += std::sqrt(difference / norm);
    ++steps_[static_cast<std::size_t>(layer)];
  }

  /// How much of the list of layer b that of layer a < b has, from 0 to 1; 0 where nothing was added. Throws
  /// argument_error where a is not before b.
  double similarity(index_t a, index_t b) const {
    check_layer(b);
    if (a < 0 || a >= b) extend::fail("a", "expected a layer before layer ", b, ", got ", a);
    return lists_ > 0 ? common_[place(a, b)] / static_cast<double>(lists_) : 0;
  }
  /// The relative change of a layer's output; 0 where nothing was added. Throws argument_error where there is no such
  /// layer.
  double sensitivity(index_t layer) const {
    check_layer(layer);
    index_t const steps = steps_[static_cast<std::size_t>(layer)];
    return steps > 0 ? change_[static_cast<std::size_t>(layer)] / static_cast<double>(steps) : 0;
  }

 private:
  static token_lists const* at(std::span<token_lists const* const> lists, index_t layer) {
    return lists[static_cast<std::size_t>(layer)];
  }
  void check_layer(index_t layer) const {
    if (layer < 0 || layer >= layers_) extend::fail("layer", "expected from 0 to ", layers_ - 1, ", got ", layer);
  }
  std::size_t place(index_t a, index_t b) const { return static_cast<std::size_t>(a * layers_ + b); }
  /// The share of the rows of `of` that `from` has too. Both ascend.
  static double share_of(std::span<std::int32_t const> from, std::span<std::int32_t const> of) {
    std::size_t common = 0;
    for (std::size_t i = 0, j = 0; i < from.size() && j < of.size();) {
      common += from[i] == of[j];
      std::int32_t const row = from[i];
      i += row <= of[j];
      j += of[j] <= row;
    }
    return static_cast<double>(common) / static_cast<double>(of.size());
  }

  index_t layers_;
  index_t lists_ = 0;
  std::vector<double> common_;  // [layer][later layer]
  std::vector<double> change_;
  std::vector<index_t> steps_;
};

/// Which layers may reuse lists, and how many do not.
struct layer_reuse_options {
  /// A layer of higher sensitivity is full.
  double max_sensitivity = infinity<double>;
  /// A layer takes no list of which it would have chosen a smaller share.
  double min_similarity = 0;
  /// The number of full layers; 0 means as few as possible.
  index_t full_layers = 0;
};

/// Says which layers are full: the policy of this file's beginning, with an entry for each layer, 1 for a full one. Of
/// policies that harm alike the one whose full layers come earlier is taken.
///
/// Throws argument_error where an option does not fit, or where no policy has so many full layers.
///
///     layer_profile profile(32);
///     std::vector<std::int32_t> const full = choose_full_layers(profile, {.full_layers = 8});
///     weight_selector<float> selector(shape, 32, 4096, {.budget = {.tokens = 2048}});
///     for (std::int32_t const layer : full) hylra_attention(q, cache, selector, layer != 0, o);
inline std::vector<std::int32_t> choose_full_layers(layer_profile const& profile,
                                                    layer_reuse_options const& options = {}) {
  index_t const layers = profile.layers();
  if (!(options.max_sensitivity >= 0))
    extend::fail("layer_reuse_options", "expected a sensitivity of at least 0, got ", options.max_sensitivity);
  if (!(options.min_similarity >= 0 && options.min_similarity <= 1))
    extend::fail("layer_reuse_options", "expected a similarity from 0 to 1, got ", options.min_similarity);
  if (options.full_layers < 0 || options.full_layers > layers)
    extend::fail("layer_reuse_options", "expected 0 to ", layers, " full layers, got ", options.full_layers);

  // harm[a][b]: that of the layers between full layers a and b; b may be behind the last layer.
  index_t const ends = layers + 1;
  auto const at = [&](index_t a, index_t b) { return static_cast<std::size_t>(a * ends + b); };
  std::vector<double> harm(static_cast<std::size_t>(layers * ends), infinity<double>);
  for (index_t a = 0; a < layers; ++a) {
    double sum = 0;
    for (index_t b = a + 1; b <= layers; ++b) {
      harm[at(a, b)] = sum;
      if (b == layers) break;
      double const sensitivity = profile.sensitivity(b), similarity = profile.similarity(a, b);
      bool const may = sensitivity <= options.max_sensitivity && similarity >= options.min_similarity;
      sum = may ? sum + sensitivity * (1 - similarity) : infinity<double>;
    }
  }
  // best[n][b] with n full layers before b, the first of which is layer 0; from[n][b] is the last of them.
  std::vector<double> best(static_cast<std::size_t>(ends * ends), infinity<double>);
  std::vector<index_t> from(best.size(), -1);
  best[at(0, 0)] = 0;
  index_t chosen = 0;
  for (index_t n = 1; n <= layers && chosen == 0; ++n) {
    for (index_t b = n; b <= layers; ++b)
      for (index_t a = n - 1; a < b; ++a)
        if (double const sum = best[at(n - 1, a)] + harm[at(a, b)]; sum < best[at(n, b)]) {
          best[at(n, b)] = sum;
          from[at(n, b)] = a;
        }
    if (from[at(n, layers)] >= 0 && (options.full_layers == 0 || options.full_layers == n)) chosen = n;
  }
  if (chosen == 0)
    extend::fail("layer_reuse_options",
                 "expected another number of full layers (what is asked of the others forbids it), got ",
                 options.full_layers);
  std::vector<std::int32_t> full(static_cast<std::size_t>(layers), 0);
  for (index_t n = chosen, b = layers; n > 0; --n) {
    b = from[at(n, b)];
    full[static_cast<std::size_t>(b)] = 1;
  }
  return full;
}

}  // namespace selection

}  // namespace attend::inline ATTEND_TARGET
