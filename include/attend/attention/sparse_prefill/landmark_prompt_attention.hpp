// SPDX-License-Identifier: BSD-3-Clause
// Landmark attention (prefill): the grouped softmax that the model is trained with, over all blocks of a sequence.
//
//   block b = l tokens and a landmark; query i stands in block c, and sees it up to its position
//   P_i  = softmax over {tokens j <= i of block c} and {landmarks of blocks b < c}     of scale * q_i . k
//   pi_b = softmax over the l tokens of block b
//   o_i  = sum_{j in c} P_i(j) v_j + sum_{b < c} P_i(landmark of b) sum_{j in b} pi_b(j) v_j
//
// Landmarks have no value, and no query sees the landmark of its own block: so a landmark, as a query, sees the tokens
// of its block. landmark_attention.hpp is the last query's.
//
//   query, key, value, output   as for softmax_attention, causal, aligned at the last token
//
// A tile of queries meets one block after the other; its softmax within an earlier block, at mass 1, joins those of the
// blocks before with the landmark's logit where a maximum would stand (an online softmax over blocks, lane by lane).
// Cost: that of causal softmax attention, and for each row and block three passes over value-dimension elements.
// Memory: two sums for each row of a few tiles for each thread.
//
// Amirkeivan Mohtashami, Martin Jaggi: Landmark Attention: Random-Access Infinite Context Length for Transformers,
// 2023.
#pragma once

#include "../../call/plan.hpp"
#include "../../engine/softmax/gathered.hpp"
#include "../../engine/softmax/join_parts.hpp"
#include "../../engine/softmax/row_parts.hpp"
#include "../../policy/mask/causal.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// The work of landmark_prompt_attention, checked.
template <Element T>
class landmark_grouping {
 public:
  using A = accumulation_t<T>;

  landmark_grouping(engine::problem<T> const& p, index_t block_tokens)
      : p_(p),
        heads_per_group_(p.heads_per_group()),
        block_tokens_(block_tokens),
        padded_value_dimension_(round_up(p.shape.value_dimension, simd::register_rows)) {}

  template <class E>
  void run(E& executor) const {
    engine::for_row_parts(p_, heads_per_group_, tiles_type::max_rows, p_.shape.keys / 2, executor,
                          [&](engine::row_part const& part) { attend_rows(part); });
  }

 private:
  using tiles_type = engine::gathered_tiles<T>;
  using tile_type = engine::tile<A>;
  // Landmarks that are scored together: whole register tiles of them.
  static constexpr index_t landmarks_per_block = 32;

  void attend_rows(engine::row_part const& part) const {
    scratch memory;
    tiles_type tiles(p_, part.batch, memory);
    tiles.set_rows(part.count, part);
    index_t const tile_count = tiles.tile_count();
    tile_type* const joined = memory.allocate<tile_type>(tile_count);
    for (index_t t = 0; t < tile_count; ++t) start(joined[t], memory);
    A* const logits = memory.allocate<A>(tile_count * landmarks_per_block * tiles_type::lanes);
    auto const logits_of = [&](index_t t) { return logits + t * landmarks_per_block * tiles_type::lanes; };

    engine::problem_rows<T> const source(p_);
    engine::source_rows<engine::problem_rows<T>> const keys{&source, part.batch, part.first_head / heads_per_group_};
    engine::key_block block(memory, keys, tiles.shape_of_block());
    index_t const last_position = part.last_query() + p_.shape.keys - p_.shape.queries;
    index_t const blocks = last_position < 0 ? 0 : last_position / block_tokens_ + 1;
    for (index_t first = 0; first < blocks; first += landmarks_per_block) {
      // The last block is nobody's earlier one.
      score_landmarks(tiles, part.batch, part.first_head, first, std::min(landmarks_per_block, blocks - 1 - first),
                      logits_of);
      for (index_t b = first; b < std::min(first + landmarks_per_block, blocks); ++b) {
        index_t const start = b * block_tokens_;
        tiles.restart();
        tiles.add_keys(block, keys, start, std::min(block_tokens_ - 1, p_.shape.keys - start), causal{});
        for (index_t t = 0; t < tile_count; ++t) {
          tile_type const& seen = tiles.tile_at(t);
          if (!seen.fresh) join(seen, joined[t], b, logits_of(t) + (b - first) * seen.lanes());
        }
      }
    }
    for (index_t t = 0; t < tile_count; ++t) {
      tile_type& tile = tiles.tile_at(t);
      std::swap(tile.sum, joined[t].sum);
      std::copy_n(joined[t].maximum, tile.lanes(), tile.maximum);
      std::copy_n(joined[t].weight_sum, tile.lanes(), tile.weight_sum);
      tile.fresh = joined[t].fresh;
    }
    tiles.write();
  }

