// SPDX-License-Identifier: BSD-3-Clause
// A tree search for the blocks of keys that hold the largest logits of some queries.
//
// A range of key blocks is cut into intervals. Then, until all intervals are single blocks: each is halved, a half is
// scored by what stands for it, and the best halves stay, as many as there were intervals; ties to the lower block.
//
//   score = max over the queries, and over the tokens that stand for the half, of q_i . k_token
//
//   hip_form::middle_token   the token in its middle                        of every query
//   hip_form::first_token    its first token                                of every query
//   hip_form::first_block    the tokens of its first block                  of every second query
//
// Cost: 2 * m * log2(blocks / m) products of the queries with one token each, for m intervals. Where first tokens or
// blocks stand for a half, that of a first half is what stood for the whole: it keeps its score, and there are half as
// many products, each with a block's tokens where blocks stand.
//
// Heejun Lee et al.: HiP Attention: Sparse Sub-Quadratic Attention with Hierarchical Attention Pruning, 2024: of the
// paper's text the middle token, or as its variant the first one; the first block and every second query are those of
// the authors' release (version 1.1), from a description of it.
#pragma once

#include <algorithm>
#include <numeric>
#include <span>

#include "../engine/softmax/gathered.hpp"
#include "../engine/softmax/scored_keys.hpp"
#include "top_k.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Says which tokens stand for an interval of key blocks in HiP's search: the one in its middle (the paper's text), its
/// first one, or those of its first block, for every second query (the authors' release).
enum class hip_form { middle_token, first_token, first_block };

}  // namespace systems

namespace detail {

/// The search in at most `blocks` intervals of blocks of `block_tokens` keys.
class interval_search {
 public:
  interval_search(systems::hip_form form, index_t blocks, index_t block_tokens, scratch& memory)
      : form_(form),
        blocks_(blocks),
        block_tokens_(block_tokens),
        kept_(memory.allocate<interval>(blocks)),
        halves_(memory.allocate<interval>(2 * blocks + 1)),
        anew_(memory.allocate<std::int32_t>(2 * blocks + 1)),
        token_(memory.allocate<std::int32_t>((2 * blocks + 1) * tokens_of_half())),
        score_(memory.allocate<float>(2 * blocks + 1)),
        product_(memory.allocate<float>(2 * blocks * tokens_of_half())) {}

  /// The blocks in [from, to) that are found, ascending; they are valid until the next call. score(tokens, products)
  /// writes the largest product of the queries with each of some tokens.
  template <class Score>
  std::span<std::int32_t const> find(index_t from, index_t to, Score const& score) {
    index_t const wanted = std::min(blocks_, to - from);
    tokens_scored_ = 0;
    if (wanted <= 0) return {};
    for (index_t i = 0; i < wanted; ++i)
      kept_[i] = {static_cast<std::int32_t>(from + i * (to - from) / wanted),
                  static_cast<std::int32_t>(from + (i + 1) * (to - from) / wanted), -1, 0};
    for (index_t count = wanted, halves; (halves = halve(count)) > count;) {
      score_anew(score);
      // Whose score is new is known no longer.
      std::int32_t* const chosen = anew_;
      count = top_k(score_, halves, wanted, chosen);
      for (index_t i = 0; i < count; ++i) {
        kept_[i] = halves_[chosen[i]];
        kept_[i].score = score_[chosen[i]];
      }
    }
    for (index_t i = 0; i < wanted; ++i) token_[i] = kept_[i].first;
    return {token_, static_cast<std::size_t>(wanted)};
  }

  /// How many tokens the last search has scored.
  index_t tokens_scored() const { return tokens_scored_; }
  /// Of how many queries one counts.
  static index_t query_stride(systems::hip_form form) { return form == systems::hip_form::first_block ? 2 : 1; }

 private:
  struct interval {
    std::int32_t first, last;  // blocks
    std::int32_t token;        // the first one that stood for it when it was scored, or -1
    float score;
  };

  index_t tokens_of_half() const { return form_ == systems::hip_form::first_block ? block_tokens_ : 1; }

