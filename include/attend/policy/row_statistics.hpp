// SPDX-License-Identifier: BSD-3-Clause
// What a call can tell of the rows of weights p that it computes, without storing them:
//
//   range_mass{r, t}         [batch, query head, query, range]  sum of p_ij over the keys j of each range
//   heaviest_keys{i, t}      [batch, query head, query, k]      the k keys of largest weight, heaviest first, and their
//                                                               weights; k = 1 is the arg-max key
//   entropy{t}               [batch, query head, query]         -sum_j p_ij ln p_ij, in nats
//   block_maxima{t, {B, C}}  [batch, query head, block of B queries, block of C keys]   max p_ij of the block
//
// p are the weights that weights{} would write: after scores, mask and normalizer, before gains; slots and sinks are in
// the denominator, and have no term of their own here. A row that sees nothing has masses, maxima and an entropy of 0,
// and keys of -1. Keys are counted in their sequence, as positions are. Leading axes may be left out.
//
// Cost: a few vector operations for each pair, in the pass that computes the output; at most one more exponential.
// Scratch: for each row in work k keys, two numbers for each range and one for each block of keys.
//
// Sums of weights over segments: Alexander Peysakhovich, Adam Lerer: Attention Sorting Combats Recency Bias in Long
// Context Language Models, 2023. Arg-max keys: Wenhao Wu et al.: Retrieval Head Mechanistically Explains Long-Context
// Factuality, 2024. Entropy: Zhisong Zhang et al.: Attention Entropy is a Key Factor, 2024. Maxima of blocks: Yizhao
// Gao et al.: SeerAttention, 2024.
#pragma once

#include <cstdint>
#include <span>

#include "../core/check.hpp"
#include "output.hpp"
#include "tile.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// The statistics that a call asks for; those that it does not ask for have no data.
template <class A>
struct asked_statistics {
  tensor_view<A, 3> entropy;
  tensor_view<A, 4> range_mass;
  std::span<key_range const> ranges;
  tensor_view<std::int32_t, 4> heaviest_keys;
  tensor_view<A, 4> heaviest_weights;
  tensor_view<A, 4> block_maxima;
  index_t block_queries = 1, block_keys = 1;

  bool any() const { return entropy.data() || range_mass.data() || heaviest_keys.data() || block_maxima.data(); }
  /// The ranges of a sequence, which may be those of all.
  std::span<key_range const> ranges_of(index_t sequence) const {
    if (!range_mass.data()) return {};
    auto const count = static_cast<std::size_t>(range_mass.extent(3));
    return ranges.subspan(ranges.size() == count ? 0 : static_cast<std::size_t>(sequence) * count, count);
  }
};

}  // namespace detail

namespace options {

/// Writes the sum of each row's weights over ranges of keys to a tensor [batch, query head, query, range] of the
/// accumulation type: the ranges of all sequences, or of each sequence as many, one sequence after the other. Ranges of
/// a sequence ascend and do not overlap; they may be empty, leave gaps, and end behind the last key. A call throws
/// argument_error where ranges, shape or memory do not fit.
///
///     std::vector<key_range> const documents{{0, 64}, {64, 512}};
///     tensor<4> masses(1, 32, 512, 2);
///     softmax_attention(q, k, v, o, causal{}, range_mass(documents, masses));
template <class T>
struct range_mass : detail::output_tensor<option::range_mass, T, 4> {
  std::span<extend::key_range const> ranges;

  template <TensorArgument Tensor>
  range_mass(std::span<extend::key_range const> of_keys, Tensor&& tensor)
      : detail::output_tensor<option::range_mass, T, 4>(tensor), ranges(of_keys) {}
};
template <class Ranges, class Tensor>
range_mass(Ranges&&, Tensor&&) -> range_mass<element_of_t<Tensor>>;

/// Writes the heaviest keys of each row, by falling weight and, of equal ones, by ascending key, to a tensor [batch,
/// query head, query, k] of std::int32_t, and their weights to one of the accumulation type; -1 and 0 where a row sees
/// fewer than k keys. A softmax orders keys by their logits, which tells more of them apart than rounded weights do;
/// keys whose logit is NaN or -inf are not among them. A call throws argument_error where shapes or memory do not fit.
///
///     Eigen::Tensor<std::int32_t, 4, Eigen::RowMajor> keys(1, 32, 512, 1);
///     tensor<4> heaviest(1, 32, 512, 1);
///     softmax_attention(q, k, v, o, causal{}, heaviest_keys(keys, heaviest));
template <class T>
struct heaviest_keys {
  using option_kind = option::heaviest_keys;
  tensor_view<std::int32_t, 4> keys;
  tensor_view<T, 4> weights;

  template <TensorArgument Keys, TensorArgument Tensor>
  heaviest_keys(Keys&& of_rows, Tensor&& tensor)
      : keys(raise<4>(view_of(of_rows))), weights(raise<4>(view_of(tensor))) {}
};
template <class Keys, class Tensor>
heaviest_keys(Keys&&, Tensor&&) -> heaviest_keys<element_of_t<Tensor>>;

/// Writes the entropy of each row of softmax weights, in nats, to a tensor [batch, query head, query] of the
/// accumulation type. With sinks or slots it is the sum over the keys alone, whose weights sum up to less than 1. A
/// call throws argument_error where shape or memory does not fit.
///
///     softmax_attention(q, k, v, o, causal{}, entropy(lse));
template <class T>
struct entropy : detail::output_tensor<option::entropy, T, 3> {
  using detail::output_tensor<option::entropy, T, 3>::output_tensor;
};
template <class Tensor>
entropy(Tensor&&) -> entropy<element_of_t<Tensor>>;

/// Queries and keys of a block, in tokens.
struct block_extents {
  index_t queries = 64, keys = 64;
};

/// Writes the largest weight of each block of queries and keys to a tensor [batch, query head, block of queries, block
/// of keys] of the accumulation type; the last blocks may be shorter. A call throws argument_error where a block has no
/// tokens, where shape or memory does not fit, or where sequences are packed.
///
///     tensor<4> maxima(1, 32, 8, 8);
///     softmax_attention(q, k, v, o, causal{}, block_maxima(maxima, {.queries = 64, .keys = 64}));
template <class T>
struct block_maxima : detail::output_tensor<option::block_maxima, T, 4> {
  block_extents block;

  template <TensorArgument Tensor>
  explicit block_maxima(Tensor&& tensor, block_extents of_tokens = {})
      : detail::output_tensor<option::block_maxima, T, 4>(tensor), block(of_tokens) {}
};
template <class Tensor>
block_maxima(Tensor&&, block_extents = {}) -> block_maxima<element_of_t<Tensor>>;

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
