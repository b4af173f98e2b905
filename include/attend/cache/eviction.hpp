// SPDX-License-Identifier: BSD-3-Clause
// What a policy of eviction is given, and says: of the tokens that one key-value head of one sequence keeps (or
// several, if they share keys or values), those that it may keep further. Policies are in select/eviction_policies.hpp.
#pragma once

#include <cstdint>
#include <span>

#include "key_value_rows.hpp"

namespace attend::inline ATTEND_TARGET {

namespace caches {

/// The tokens that a head keeps, in ascending order of their positions.
template <class Cache>
struct kept_tokens {
  Cache const& cache;  // whose stored rows they are
  /// The sequence, and the first of the consecutive `heads` key-value heads that keep these tokens together, since they
  /// share keys or values.
  index_t sequence, head, heads;
  index_t size;                            // how many tokens the sequence has had, which is the next position
  std::span<std::int32_t const> position;  // of each token
  std::span<float const> score;            // of each token
};

}  // namespace caches

namespace extend {

/// A policy of eviction: called as policy(tokens, stays), where `tokens` are kept_tokens and `stays` has a true for
/// each of them, it sets those of them to false that go. It is called for several heads at once. One that depends on
/// the number of heads may offer check(cache_shape), which throws argument_error where it does not fit.
///
///     evicting_cache<float> kept(shape, {.pages = 64, .page_tokens = 16});
///     kept.append(k, v);
///     kept.evict([](auto const& tokens, std::span<bool> stays) {
///       for (std::size_t i = 0; i < stays.size(); ++i) stays[i] = tokens.position[i] % 2 == tokens.head % 2;
///     });
template <class Policy, class Cache>
concept EvictionPolicy = requires(Policy const& policy, caches::kept_tokens<Cache> const& tokens,
                                  std::span<bool> stays) { policy(tokens, stays); };

}  // namespace extend

}  // namespace attend::inline ATTEND_TARGET
