// SPDX-License-Identifier: BSD-3-Clause
// The stores that the decoder's keys and values may be in: those of the text, a row a token, and those of what was
// heard, 1500 rows a window. A rolling store keeps the command ahead of the text and the last words of it; what was
// heard is looked at as a whole, and has no last part.
#pragma once

#include <attend/cache.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "transcriber.hpp"

namespace whisper {

/// Of all layers.
struct stored_bytes {
  Index text = 0, heard = 0;
};

/// Stores of one kind for the text, and of one for what was heard.
struct kept_stores {
  std::string text, heard;
  bool exact;  // lose nothing
  std::function<transcript(matrix const& heard)> write = {};
  std::function<stored_bytes()> bytes = {};
};

namespace detail {

template <class MakeText, class MakeHeard>
kept_stores keep(transcriber& transcribe, std::string text, std::string heard, bool exact, MakeText const& make_text,
                 MakeHeard const& make_heard) {
  auto const state = std::make_shared<decltype(transcribe.make_state(make_text, make_heard))>(
      transcribe.make_state(make_text, make_heard));
  return {std::move(text), std::move(heard), exact,
          [&transcribe, state](matrix const& sound) { return transcribe.write(sound, *state, [](int) {}); },
          [state] {
            stored_bytes bytes;
            for (auto const& store : state->text) bytes.text += store.bytes();
            for (auto const& store : state->heard) bytes.heard += store.bytes();
            return bytes;
          }};
}

template <class Key>
attend::contiguous_cache<Key> contiguous(attend::caches::cache_shape const& shape, Index tokens) {
  return {shape, tokens};
}

}  // namespace detail

/// All of them. The first is the full cache, with which the others are compared. They refer to the transcriber.
inline std::vector<kept_stores> all_stores(transcriber& transcribe) {
  using attend::half, attend::bfloat16, attend::caches::int4_pair;
  using detail::contiguous;
  auto const paged = [](attend::caches::cache_shape const& shape, Index tokens) {
    Index const page_tokens = 16;
    return attend::paged_cache<float>(shape,
                                      {.pages = (tokens + page_tokens - 1) / page_tokens, .page_tokens = page_tokens});
  };
  // Two commands are ahead of the text; sentences are longer than the window.
  auto const rolling = [](attend::caches::cache_shape const& shape, Index) {
    return attend::rolling_cache<float>(shape, {2, 3}, 1);
  };
  auto const keep = [&](char const* text, char const* heard, bool exact, auto const& make_text,
                        auto const& make_heard) {
    return detail::keep(transcribe, text, heard, exact, make_text, make_heard);
  };
  std::vector<kept_stores> all;
  all.push_back(keep("float", "float", true, contiguous<float>, contiguous<float>));
  all.push_back(keep("float, paged", "float, paged", true, paged, paged));
  all.push_back(keep("half", "half", false, contiguous<half>, contiguous<half>));
  all.push_back(keep("bfloat16", "bfloat16", false, contiguous<bfloat16>, contiguous<bfloat16>));
  all.push_back(keep("int8", "int8", false, contiguous<std::int8_t>, contiguous<std::int8_t>));
  all.push_back(keep("int4", "float", false, contiguous<int4_pair>, contiguous<float>));
  all.push_back(keep("float", "int4", false, contiguous<float>, contiguous<int4_pair>));
  all.push_back(keep("int4", "int4", false, contiguous<int4_pair>, contiguous<int4_pair>));
  all.push_back(keep("float, rolling 2 + 3", "float", false, rolling, contiguous<float>));
  return all;
}

}  // namespace whisper
