// SPDX-License-Identifier: BSD-3-Clause
// SeerAttention: blocks chosen by a learned gate (decoding).
//
//   K_b = [max | min | mean of the keys of block b] W_k   [3 * dimension] x [3 * dimension, gate dimension]
//   Q_h = q_h W_q                                         [dimension] x [dimension, gate dimension]
//   G_hb = softmax over the blocks of (rotated Q_h . rotated K_b / sqrt(gate dimension))
//   o    = attention to the blocks of largest G, the query's own one among them
//
// Q and K are rotated for the position at which their block begins. Keys and queries of the gate are those before
// rotary positions: the selector is updated from a store of such keys, which may be another than the one attended to,
// and selects by such queries. The softmax keeps the order of its logits, so it is not computed. Weights are per head:
// W_q [query head or 1 for all, dimension, gate dimension], W_k [key-value head, 3 * dimension, gate dimension].
//
// The gate finds what its weights were trained to find.
//
// Bytes of a step: gate dimension numbers for each block, and the chosen keys and values.
//
// Yizhao Gao et al.: SeerAttention: Learning Intrinsic Sparse Attention in Your LLMs, 2024.
#pragma once

#include "../../policy/position/rotary.hpp"
#include "../../select/page_selector.hpp"
#include "../../simd/few_rows.hpp"
#include "selected_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Holds views of a gate's weights: query_weight [query head or 1, dimension, gate dimension], key_weight [key-value
/// head, 3 * dimension, gate dimension]. It is the kind of summary that seer_selector keeps of a block.
struct seer_gate {
  tensor_view<float const, 3> query_weight, key_weight;
  rotary<rotary_frequencies> rotation;
  index_t page_tokens;

  /// Throws argument_error where the weights do not fit each other, or a block has no token.
  ///
  ///     seer_gate const gate(head_matrices, head_matrices, rotary(rotary_frequencies(128)), 64);
  template <TensorArgument QueryWeight, TensorArgument KeyWeight>
  seer_gate(QueryWeight const& w_q, KeyWeight const& w_k, rotary<rotary_frequencies> const& settings,
            index_t block_tokens)
      : query_weight(raise<3>(view_of(w_q))),
        key_weight(raise<3>(view_of(w_k))),
        rotation(settings),
        page_tokens(block_tokens) {
    detail::check_view("query_weight", query_weight);
    detail::check_view("key_weight", key_weight);
    detail::check_extent("key_weight", "rows", key_weight.extent(1), 3 * query_weight.extent(1),
                         "three times query_weight's");
    detail::check_extent("key_weight", "gate dimension", key_weight.extent(2), query_weight.extent(2), "query_weight");
    if (block_tokens < 1 || block_tokens >= token_limit)
      fail("block_tokens", "expected 1 to ", token_limit - 1, ", got ", block_tokens);
    if (rotation.dimension() > query_weight.extent(2))
      fail("rotation", "expected at most ", query_weight.extent(2), " channels (the gate dimension), got ",
           rotation.dimension());
  }

  void check(cache_shape const& shape, index_t tokens) const {
    detail::check_extent("key_weight", "heads", key_weight.extent(0), shape.key_value_heads, "the cache");
    detail::check_extent("seer_gate", "tokens of a block", page_tokens, tokens, "the choice");
  }
  void check_queries(index_t heads) const {
    if (query_weight.extent(0) != 1 && query_weight.extent(0) != heads)
      fail("query_weight", "expected ", detail::one_or(heads, "head", "heads"), ", got ", query_weight.extent(0));
  }
  index_t summary_numbers(index_t dimension) const {
    detail::check_extent("query_weight", "rows", query_weight.extent(1), dimension, "the head dimension");
    return query_weight.extent(2);
  }
  index_t open_numbers(index_t dimension) const { return 3 * dimension; }

  void begin(float* open, index_t dimension) const {
    key_bounds{}.begin(open, dimension);
    mean_key{}.begin(open + 2 * dimension, dimension);
  }
  void add(float* open, float const* key, index_t dimension) const {
    key_bounds{}.add(open, key, dimension);
    mean_key{}.add(open + 2 * dimension, key, dimension);
  }
  void finish(float const* open, index_t tokens, index_t dimension, page_place const& at, float* summary) const {
    scratch memory;
    float* const pooled = memory.allocate<float>(round_up(3 * dimension, simd::width<float>));
    std::copy_n(open, 2 * dimension, pooled);
    mean_key{}.finish(open + 2 * dimension, tokens, dimension, at, pooled + 2 * dimension);
    project(pooled, key_weight, at.head, at.page, memory, summary);
  }
  void map_query(float const* query, index_t, query_place const& at, float* mapped) const {
    scratch memory;
    project(query, query_weight, query_weight.extent(0) == 1 ? 0 : at.head, at.position / page_tokens, memory, mapped);
  }

 private:
  void project(float const* row, tensor_view<float const, 3> const& weight, index_t head, index_t page, scratch& memory,
               float* to) const {
    if (weight.extent(2) == 0) return;
    float* const each[] = {to};
    simd::multiply_few<1>(row, 0, &weight(head, 0, 0), weight.stride(1), weight.extent(1), weight.extent(2), each);
    rotation
        .rotation_at(token_place::on_all_axes(0, page * page_tokens), memory.allocate<float>(rotation.buffer_size()))
        .apply(to, to, weight.extent(2));
  }
};

/// Selects blocks by a learned gate. S is the element type in which gate keys are kept.
template <Element S>
using seer_selector = page_selector<seer_gate, S>;

/// Gives the choice: as many blocks as the budget's tokens, rounded up, the query's own one among them.
///
///     page_selector_options const choice = seer_blocks({.tokens = 1024}, 64);
inline page_selector_options seer_blocks(selection_budget const& budget, index_t block_tokens = 64,
                                         list_of lists = list_of::query_head) {
  return {.page_tokens = block_tokens, .budget = budget, .last_pages = 1, .lists = lists, .score = score_of::largest};
}

/// Attends from `query` to the blocks of `cache` that the gate chooses for `gate_query`, the queries before rotary
/// positions. Shapes and options are those of decode_attention.
///
/// Throws argument_error, before the output is written, where shapes or an option do not fit, or where the selector was
/// not told of all tokens.
///
///     seer_gate const gate(head_matrices, head_matrices, rotary(rotary_frequencies(128)), 64);
///     seer_selector<float> selector(shape, 32, 4096, seer_blocks({.tokens = 1024}), gate);
///     selector.update(cache);  // keys before rotary positions
///     seer_attention(rotated_query, q, cache, selector, o);
template <TensorArgument Query, TensorArgument GateQuery, KeyValueSource Cache, Element S, TensorArgument Output,
          class... Options>
void seer_attention(Query const& query, GateQuery const& gate_query, Cache const& cache, seer_selector<S>& selector,
                    Output&& output, Options&&... options) {
  arithmetic_mode const arithmetic;
  call::decode_options::check<Options...>();
  auto const q = raise<4>(view_of(query));
  auto const g = raise<4>(view_of(gate_query));
  detail::check_extent("gate_query", "tokens", g.extent(2), q.extent(2), "query");
  selector.select(gate_query, cache, call::executor_of(options...));
  decode_attention(query, selected_rows(cache, selector.lists()), output, options...);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
