// SPDX-License-Identifier: BSD-3-Clause
// Cascade pruning: tokens and heads that have been given little so far, over layers and steps, are dropped, and no
// later layer has them again.
//
//   tokens   I_j += sum over heads and queries of P_ij       P the softmax weights of a layer
//            layer l keeps, of the tokens that all layers before it have kept, the first ones, the last ones, and of
//            those between the ones with the largest I_j
//   heads    J_h += sum over queries and dimensions of |o_h|
//            of the heads that are kept, those with the largest J_h are kept further
//
// The definition taken: I and J are sums over all layers and steps of a sequence so far, as the paper has them, and a
// token that one layer drops stays in the layers before it. First and last tokens are kept whatever their sums, as in
// the authors' port to language models (four, and a window).
//
// A model has an evicting_cache, or a bit_plane_cache, for each layer. Their scores are the weights of the layer's last
// attention (accumulate_weights, spatten_attention), which add_weights() takes out of them.
//
// Memory: 8 bytes for each token of a sequence. Cost: a few operations for each kept token, and that of top_k.
//
// Hanrui Wang, Zhekai Zhang, Song Han: SpAtten: Efficient Sparse Attention Architecture with Cascade Token and Head
// Pruning, 2020.
#pragma once

#include <limits>
#include <numeric>
#include <span>

#include "../cache/eviction.hpp"
#include "../core/arithmetic_mode.hpp"
#include "../core/buffer.hpp"
#include "../core/check.hpp"
#include "../core/executor.hpp"
#include "top_k.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// The tokens that a layer keeps: the first and the last ones, and the `heaviest` ones between them.
struct cascade_tokens {
  index_t heaviest = 0, first = 4, recent = 0;
};

/// The importance of tokens, and which layers have dropped them.
///
///     cascade_pruning pruning(8, 4096);  // sequences, capacity
///     evicting_cache<float> kept(shape, {.pages = 4096});
///     cached_attention(kept, q, k, v, o, log_sum_exp{lse});
///     accumulate_weights(q, lse, kept);
///     pruning.add_weights(kept);
///     pruning.prune(kept, 1, {.heaviest = 512, .recent = 128});  // the cache of the next layer
class cascade_pruning {
 public:
  /// Allocates memory for sequences of up to `capacity` tokens. Throws argument_error where a number is negative or the
  /// product does not fit in memory.
  cascade_pruning(index_t sequences, index_t capacity)
      : sequences_(sequences),
        capacity_(capacity),
        importance_("cascade_pruning", std::array{sequences, capacity}),
        dropped_by_("cascade_pruning", std::array{sequences, capacity}) {
    for (index_t s = 0; s < sequences; ++s) clear(s);
  }

  /// I of each token of a sequence, and the first layer that has dropped it, layer_limit if none has.
  std::span<float const> importance(index_t sequence) const {
    return {importance_.data() + sequence * capacity_, static_cast<std::size_t>(capacity_)};
  }
  static constexpr std::int32_t layer_limit = std::numeric_limits<std::int32_t>::max();
  std::int32_t dropped_by(index_t sequence, index_t token) const { return dropped_by_[sequence * capacity_ + token]; }
  index_t bytes() const { return importance_.bytes() + dropped_by_.bytes(); }

  /// Begins a sequence anew.
  void clear(index_t sequence) {
    std::fill_n(importance_.data() + sequence * capacity_, capacity_, 0.f);
    std::fill_n(dropped_by_.data() + sequence * capacity_, capacity_, layer_limit);
  }