  /// Cuts intervals of more than one block in two, in order, gives how many there are then, and lists those for which
  /// other tokens stand than when they were scored.
  index_t halve(index_t count) {
    bool const by_middle = form_ == systems::hip_form::middle_token;
    index_t halves = 0, anew = 0;
    // No branches: what is not to be kept is written over by what comes next.
    auto const add = [&](interval const& half, bool there) ATTEND_INLINE_LAMBDA {
      std::int64_t const blocks = by_middle ? std::int64_t{half.first} + half.last : 2 * std::int64_t{half.first};
      auto const token = static_cast<std::int32_t>(blocks * block_tokens_ / 2);
      halves_[halves] = {half.first, half.last, token, 0};
      score_[halves] = half.score;
      token_[anew] = token;
      anew_[anew] = static_cast<std::int32_t>(halves);
      anew += there && token != half.token;
      halves += there;
    };
    for (index_t i = 0; i < count; ++i) {
      interval const whole = kept_[i];
      std::int32_t const middle = whole.first + (whole.last - whole.first) / 2;
      bool const is_cut = whole.last - whole.first > 1;
      add({whole.first, is_cut ? middle : whole.last, whole.token, whole.score}, true);
      add({middle, whole.last, -1, 0}, is_cut);
    }
    number_anew_ = anew;
    return halves;
  }

  template <class Score>
  void score_anew(Score const& score) {
    index_t const each = tokens_of_half();
    for (index_t i = number_anew_ - 1; each > 1 && i >= 0; --i)
      std::iota(token_ + i * each, token_ + (i + 1) * each, token_[i]);
    tokens_scored_ += number_anew_ * each;
    score(std::span<std::int32_t const>(token_, static_cast<std::size_t>(number_anew_ * each)), product_);
    for (index_t i = 0; i < number_anew_; ++i) {
      float most = -infinity<float>;
      for (index_t t = 0; t < each; ++t) most = std::max(most, product_[i * each + t]);
      score_[anew_[i]] = most;
    }
  }

  systems::hip_form form_;
  index_t blocks_, block_tokens_;
  index_t number_anew_ = 0, tokens_scored_ = 0;
  interval *kept_, *halves_;
  std::int32_t *anew_, *token_;
  float *score_, *product_;
};

/// The largest products of some queries of a head with tokens.
template <Element T>
class largest_products {
 public:
  using A = accumulation_t<T>;

  largest_products(engine::problem<T> const& p, index_t batch, index_t head, scratch& memory)
      : head_(head),
        source_(p),
        keys_{&source_, batch, head / p.heads_per_group()},
        tiles_(p, batch, memory),
        logits_(memory.allocate<A>(max_block_keys * simd::tile_lanes<A>)) {}

  /// Those of every `stride`-th of the queries [first_query, first_query + queries).
  void score(index_t first_query, index_t queries, index_t stride, std::span<std::int32_t const> tokens, float* to) {
    index_t const count = static_cast<index_t>(tokens.size()), rows = divide_up(queries, stride);
    std::fill_n(to, count, -infinity<float>);
    scratch memory;
    engine::ordered_rows<engine::source_rows<engine::problem_rows<T>>, engine::token_list> const listed{
        keys_, {tokens.data()}};
    engine::block_shape shape = tiles_.shape_of_block();
    shape.value_dimension = 0;
    engine::key_block block(memory, listed, shape);
    for (index_t first = 0; first < rows; first += tiles_.max_rows) {
      tiles_.set_rows(std::min(tiles_.max_rows, rows - first), [&](index_t i) {
        return typename engine::gathered_tiles<T>::row{head_, first_query + (first + i) * stride};
      });
      tiles_.score(
          block, listed, 0, count, full{}, [&](index_t, key_range) { return logits_; },
          [&](index_t t, key_range range) {
            int const lanes = tiles_.lanes_of(t);
            for (index_t j = range.first; j < range.last; ++j)
              to[j] = std::max(to[j],
                               static_cast<float>(engine::largest_logit(logits_ + (j - range.first) * lanes, lanes)));
          });
    }
  }

 private:
  index_t head_;
  engine::problem_rows<T> source_;
  engine::source_rows<engine::problem_rows<T>> keys_;
  engine::gathered_tiles<T> tiles_;
  A* logits_;
};

}  // namespace detail

}  // namespace attend::inline ATTEND_TARGET
