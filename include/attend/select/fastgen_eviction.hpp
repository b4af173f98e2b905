// SPDX-License-Identifier: BSD-3-Clause
// FastGen: each head of an evicting_cache has the cheapest of five policies that keeps most of its weights, found out
// once, behind the prompt.
//
//   special           the special tokens                                    cheapest
//   punctuation       and the punctuation
//   frequent          and the tokens of the largest scores: a share of the tokens so far
//   local             and the last tokens: a share of the tokens so far
//   full              and all others                                        dearest
//
//   policy of a head = the first that keeps at least `weight` of the sum of its scores
//
// Scores are the weights that accumulate_weights() adds up: before choose() over the prompt, and further on for the
// frequent tokens of later evictions. The paper states the rule also by the norm of what is lost; in the L1 norm that
// is twice the weight that is lost.
//
// Cost of an eviction: a few operations for each kept token, and top_k for heads that keep frequent tokens.
//
// Suyu Ge, Yunan Zhang, Liyuan Liu, Minjia Zhang, Jiawei Han, Jianfeng Gao: Model Tells You What to Discard: Adaptive
// KV Cache Compression for LLMs, 2023.
#pragma once

#include <cmath>

#include "../cache/evicting.hpp"
#include "eviction_policies.hpp"

namespace attend::inline ATTEND_TARGET {

namespace caches {

/// What a head keeps: that of each policy contains that of the one before.
enum class fastgen_kind : std::uint8_t { special, punctuation, frequent, local, full };

/// The share of its scores that a head's policy keeps, and the shares of the tokens so far that are frequent or local.
struct fastgen_options {
  double weight = 0.95;
  double frequent = 0.3;
  double local = 0.3;
};

/// A policy of eviction that has one of five for each head of each sequence.
///
///     std::vector<std::uint8_t> kinds(8 * 4096);  // of each sequence's tokens: 1 special, 2 punctuation, 0 others
///     evicting_cache<float> kept(shape, {.pages = 4096});
///     cached_attention(kept, q, k, v, o, log_sum_exp{lse});
///     accumulate_weights(q, lse, kept);
///     fastgen_eviction policy(shape, tensor_view(kinds.data(), {8, 4096}));
///     policy.choose(kept);
///     kept.evict(policy);
class fastgen_eviction {
 public:
  /// Views the kinds of tokens [sequence, position]: 1 for a special token, 2 for punctuation, 0 for any other, as are
  /// those behind the last position. Until choose() all heads keep everything. Throws argument_error where
  /// there are not as many sequences as in the shape, or where a share is not from 0 to 1.
  fastgen_eviction(cache_shape const& shape, tensor_view<std::uint8_t const, 2> kinds,
                   fastgen_options const& shares = {})
      : heads_(shape.key_value_heads),
        kinds_(kinds),
        shares_(shares),
        chosen_("fastgen_eviction", std::array{shape.sequences, shape.key_value_heads}) {
    detail::check_view("kinds", kinds);
    detail::check_extent("kinds", "sequences", kinds.extent(0), shape.sequences, "the cache");
    for (double share : {shares.weight, shares.frequent, shares.local})
      if (!(share >= 0 && share <= 1)) extend::fail("fastgen_options", "expected shares from 0 to 1, got ", share);
    std::fill_n(chosen_.data(), chosen_.size(), fastgen_kind::full);
  }

  /// Chooses each head's policy by the scores of the rows that the cache has. A head without scores keeps everything.
  /// Throws argument_error where the cache has another shape.
  template <class Key, class Value>
  void choose(evicting_cache<Key, Value> const& cache) {
    check(cache.shape());
    for (index_t list = 0; list < chosen_.size(); ++list)
      cache.with_tokens(list / heads_, list % heads_, [&](auto const& tokens) { chosen_[list] = cheapest(tokens); });
  }

  fastgen_kind chosen(index_t sequence, index_t head) const { return chosen_[sequence * heads_ + head]; }
  index_t bytes() const { return chosen_.bytes(); }

  void check(cache_shape const& shape) const {
    detail::check_extent("cache", "heads", shape.key_value_heads, heads_, "the policy");
    detail::check_extent("cache", "sequences", shape.sequences, kinds_.extent(0), "the policy");
  }
  template <class Cache>
  void operator()(kept_tokens<Cache> const& tokens, std::span<bool> stays) const {
    fastgen_kind const most = chosen(tokens.sequence, tokens.head);
    if (most == fastgen_kind::full) return;
    extend::scratch memory;
    fastgen_kind const* const kind = kinds_of(tokens, most, memory);
    for (std::size_t row = 0; row < stays.size(); ++row) stays[row] = kind[row] <= most;
  }

 private:
  template <class Cache>
  fastgen_kind cheapest(kept_tokens<Cache> const& tokens) const {
    extend::scratch memory;
    fastgen_kind const* const kind = kinds_of(tokens, fastgen_kind::full, memory);
    double sum[5] = {}, all = 0;
    for (std::size_t row = 0; row < tokens.score.size(); ++row) {
      sum[static_cast<int>(kind[row])] += static_cast<double>(tokens.score[row]);
      all += static_cast<double>(tokens.score[row]);
    }
    double kept = 0;
    int found = 0;
    while (found < 4 && !((kept += sum[found]) >= shares_.weight * all && all > 0)) ++found;
    return static_cast<fastgen_kind>(found);
  }

  /// For each token the first policy that keeps it, as far as policies up to `most` tell.
  template <class Cache>
  fastgen_kind const* kinds_of(kept_tokens<Cache> const& tokens, fastgen_kind most, extend::scratch& memory) const {
    auto const of_tokens = [&](double share) {
      return static_cast<index_t>(std::ceil(share * static_cast<double>(tokens.size)));
    };
    auto const rows = static_cast<index_t>(tokens.position.size());
    auto* const kind = memory.allocate<fastgen_kind>(rows + 1);
    index_t const local = most >= fastgen_kind::local ? tokens.size - of_tokens(shares_.local) : tokens.size;
    for (index_t row = 0; row < rows; ++row) {
      index_t const at = tokens.position[static_cast<std::size_t>(row)];
      int const token = at < kinds_.extent(1) ? kinds_(tokens.sequence, at) : 0;
      kind[row] = token == 1    ? fastgen_kind::special
                  : token == 2  ? fastgen_kind::punctuation
                  : at >= local ? fastgen_kind::local
                                : fastgen_kind::full;
    }
    if (most < fastgen_kind::frequent) return kind;
    auto* const found = memory.allocate<std::int32_t>(rows + 1);
    index_t const count = selection::top_k(tokens.score.data(), rows, of_tokens(shares_.frequent), found);
    for (index_t i = 0; i < count; ++i) kind[found[i]] = std::min(kind[found[i]], fastgen_kind::frequent);
    return kind;
  }

  index_t heads_;
  tensor_view<std::uint8_t const, 2> kinds_;
  fastgen_options shares_;
  detail::buffer<fastgen_kind> chosen_;
};

}  // namespace caches

}  // namespace attend::inline ATTEND_TARGET
