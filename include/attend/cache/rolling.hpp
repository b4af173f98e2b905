// SPDX-License-Identifier: BSD-3-Clause
// A rolling cache, which keeps the first and the last tokens of each sequence in constant memory.
//
//   slots [0, sinks)                     the tokens at positions [0, sinks), which are never dropped
//   slots [sinks, sinks + ring)          the last tokens: position p is in slot sinks + (p - sinks) % ring
//
// The ring has window + chunk slots. Up to `chunk` tokens may be appended at a time and then attended to: the window -
// 1 tokens before the first of them are still stored then. A single query (decoding) finds sinks + window rows. Up to
// `chunk` tokens may be removed again by truncate (speculative decoding).
//
// Rows keep the positions of their tokens in the whole sequence.
//
// Guangxuan Xiao et al.: Efficient Streaming Language Models with Attention Sinks, 2023.
#pragma once

#include "../policy/mask/streaming.hpp"
#include "row_store.hpp"

namespace attend::inline ATTEND_TARGET {

/// Keys and values of the sinks and of the last tokens, of any element type.
///
///     rolling_cache<float> kept(shape, streaming{4, 2044}, 64);  // 4 sinks, a window, 64 tokens at a time
///     cached_attention(kept, q, k, v, o);
template <extend::StorageElement Key, extend::StorageElement Value = Key>
class rolling_cache : public detail::row_store<rolling_cache<Key, Value>, Key, Value> {
  using base = detail::row_store<rolling_cache<Key, Value>, Key, Value>;

 public:
  /// Allocates memory for the sinks and the window of `kept`, and for `chunk` new tokens at a time. `channel_scales`
  /// [head, key dimension] are for quantized keys; by default there are none. Throws argument_error for sizes out of
  /// range, and where the product does not fit in memory.
  rolling_cache(caches::cache_shape const& shape, options::streaming const& kept, index_t chunk = 1,
                tensor_view<float const, 2> channel_scales = {})
      : base(name, shape, shape.sequences, slots(kept, chunk), channel_scales),
        kept_(kept),
        chunk_(chunk),
        ring_(kept.window + chunk),
        state_(name, std::array{shape.sequences}) {
    for (index_t s = 0; s < shape.sequences; ++s) forget(s);
  }

  index_t size(index_t sequence) const { return state_[sequence].size; }

  /// The number of rows to attend to: the sinks, and the tokens that may be visible to the tokens appended last.
  index_t stored(index_t sequence, index_t) const {
    return std::min(state_[sequence].size, kept_.sinks + state_[sequence].reach);
  }

  /// The mask of the cache: to each query those stored rows are visible that would be visible to it in the whole
  /// sequence.
  options::streaming const& mask() const { return kept_; }
  /// The largest number of tokens that may be appended, and then attended to, at a time.
  index_t chunk() const { return chunk_; }
  index_t bytes() const { return this->memory_.bytes() + state_.bytes(); }

  /// Removes the tokens of a sequence from `size` on. Throws argument_error where the tokens that would then be in the
  /// window are no longer stored.
  void truncate(index_t sequence, index_t size) {
    this->check_size(sequence, size);
    sequence_state& state = state_[sequence];
    if (size == state.size) return;
    if (size <= kept_.sinks) {
      forget(sequence);
    } else if (std::max(kept_.sinks, size - kept_.window) < state.oldest) {
      extend::fail("size", "expected 0 to ", kept_.sinks, " or at least ", state.oldest + kept_.window,
                   " tokens to stay, got ", size);
    }
    state.size = size;
    state.reach = kept_.window;
  }

 private:
  friend base;
  friend detail::appending<rolling_cache>;
  friend detail::saved_parts;
  using sequence_state = detail::sequence_state;
  static constexpr char const* name = "rolling_cache";

  static index_t slots(options::streaming const& kept, index_t chunk) {
    kept.check_sizes(name);
    if (kept.heads.size() != 0)
      extend::fail(name, "expected the same for all heads, got a list of ", kept.heads.size());
    if (chunk < 1 || chunk >= extend::token_limit)
      extend::fail(name, "expected chunks from 1 to ", extend::token_limit - 1, " tokens, got ", chunk);
    return kept.sinks + kept.window + chunk;
  }

  /// There is always room, since the oldest tokens are dropped.
  static void check_memory(detail::new_tokens const&) {}
  void grow(index_t sequence, index_t tokens) {
    if (tokens == 0) return;
    sequence_state& state = state_[sequence];
    state.size += tokens;
    state.reach = kept_.window - 1 + std::min(tokens, chunk_);
    state.oldest = std::max(state.oldest, state.size - ring_);
  }

  /// Whether appending and truncating can lead to this state.
  bool is_possible(sequence_state const& state) const {
    return state.reach >= kept_.window && state.reach < kept_.window + chunk_ && state.oldest >= kept_.sinks &&
           state.oldest <= std::max(kept_.sinks, state.size - state.reach) && state.size <= state.oldest + ring_;
  }

  void forget(index_t sequence) { state_[sequence] = {0, kept_.window, kept_.sinks}; }

  index_t position_of(index_t sequence, index_t row) const {
    return row < kept_.sinks ? row : row + state_[sequence].size - stored(sequence, 0);
  }

  detail::slot_run locate(index_t sequence, index_t position) const {
    sequence_state const& state = state_[sequence];
    index_t const in_ring = position - kept_.sinks;
    if (in_ring < 0) {
      // As long as no token is left out, a run of sinks continues into the ring, whose slots follow those of the sinks.
      bool const whole = state.size <= kept_.sinks + state.reach;
      return {sequence, position, (whole ? ring_ : 0) - in_ring};
    }
    if (position < state.oldest) return {sequence, -1, state.oldest - position};
    index_t const slot = in_ring % ring_;
    return {sequence, kept_.sinks + slot, ring_ - slot};
  }

  options::streaming kept_;
  index_t chunk_, ring_;
  detail::buffer<sequence_state> state_;
};

}  // namespace attend::inline ATTEND_TARGET
