// SPDX-License-Identifier: BSD-3-Clause
// Checks of a mask on its own, without a kernel: tiles of queries are made by hand, and every answer of the mask is
// held against a plain function of the place.
#pragma once

#include <gtest/gtest.h>

#include <attend/policy/mask/mask.hpp>
#include <attend/reference/softmax_attention.hpp>
#include <random>
#include <vector>

namespace attend::test {
using namespace extend;

/// A sequence among others: where it begins on the token axes, and its length.
struct tile_sequence {
  index_t sequence = 0, batch = 0, first_query_token = 0, first_key_token = 0, queries = 0, keys = 0;
};

/// `count` rows of a tile, counted from `first_row`: rows are (query, head) pairs, heads innermost.
template <class A>
tile_rows<A> make_tile_rows(problem_shape const& shape, tile_sequence const& s, std::vector<index_t> const& heads,
                            index_t first_row, int count) {
  tile_rows<A> rows;
  rows.shape = &shape;
  rows.sequence = s.sequence;
  rows.batch = s.batch;
  rows.first_query_token = s.first_query_token;
  rows.first_key_token = s.first_key_token;
  rows.queries = s.queries;
  rows.keys = s.keys;
  rows.set(first_row, count, heads.data(), static_cast<index_t>(heads.size()));
  return rows;
}

/// Whether every answer is true to the plain function: none and all where they are given, no visible pair outside of
/// the bounds or between the runs, and each lane's truth. Ranges are random, inside and outside of the bounds.
template <class A, class M>
testing::AssertionResult is_sound(M const& mask, problem_shape const& shape, tile_sequence const& s,
                                  std::vector<index_t> const& heads, reference::visible_function const& visible,
                                  unsigned seed) {
  std::mt19937 engine(seed);
  auto const from_to = [&](index_t least, index_t most) {
    return std::uniform_int_distribution<index_t>(least, most)(engine);
  };
  index_t const all_rows = s.queries * static_cast<index_t>(heads.size());
  if (all_rows == 0 || s.keys == 0) return testing::AssertionSuccess();
  mask.check(shape);
  for (int tile = 0; tile < 8; ++tile) {
    index_t const first_row = from_to(0, all_rows - 1);
    index_t const most = std::min<index_t>(all_rows - first_row, tile_rows<A>::lanes);
    auto const rows =
        make_tile_rows<A>(shape, s, heads, first_row, static_cast<int>(tile % 2 ? most : from_to(1, most)));
    auto const sees = [&](int lane, index_t key) {
      return visible({s.batch, static_cast<index_t>(rows.head[lane]), static_cast<index_t>(rows.query[lane]), key,
                      s.queries, s.keys});
    };
    auto const where = [&](int lane, index_t key) {
      return testing::Message() << "head " << rows.head[lane] << ", query " << rows.query[lane] << ", key " << key;
    };

    key_range const bounds = mask.bounds(rows);
    if (!bounds.empty() && (bounds.first < 0 || bounds.last > s.keys))
      return testing::AssertionFailure() << "bounds " << bounds.first << " to " << bounds.last << " of " << s.keys;
    for (int lane = 0; lane < rows.count; ++lane)
      for (index_t key = 0; key < s.keys; ++key)
        if ((key < bounds.first || key >= bounds.last) && sees(lane, key))
          return testing::AssertionFailure() << "visible outside of the bounds: " << where(lane, key);

    index_t from = 0;
    while (from < s.keys) {
      key_range const run = attend::detail::next_run(mask, rows, from);
      if (!run.empty() && (run.first < from || run.last > s.keys))
        return testing::AssertionFailure() << "run " << run.first << " to " << run.last << " from " << from;
      for (index_t key = from; key < (run.empty() ? s.keys : run.first); ++key)
        for (int lane = 0; lane < rows.count; ++lane)
          if (sees(lane, key)) return testing::AssertionFailure() << "visible between runs: " << where(lane, key);
      from = run.empty() ? s.keys : run.last;
    }

    for (int trial = 0; trial < 8; ++trial) {
      key_range range;
      range.first = from_to(0, s.keys - 1);
      range.last = from_to(range.first + 1, std::min<index_t>(s.keys, range.first + (trial % 2 ? 4 : 128)));
      visibility const answer = mask.classify(rows, range);
      auto const bound = attend::detail::bind_mask(mask, rows, range);
      for (index_t key = range.first; key < range.last; ++key)
        for (int lane = 0; lane < rows.count; lane += simd::width<A>) {
          typename simd::integers<A>::truth const truth =
              bound(mask_place<A>{simd::load(rows.position + lane), key, rows, key, lane});
          bool truths[simd::width<A>];
          truth.store_unaligned(truths);
          for (int i = 0; i < simd::width<A> && lane + i < rows.count; ++i) {
            bool const seen = sees(lane + i, key);
            if (truths[i] != seen)
              return testing::AssertionFailure() << (seen ? "hidden: " : "visible: ") << where(lane + i, key);
            if (answer == visibility::none && seen)
              return testing::AssertionFailure() << "classified as none: " << where(lane + i, key);
            if (answer == visibility::all && !seen)
              return testing::AssertionFailure() << "classified as all: " << where(lane + i, key);
          }
        }
    }
  }
  return testing::AssertionSuccess();
}

/// Whether the mask says none just where nobody sees anything, and all just where everybody does: then no tile is
/// visited that the pattern does not touch. Runs, and blocks from their beginnings, are asked.
template <class M>
testing::AssertionResult is_exact(M const& mask, problem_shape const& shape, reference::visible_function const& visible,
                                  unsigned seed = 1) {
  std::mt19937 engine(seed);
  std::vector<index_t> heads;
  tile_grain const grain = attend::detail::grain_of(mask, shape);
  for (index_t head = 0; head < (grain.heads > 0 ? grain.heads : shape.query_heads); ++head) heads.push_back(head);
  index_t const all_rows = shape.queries * static_cast<index_t>(heads.size());
  if (all_rows == 0) return testing::AssertionSuccess();
  for (int tile = 0; tile < 8; ++tile) {
    index_t const first_row = std::uniform_int_distribution<index_t>(0, all_rows - 1)(engine);
    auto const rows =
        make_tile_rows<float>(shape, {0, 0, 0, 0, shape.queries, shape.keys}, heads, first_row,
                              static_cast<int>(std::min<index_t>(all_rows - first_row, tile_rows<float>::lanes)));
    for (key_range run = attend::detail::next_run(mask, rows, 0); !run.empty();
         run = attend::detail::next_run(mask, rows, run.last))
      for (key_range part{run.first, 0}; part.first < run.last; part.first = part.last) {
        part.last = std::min(part.first + (tile % 2 ? 16 : 128), run.last);
        bool every = true, some = false;
        for (int lane = 0; lane < rows.count; ++lane)
          for (index_t key = part.first; key < part.last; ++key) {
            bool const seen = visible({0, static_cast<index_t>(rows.head[lane]), static_cast<index_t>(rows.query[lane]),
                                       key, shape.queries, shape.keys});
            every &= seen;
            some |= seen;
          }
        visibility const expected = every ? visibility::all : some ? visibility::some : visibility::none;
        if (mask.classify(rows, part) != expected)
          return testing::AssertionFailure() << "keys " << part.first << " to " << part.last << " for queries from "
                                             << rows.query[0] << ": classified as " << int(mask.classify(rows, part));
      }
  }
  return testing::AssertionSuccess();
}

/// The same for each batch of a call without sequences of its own, in both accumulation types.
template <class M>
testing::AssertionResult is_sound(M const& mask, problem_shape const& shape, reference::visible_function const& visible,
                                  unsigned seed = 1) {
  std::vector<index_t> heads;
  for (index_t head = 0; head < shape.query_heads; ++head) heads.push_back(head);
  for (index_t batch = 0; batch < shape.batches; ++batch) {
    tile_sequence const sequence{batch, batch, 0, 0, shape.queries, shape.keys};
    if (auto result = is_sound<float>(mask, shape, sequence, heads, visible, seed + static_cast<unsigned>(batch));
        !result)
      return result << ", batch " << batch << ", float";
    if (auto result = is_sound<double>(mask, shape, sequence, heads, visible, seed + static_cast<unsigned>(batch));
        !result)
      return result << ", batch " << batch << ", double";
  }
  return testing::AssertionSuccess();
}

}  // namespace attend::test
