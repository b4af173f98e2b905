// SPDX-License-Identifier: BSD-3-Clause
// LongHeads (decoding): each head attends to few chunks, the first, the last two, and those whose representatives suit
// its query, at positions that the model was trained for.
//
//   chunk of l tokens, with queries Q, keys K and values V of a head:
//   E = mean over the chunk's tokens of attention(Q, K, V) within the chunk, all to all, rotated for positions 0 .. l-1
//   c = softmax(scale * E . K) K                                         the chunk's representative
//   list = {first chunk}, {previous chunk, own chunk}, the k - 3 others of largest c . q, for each query head
//   o = attention to the list's tokens, rotated for positions one after the other, the query at the last one
//
// Queries and the cache's keys are not rotated: `rotary` is an option that selected_attention must be given, and may be
// left out for models without positions. It rotates the chosen keys in each step, which long_heads_attention.hpp does
// without. long_heads_prompt_attention.hpp encodes prompts. The key and value dimensions are equal.
//
// Released code takes the rotated keys for K in c too, and lets a query not see its own token; the paper's formula is
// taken here.
//
// A representative is near the mean of its chunk's keys, which says little of one among hundreds: chunks of 256 find a
// topic, not a needle.
//
// Bytes of a step: a representative of each chunk for each query head, and the chosen keys and values for each query
// head. A chunk's representative costs attention within it.
//
// Yi Lu et al.: LongHeads: Multi-Head Attention is Secretly a Long Context Processor, 2024.
#pragma once

#include "../../select/page_selector.hpp"
#include "../softmax/softmax_attention.hpp"
#include "selected_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// LongHeads gives tokens their positions.
template <class Rotary>
void check_own_positions(Rotary const& position) {
  if (position.moved()) fail("rotary", "expected no positions of its own, since places in chunks are used, got some");
}

}  // namespace detail

namespace systems {

/// Chooses chunks by a representative key of each. S is the element type of the representatives.
///
///     long_heads_selector<float> selector(shape, 32, 4096, 16, 256);
///     selector.represent(0, prefix_key, prefix_key, prefix_value);  // a chunk of sequence 0
///     selected_attention(q, cache, selector, o, rotary(rotary_frequencies(128)));
template <Element S>
class long_heads_selector {
 public:
  using A = accumulation_t<S>;

  /// Makes lists of `chunks` whole chunks, of which the last may be short. `capacity` is in tokens of a sequence.
  ///
  /// Throws argument_error where an extent is negative, query heads are not a multiple of key-value heads, or there are
  /// fewer than 3 chunks.
  ///
  ///     long_heads_selector<float> selector(shape, 32, 4096, 16, 256);  // 16 chunks of 256 tokens
  long_heads_selector(cache_shape const& shape, index_t query_heads, index_t capacity, index_t chunks,
                      index_t chunk_tokens = 256)
      : key_value_heads_(shape.key_value_heads),
        choice_({shape.sequences, detail::check_query_heads(query_heads, shape), shape.key_dimension,
                 shape.value_dimension},
                query_heads, capacity, choice(chunks, chunk_tokens)),
        represented_("long_heads_selector", std::array{shape.sequences}) {
    detail::check_extent("shape", "value dimension", shape.value_dimension, shape.key_dimension, "keys");
    std::fill_n(represented_.data(), represented_.size(), 0);
  }

  token_lists const& lists() const { return choice_.lists(); }
  index_t chunk_tokens() const { return choice_.choice().page_tokens; }
  /// Gives the number of chunks of a list, which shorter sequences have fewer of.
  index_t chunks() const { return choice_.choice().min_pages; }
  index_t capacity() const { return choice_.summaries().capacity(); }
  /// Views the representatives of a sequence and query head: [chunk, dimension].
  tensor_view<S const, 2> representatives(index_t sequence, index_t head) const {
    auto const& all = choice_.summaries();
    return {all.row(sequence, head, 0), {represented_[sequence], all.numbers()}, {all.stride(), 1}};
  }
  /// Gives the number of chunks of a sequence that have a representative.
  index_t represented(index_t sequence) const { return represented_[sequence]; }
  index_t bytes() const { return choice_.bytes() + represented_.bytes(); }
  index_t bytes_scored() const { return choice_.bytes_scored(); }

