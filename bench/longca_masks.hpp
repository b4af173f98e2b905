// SPDX-License-Identifier: BSD-3-Clause
// The fourteen mask patterns of LongCA-bench, as masks of this library: twelve that are known beforehand and two of
// blocks drawn at random, one of equal and one of unequal blocks. Each comes with the pairs of one head that it allows.
//
// LongCA-bench: Long-Context Attention Benchmark: From Kernel Efficiency to Distributed Context Parallelism, 2025.
#pragma once

#include <attend/policy/mask/block_builders.hpp>
#include <attend/policy/mask/block_sparse.hpp>
#include <attend/policy/mask/intervals.hpp>
#include <attend/policy/mask/patterns.hpp>

#include <array>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "visible_pairs.hpp"

namespace attend_bench {

/// The sizes of the patterns, in tokens. The last document ends with the text.
struct longca_sizes {
  std::vector<index_t> document_ends;
  index_t sliding, block, prefix;

  index_t tokens() const { return document_ends.back(); }
  index_t document_of(index_t token) const {
    return std::upper_bound(document_ends.begin(), document_ends.end(), token) - document_ends.begin();
  }
  /// Of the document of a token.
  index_t begin(index_t token) const {
    index_t const document = document_of(token);
    return document == 0 ? 0 : document_ends[static_cast<std::size_t>(document - 1)];
  }
  index_t end(index_t token) const { return document_ends[static_cast<std::size_t>(document_of(token))]; }
};

/// visit(name, mask, area, what the mask refers to) for the patterns known beforehand.
template <class Visit>
void for_longca_masks(longca_sizes const& sizes, Visit const& visit) {
  using namespace attend;
  using namespace attend::options;
  using namespace attend::systems;
  index_t const tokens = sizes.tokens(), sliding = sizes.sliding, block = sizes.block, prefix = sizes.prefix;
  auto const numbers = std::make_shared<std::vector<index_t>>();
  for (index_t token = 0; token < tokens; ++token) numbers->push_back(sizes.document_of(token));
  documents const same(*numbers);
  auto const begin = [&](index_t i) { return sizes.begin(i); };
  auto const end = [&](index_t i) { return sizes.end(i); };
  index_t const first_end = sizes.document_ends[0], last_begin = begin(tokens - 1);
  // Keys that query i sees.
  auto const area = [=](auto const& keys_of) { return visible_pairs(tokens, keys_of); };
  std::shared_ptr<void const> const nothing;

  visit("full", full{}, area([=](index_t) { return tokens; }), nothing);
  visit("causal", causal{}, area([](index_t i) { return i + 1; }), nothing);
  visit("full_document", same, area([=](index_t i) { return end(i) - begin(i); }), numbers);
  visit("causal_document", same & causal{}, area([=](index_t i) { return i + 1 - begin(i); }), numbers);
  visit("sliding_window", window{sliding, sliding}, window_pairs(tokens, tokens, sliding, sliding), nothing);
  visit("sliding_window_causal", window{sliding, 0}, window_pairs(tokens, tokens, sliding, 0), nothing);
  visit("global_sliding", window{sliding, sliding} | global_tokens(2 * sliding), area([=](index_t i) {
          index_t const global = 2 * sliding, last = std::min(i + sliding + 1, tokens);
          return i < global ? tokens : global + last - std::max(i - sliding, global);
        }),
        nothing);
  visit("share_question", (same & causal{}) | (keys_in(0, first_end) & queries_in(first_end, tokens)),
        area([=](index_t i) { return i + 1 - begin(i) + (i >= first_end ? first_end : 0); }), numbers);
  visit("causal_blockwise", (same & causal{}) | (queries_in(last_begin, tokens) & keys_in(0, last_begin)),
        area([=](index_t i) { return i + 1 - begin(i) + (i >= last_begin ? last_begin : 0); }), numbers);
  visit("prefix_lm_causal", causal{} | keys_in(0, prefix + 1), area([=](index_t i) { return std::max(i, prefix) + 1; }),
        nothing);

  auto const ends = std::make_shared<std::array<std::vector<index_t>, 2>>();
  auto const prefix_end = [=](index_t i) { return std::max(i + 1, std::min(begin(i) + prefix + 1, end(i))); };
  for (index_t i = 0; i < tokens; ++i) {
    (*ends)[0].push_back(begin(i));
    (*ends)[1].push_back(prefix_end(i));
  }
  visit("prefix_lm_document", intervals((*ends)[0], (*ends)[1]),
        area([=](index_t i) { return prefix_end(i) - begin(i); }), ends);
  visit("block_causal_document", same & block_window(block, -1, 0),
        area([=](index_t i) { return std::min((i / block + 1) * block, end(i)) - begin(i); }), numbers);
}

/// Blocks of which a part is kept at random; every query block keeps at least one, its own.
struct longca_blocks {
  std::vector<index_t> block_of;  // of each token
  std::vector<bool> kept;         // [query block][key block]
  attend::options::block_table table;

  bool sees(index_t query, index_t key) const {
    auto const block = [&](index_t token) {
      return static_cast<std::size_t>(block_of[static_cast<std::size_t>(token)]);
    };
    return kept[block(query) * static_cast<std::size_t>(block_of.back() + 1) + block(key)];
  }
};

/// Blocks of `size` tokens, or, if that is 0, of 2 to 12 pieces of 16. Tokens are a multiple of either.
inline longca_blocks random_longca_blocks(index_t tokens, index_t size, double kept) {
  std::mt19937 engine(1);
  longca_blocks blocks;
  index_t const piece = size > 0 ? size : 16;
  std::uniform_int_distribution<index_t> pieces(2, 12);
  for (index_t block = 0; static_cast<index_t>(blocks.block_of.size()) < tokens; ++block)
    for (index_t i = (size > 0 ? 1 : pieces(engine)) * piece;
         i > 0 && static_cast<index_t>(blocks.block_of.size()) < tokens; --i)
      blocks.block_of.push_back(block);
  auto const count = static_cast<std::size_t>(blocks.block_of.back() + 1);
  std::bernoulli_distribution keep(kept);
  blocks.kept.resize(count * count);
  for (std::size_t i = 0; i < blocks.kept.size(); ++i) blocks.kept[i] = keep(engine) || i / count == i % count;
  blocks.table = attend::options::table_of_blocks(
      {1, 1, tokens, tokens, piece, piece},
      [&](index_t, index_t, index_t i, index_t j) { return blocks.sees(i * piece, j * piece); });
  return blocks;
}

}  // namespace attend_bench