  void start(tile_type& joined, scratch& memory) const {
    joined.sum = memory.allocate<A>(padded_value_dimension_ * tiles_type::lanes);
    joined.fresh = true;
    std::fill_n(joined.maximum, tiles_type::lanes, -infinity<A>);
    std::fill_n(joined.weight_sum, tiles_type::lanes, A(0));
  }

  /// The logits of some blocks' landmarks: of tile t at logits_of(t), [block][lanes of the tile].
  template <class Logits>
  void score_landmarks(tiles_type& tiles, index_t batch, index_t head, index_t first, index_t count,
                       Logits const& logits_of) const {
    if (count <= 0) return;
    scratch memory;
    auto const landmarks = [&](auto const& tensor, index_t heads) {
      auto const rows =
          engine::rows_of_head(tensor, batch, head / (p_.shape.query_heads / heads), (first + 1) * block_tokens_ - 1);
      return engine::rows_of<T>{rows.data, rows.stride * block_tokens_};
    };
    engine::tensor_rows<T> const rows{landmarks(p_.key, p_.shape.key_heads), landmarks(p_.value, p_.shape.value_heads),
                                      count};
    engine::key_block block(memory, rows, {landmarks_per_block, p_.shape.key_dimension, 0, true});
    tiles.score(
        block, rows, 0, count, full{}, [&](index_t t, key_range) { return logits_of(t); }, [](index_t, key_range) {});
  }

  /// What a tile has seen of a block joins what it has of those before: as it is for rows of that block, and as one key
  /// of the landmark's logit for rows behind it.
  void join(tile_type const& seen, tile_type& joined, index_t block, A const* landmark) const {
    using namespace simd;
    using vector_type = simd::vector<A>;
    index_t const next_block = (block + 1) * block_tokens_;
    alignas(64) A logit[tiles_type::lanes], weight_sum[tiles_type::lanes], part[tiles_type::lanes];
    for (int lane = 0; lane < seen.lanes(); ++lane) {
      bool const behind = seen.rows.position[lane] >= next_block;
      logit[lane] = behind ? landmark[lane] : seen.maximum[lane];
      weight_sum[lane] = behind ? weight_unit<A> : seen.weight_sum[lane];
      part[lane] = !behind ? A(1) : seen.weight_sum[lane] == 0 ? A(0) : weight_unit<A> / seen.weight_sum[lane];
    }
    vector_type kept[register_vectors], added[register_vectors];
    for (int v = 0; v < seen.vectors; ++v) {
      int const lane = v * width<A>;
      engine::joined_lanes<A> const both(load(joined.maximum + lane), load(logit + lane));
      kept[v] = both.of_first;
      added[v] = both.of_second * load(part + lane);
      store(joined.maximum + lane, both.maximum);
      store(joined.weight_sum + lane,
            fused_multiply_add(load(weight_sum + lane), both.of_second, load(joined.weight_sum + lane) * kept[v]));
    }
    bool const fresh = std::exchange(joined.fresh, false);
    for (index_t c = 0; c < padded_value_dimension_; ++c)
      for (int v = 0; v < seen.vectors; ++v) {
        index_t const at = (c * seen.vectors + v) * width<A>;
        vector_type const more = load(seen.sum + at) * added[v];
        store(joined.sum + at, fresh ? more : fused_multiply_add(load(joined.sum + at), kept[v], more));
      }
  }

  engine::problem<T> const& p_;
  index_t heads_per_group_, block_tokens_, padded_value_dimension_;
};

}  // namespace detail

namespace systems {

/// Attends from every token of a prompt to its own block and, through their landmarks, to earlier ones. Query, key,
/// value and output have the shapes of softmax_attention. Blocks have `block_tokens` tokens, their landmark included;
/// the last one need not be full. Options: scale (1/sqrt(key dimension) unless given), log_sum_exp (that of P_i: own
/// tokens and earlier landmarks) and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, or a block
/// is shorter than 2 tokens.
///
///     landmark_prompt_attention(q, k, v, o, 51);  // 50 tokens and their landmark
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void landmark_prompt_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                               index_t block_tokens, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  if (block_tokens < 2) fail("block_tokens", "expected at least 2, a landmark among them, got ", block_tokens);
  auto problem = call::problem_of(query, key, value, output);
  auto plan = call::plan<call::allows<option::scale, option::log_sum_exp, option::executor>>(problem, options...);
  if (problem.shape.query_heads > 0) detail::landmark_grouping<T>(problem, block_tokens).run(plan.executor);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
