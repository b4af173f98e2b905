// SPDX-License-Identifier: BSD-3-Clause
// LongHeads (decoding) over keys that are rotated for their place in their chunk: what a step then rotates are queries.
//
//   list of n chunks of l tokens (long_heads_selector.hpp); key t of the list stands at t, the query at (n - 1) l + r,
//   where it is token r of its chunk. With R the rotation, and t = s l + i, the i-th key of the s-th chunk:
//
//   (R((n - 1) l + r) q) . (R(s l + i) k) = (R((n - 1 - s) l + r) q) . (R(i) k)
//
// The cache has R(i) k, which is the same whatever is chosen: a key is rotated once, for its token's number modulo l.
// A step rotates the query once for each chunk of its list, attends to each chunk alone, and merges. Rotated at the
// places that the choice gives them, keys would be rotated in each step, and for each query head.
//
// Rotations have to add up: angles are those of frequencies, and not of a table.
//
// Bytes of a step: a representative of each chunk for each query head, and the chosen keys and values for each query
// head.
//
// Yi Lu et al.: LongHeads: Multi-Head Attention is Secretly a Long Context Processor, 2024.
#pragma once

#include "../cached/decode_attention.hpp"
#include "../softmax/merge.hpp"
#include "long_heads_selector.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// The chunks of lists as heads of their own: head h * chunks + s has the rows of chunk s of list h.
template <KeyValueSource Source>
class listed_chunks {
 public:
  using key_element = typename Source::key_element;
  using value_element = typename Source::value_element;

  listed_chunks(Source const& source, token_lists const& lists, index_t chunks, index_t chunk_tokens)
      : source_(source),
        lists_(lists),
        chunks_(chunks),
        chunk_tokens_(chunk_tokens),
        heads_to_source_(std::max<index_t>(lists.heads() / std::max<index_t>(source.key_value_heads(), 1), 1)) {}

  index_t sequences() const { return source_.sequences(); }
  index_t key_value_heads() const { return lists_.heads() * chunks_; }
  index_t key_dimension() const { return source_.key_dimension(); }
  index_t value_dimension() const { return source_.value_dimension(); }
  index_t size(index_t sequence) const { return source_.size(sequence); }
  index_t stored(index_t sequence, index_t head) const {
    index_t const before = head % chunks_ * chunk_tokens_;
    return std::clamp(lists_.size(sequence, head / chunks_) - before, index_t{0}, chunk_tokens_);
  }
  void check_readable() const { detail::check_readable(source_); }
  void check_apart(char const* output, view_layout const& written) const {
    if constexpr (requires { source_.check_apart(output, written); }) source_.check_apart(output, written);
  }

  key_value_rows<key_element, value_element> rows(index_t sequence, index_t head, index_t first) const {
    index_t const list = head / chunks_, at = head % chunks_ * chunk_tokens_ + first;
    auto run = source_.rows(sequence, list / heads_to_source_, lists_(sequence, list)[static_cast<std::size_t>(at)]);
    run.count = std::min(run.count, stored(sequence, head) - first);
    return run;
  }

 private:
  Source const& source_;
  token_lists const& lists_;
  index_t chunks_, chunk_tokens_, heads_to_source_;
};

}  // namespace detail

namespace systems {

/// Attends from query [sequence, query head, 1, key dimension], not rotated, to the chunks that the selector chooses of
/// a cache which has the query's token, and writes output [sequence, query head, 1, value dimension]. The cache's keys
/// are rotated for their token's number modulo the length of a chunk. Options: scale (1/sqrt(key dimension) unless
/// given) and executor.
///
/// Throws argument_error, before the output is written, where shapes or an option do not fit, where `position` has
/// positions of its own, or where the selector was not told of all tokens.
///
///     rotary_embedding(k, position, k);  // a chunk of 256 tokens, before it is appended: places 0 to 255
///     long_heads_selector<float> selector(shape, 32, 4096, 16, 256);
///     long_heads_attention(q, cache, selector, o, position, threads{8});
template <TensorArgument Query, KeyValueSource Cache, Element S, TensorArgument Output, class... Options>
void long_heads_attention(Query const& query, Cache const& cache, long_heads_selector<S>& selector, Output&& output,
                          rotary<rotary_frequencies> const& position, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  call::allows<option::scale, option::executor>::check<Options...>();
  tensor_view<T const, 4> const q = raise<4>(view_of(query));
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  call::cache_problem<T>(q, cache, o);
  detail::check_apart("output", o, "query", q);
  index_t const sequences = q.extent(0), heads = q.extent(1), dimension = q.extent(3), tokens = selector.chunk_tokens(),
                chunks = selector.chunks();
  detail::check_extent("query", "tokens", q.extent(2), 1, "a decoding step");
  detail::check_own_positions(position);
  position.check(token_positions(0), 1, chunks * tokens, dimension);
  auto& executor = call::executor_of(options...);
  selector.select(q, cache, executor);

  scratch memory;
  index_t const rows = sequences * heads * chunks;
  tensor_view<A, 4> const rotated(memory.allocate<A>(rows * dimension + 1), {sequences, heads * chunks, 1, dimension});
  A* const angles = memory.allocate<A>(position.buffer_size());
  for (index_t s = 0; s < sequences; ++s) {
    if (cache.size(s) == 0 || heads == 0) continue;
    index_t const listed = divide_up(selector.lists().size(s, 0), tokens), own = (cache.size(s) - 1) % tokens;
    for (index_t slot = 0; slot < chunks; ++slot) {
      // Places behind the last chunk have no keys, and any query.
      auto const turn = position.rotation_at(
          token_place::on_all_axes(s, std::max<index_t>(listed - 1 - slot, 0) * tokens + own), angles);
      for (index_t head = 0; head < heads; ++head)
        turn.apply(&q(s, head, 0, 0), &rotated(s, head * chunks + slot, 0, 0), dimension);
    }
  }
  tensor_view<A, 4> const parts(memory.allocate<A>(rows * o.extent(3) + 1),
                                {sequences, heads * chunks, 1, o.extent(3)});
  tensor_view<A, 3> const log_sums(memory.allocate<A>(rows + 1), {sequences, heads * chunks, 1});
  decode_attention(tensor_view<A const, 4>(rotated),
                   detail::listed_chunks<Cache>(cache, selector.lists(), chunks, tokens), parts, log_sum_exp(log_sums),
                   options...);
  // Chunk s of all heads.
  auto const part_of = [&](index_t slot) {
    auto const of_slot = [&](auto const& all) {
      auto extents = all.extents(), strides = all.strides();
      extents[1] = heads;
      strides[1] *= chunks;
      return std::remove_cvref_t<decltype(all)>(all.data() + slot * all.stride(1), extents, strides);
    };
    return partial_attention<A>(of_slot(parts), of_slot(log_sums));
  };
  auto* const list = memory.allocate<partial_attention<A>>(chunks);
  for (index_t slot = 0; slot < chunks; ++slot) std::construct_at(list + slot, part_of(slot));
  merge(std::span<partial_attention<A> const>(list, static_cast<std::size_t>(chunks)), o, executor);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
