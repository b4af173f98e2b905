// SPDX-License-Identifier: BSD-3-Clause
// Chooses blocks of a cache by their landmarks: the part of Landmark attention that says which earlier blocks a query
// attends to (landmark_attention.hpp).
//
//   block b = tokens [b (l + 1), (b + 1) (l + 1)), the last of which is its landmark; the last block is the queries'
//   own s_b = scale * q . k_landmark(b) list = the k earlier blocks of largest s_b, with their landmarks, and the
//   tokens of the own block but its landmark
//
// Each query of each head has a list of its own, or some share one: the heads that share keys, or all heads, and the
// queries of a call. Blocks are then ranked by the largest, over those that share, of softmax_b s_b.
//
// With rotary positions keys are stored unrotated, and there are k + 1 slots of l + 1 places just before the own block,
// whose places are the last ones, however long the text ("stingy" positions). With k' the lesser of k and the number of
// earlier blocks:
//
//   for s_b        the last k' blocks stand in slots 1 .. k', all older ones in slot 0
//   for attention  the a-th chosen block, from 0 on, stands in slot a, or in a + 1 if it is one of the last k'
//
// Bytes of a choice: a key for each block, copied beside the others. A list takes 4 bytes for each token.
//
// Amirkeivan Mohtashami, Martin Jaggi: Landmark Attention: Random-Access Infinite Context Length for Transformers,
// 2023. Slots are those of the authors' code; it shares over queries, and mentions heads.
#pragma once

#include "../../cache/quantize.hpp"
#include "../../core/head_loop.hpp"
#include "../../policy/position/rotary_places.hpp"
#include "../../policy/score/scale.hpp"
#include "../../select/page_selector.hpp"
#include "../../simd/dot.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Says which heads share a choice of blocks, and whether all queries of a call do.
enum class landmark_heads { each, of_key_head, all };
struct landmark_sharing {
  landmark_heads heads = landmark_heads::each;
  bool queries = false;
};

/// Chooses blocks and keeps what attention to them needs. S is the element type of the landmarks' copies.
///
///     landmark_selector<float> selector(shape, 32, 4096, 4, 51);  // query heads, tokens, blocks, tokens of a block
///     selector.update(cache);
///     landmark_attention(q, cache, selector, o);
template <Element S>
class landmark_selector {
 public:
  using A = accumulation_t<S>;

  /// Blocks have `block_tokens` tokens, their landmark included: l + 1 for a model whose blocks hold l tokens of text,
  /// 51 in the paper. `blocks` of them are chosen, or all where there are fewer. `capacity` is in tokens of a sequence.
  ///
  /// Throws argument_error where an extent is negative or query heads are not a multiple of key-value heads.
  landmark_selector(cache_shape const& shape, index_t query_heads, index_t capacity, index_t blocks,
                    index_t block_tokens = 51, landmark_sharing const& sharing = {})
      : query_heads_(detail::check_query_heads(query_heads, shape)),
        sharing_(sharing),
        summaries_(shape, capacity, checked(blocks, block_tokens)),
        blocks_(std::min(blocks, divide_up(capacity, block_tokens))),
        lists_(shape.sequences, list_heads(shape),
               std::min((blocks_ + 1) * std::min(block_tokens, capacity), capacity)),
        first_place_("landmark_selector", std::array{shape.sequences, list_heads(shape), blocks_ + 1}) {}

  index_t blocks() const { return blocks_; }
  index_t block_tokens() const { return summaries_.page_tokens(); }
  landmark_sharing const& sharing() const { return sharing_; }
  index_t bytes() const { return summaries_.bytes() + lists_.bytes() + first_place_.bytes(); }
  index_t bytes_scored() const {
    index_t bytes = 0;
    for (index_t s = 0; s < summaries_.shape().sequences; ++s) bytes += summaries_.bytes_scored(s);
    return bytes;
  }
  /// Gives the tokens of the last choice: the chosen blocks with their landmarks, and the own block without.
  token_lists const& lists() const { return lists_; }
  /// Gives where the block stands that is the list's g-th, the own one last.
  index_t first_place(index_t sequence, index_t list, index_t g) const {
    return first_place_[(sequence * lists_.heads() + list) * (blocks_ + 1) + g];
  }
  /// Gives where a query stands that is at a position of a sequence whose last token is in the same block.
  index_t query_place(index_t position) const {
    index_t const own = position / block_tokens();
    return (std::min(blocks_, own) + 1) * block_tokens() + position % block_tokens();
  }

