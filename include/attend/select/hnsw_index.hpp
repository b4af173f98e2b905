// SPDX-License-Identifier: BSD-3-Clause
// An approximate index of a cache's keys by inner product: a navigable graph of hnswlib for each key-value head.
//
//   search(query, first, last, k) = about the k tokens of [first, last) with the largest q . k_j
//
// update() adds new tokens to the graph. A graph cannot be searched within a range of tokens: so a search asks for k
// tokens more than there are outside of the range, and drops those outside. Where all tokens of the range are wanted,
// the graph is not searched. The header needs hnswlib (CMake target attend::hnswlib, Debian's libhnswlib-dev), which
// only one source file of a program can include. A search allocates memory, for a queue of hnswlib.
//
// Cost of a search: about beam * links keys, read at random from a copy in float. Memory: dimension + 2 * links numbers
// for each token and head.
//
// Yu. A. Malkov, D. A. Yashunin: Efficient and robust approximate nearest neighbor search using Hierarchical Navigable
// Small World graphs, 2018.
#pragma once

#include "../core/order.hpp"
#include "../core/target.hpp"

#if !defined(__cpp_exceptions)
#error "attend/select/hnsw_index.hpp needs exceptions, as hnswlib does: use attend/select/flat_index.hpp without them"
#endif

#include <hnswlib/hnswlib.h>

#include <memory>
#include <numeric>
#include <span>
#include <vector>

#include "../cache/quantize.hpp"
#include "../cache/row_memory.hpp"
#include "../core/executor.hpp"

namespace attend::inline ATTEND_TARGET {

namespace selection {

/// The parameters of a graph: the links of a key on a layer (M), and the widths of the beams with which keys are
/// inserted (ef_construction) and searched (ef). A search widens its beam to the number of tokens that it asks for.
struct hnsw_graph {
  index_t links = 16;
  index_t building_beam = 200;
  index_t beam = 128;
};

/// An index of the keys of a cache that finds tokens approximately, without reading all keys.
///
///     retrieval_selector<hnsw_index> selector(shape, 32, 4096, {.tokens = 100}, hnsw_index(shape, 4096));
class hnsw_index {
 public:
  /// An empty index for caches of this shape, with up to `capacity` tokens in a sequence. Throws argument_error for
  /// extents below 0, and for links or beams below 1.
  hnsw_index(cache_shape const& shape, index_t capacity, hnsw_graph const& settings = {})
      : shape_(shape), capacity_(capacity), settings_(settings) {
    extend::arithmetic_mode const arithmetic;
    for (index_t extent : {shape.sequences, shape.key_value_heads, shape.key_dimension, capacity})
      if (extent < 0) extend::fail("hnsw_index", "expected extents of at least 0, got ", extent);
    for (index_t number : {settings.links, settings.building_beam, settings.beam})
      if (number < 1) extend::fail("hnsw_graph", "expected at least 1, got ", number);
    space_ = std::make_unique<hnswlib::InnerProductSpace>(static_cast<std::size_t>(shape.key_dimension));
    for (index_t i = 0; i < shape.sequences * shape.key_value_heads; ++i)
      graphs_.push_back(std::make_unique<graph>(space_.get(), static_cast<std::size_t>(std::max<index_t>(capacity, 1)),
                                                static_cast<std::size_t>(settings.links),
                                                static_cast<std::size_t>(settings.building_beam)));
    sizes_.assign(static_cast<std::size_t>(shape.sequences), 0);
  }

  index_t bytes() const {
    index_t bytes = 0;
    for (auto const& one : graphs_) bytes += static_cast<index_t>(one->max_elements_ * one->size_data_per_element_);
    return bytes;
  }

