// SPDX-License-Identifier: BSD-3-Clause
// SparseK attention, causal: each query sees a window of the last tokens, and the best k of those before it.
//
//   p_i = sparse_k(u_0 .. u_{pos(i) - w}, k)          the scores of the tokens that have left the window of w
//   I_i = the k of these tokens with the largest u_j; ties to the lower index
//   o_i = softmax attention of q_i to the keys of I_i and of the window, values p_ij v_j and v_j
//
//   query, key, value, output   as for softmax_attention, causal, aligned at the last token
//   scores                      [batch, key head, key], of the accumulation type
//
// Scores do not depend on the query: a token joins when it leaves the window, and once it is not among the k best it
// never is again. So each key has one span of queries that see it, and a tile of queries has little more than k keys,
// which are gathered a block at a time.
//
// Cost: k + w pairs for each query, and O(log keys) for a token's place among the scores. Memory: the spans, and a
// threshold for each token.
//
// Chao Lou, Zixia Jia, Zilong Zheng, Kewei Tu: Sparser is Faster and Less is More: Efficient Sparse Attention for
// Long-Range Transformers, 2024.
#pragma once

#include "../../call/plan.hpp"
#include "../../core/head_loop.hpp"
#include "../../core/order.hpp"
#include "../../engine/softmax/gathered.hpp"
#include "../../engine/softmax/row_parts.hpp"
#include "../../policy/mask/window.hpp"
#include "../../select/sparse_k.hpp"
#include "sparse_k_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// Of the keys of a list: those that have joined, and are not gone.
struct key_spans {
  using option_kind = option::mask;
  std::int32_t const* token;
  std::int32_t const* gone;  // of each token, the first position that does not see it
  index_t count, window;

  template <class U>
  key_range bounds(tile_rows<U> const& rows) const {
    return {0, std::upper_bound(token, token + count, rows.last_position - window, detail::ascending{}) - token};
  }
  template <class U>
  visibility classify(tile_rows<U> const& rows, key_range range) const {
    bool every = true, some = false;
    for (index_t j = range.first; j < range.last; ++j) {
      index_t const from = token[j] + window, to = gone[token[j]];
      every &= from <= rows.first_position && rows.last_position < to;
      some |= from <= rows.last_position && rows.first_position < to;
    }
    return every ? visibility::all : some ? visibility::some : visibility::none;
  }
  template <class U>
  ATTEND_INLINE auto visible(mask_place<U> const& place) const {
    using integer = position_t<U>;
    std::int32_t const at = token[place.key_index];
    return (simd::integers<U>(static_cast<integer>(at + window)) <= place.query_position) &
           (place.query_position < simd::integers<U>(static_cast<integer>(gone[at])));
  }
};

/// p_ij = clip(u_j - tau_i, 0, 1).
template <class A>
struct sparse_k_gain {
  std::int32_t const* token;
  A const* score;
  A const* tau;  // of each position

  auto bind(tile_rows<A> const& rows, key_range) const {
    lane_values<A> const tau_of_lane([&](int lane) { return tau[std::max<index_t>(rows.position[lane], 0)]; });
    return [this, tau_of_lane](score_place<A> const& place) {
      simd::vector<A> const above = simd::vector<A>(score[token[place.key_index]]) - tau_of_lane.at(place.lane);
      return simd::clamp<A>(above, simd::vector<A>(A(0)), simd::vector<A>(A(1)));
    };
  }
};

/// The work of sparse_k_causal_attention, checked.
template <Element T>
class sparse_k_spans {
 public:
  using A = accumulation_t<T>;

  sparse_k_spans(engine::problem<T> const& p, tensor_view<A const, 3> const& scores, index_t k, index_t window,
                 scratch& memory)
      : p_(p),
        scores_(scores),
        k_(k),
        window_(window),
        keys_(p.shape.keys),
        gone_(memory.allocate<std::int32_t>(p.shape.batches * p.shape.key_heads * keys_)),
        tau_(memory.allocate<A>(p.shape.batches * p.shape.key_heads * keys_)) {}

  template <class E>
  void run(E& executor) const {
    // A few comparisons for each key, in heaps.
    for_heads(executor, p_.shape.batches, p_.shape.key_heads, loop_cost::of(100 * p_.shape.keys),
              [&](index_t batch, index_t head) { find_spans(batch, head); });
    index_t const group_size = p_.heads_per_group();
    index_t const queries = std::max<index_t>(engine::gathered_tiles<T>::max_rows / group_size, 1);
    engine::for_row_parts(p_, group_size, queries * group_size, p_.shape.keys / 2, executor,
                          [&](engine::row_part const& part) { attend(part); });
  }