  /// Takes in what was appended to the cache since; it is called before every selection.
  template <KeyValueSource Cache, Executor E = serial>
  void update(Cache const& cache, E&& executor = {}) {
    summaries_.update(cache, executor);
  }
  /// Forgets the tokens of a sequence from `size` on; it is called before the cache forgets them.
  template <KeyValueSource Cache>
  void truncate(Cache const& cache, index_t sequence, index_t size) {
    summaries_.truncate(cache, sequence, size);
  }

  /// Throws argument_error where queries do not fit, the cache has other tokens than at the last update, or queries are
  /// not all of the last block.
  template <Element T, class Cache>
  void check(tensor_view<T const, 4> const& query, Cache const& cache) const {
    static_assert(std::same_as<accumulation_t<T>, A>, "attend: queries and landmarks must have one accumulation type");
    cache_shape const& shape = summaries_.shape();
    detail::check_selecting_query(query, shape, query_heads_);
    detail::check_extent("cache", "sequences", cache.sequences(), shape.sequences, "the selector");
    detail::check_extent("cache", "heads", cache.key_value_heads(), shape.key_value_heads, "the selector");
    for (index_t s = 0; s < shape.sequences; ++s) {
      index_t const size = cache.size(s), own = size - own_block(size) * block_tokens();
      detail::check_extent("cache", "tokens", size, summaries_.size(s), "the selector was told");
      if (query.extent(2) > std::max<index_t>(own, 1))
        fail("query", "expected at most ", own, " tokens (those of the last block of sequence ", s, "), got ",
             query.extent(2));
    }
  }

  /// Throws argument_error where so many tokens more are beyond the capacity.
  template <class Cache>
  void check_room(Cache const& cache, index_t tokens) const {
    for (index_t s = 0; s < summaries_.shape().sequences; ++s)
      if (index_t const room = summaries_.capacity() - cache.size(s); tokens > room)
        fail("query", "expected at most ", room, " tokens (the selector's capacity, sequence ", s, "), got ", tokens);
  }

  /// Chooses for queries [first, last) of those that are the last tokens, together; `position` is a rotary policy or
  /// absent.
  template <Element T, class Cache, class Position, class E>
  void choose(tensor_view<T const, 4> const& query, Cache const& cache, index_t first, index_t last,
              Position const& position, A scale, E& executor) {
    check(query, cache);
    cache_shape const& shape = summaries_.shape();
    index_t const heads = shape.key_value_heads, group = heads > 0 ? query_heads_ / heads : 0, count = last - first;
    index_t stride = 0;
    for (index_t s = 0; s < shape.sequences; ++s) stride = std::max(stride, own_block(summaries_.size(s)));
    scratch memory;
    float* const scores = memory.allocate<float>(shape.sequences * query_heads_ * count * stride + 1);
    detail::loop_cost const of_head =
        detail::loop_cost::of(2 * group * count * stride * shape.key_dimension, stride * shape.key_dimension * 2);
    detail::for_heads(executor, shape.sequences, heads, of_head, [&](index_t s, index_t head) {
      float* const to = scores + (s * query_heads_ + head * group) * count * stride;
      score(query, s, head, first, last, position, to, stride);
      if (lists_.heads() == query_heads_ && count == 1) return;
      for (index_t row = 0; row < group * count; ++row)
        normalize(to + row * stride, own_block(summaries_.size(s)), static_cast<float>(scale));
    });
    index_t const behind = query.extent(2) - last;
    detail::for_heads(executor, shape.sequences, lists_.heads(), detail::loop_cost::of(20 * stride),
                      [&](index_t s, index_t list) {
                        index_t const rows = query_heads_ / lists_.heads() * count;
                        write_list(s, list, scores + (s * lists_.heads() + list) * rows * stride, rows, stride, behind);
                      });
  }
  /// Chooses for all queries together, without rotary positions.
  template <class Query, class Cache, class E>
  void select(Query const& query, Cache const& cache, E& executor) {
    arithmetic_mode const arithmetic;
    tensor_view<element_of_t<Query const> const, 4> const q = raise<4>(view_of(query));
    choose(q, cache, 0, q.extent(2), detail::absent{}, detail::usual_scale(q.extent(3)), executor);
  }

 private:
  static index_t checked(index_t blocks, index_t block_tokens) {
    if (blocks < 0) fail("blocks", "expected at least 0, got ", blocks);
    if (block_tokens < 2) fail("block_tokens", "expected at least 2, a landmark among them, got ", block_tokens);
    return block_tokens;
  }
  index_t list_heads(cache_shape const& shape) const {
    switch (sharing_.heads) {
      case landmark_heads::each:
        return query_heads_;
      case landmark_heads::of_key_head:
        return shape.key_value_heads;
      default:
        return std::min<index_t>(shape.key_value_heads, 1);
    }
  }
  index_t own_block(index_t size) const { return (std::max<index_t>(size, 1) - 1) / block_tokens(); }

