// SPDX-License-Identifier: BSD-3-Clause
// A cache with two kinds of key-value heads: retrieval heads, in one store, keep all tokens; streaming heads, in
// another store, keep sinks and a window, and may have a compensation token.
//
//   rows of head h = rows of head index(h) in the store of its kind
//
// With R retrieval heads of H the memory is R/H of that of a full cache plus a constant. The kinds of heads must be
// known beforehand: from trained gates (DuoAttention), or from how strongly heads attend to repeated tokens
// (RazorAttention).
//
// Guangxuan Xiao et al.: DuoAttention: Efficient Long-Context LLM Inference with Retrieval and Streaming Heads, 2024.
// Hanlin Tang et al.: RazorAttention: Efficient KV Cache Compression Through Retrieval Heads, 2024.
#pragma once

#include "rolling.hpp"

namespace attend::inline ATTEND_TARGET {

namespace caches {

/// Joins two stores into one: `Full` keeps all tokens (contiguous_cache, paged_cache), `Streaming` is a rolling_cache
/// or compensated_cache of the same element types.
///
///     std::vector<std::int32_t> const kinds{0, 1, 0, 1, 0, 1, 0, 1};  // 1: a streaming head
///     head_policy_cache kept(contiguous_cache<float>({8, 4, 128, 128}, 4096),
///                            rolling_cache<float>({8, 4, 128, 128}, streaming{4, 1020}, 64), kinds);
template <KeyValueSource Full, KeyValueSource Streaming>
class head_policy_cache : public detail::appending<head_policy_cache<Full, Streaming>> {
 public:
  using key_element = typename Full::key_element;
  using value_element = typename Full::value_element;
  static_assert(std::same_as<key_element, typename Streaming::key_element> &&
                    std::same_as<value_element, typename Streaming::value_element>,
                "attend: both stores of a head_policy_cache have the same element types");

  /// Joins two empty stores, which have as many key heads as value heads. `streams` has a number for each key-value
  /// head: 0 for a retrieval head, any other number for a streaming head. Heads keep their order within their store.
  /// Throws argument_error where the stores or the list do not fit.
  head_policy_cache(Full full, Streaming streaming, index_list streams)
      : full_(std::move(full)),
        streaming_(std::move(streaming)),
        streams_("streams", std::array{streams.size()}),
        index_("streams", std::array{streams.size()}) {
    index_t counts[2] = {0, 0};
    for (index_t head = 0; head < streams.size(); ++head) {
      streams_[head] = streams[head] != 0;
      index_[head] = counts[streams_[head]]++;
    }
    check_heads("full", full_);
    check_heads("streaming", streaming_);
    detail::check_extent("full", "heads", full_.key_value_heads(), counts[0], "streams has zeros");
    detail::check_extent("streaming", "heads", streaming_.key_value_heads(), counts[1], "streams has others");
    detail::check_extent("streaming", "sequences", streaming_.sequences(), full_.sequences(), "full");
    detail::check_extent("streaming", "key dimension", streaming_.key_dimension(), full_.key_dimension(), "full");
    detail::check_extent("streaming", "value dimension", streaming_.value_dimension(), full_.value_dimension(), "full");
    for (index_t s = 0; s < sequences(); ++s) {
      detail::check_extent("full", "tokens", full_.size(s), 0, "both stores are empty");
      detail::check_extent("streaming", "tokens", streaming_.size(s), 0, "both stores are empty");
    }
  }

  index_t sequences() const { return full_.sequences(); }
  index_t key_value_heads() const { return streams_.size(); }
  index_t key_dimension() const { return full_.key_dimension(); }
  index_t value_dimension() const { return full_.value_dimension(); }
  index_t size(index_t sequence) const { return full_.size(sequence); }
  index_t stored(index_t sequence, index_t head) const {
    return streams_[head] ? streaming_.stored(sequence, index_[head]) : full_.stored(sequence, index_[head]);
  }
  key_value_rows<key_element, value_element> rows(index_t sequence, index_t head, index_t first) const {
    return streams_[head] ? streaming_.rows(sequence, index_[head], first) : full_.rows(sequence, index_[head], first);
  }

  /// The mask of the cache, head by head: sinks and window for streaming heads, all tokens for retrieval heads.
  streaming mask() const {
    return {streaming_.mask().sinks, streaming_.mask().window,
            index_list(tensor_view<std::int32_t const, 1>(streams_.data(), {streams_.size()}))};
  }
  /// The largest number of tokens that may be appended, and then attended to, at a time.
  index_t chunk() const { return streaming_.chunk(); }
  index_t bytes() const { return full_.bytes() + streaming_.bytes() + streams_.bytes() + index_.bytes(); }
  /// The store that has the compensation tokens of this head, and the number of the head in that store; null for a
  /// retrieval head, which has none.
  auto compensated(index_t head) const
    requires requires(Streaming const& store) { store.compensated(head); }
  {
    auto found = streaming_.compensated(index_[head]);
    if (!streams_[head]) found.first = nullptr;
    return found;
  }
  Full const& full() const { return full_; }
  Streaming const& streaming_heads() const { return streaming_; }

  /// Removes the tokens of a sequence from `size` on. Throws argument_error where the store of streaming heads would.
  void truncate(index_t sequence, index_t size) {
    this->check_size(sequence, size);
    streaming_.truncate(sequence, size);
    full_.truncate(sequence, size);
  }

 private:
  friend detail::appending<head_policy_cache>;
  friend detail::saved_parts;

  template <class Store>
  static void check_heads(char const* argument, Store const& store) {
    detail::check_extent(argument, "key heads", detail::key_heads_of(store), store.key_value_heads(),
                         "the key-value heads");
    detail::check_extent(argument, "value heads", detail::value_heads_of(store), store.key_value_heads(),
                         "the key-value heads");
  }

  void check_memory(detail::new_tokens const& asked) const {
    full_.check_room(asked);
    streaming_.check_room(asked);
  }
  void grow(index_t sequence, index_t tokens) {
    full_.make_room(sequence, tokens);
    streaming_.make_room(sequence, tokens);
  }

  template <Element K>
  void write_key_rows(index_t sequence, index_t head, index_t position, tensor_view<K const, 2> const& key) {
    if (streams_[head])
      streaming_.write_keys(sequence, index_[head], position, key);
    else
      full_.write_keys(sequence, index_[head], position, key);
  }
  template <Element V>
  void write_value_rows(index_t sequence, index_t head, index_t position, tensor_view<V const, 2> const& value) {
    if (streams_[head])
      streaming_.write_values(sequence, index_[head], position, value);
    else
      full_.write_values(sequence, index_[head], position, value);
  }

  Full full_;
  Streaming streaming_;
  detail::buffer<std::int32_t> streams_;
  detail::buffer<index_t> index_;
};

}  // namespace caches

}  // namespace attend::inline ATTEND_TARGET