 private:
  /// The token that leaves the window at a position joins the others.
  void find_spans(index_t batch, index_t head) const {
    scratch memory;
    running_sparse_k<A> best(memory, keys_ + 1, k_);
    std::int32_t* const gone = gone_ + (batch * p_.shape.key_heads + head) * keys_;
    A* const tau = tau_ + (batch * p_.shape.key_heads + head) * keys_;
    std::fill_n(gone, keys_, static_cast<std::int32_t>(token_limit));
    for (index_t position = 0; position < keys_; ++position) {
      if (index_t const token = position - window_; token >= 0)
        if (index_t const out = best.add(token, scores_(batch, head, token)).gone; out >= 0)
          gone[out] = static_cast<std::int32_t>(position);
      tau[position] = static_cast<A>(best.tau());
    }
  }

  /// Some queries that follow each other, of the heads of a group.
  void attend(engine::row_part const& part) const {
    scratch memory;
    index_t const batch = part.batch, key_head = part.first_head / (p_.shape.query_heads / p_.shape.key_heads);
    index_t const first_position = part.first_query() + keys_ - p_.shape.queries;
    index_t const last_position = part.last_query() + keys_ - p_.shape.queries;
    std::int32_t const* const gone = gone_ + (batch * p_.shape.key_heads + key_head) * keys_;
    auto* const list = memory.allocate<std::int32_t>(keys_);
    index_t size = 0;
    for (index_t j = 0; j <= last_position - window_; ++j)
      if (gone[j] > std::max(first_position, j + window_)) list[size++] = static_cast<std::int32_t>(j);

    engine::problem_rows<T> const source(p_);
    using rows_type = engine::source_rows<engine::problem_rows<T>>;
    rows_type const keys{&source, batch, part.first_head / part.heads};
    engine::gathered_tiles<T> tiles(p_, batch, memory);
    // A group of more heads than rows are taken together is taken in parts.
    for (index_t row = 0; row < part.count; row += tiles.max_rows) {
      engine::row_part const rows = part.part(row, tiles.max_rows);
      tiles.set_rows(rows.count, rows);
      if (size > 0) {
        scratch memory_of_keys;
        engine::ordered_rows<rows_type, engine::token_list> const chosen{keys, {list}};
        engine::key_block block(memory_of_keys, chosen, tiles.shape_of_block());
        tiles.add_keys(block, chosen, 0, size, key_spans{list, gone, size, window_},
                       sparse_k_gain<A>{list, &scores_(batch, key_head, 0),
                                        tau_ + (batch * p_.shape.key_heads + key_head) * keys_});
      }
      index_t const from = std::clamp<index_t>(first_position - window_ + 1, 0, keys_);
      index_t const to = std::clamp<index_t>(last_position + 1, 0, keys_);
      if (from < to) {
        scratch memory_of_keys;
        engine::key_block block(memory_of_keys, keys, tiles.shape_of_block());
        tiles.add_keys(block, keys, from, to - from, attend::window{window_ - 1, 0});
      }
      tiles.write();
    }
  }

  engine::problem<T> const& p_;
  tensor_view<A const, 3> scores_;
  index_t k_, window_, keys_;
  std::int32_t* gone_;
  A* tau_;
};

}  // namespace detail

namespace systems {

/// Attends to the last `window` tokens and to the `k` of largest score before them; shapes stand at the beginning of
/// this file. A key whose score is -inf or NaN is seen through the window alone. Options: scale (1/sqrt(key dimension)
/// unless given), log_sum_exp, count_tiles and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, k is
/// negative or the window less than 1.
///
///     sparse_k_causal_attention(q, k, v, o, tokens, 256, 512);
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, TensorArgument Scores,
          class... Options>
void sparse_k_causal_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                               Scores const& scores, index_t k, index_t window, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  static_assert(std::same_as<element_of_t<Scores const>, A>,
                "attend: scores have the accumulation type: float, or double for tensors of double");
  tensor_view<A const, 3> const u = raise<3>(view_of(scores));
  auto problem = call::problem_of(query, key, value, output);
  detail::check_token_scores(u, problem.output, problem.shape);
  if (k < 0) fail("k", "expected at least 0, got ", k);
  if (window < 1 || window >= token_limit) fail("window", "expected 1 to ", token_limit - 1, " tokens, got ", window);
  auto plan = call::plan<call::system_options>(problem, options...);
  if (problem.shape.queries == 0 || problem.shape.query_heads == 0) return;
  scratch memory;
  detail::sparse_k_spans<T>(problem, u, std::min(k, problem.shape.keys), window, memory).run(plan.executor);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
