// SPDX-License-Identifier: BSD-3-Clause
// Landmark attention (decoding): each block of tokens ends in a landmark, whose weight is handed to its block.
//
//   block b = l tokens and a landmark; the query stands in the last block, which is not full, or is full with it
//   P = softmax over {the last block's own tokens} and {landmarks of the chosen blocks}     of scale * q . k
//   pi_b = softmax over the l tokens of block b
//   o = sum_{j own} P_j v_j + sum_b P_landmark(b) sum_{j in b} pi_b(j) v_j
//
// chosen blocks: those of the largest landmark logits for each query head. With all of them it is the attention that
// the model was trained with. Landmarks have no value, and a block's own landmark is not seen within it.
//
// So a block is attention over its l tokens, merged by the landmark's logit where its log-sum-exp would stand. Keys
// stand where the cache has them: positions that are renumbered for the chosen blocks are left to the caller.
//
// A landmark finds what the model has trained it to stand for: a key within a block that its landmark does not tell of
// is not found.
//
// Bytes of a step: a key for each block, and the chosen keys and values.
//
// Amirkeivan Mohtashami, Martin Jaggi: Landmark Attention: Random-Access Infinite Context Length for Transformers,
// 2023.
#pragma once

#include "../../cache/quantize.hpp"
#include "../../policy/score/scale.hpp"
#include "../../select/page_selector.hpp"
#include "../../select/selected_rows.hpp"
#include "../../select/sequence_copies.hpp"
#include "../../simd/dot.hpp"
#include "../cached/decode_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Chooses blocks and keeps what attention to them needs. S is the element type of the landmarks' copies.
///
///     landmark_selector<float> selector(shape, 32, 4096, 4, 51);  // query heads, tokens, blocks, tokens of a block
///     selector.update(cache);
///     landmark_attention(q, cache, selector, o);
template <Element S>
class landmark_selector {
 public:
  /// Blocks have `block_tokens` tokens, their landmark included: l + 1 for a model whose blocks hold l tokens of text,
  /// 51 in the paper. `blocks` of them are chosen, or all where there are fewer. `capacity` is in tokens of a sequence.
  ///
  /// Throws argument_error where an extent is negative or query heads are not a multiple of key-value heads.
  landmark_selector(cache_shape const& shape, index_t query_heads, index_t capacity, index_t blocks,
                    index_t block_tokens = 51)
      : choice_(shape, query_heads, capacity, choice(blocks, block_tokens)),
        blocks_(std::min(blocks, divide_up(capacity, block_tokens))),
        lists_(blocks_ + 1, query_heads, std::min(block_tokens, capacity)) {}

  index_t blocks() const { return blocks_; }
  index_t block_tokens() const { return choice_.choice().page_tokens; }
  index_t bytes() const { return choice_.bytes() + lists_.bytes(); }
  index_t bytes_scored() const { return choice_.bytes_scored(); }
  /// Gives all tokens of the chosen blocks, landmarks included.
  token_lists const& lists() const { return choice_.lists(); }

  /// Takes in what was appended to the cache since; it is called before every selection.
  template <KeyValueSource Cache, Executor E = serial>
  void update(Cache const& cache, E&& executor = {}) {
    choice_.update(cache, executor);
  }
  /// Forgets the tokens of a sequence from `size` on; it is called before the cache forgets them.
  template <KeyValueSource Cache>
  void truncate(Cache const& cache, index_t sequence, index_t size) {
    choice_.truncate(cache, sequence, size);
  }
  template <class Query, class Cache, class E>
  void select(Query const& query, Cache const& cache, E& executor) {
    choice_.select(query, cache, executor);
  }

  /// Gives the lists of one sequence, with each block's tokens in a list of its own: [block, the own one last][query
  /// head].
  token_lists const& blocks_of(index_t sequence) {
    index_t const tokens = block_tokens();
    for (index_t head = 0; head < lists_.heads(); ++head) {
      for (index_t slot = 0; slot <= blocks_; ++slot) lists_.clear(slot, head);
      auto const list = choice_.lists()(sequence, head);
      index_t const size = choice_.summaries().size(sequence), own = (std::max<index_t>(size, 1) - 1) / tokens;
      index_t slot = 0, page = -1;
      for (index_t token : list)
        if (token / tokens != page) {
          page = token / tokens;
          index_t const first = page * tokens, last = std::min(first + tokens - 1, size);
          lists_.add(page == own ? blocks_ : slot++, head, first, last);
        }
    }
    return lists_;
  }

