// SPDX-License-Identifier: BSD-3-Clause
// HiP's tree search by definition: who sees whom, for reference::softmax_attention. Written from the paper's procedure,
// in double.
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>

#include "softmax_attention.hpp"

namespace attend::inline ATTEND_TARGET::reference {

/// What stands for an interval of key blocks: its middle token, its first one, or all tokens of its first block, which
/// are compared with every second query alone.
enum class tree_representative { middle_token, first_token, first_block };

struct tree_search_sizes {
  index_t query_block, key_block, blocks, local, sinks;
  tree_representative representative = tree_representative::middle_token;
};

/// The blocks in [from, to) that a search in at most `blocks` intervals finds; product(token, every) is the largest
/// product of the queries with a token, or of every second one.
template <class Product>
std::vector<index_t> tree_search(index_t from, index_t to, tree_search_sizes const& with, Product const& product) {
  struct interval {
    index_t first, last;
    double score = 0;
  };
  std::vector<interval> kept;
  index_t const wanted = std::min(with.blocks, to - from);
  for (index_t i = 0; i < wanted; ++i)
    kept.push_back({from + i * (to - from) / wanted, from + (i + 1) * (to - from) / wanted});
  auto const single = [](interval const& one) { return one.last - one.first == 1; };
  while (!std::all_of(kept.begin(), kept.end(), single)) {
    std::vector<interval> halves;
    for (interval const& one : kept) {
      index_t const middle = one.first + (one.last - one.first) / 2;
      if (middle > one.first) halves.push_back({one.first, middle});
      halves.push_back({middle, one.last});
    }
    for (interval& half : halves) {
      bool const middle = with.representative == tree_representative::middle_token;
      bool const block = with.representative == tree_representative::first_block;
      index_t const token = middle ? (half.first + half.last) * with.key_block / 2 : half.first * with.key_block;
      half.score = -std::numeric_limits<double>::infinity();
      for (index_t t = 0; t < (block ? with.key_block : 1); ++t)
        half.score = std::max(half.score, product(token + t, block ? 2 : 1));
    }
    std::stable_sort(halves.begin(), halves.end(), [](auto const& x, auto const& y) { return x.score > y.score; });
    halves.resize(std::min(halves.size(), static_cast<std::size_t>(wanted)));
    std::sort(halves.begin(), halves.end(), [](auto const& x, auto const& y) { return x.first < y.first; });
    kept = halves;
  }
  std::vector<index_t> found;
  for (interval const& one : kept) found.push_back(one.first);
  return found;
}

/// The list of key blocks that a block of queries of a head sees.
template <class T>
std::vector<index_t> searched_blocks(tensor_view<T const, 4> query, tensor_view<T const, 4> key, index_t b, index_t h,
                                     index_t block, tree_search_sizes const& with) {
  index_t const shift = key.extent(2) - query.extent(2), first_query = block * with.query_block;
  index_t const last_query = std::min(first_query + with.query_block, query.extent(2)) - 1;
  std::vector<index_t> list;
  if (last_query + shift < 0) return list;
  index_t const own = std::max<index_t>(first_query + shift, 0) / with.key_block;
  index_t const to = std::max<index_t>(own - with.local, 0), from = std::min(with.sinks, to);
  for (index_t j = 0; j < from; ++j) list.push_back(j);
  auto const product = [&](index_t token, index_t every) {
    double most = -std::numeric_limits<double>::infinity();
    for (index_t i = first_query; i <= last_query; i += every) {
      double sum = 0;
      for (index_t c = 0; c < query.extent(3); ++c)
        sum += static_cast<double>(query(b, h, i, c)) *
               static_cast<double>(key(b, h / (query.extent(1) / key.extent(1)), token, c));
      most = std::max(most, sum);
    }
    return most;
  };
  for (index_t const found : tree_search(from, to, with, product)) list.push_back(found);
  for (index_t j = to; j <= (last_query + shift) / with.key_block; ++j) list.push_back(j);
  return list;
}

template <class T>
visible_function searched(tensor_view<T const, 4> query, tensor_view<T const, 4> key, tree_search_sizes const& with) {
  index_t const heads = query.extent(1), blocks = (query.extent(2) + with.query_block - 1) / with.query_block;
  auto lists = std::make_shared<std::vector<std::vector<index_t>>>();
  for (index_t b = 0; b < query.extent(0); ++b)
    for (index_t h = 0; h < heads; ++h)
      for (index_t block = 0; block < blocks; ++block)
        lists->push_back(searched_blocks<T>(query, key, b, h, block, with));
  return [=](place const& at) {
    auto const& list =
        (*lists)[static_cast<std::size_t>((at.batch * heads + at.head) * blocks + at.query / with.query_block)];
    return at.key <= at.position() && std::binary_search(list.begin(), list.end(), at.key / with.key_block);
  };
}

}  // namespace attend::inline ATTEND_TARGET::reference
