// SPDX-License-Identifier: BSD-3-Clause
// Policies of eviction (cache/eviction.hpp): which of its tokens a key-value head keeps.
//
//   keep_window         sinks and a window, whose length each head may have of its own      MoA, MSWA, StreamingLLM
//   keep_heaviest       the last tokens, and of the others those of the largest scores      H2O, SinkLoRA; VATP
//   keep_smallest_keys  the last tokens, and of the others those with the shortest keys     L2 norms
//   drop_closed_spans   of spans that have been closed, the closing tokens alone            sentinel tokens
//   keep_shard          a local window of blocks, and of the others every stride-th         S2-Attention
//
// A policy is a value; one of the user's own may be a lambda, and may call these, each with marks of its own: one that
// ranks tokens says anew which of them stay.
//
// Cost: a few operations for each kept token; that of top_k where tokens are ranked, and the bytes of keys or values
// where their norms are.
//
// Zhenyu Zhang et al.: H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models, 2023.
// Zhiyu Guo, Hidetaka Kamigaito, Taro Watanabe: Attention Score is not All You Need for Token Importance Indicator in
// KV Cache Reduction: Value Also Matters, 2024 (VATP). Alessio Devoto, Yu Zhao, Simone Scardapane, Pasquale Minervini:
// A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression, 2024. Siyu Ren, Qi Jia, Kenny Q. Zhu: Context
// Compression for Auto-regressive Transformers with Sentinel Tokens, 2023. Xihui Lin et al.: Efficient LLM Training and
// Serving with Heterogeneous Context Sharding among Attention Heads, 2024 (S2-Attention).
#pragma once

#include "../cache/eviction.hpp"
#include "../cache/quantize.hpp"
#include "../cache/row_memory.hpp"
#include "../core/index_list.hpp"
#include "../core/order.hpp"
#include "../policy/mask/block_builders.hpp"
#include "../simd/dot.hpp"
#include "top_k.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// The kept tokens that may go: all but those at positions below `first` and the last `last` of the sequence.
template <class Tokens>
key_range evictable(Tokens const& tokens, index_t first, index_t last) {
  auto const row_from = [&](index_t position) {
    return std::lower_bound(tokens.position.begin(), tokens.position.end(), position, ascending{}) -
           tokens.position.begin();
  };
  index_t const begin = row_from(first);
  return {begin, std::max<index_t>(begin, row_from(tokens.size - last))};
}

/// Keeps the `most` tokens of the largest scores of a range. score(row) is asked once for each.
template <class Score>
void keep_largest(std::span<bool> stays, key_range range, index_t most, Score const& score) {
  if (range.count() <= most) return;
  scratch memory;
  float* const scores = memory.allocate<float>(range.count());
  auto* const chosen = memory.allocate<std::int32_t>(most + 1);
  for (index_t row = range.first; row < range.last; ++row) scores[row - range.first] = static_cast<float>(score(row));
  std::fill_n(stays.begin() + range.first, range.count(), false);
  index_t const found = top_k(scores, range.count(), most, chosen);
  for (index_t i = 0; i < found; ++i) stays[static_cast<std::size_t>(range.first + chosen[i])] = true;
}

inline void check_kept(char const* policy, std::initializer_list<index_t> counts) {
  for (index_t count : counts)
    if (count < 0) fail(policy, "expected numbers of at least 0 tokens, got ", count);
}

}  // namespace detail

namespace caches {

/// Keeps the first tokens and the last ones: as rings of the heads' own lengths, where `windows` has one for each
/// key-value head, -1 for a head that keeps everything. These are what the next token sees beside itself: windows as
/// head_windows has them, which for heads that share keys is the longest of theirs.
///
///     evicting_cache<float> kept(shape, {.pages = 64, .page_tokens = 16});
///     kept.append(k, v);
///     kept.evict(keep_window{.sinks = 4, .window = 16});
struct keep_window {
  index_t sinks = 0;
  index_t window = 1;
  index_list windows = {};

  void check(cache_shape const& shape) const {
    detail::check_kept("keep_window", {sinks, window});
    if (windows.size() != 0 && windows.size() != shape.key_value_heads)
      extend::fail("keep_window", "expected a window for each of ", shape.key_value_heads, " heads, got ",
                   windows.size());
    for (index_t head = 0; head < windows.size(); ++head)
      if (windows[head] < -1)
        extend::fail("keep_window", "expected windows of at least -1, got ", windows[head], " for head ", head);
  }
  template <class Cache>
  void operator()(kept_tokens<Cache> const& tokens, std::span<bool> stays) const {
    index_t last = window;
    if (windows.size() > 0) {
      last = windows[tokens.head];
      // The longest one, of which -1 is no end.
      for (index_t head = tokens.head + 1; head < tokens.head + tokens.heads; ++head)
        last = last < 0 || windows[head] < 0 ? -1 : std::max<index_t>(last, windows[head]);
    }
    if (last < 0) return;
    extend::key_range const gone = detail::evictable(tokens, sinks, last);
    std::fill_n(stays.begin() + gone.first, gone.count(), false);
  }
};

/// Keeps the first `sinks` tokens, the last `recent` ones, and of those between them the `heaviest` ones with the
/// largest scores, which are the weights that accumulate_weights() adds up (H2O); with `by_values`, these times the sum
/// of the magnitudes of the token's value (VATP). Of equal scores the older token stays.
///
///     evicting_cache<float> kept(shape, {.pages = 64, .page_tokens = 16});
///     kept.append(k, v);
///     kept.evict(keep_heaviest{.recent = 16, .heaviest = 16});
struct keep_heaviest {
  index_t recent = 0, heaviest = 0, sinks = 0;
  bool by_values = false;

