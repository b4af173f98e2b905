// SPDX-License-Identifier: BSD-3-Clause
// Policies of eviction in the decoder: which tokens of the text, and which frames of what was heard, may go.
//
//   text    after every token that the text grows by, down to a budget
//   heard   once, when the two commands ahead of the text have looked at all frames: what comes later sees what is left
//
// Both are in caches of pages; the bytes are those of the pages that are in use when a text has been written, the most
// of all texts. For a moment a window's frames are all there, and the pool has room for them.
#pragma once

#include <attend/attention/cached/accumulate_weights.hpp>
#include <attend/cache.hpp>
#include <attend/sparse.hpp>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "stores.hpp"

namespace whisper {

using evicting = attend::caches::evicting_cache<float>;

/// A policy, and whether it goes by the weights of the queries so far. None evicts nothing.
struct eviction {
  std::string name;
  bool weighed = false;
  std::function<void(evicting&)> evict = {};
};

namespace detail {

template <class Policy>
eviction evict_by(std::string name, Policy const& policy, bool weighed = false) {
  return {std::move(name), weighed, [=](evicting& store) { store.evict(policy, 1); }};
}

/// `once`: as long as nothing is gone.
inline after_reading<evicting> evict_after_reading(eviction const& chosen, bool once) {
  if (!chosen.evict) return {};
  return [=](evicting& store, auto const& query, auto const& sums) {
    if (once && store.stored(0, 0) < store.size(0)) return;
    if (chosen.weighed) attend::caches::accumulate_weights(query, sums, store);
    chosen.evict(store);
  };
}

inline Index used_bytes(std::vector<evicting> const& stores) {
  Index bytes = 0;
  for (evicting const& store : stores)
    bytes += store.used_pages() * evicting::page_bytes(store.shape(), store.page_tokens());
  return bytes;
}

inline kept_stores keep_evicting(transcriber& transcribe, eviction const& text, eviction const& heard) {
  auto const make = [](attend::caches::cache_shape const& shape, Index tokens) {
    Index const page_tokens = 4;
    return evicting(shape, {.pages = shape.key_value_heads * ((tokens + page_tokens - 1) / page_tokens),
                            .page_tokens = page_tokens});
  };
  auto const state = std::make_shared<decoder_state<evicting>>(transcribe.make_state(make, make));
  state->after_text = evict_after_reading(text, false);
  state->after_heard = evict_after_reading(heard, true);
  auto const most = std::make_shared<stored_bytes>();
  return {text.name, heard.name, !text.evict && !heard.evict,
          [&transcribe, state, most](matrix const& sound) {
            transcript written = transcribe.write(sound, *state, [](int) {});
            *most = {std::max(most->text, used_bytes(state->text)), std::max(most->heard, used_bytes(state->heard))};
            return written;
          },
          [most] { return *most; }};
}

/// What is left of the text: the two commands, and so many tokens behind them.
inline std::vector<eviction> text_evictions(Index tokens) {
  using namespace attend::caches;
  Index const commands = 2, half = tokens / 2, rest = tokens - half;
  std::string const kept = std::to_string(tokens);
  return {evict_by("the last " + kept, keep_window{.sinks = commands, .window = tokens}),
          evict_by("H2O, " + kept, keep_heaviest{.recent = rest, .heaviest = half, .sinks = commands}, true),
          evict_by("VATP, " + kept,
                   keep_heaviest{.recent = rest, .heaviest = half, .sinks = commands, .by_values = true}, true),
          evict_by("short keys, " + kept, keep_smallest_keys{.recent = rest, .smallest = half, .sinks = commands})};
}

/// What is left of what was heard: every so-manieth frame, or as many by other rules.
inline std::vector<eviction> heard_evictions(Index frames, Index each) {
  using namespace attend::caches;
  Index const count = frames / each;
  std::string const kept = "1/" + std::to_string(each);
  auto const every = [each](auto const& tokens, std::span<bool> stays) {
    for (std::size_t i = 0; i < stays.size(); ++i) stays[i] = tokens.position[i] % each == 0;
  };
  return {evict_by("every frame in " + std::to_string(each), every),
          evict_by("shards, " + kept, keep_shard{.settings = {.local = 0, .stride = each}, .block = 4}),
          evict_by("the first, " + kept, keep_window{.sinks = count, .window = 0}),
          evict_by("H2O, " + kept, keep_heaviest{.heaviest = count}, true),
          evict_by("VATP, " + kept, keep_heaviest{.heaviest = count, .by_values = true}, true),
          evict_by("short keys, " + kept, keep_smallest_keys{.smallest = count})};
}

/// Each head of what was heard has the cheapest of FastGen's policies, of which no frame is special.
inline eviction fastgen_of_heard(model_shape const& shape) {
  using namespace attend::caches;
  auto const kinds = std::make_shared<std::vector<std::uint8_t>>(static_cast<std::size_t>(shape.encoder_tokens), 0);
  attend::tensor_view<std::uint8_t const, 2> const none(kinds->data(), {1, shape.encoder_tokens});
  Index const dimension = shape.head_dimension();
  cache_shape const kept{1, shape.heads, dimension, dimension};
  return {"FastGen", true, [=, alive = kinds](evicting& store) {
            fastgen_eviction policy(kept, none);
            policy.choose(store);
            store.evict(policy, 1);
          }};
}

}  // namespace detail

/// All of them, one at a time. The first evicts nothing. They refer to the transcriber.
inline std::vector<kept_stores> all_evictions(transcriber& transcribe) {
  eviction const nothing{"paged by head"};
  std::vector<kept_stores> all{detail::keep_evicting(transcribe, nothing, nothing)};
  for (Index const tokens : {16, 8})
    for (eviction const& text : detail::text_evictions(tokens))
      all.push_back(detail::keep_evicting(transcribe, text, nothing));
  eviction const shards =
      detail::evict_by("shards, 1/4 and the last 8", attend::caches::keep_shard{{.local = 5, .stride = 4}, 2});
  all.push_back(detail::keep_evicting(transcribe, shards, nothing));
  model_shape const& shape = transcribe.shape();
  for (Index const each : {2, 4})
    for (eviction const& heard : detail::heard_evictions(shape.encoder_tokens, each))
      all.push_back(detail::keep_evicting(transcribe, nothing, heard));
  all.push_back(detail::keep_evicting(transcribe, nothing, detail::fastgen_of_heard(shape)));
  return all;
}

}  // namespace whisper