  /// Adds the scores of a cache's rows to the importance of their tokens, and sets them to 0. Throws argument_error,
  /// before anything changes, where the cache has other sequences or more tokens than there is room for.
  template <class Cache>
  void add_weights(Cache& cache) {
    arithmetic_mode const arithmetic;
    check(cache);
    cache.separate();
    for (index_t s = 0; s < sequences_; ++s)
      for (index_t head = 0; head < cache.key_value_heads(); head += cache.heads_together())
        for (index_t row = 0; row < cache.stored(s, head);) {
          auto const scores = cache.scores(s, head, row);
          auto const positions = cache.positions(s, head, row);
          float* const sums = importance_.data() + s * capacity_;
          for (std::size_t i = 0; i < scores.size(); ++i) sums[positions[i]] += scores[i];
          std::fill(scores.begin(), scores.end(), 0.f);
          row += static_cast<index_t>(scores.size());
        }
  }

  /// Drops from a layer's cache what an earlier layer has dropped, and what is not among the tokens that this one
  /// keeps, in the sequences that had at least `slack` tokens since the last such call; returns the number of rows that
  /// are gone. All heads keep the same tokens. Throws argument_error, before anything changes, where the cache does not
  /// fit, a number is negative, or evict() of the cache would.
  template <class Cache, Executor E = serial>
  index_t prune(Cache& cache, index_t layer, cascade_tokens const& keep, index_t slack = 32, E&& executor = {}) {
    arithmetic_mode const arithmetic;
    check(cache);
    if (layer < 0 || layer >= layer_limit) fail("layer", "expected from 0 to ", layer_limit - 1, ", got ", layer);
    for (index_t const count : {keep.heaviest, keep.first, keep.recent})
      if (count < 0) fail("cascade_tokens", "expected numbers of at least 0 tokens, got ", count);
    if (slack < 1) fail("slack", "expected at least 1 token, got ", slack);
    // What evict() needs beyond this, it has.
    cache.separate();
    for (index_t s = 0; s < sequences_ && cache.key_value_heads() > 0; ++s)
      if (cache.since_eviction(s) >= slack) choose(cache, s, static_cast<std::int32_t>(layer), keep);
    return cache.evict(
        [&](auto const& tokens, std::span<bool> stays) {
          std::int32_t const* const dropped_by = dropped_by_.data() + tokens.sequence * capacity_;
          for (std::size_t i = 0; i < stays.size(); ++i) stays[i] = dropped_by[tokens.position[i]] > layer;
        },
        slack, executor);
  }

 private:
  template <class Cache>
  void check(Cache const& cache) const {
    detail::check_extent("cache", "sequences", cache.sequences(), sequences_, "cascade_pruning");
    for (index_t s = 0; s < sequences_; ++s)
      if (cache.size(s) > capacity_)
        fail("cache", "expected at most ", capacity_, " tokens (cascade_pruning), got ", cache.size(s), " of sequence ",
             s);
  }

  /// Says of the tokens of a layer which it drops.
  template <class Cache>
  void choose(Cache const& cache, index_t s, std::int32_t layer, cascade_tokens const& keep) {
    index_t const rows = cache.stored(s, 0);
    std::int32_t* const dropped_by = dropped_by_.data() + s * capacity_;
    scratch memory;
    auto* const token = memory.allocate<std::int32_t>(rows + 1);
    float* const score = memory.allocate<float>(rows + 1);
    index_t between = 0;
    for (index_t row = 0; row < rows;) {
      auto const positions = cache.positions(s, 0, row);
      for (std::int32_t const position : positions)
        if (position >= keep.first && position < cache.size(s) - keep.recent && dropped_by[position] > layer) {
          token[between] = position;
          score[between++] = importance_[s * capacity_ + position];
        }
      row += static_cast<index_t>(positions.size());
    }
    if (between <= keep.heaviest) return;
    auto* const chosen = memory.allocate<std::int32_t>(keep.heaviest + 1);
    index_t const found = selection::top_k(score, between, keep.heaviest, chosen);
    index_t next = 0;
    for (index_t i = 0; i < between; ++i)
      if (next < found && chosen[next] == i)
        ++next;
      else
        dropped_by[token[i]] = layer;
  }

  index_t sequences_, capacity_;
  detail::buffer<float> importance_;
  detail::buffer<std::int32_t> dropped_by_;
};