  void check(cache_shape const&) const { detail::check_kept("keep_heaviest", {recent, heaviest, sinks}); }

  template <class Cache>
  void operator()(kept_tokens<Cache> const& tokens, std::span<bool> stays) const {
    extend::key_range const between = detail::evictable(tokens, sinks, recent);
    auto const weight = [&](index_t row) { return tokens.score[static_cast<std::size_t>(row)]; };
    if (!by_values) return detail::keep_largest(stays, between, heaviest, weight);
    using A = extend::storage_accumulation_t<typename Cache::value_element>;
    index_t const dimension = tokens.cache.value_dimension();
    extend::scratch memory;
    A* const value = memory.allocate<A>(dimension + 1);
    detail::keep_largest(stays, between, heaviest, [&](index_t row) {
      detail::read_value(tokens.cache.rows(tokens.sequence, tokens.head, row), 0, dimension, value);
      A sum = 0;
      for (index_t c = 0; c < dimension; ++c) sum += std::abs(value[c]);
      return static_cast<A>(weight(row)) * sum;
    });
  }
};

/// Keeps the first `sinks` tokens, the last `recent` ones, and of those between them the `smallest` ones whose keys are
/// shortest: attention finds these most, and no weights are needed. Of equal lengths the older token stays.
///
///     evicting_cache<float> kept(shape, {.pages = 64, .page_tokens = 16});
///     kept.append(k, v);
///     kept.evict(keep_smallest_keys{.recent = 16, .smallest = 16});
struct keep_smallest_keys {
  index_t recent = 0, smallest = 0, sinks = 0;

  void check(cache_shape const&) const { detail::check_kept("keep_smallest_keys", {recent, smallest, sinks}); }

  template <class Cache>
  void operator()(kept_tokens<Cache> const& tokens, std::span<bool> stays) const {
    using A = extend::storage_accumulation_t<typename Cache::key_element>;
    index_t const dimension = tokens.cache.key_dimension();
    extend::scratch memory;
    A* const key = memory.allocate<A>(dimension + 1);
    detail::keep_largest(stays, detail::evictable(tokens, sinks, recent), smallest, [&](index_t row) {
      detail::read_key(tokens.cache.rows(tokens.sequence, tokens.head, row), 0, dimension, key);
      return -simd::dot(key, key, dimension);
    });
  }
};

/// Drops the tokens of each span that its closing sentinel has closed, and keeps that one: what options::sentinel_spans
/// hides from everything behind the span. The spans are those of that mask, open[0] < close[0] < open[1] < ...; all
/// sequences have the same, and each is dropped when its closing sentinel has been appended.
///
///     evicting_cache<float> kept(shape, {.pages = 64, .page_tokens = 16});
///     kept.append(k, v);
///     kept.evict(drop_closed_spans(first, last), 1);
class drop_closed_spans {
 public:
  drop_closed_spans(index_list open, index_list close) : open_(open), close_(close) {}

  void check(cache_shape const&) const {
    if (open_.size() != close_.size())
      extend::fail("drop_closed_spans", "expected as many opening sentinels as closing ones, got ", open_.size(),
                   " and ", close_.size());
    for (index_t s = 0; s < open_.size(); ++s)
      if (open_[s] < (s > 0 ? close_[s - 1] + 1 : 0) || close_[s] <= open_[s])
        extend::fail("drop_closed_spans", "expected ascending spans, got ", open_[s], " to ", close_[s], " at ", s);
  }
  template <class Cache>
  void operator()(kept_tokens<Cache> const& tokens, std::span<bool> stays) const {
    index_t span = 0;
    for (std::size_t row = 0; row < stays.size(); ++row) {
      index_t const position = tokens.position[row];
      while (span < close_.size() && close_[span] <= position) ++span;
      if (span == close_.size()) return;
      if (position >= open_[span] && close_[span] < tokens.size) stays[row] = false;
    }
  }

 private:
  index_list open_, close_;
};

/// Keeps what options::sharded_blocks, with one pattern for each key-value head, shows the next token: the last blocks
/// of `block` tokens, of which the next token's own is the first, and every stride-th block, shifted from head to head.
/// Blocks stand at absolute places, so that what is dropped is never needed again.
///
///     evicting_cache<float> kept(shape, {.pages = 64, .page_tokens = 16});
///     kept.append(k, v);
///     kept.evict(keep_shard{.settings = {.local = 4, .stride = 8}, .block = 16});
struct keep_shard {
  options::sharding settings = {};
  index_t block = 64;

  void check(cache_shape const&) const {
    settings.check("keep_shard");
    if (block < 1) extend::fail("keep_shard", "expected blocks of at least 1 token, got ", block);
  }
  template <class Cache>
  void operator()(kept_tokens<Cache> const& tokens, std::span<bool> stays) const {
    index_t const heads = tokens.cache.key_value_heads(), own = tokens.size / block;
    for (std::size_t row = 0; row < stays.size(); ++row) {
      stays[row] = false;
      for (index_t head = tokens.head; head < tokens.head + tokens.heads && !stays[row]; ++head)
        stays[row] = settings.shows(heads, head, own, tokens.position[row] / block);
    }
  }
};

}  // namespace caches

}  // namespace attend::inline ATTEND_TARGET