  /// Represents the next chunk of a sequence: query [query head, token, dimension], key and value [key-value head,
  /// token, dimension], as many tokens as a chunk has, not rotated. Options: rotary and executor.
  ///
  /// Throws argument_error where shapes do not fit.
  template <TensorArgument Query, TensorArgument Key, TensorArgument Value, class... Options>
  void represent(index_t sequence, Query const& query, Key const& key, Value const& value, Options&&... options) {
    arithmetic_mode const arithmetic;
    using T = element_of_t<Query const>;
    call::allows<option::position, option::executor>::check<Options...>();
    detail::check_sequence(sequence, choice_.summaries().shape().sequences);
    tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key)),
                                  v = raise<4>(view_of(value));
    cache_shape const& shape = choice_.summaries().shape();
    index_t const heads = shape.key_value_heads, dimension = shape.key_dimension, tokens = chunk_tokens();
    detail::check_extent("query", "heads", q.extent(1), heads, "the selector");
    detail::check_extent("query", "tokens", q.extent(2), tokens, "a chunk");
    detail::check_extent("query", "head dimension", q.extent(3), dimension, "the selector");
    detail::check_extent("key", "heads", k.extent(1), key_value_heads_, "the selector");
    detail::check_extent("key", "tokens", k.extent(2), tokens, "a chunk");
    detail::check_extent("value", "head dimension", v.extent(3), dimension, "key");
    detail::check_extent("query", "batch", q.extent(0), 1, "one sequence");
    if ((represented_[sequence] + 1) * tokens > choice_.summaries().capacity())
      fail("query", "expected at most ", choice_.summaries().capacity() / tokens,
           " chunks (the capacity), got one more");
    auto& executor = call::executor_of(options...);
    scratch memory;
    tensor_view<T, 4> const within(memory.allocate<T>(heads * tokens * dimension + 1), {1, heads, tokens, dimension});
    tensor_view<T, 4> const mean(memory.allocate<T>(heads * dimension + 1), {1, heads, 1, dimension});
    tensor_view<T, 4> const found(memory.allocate<T>(heads * dimension + 1), {1, heads, 1, dimension});
    softmax_attention(q, k, v, within, options...);
    A* const sum = memory.allocate<A>(dimension + 1);
    for (index_t head = 0; head < heads; ++head) {
      for (index_t c = 0; c < dimension; ++c) {
        sum[c] = 0;
        for (index_t t = 0; t < tokens; ++t) sum[c] += static_cast<A>(within(0, head, t, c));
        mean(0, head, 0, c) = static_cast<T>(sum[c] / static_cast<A>(tokens));
      }
    }
    softmax_attention(tensor_view<T const, 4>(mean), k, k, found, executor);
    for (index_t head = 0; head < heads; ++head) {
      simd::widen_row(&found(0, head, 0, 0), sum, dimension);
      choice_.summaries().write({sequence, head, represented_[sequence]}, sum);
    }
    ++represented_[sequence];
  }

  /// Throws argument_error where no prompt of this shape can be represented from its first chunk on.
  void check_prompt(index_t sequences, index_t query_heads, index_t key_value_heads, index_t tokens,
                    index_t dimension) const {
    cache_shape const& shape = choice_.summaries().shape();
    detail::check_extent("query", "sequences", sequences, shape.sequences, "the selector");
    detail::check_extent("query", "heads", query_heads, shape.key_value_heads, "the selector");
    detail::check_extent("key", "heads", key_value_heads, key_value_heads_, "the selector");
    detail::check_extent("query", "head dimension", dimension, shape.key_dimension, "the selector");
    if (tokens > capacity()) fail("query", "expected at most ", capacity(), " tokens (the capacity), got ", tokens);
    for (index_t s = 0; s < sequences; ++s)
      detail::check_extent("selector", "chunks", represented_[s], 0, "before a prompt");
  }

  /// Takes in what was appended. Throws argument_error where a chunk other than the last two is not represented.
  template <KeyValueSource Cache, Executor E = serial>
  void update(Cache const& cache, E&& executor = {}) {
    detail::check_extent("cache", "heads", cache.key_value_heads(), key_value_heads_, "the selector");
    for (index_t s = 0; s < std::min<index_t>(cache.sequences(), represented_.size()); ++s)
      if (index_t const needed = divide_up(cache.size(s), chunk_tokens()) - 2; represented_[s] < needed)
        fail("cache", "expected at most ", represented_[s] + 2, " chunks (those represented, and two), got ",
             needed + 2);
    choice_.update(cache, executor);
  }
  /// Forgets the tokens of a sequence from `size` on, and the representatives of chunks that are then not full.
  template <KeyValueSource Cache>
  void truncate(Cache const& cache, index_t sequence, index_t size) {
    choice_.truncate(cache, sequence, size);
    represented_[sequence] = std::min(represented_[sequence], size / chunk_tokens());
  }
  template <class Query, class Cache, class E>
  void select(Query const& query, Cache const& cache, E& executor) {
    choice_.select(query, cache, executor);
  }

 private:
  static page_selector_options choice(index_t chunks, index_t chunk_tokens) {
    if (chunks < 3) fail("chunks", "expected at least 3, got ", chunks);
    return {.page_tokens = chunk_tokens,
            .budget = {.fraction = 0},
            .first_pages = 1,
            .last_pages = 2,
            .min_pages = chunks,
            .lists = list_of::query_head};
  }

  index_t key_value_heads_;
  page_selector<written_key, S> choice_;
  detail::buffer<index_t> represented_;
};

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
