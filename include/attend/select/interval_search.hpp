// SPDX-License-Identifier: BSD-3-Clause
// A tree search for the blocks of keys that hold the largest logits of some queries.
//
// A range of key blocks is cut into intervals. Then, until all intervals are single blocks: each is halved, the score
// of a half is that of the token in its middle,
//
//   score = max over the queries of q_i . k_middle
//
// and the best halves stay, as many as there were intervals; ties to the lower block.
//
// Cost: 2 * m * log2(blocks / m) products of the queries with one token each, for m intervals.
//
// Heejun Lee et al.: HiP Attention: Sparse Sub-Quadratic Attention with Hierarchical Attention Pruning, 2024.
#pragma once

#include <algorithm>
#include <span>

#include "../engine/softmax/gathered.hpp"
#include "../engine/softmax/scored_keys.hpp"
#include "top_k.hpp"

namespace attend::inline ATTEND_TARGET::detail {

/// The search for queries of one head, in at most `blocks` intervals of blocks of `block_tokens` keys.
template <Element T>
class interval_search {
 public:
  using A = accumulation_t<T>;

  interval_search(engine::problem<T> const& p, index_t blocks, index_t block_tokens, index_t batch, index_t head,
                  scratch& memory)
      : p_(p),
        blocks_(blocks),
        block_tokens_(block_tokens),
        head_(head),
        source_(p),
        keys_{&source_, batch, head / p.heads_per_group()},
        tiles_(p, batch, memory),
        first_(memory.allocate<std::int32_t>(2 * blocks)),
        last_(memory.allocate<std::int32_t>(2 * blocks)),
        token_(memory.allocate<std::int32_t>(2 * blocks)),
        chosen_(memory.allocate<std::int32_t>(2 * blocks)),
        score_(memory.allocate<float>(2 * blocks)),
        logits_(memory.allocate<A>(max_block_keys * simd::tile_lanes<A>)) {}

  /// The blocks in [from, to) that are found for the queries [first_query, first_query + queries), ascending. They are
  /// valid until the next call.
  std::span<std::int32_t const> find(index_t first_query, index_t queries, index_t from, index_t to) {
    index_t const wanted = std::min(blocks_, to - from);
    if (wanted == 0) return {};
    for (index_t i = 0; i < wanted; ++i) {
      first_[i] = static_cast<std::int32_t>(from + i * (to - from) / wanted);
      last_[i] = static_cast<std::int32_t>(from + (i + 1) * (to - from) / wanted);
    }
    for (index_t count = wanted;;) {
      index_t const halves = halve(count);
      if (halves == count) return {first_, static_cast<std::size_t>(count)};
      if (halves <= wanted) {
        count = halves;
        continue;
      }
      score(first_query, queries, halves);
      count = top_k(score_, halves, wanted, chosen_);
      for (index_t i = 0; i < count; ++i) {
        first_[i] = first_[chosen_[i]];
        last_[i] = last_[chosen_[i]];
      }
    }
  }

 private:
  /// Cuts intervals of more than one block in two, in place and in order, and gives how many there are then.
  index_t halve(index_t count) {
    index_t halves = count;
    for (index_t i = 0; i < count; ++i) halves += last_[i] - first_[i] > 1;
    for (index_t i = count - 1, to = halves; i >= 0; --i) {
      std::int32_t const first = first_[i], last = last_[i];
      if (last - first > 1) {
        --to;
        first_[to] = first + (last - first) / 2;
        last_[to] = last;
      }
      --to;
      first_[to] = first;
      last_[to] = last - first > 1 ? first + (last - first) / 2 : last;
    }
    return halves;
  }

  void score(index_t first_query, index_t queries, index_t halves) {
    for (index_t i = 0; i < halves; ++i)
      token_[i] = static_cast<std::int32_t>((first_[i] + last_[i]) * block_tokens_ / 2);
    std::fill_n(score_, halves, -infinity<float>);
    scratch memory;
    engine::ordered_rows<engine::source_rows<engine::problem_rows<T>>, engine::token_list> const middles{keys_,
                                                                                                         {token_}};
    engine::block_shape shape = tiles_.shape_of_block();
    shape.value_dimension = 0;
    engine::key_block block(memory, middles, shape);
    for (index_t first = 0; first < queries; first += tiles_.max_rows) {
      tiles_.set_rows(std::min(tiles_.max_rows, queries - first), [&](index_t i) {
        return typename engine::gathered_tiles<T>::row{head_, first_query + first + i};
      });
      tiles_.score(
          block, middles, 0, halves, full{}, [&](index_t, key_range) { return logits_; },
          [&](index_t t, key_range range) {
            int const lanes = tiles_.lanes_of(t);
            for (index_t j = range.first; j < range.last; ++j)
              score_[j] = std::max(
                  score_[j], static_cast<float>(engine::largest_logit(logits_ + (j - range.first) * lanes, lanes)));
          });
    }
  }

  engine::problem<T> const& p_;
  index_t blocks_, block_tokens_, head_;
  engine::problem_rows<T> source_;
  engine::source_rows<engine::problem_rows<T>> keys_;
  engine::gathered_tiles<T> tiles_;
  std::int32_t *first_, *last_;  // blocks of the intervals
  std::int32_t* token_;
  std::int32_t* chosen_;
  float* score_;
  A* logits_;
};

}  // namespace attend::inline ATTEND_TARGET::detail