 private:
  static page_selector_options choice(index_t blocks, index_t block_tokens) {
    if (blocks < 0) fail("blocks", "expected at least 0, got ", blocks);
    if (block_tokens < 2) fail("block_tokens", "expected at least 2, a landmark among them, got ", block_tokens);
    return {.page_tokens = block_tokens,
            .budget = {.fraction = 0},
            .last_pages = 1,
            .min_pages = std::min(blocks, token_limit) + 1,
            .lists = list_of::query_head};
  }

  page_selector<last_key, S> choice_;
  index_t blocks_;
  token_lists lists_;
};

/// Attends from query [sequence, query head, 1, key dimension] to the chosen blocks of a cache that has the query's
/// token, and writes output [sequence, query head, 1, value dimension]. Options: scale (1/sqrt(key dimension) unless
/// given) and executor.
///
/// Throws argument_error, before the output is written, where shapes or an option do not fit, or where the selector was
/// not told of all tokens.
///
///     landmark_selector<float> selector(shape, 32, 4096, 4, 51);
///     selector.update(cache);
///     landmark_attention(q, cache, selector, o);
template <TensorArgument Query, KeyValueSource Cache, Element S, TensorArgument Output, class... Options>
void landmark_attention(Query const& query, Cache const& cache, landmark_selector<S>& selector, Output&& output,
                        Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  call::allows<option::scale, option::executor>::check<Options...>();
  tensor_view<T const, 4> const q = raise<4>(view_of(query));
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  call::cache_problem<T>(q, cache, o);
  detail::check_extent("query", "tokens", q.extent(2), 1, "a decoding step");
  detail::check_apart("output", o, "query", q);
  auto& executor = call::executor_of(options...);
  A const factor = detail::scale_or<A>(detail::usual_scale(q.extent(3)), options...);
  selector.select(q, cache, executor);

  index_t const slots = selector.blocks() + 1, heads = q.extent(1), dimension = q.extent(3), values = o.extent(3);
  index_t const group_size = cache.key_value_heads() > 0 ? heads / cache.key_value_heads() : 1;
  scratch memory;
  tensor_view<A, 3> const logits(memory.allocate<A>(slots * heads + 1), {slots, heads, 1});
  tensor_view<T, 4> const parts(memory.allocate<T>(slots * heads * values + 1), {slots, heads, 1, values});
  A* const key = memory.allocate<A>(dimension);
  A* const wide = memory.allocate<A>(dimension);
  A* const factors = memory.allocate<A>(slots);
  for (index_t s = 0; s < q.extent(0); ++s) {
    token_lists const& lists = selector.blocks_of(s);
    detail::sequence_copies<Cache> const copies{cache, s, slots};
    tensor_view<T const, 4> const same(q.data() + s * q.stride(0), {slots, heads, 1, dimension},
                                       {0, q.stride(1), q.stride(2), 1});
    decode_attention(same, selected_rows(copies, lists), parts, scale(factor), log_sum_exp(logits), executor);
    for (index_t head = 0; head < heads; ++head) {
      for (index_t slot = 0; slot < slots; ++slot) {
        factors[slot] = logits(slot, head, 0);
        if (slot + 1 == slots || lists.size(slot, head) == 0) continue;
        index_t const landmark = lists(slot, head).back() + 1;
        detail::read_key(cache.rows(s, head / group_size, landmark), 0, dimension, key);
        simd::widen_row(&q(s, head, 0, 0), wide, dimension);
        factors[slot] = factor * simd::dot(wide, key, dimension);
      }
      engine::merge_factors(factors, slots);
      if (values > 0)
        engine::merge_rows(
            factors, slots, [&](index_t slot) { return &parts(slot, head, 0, 0); }, values, &o(s, head, 0, 0));
    }
  }
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