/// The importance of heads, and which are kept: gates of 1 and 0 for options::head_gates, which skips the others. `A`
/// is the accumulation type of the calls; `together` heads are kept or dropped together, by their sum, as those that
/// share keys whose bytes are to be saved.
///
///     cascade_heads<float> heads(8, 32);  // sequences, query heads
///     decode_attention(q, cache, o, head_gates(heads.gates()));
///     heads.add_outputs(o);
///     heads.keep(24);
template <class A = float>
class cascade_heads {
 public:
  /// All heads are kept. Throws argument_error where a number is negative, or `together` does not divide the heads.
  cascade_heads(index_t sequences, index_t query_heads, index_t together = 1)
      : sequences_(sequences),
        heads_(query_heads),
        together_(together),
        importance_("cascade_heads", std::array{sequences, query_heads}),
        gates_("cascade_heads", std::array{sequences, query_heads}) {
    if (together < 1 || query_heads % together != 0)
      fail("cascade_heads", "expected a divisor of ", query_heads, " heads that are kept together, got ", together);
    for (index_t s = 0; s < sequences; ++s) clear(s);
  }

  /// 1 for a head that is kept, 0 for another, and J: [sequence, query head].
  tensor_view<A const, 2> gates() const { return {gates_.data(), {sequences_, heads_}}; }
  tensor_view<double const, 2> importance() const { return {importance_.data(), {sequences_, heads_}}; }

  /// Begins a sequence anew.
  void clear(index_t sequence) {
    std::fill_n(importance_.data() + sequence * heads_, heads_, 0.);
    std::fill_n(gates_.data() + sequence * heads_, heads_, A(1));
  }

  /// Adds the magnitudes of an output [sequence, query head, query, value dimension]. Throws argument_error where its
  /// shape does not fit.
  template <TensorArgument Output>
  void add_outputs(Output const& output) {
    arithmetic_mode const arithmetic;
    tensor_view<element_of_t<Output const> const, 4> const o = raise<4>(view_of(output));
    detail::check_view("output", o);
    detail::check_extent("output", "sequences", o.extent(0), sequences_, "cascade_heads");
    detail::check_extent("output", "heads", o.extent(1), heads_, "cascade_heads");
    for (index_t s = 0; s < sequences_; ++s)
      for (index_t h = 0; h < heads_; ++h)
        for (index_t i = 0; i < o.extent(2); ++i)
          for (index_t c = 0; c < o.extent(3); ++c)
            importance_[s * heads_ + h] += std::abs(static_cast<double>(static_cast<A>(o(s, h, i, c))));
  }

  /// Keeps of the heads that are kept the `count` ones of largest importance; of equal ones the first. Throws
  /// argument_error where the count is negative or no multiple of the heads that are kept together.
  void keep(index_t count) {
    if (count < 0 || count % together_ != 0)
      fail("count", "expected at least 0 heads, ", together_, " together, got ", count);
    index_t const groups = heads_ / together_;
    scratch memory;
    double* const score = memory.allocate<double>(groups + 1);
    index_t* const order = memory.allocate<index_t>(groups + 1);
    for (index_t s = 0; s < sequences_; ++s) {
      index_t there = 0;
      for (index_t group = 0; group < groups; ++group) {
        index_t const first = s * heads_ + group * together_;
        if (gates_[first] == A(0)) continue;
        score[group] = std::accumulate(importance_.data() + first, importance_.data() + first + together_, 0.);
        order[there++] = group;
      }
      std::sort(order, order + there,
                [&](index_t a, index_t b) { return score[a] > score[b] || (score[a] == score[b] && a < b); });
      for (index_t i = count / together_; i < there; ++i)
        std::fill_n(gates_.data() + s * heads_ + order[i] * together_, together_, A(0));
    }
  }

 private:
  index_t sequences_, heads_, together_;
  detail::buffer<double> importance_;
  detail::buffer<A> gates_;
};

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