  /// Writes the scores [query head, query][stride] of the blocks before the own one.
  template <Element T, class Position>
  void score(tensor_view<T const, 4> const& query, index_t s, index_t head, index_t first, index_t last,
             [[maybe_unused]] Position const& position, float* to, index_t stride) const {
    constexpr bool rotates = !std::same_as<Position, detail::absent>;
    index_t const dimension = query.extent(3), group = query_heads_ / summaries_.shape().key_value_heads,
                  count = last - first, rows = group * count, size = summaries_.size(s), own = own_block(size);
    if (rows == 0 || own == 0) return;
    scratch memory;
    detail::row_queries<S> packed(memory, rows, dimension);
    A* const wide = memory.allocate<A>(dimension);
    [[maybe_unused]] A* const placed = memory.allocate<A>(rotates ? rows * dimension : 0);
    [[maybe_unused]] A* numbers = nullptr;
    if constexpr (rotates) numbers = memory.allocate<A>(position.buffer_size());
    for (index_t row = 0; row < rows; ++row) {
      index_t const token = first + row % count;
      T const* const from = &query(s, head * group + row / count, token, 0);
      simd::widen_row(from, wide, dimension);
      if constexpr (rotates) {
        index_t const place = query_place(size - query.extent(2) + token);
        position.rotation_at(token_place::on_all_axes(s, place), numbers)
            .apply(from, placed + row * dimension, dimension);
        // Of blocks in slot 0 the landmarks stand at one place: the query is turned by the difference.
        position.rotation_by(token_place::on_all_axes(s, place - (block_tokens() - 1)), numbers)
            .apply(wide, wide, dimension);
        A const factor = static_cast<A>(position.angles().attention_factor());
        for (index_t c = 0; c < position.dimension(); ++c) wide[c] *= factor * factor;
      }
      packed.set(row, wide);
    }
    summaries_.score(s, head, 0, own, packed, to, stride, false);
    if constexpr (rotates) {
      index_t const recent = std::min(blocks_, own);
      for (index_t b = own - recent; b < own; ++b) {
        simd::widen_row(summaries_.row(s, head, b), wide, dimension);
        index_t const slot = b - (own - recent) + 1;
        position.rotation_at(token_place::on_all_axes(s, (slot + 1) * block_tokens() - 1), numbers)
            .apply(wide, wide, dimension);
        for (index_t row = 0; row < rows; ++row)
          to[row * stride + b] = static_cast<float>(simd::dot(placed + row * dimension, wide, dimension));
      }
    }
  }

  /// Turns scores into a softmax over the blocks.
  static void normalize(float* scores, index_t count, float scale) {
    float most = -infinity<float>, sum = 0;
    for (index_t b = 0; b < count; ++b) most = std::max(most, scores[b] *= scale);
    for (index_t b = 0; b < count; ++b) sum += scores[b] = std::exp(scores[b] - most);
    for (index_t b = 0; b < count; ++b) scores[b] /= sum;
  }

  /// Writes a list from the scores [row][stride] of those that share it.
  void write_list(index_t s, index_t list, float* scores, index_t rows, index_t stride, index_t behind) {
    index_t const size = summaries_.size(s), own = own_block(size), tokens = block_tokens();
    index_t const wanted = std::min(blocks_, own);
    for (index_t row = 1; row < rows; ++row)
      for (index_t b = 0; b < own; ++b) scores[b] = std::max(scores[b], scores[row * stride + b]);
    scratch memory;
    auto* const chosen = memory.allocate<std::int32_t>(own + 1);
    index_t const count = rows == 0 ? 0 : top_k(scores, own, wanted, chosen);
    auto* const place = &first_place_[(s * lists_.heads() + list) * (blocks_ + 1)];
    lists_.clear(s, list);
    for (index_t a = 0; a < count; ++a) {
      lists_.add(s, list, chosen[a] * tokens, (chosen[a] + 1) * tokens);
      place[a] = (a + (chosen[a] >= own - wanted ? 1 : 0)) * tokens;
    }
    lists_.add(s, list, own * tokens, std::min((own + 1) * tokens - 1, size - behind));
    place[count] = (wanted + 1) * tokens;
  }

  index_t query_heads_;
  landmark_sharing sharing_;
  page_summaries<last_key, S> summaries_;
  index_t blocks_;
  token_lists lists_;
  detail::buffer<index_t> first_place_;  // of the list's blocks
};

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