  /// Adds the tokens that were appended to the cache since the last update; heads are tasks of the executor. Throws
  /// argument_error where the cache has another shape, fewer tokens than at the last update, or more than `capacity`.
  template <KeyValueSource Cache, Executor E = serial>
  void update(Cache const& cache, E&& executor = {}) {
    using A = extend::storage_accumulation_t<typename Cache::key_element>;
    detail::check_extent("cache", "sequences", cache.sequences(), shape_.sequences, "the index");
    detail::check_extent("cache", "heads", cache.key_value_heads(), shape_.key_value_heads, "the index");
    detail::check_extent("cache", "head dimension", cache.key_dimension(), shape_.key_dimension, "the index");
    for (index_t s = 0; s < shape_.sequences; ++s)
      if (index_t const size = cache.size(s); size < sizes_[static_cast<std::size_t>(s)] || size > capacity_)
        extend::fail("cache", "expected from ", sizes_[static_cast<std::size_t>(s)], " to ", capacity_, " tokens, got ",
                     size);
    for (index_t s = 0; s < shape_.sequences; ++s)
      for (index_t head = 0; head < shape_.key_value_heads; ++head)
        detail::check_extent("cache", "stored tokens", cache.stored(s, head), cache.size(s), "appended");
    detail::check_readable(cache);
    detail::check_executor(executor);
    index_t const heads = shape_.key_value_heads;
    // A new key is compared with some thousand other keys: 4000 operations for each of its elements.
    double added = 0;
    for (index_t s = 0; s < shape_.sequences; ++s)
      added += static_cast<double>(cache.size(s) - sizes_[static_cast<std::size_t>(s)]);
    detail::loop_cost const cost{4000 * added * static_cast<double>(heads * shape_.key_dimension)};
    detail::parallel_for(executor, shape_.sequences * heads, cost, [&](index_t task) {
      index_t const s = task / heads, head = task % heads;
      extend::scratch memory;
      A* const key = memory.allocate<A>(shape_.key_dimension + 1);
      float* const narrow = memory.allocate<float>(shape_.key_dimension + 1);
      for (index_t token = sizes_[static_cast<std::size_t>(s)]; token < cache.size(s); ++token) {
        detail::read_key(cache.rows(s, head, token), 0, shape_.key_dimension, key);
        std::copy_n(key, shape_.key_dimension, narrow);
        graphs_[static_cast<std::size_t>(task)]->addPoint(narrow, static_cast<hnswlib::labeltype>(token));
      }
    });
    for (index_t s = 0; s < shape_.sequences; ++s) sizes_[static_cast<std::size_t>(s)] = cache.size(s);
  }

  /// Searches as flat_index::search does. Throws argument_error where the cache has other tokens than at the last
  /// update.
  template <KeyValueSource Cache, class Query, class Found>
  void search(Cache const& cache, index_t sequence, index_t head, index_t first, index_t last, index_t k,
              index_t queries, Query const& query, Found const& found) const {
    index_t const size = sizes_[static_cast<std::size_t>(sequence)];
    detail::check_extent("cache", "tokens", cache.size(sequence), size, "the index was told");
    index_t const asked = std::min(k + size - (last - first), size);
    extend::scratch memory;
    float* const narrow = memory.allocate<float>(shape_.key_dimension + 1);
    auto* const tokens = memory.allocate<std::int32_t>(asked + 1);
    graph& index = *graphs_[static_cast<std::size_t>(sequence * shape_.key_value_heads + head)];
    index.setEf(static_cast<std::size_t>(std::max(settings_.beam, asked)));
    for (index_t i = 0; i < queries; ++i) {
      index_t count = 0;
      if (k >= last - first) {
        count = last - first;
        std::iota(tokens, tokens + count, static_cast<std::int32_t>(first));
      } else if (asked > 0) {
        std::copy_n(query(i), shape_.key_dimension, narrow);
        auto nearest = index.searchKnn(narrow, static_cast<std::size_t>(asked));
        // hnswlib's queue returns the farthest key first.
        index_t const all = static_cast<index_t>(nearest.size());
        for (index_t at = all; at-- > 0; nearest.pop()) tokens[at] = static_cast<std::int32_t>(nearest.top().second);
        for (index_t at = 0; at < all && count < k; ++at)
          if (tokens[at] >= first && tokens[at] < last) tokens[count++] = tokens[at];
        std::sort(tokens, tokens + count, detail::ascending{});
      }
      found(i, std::span<std::int32_t const>(tokens, static_cast<std::size_t>(count)));
    }
  }

 private:
  using graph = hnswlib::HierarchicalNSW<float>;

  cache_shape shape_;
  index_t capacity_;
  hnsw_graph settings_;
  std::unique_ptr<hnswlib::InnerProductSpace> space_;
  std::vector<std::unique_ptr<graph>> graphs_;
  std::vector<index_t> sizes_;
};

}  // namespace selection

}  // namespace attend::inline ATTEND_TARGET
