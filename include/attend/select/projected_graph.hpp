// SPDX-License-Identifier: BSD-3-Clause
// A graph of keys that is projected from queries: keys that the same query looks for are joined.
//
//   nearest(q)   the keys of largest q . k, for each of some queries                        (select/nearest_keys.hpp)
//   projection   each query has a pivot among its nearest keys, which is joined to those of the others that
//                keep() keeps, and they to it
//   bridges      each key is joined to a few of the keys that a search for it finds in the projection, and they to it
//   reached      a key to which no way leads from the entry yet hangs on the first of its bridges that has one, in a
//                chain, so that no key gets more than one further link by it
//
//   keep(x, c)   candidates c by their distance to x: one is kept if none that was kept before is nearer to it than x
//                is, up to a number of links (occlusion); so it is once more for keys that too many are joined to
//
// Where queries and keys have different distributions, the keys that a query looks for are far from it and from each
// other: a graph of keys that are near each other leads past them. Here they are one step apart.
//
// The source's pivot is the nearest key, and its distances are negative products, for vectors of equal length. Keys of
// attention have different lengths, and a few hundred long ones are nearest to nearly all queries: then only these
// would be joined. So the pivot is the key that has been it least often so far, the nearest of several, and distances
// between keys are Euclidean. With both, the same number of scored keys finds what it otherwise never did. Unlike the
// source, an open place among the links is not filled by keys that were not kept.
//
// Cost: nearest_keys; a search for each key; and for each candidate its product with each link that was kept. Which
// threads do it changes nothing: the links of a key are made from those of the step before.
//
// Meng Chen, Kai Zhang, Zhenying He, Yinan Jing, X. Sean Wang: RoarGraph: A Projected Bipartite Graph for Efficient
// Cross-Modal Approximate Nearest Neighbor Search, 2024.
#pragma once

#include <numeric>
#include <utility>

#include "../core/buffer.hpp"
#include "../core/order.hpp"
#include "graph_search.hpp"
#include "listed_scores.hpp"
#include "nearest_keys.hpp"
#include "stored_scores.hpp"

namespace attend::inline ATTEND_TARGET {

namespace selection {

/// How a graph is projected: the number of nearest keys of a query, the most links of a key from the projection and
/// from bridges, and the width of the beam that finds bridges.
struct projection_settings {
  index_t nearest = 100;
  index_t links = 32;
  index_t bridges = 4;
  index_t building_beam = 64;
};

}  // namespace selection

namespace detail {

/// Links of keys, in one piece: those of a key begin at first[key].
struct key_graph {
  buffer<index_t> first;
  buffer<std::int32_t> link;
  index_t tokens = 0, most_links = 0;
  std::int32_t entry = 0;

  std::span<std::int32_t const> links(index_t token) const {
    return {link.data() + first[token], static_cast<std::size_t>(first[token + 1] - first[token])};
  }
  index_t bytes() const { return first.bytes() + link.bytes(); }
};

/// Lists of tokens of different lengths, one for each key, by counting: each_pair(f) calls f(key, token) for all of
/// them, twice in the same order.
template <class Pairs>
key_graph grouped(index_t tokens, Pairs const& each_pair) {
  key_graph to;
  to.tokens = tokens;
  to.first = buffer<index_t>("projected_index", std::array{tokens + 1});
  std::fill_n(to.first.data(), tokens + 1, 0);
  each_pair([&](index_t key, index_t) { ++to.first[key + 1]; });
  for (index_t key = 0; key < tokens; ++key) {
    to.most_links = std::max(to.most_links, to.first[key + 1]);
    to.first[key + 1] += to.first[key];
  }
  to.link = buffer<std::int32_t>("projected_index", std::array{to.first[tokens]});
  buffer<index_t> next("projected_index", std::array{tokens});
  std::copy_n(to.first.data(), tokens, next.data());
  each_pair([&](index_t key, index_t token) { to.link[next[key]++] = static_cast<std::int32_t>(token); });
  return to;
}

/// Makes the graph of the first `tokens` >= 1 keys of a head.
template <KeyValueSource Cache, class Query, class E>
class graph_projection {
  using A = storage_accumulation_t<typename Cache::key_element>;

 public:
  graph_projection(Cache const& cache, index_t sequence, index_t head, index_t tokens,
                   selection::projection_settings const& settings, E& executor)
      : cache_(cache),
        sequence_(sequence),
        head_(head),
        tokens_(tokens),
        settings_(settings),
        executor_(executor),
        square_("projected_index", std::array{tokens}) {}

  /// query(i) gives the elements of query i of `queries` >= 1.
  key_graph make(index_t queries, Query const& query) {
    measure();
    links projected = project(queries, query);
    projected = both_ways(projected, settings_.links);
    std::int32_t const entry = nearest_to_mean(queries, query);
    links const bridges = both_ways(bridge(projected, entry), settings_.bridges);
    return reached(projected, bridges, entry);
  }

 private:
  /// Up to `most` links of each key.
  struct links {
    index_t most;
    buffer<std::int32_t> link;
    buffer<std::int32_t> count;

    links(index_t tokens, index_t most_links)
        : most(most_links),
          link("projected_index", std::array{tokens, most_links}),
          count("projected_index", std::array{tokens}) {
      std::fill_n(count.data(), tokens, 0);
    }
    std::span<std::int32_t const> operator()(index_t token) const {
      return {link.data() + token * most, static_cast<std::size_t>(count[token])};
    }
    void set(index_t token, std::int32_t const* from, index_t number) {
      std::copy_n(from, number, link.data() + token * most);
      count[token] = static_cast<std::int32_t>(number);
    }
  };

  /// What a thread keeps links with.
  struct keeper {
    listed_scores<Cache> scores;
    A* key;
    float* of_kept;

    keeper(scratch& memory, graph_projection const& p)
        : scores(memory, p.cache_, p.sequence_, p.head_, p.most_scored()),
          key(memory.allocate<A>(p.cache_.key_dimension() + 1)),
          of_kept(memory.allocate<float>(p.most_scored())) {}
  };

  static constexpr index_t scored_together = 64;
  index_t most_scored() const { return std::max(scored_together, std::max(settings_.links, settings_.bridges)); }

  /// Runs body(key, keeper) for all keys, some hundred in a task.
  template <class Body>
  void for_keys(double products_of_key, Body const& body) {
    constexpr index_t keys_of_task = 256;
    loop_cost const cost{2 * products_of_key * static_cast<double>(tokens_ * cache_.key_dimension())};
    parallel_for(executor_, divide_up(tokens_, keys_of_task), cost, [&](index_t task) {
      scratch memory;
      keeper with(memory, *this);
      index_t const first = task * keys_of_task, last = std::min(first + keys_of_task, tokens_);
      for (index_t key = first; key < last; ++key) body(key, with);
    });
  }

  void read(index_t token, A* to) const {
    read_key(cache_.rows(sequence_, head_, token), 0, cache_.key_dimension(), to);
  }

  void measure() {
    for_keys(1, [&](index_t key, keeper& with) {
      read(key, with.key);
      square_[key] = static_cast<float>(simd::dot(with.key, with.key, cache_.key_dimension()));
    });
  }

  /// Minus half of the squared distance of two keys, of which their product is known.
  float nearness(float product, index_t a, index_t b) const { return product - (square_[a] + square_[b]) / 2; }

  /// Writes the links that a key keeps among candidates to `kept`, and returns their number. Candidates are reordered.
  index_t keep(index_t key, std::span<std::int32_t> candidates, index_t most, keeper& with, std::int32_t* kept) const {
    std::sort(candidates.begin(), candidates.end(), ascending{});
    auto end = std::unique(candidates.begin(), candidates.end());
    end = std::remove(candidates.begin(), end, static_cast<std::int32_t>(key));
    index_t const count = end - candidates.begin();
    scratch memory;
    float* const near = memory.allocate<float>(count + 1);
    auto* const order = memory.allocate<std::int32_t>(count + 1);
    read(key, with.key);
    with.scores.set_query(with.key);
    for (index_t i = 0; i < count; i += scored_together)
      with.scores.score(&candidates[static_cast<std::size_t>(i)], std::min(scored_together, count - i), near + i);
    for (index_t i = 0; i < count; ++i) near[i] = nearness(near[i], key, candidates[static_cast<std::size_t>(i)]);
    selection::top_k(near, count, count, order, selection::top_k_order::score);
    index_t number = 0;
    for (index_t i = 0; i < count && number < most; ++i) {
      std::int32_t const candidate = candidates[static_cast<std::size_t>(order[i])];
      read(candidate, with.key);
      with.scores.set_query(with.key);
      with.scores.score(kept, number, with.of_kept);
      bool occluded = false;
      for (index_t k = 0; k < number; ++k)
        occluded = occluded || nearness(with.of_kept[k], candidate, kept[k]) > near[order[i]];
      if (!occluded) kept[number++] = candidate;
    }
    return number;
  }

  links project(index_t queries, Query const& query) {
    index_t const k = std::min(settings_.nearest, tokens_);
    buffer<std::int32_t> nearest("projected_index", std::array{queries, k});
    nearest_keys(cache_, sequence_, head_, tokens_, queries, query, k, nearest.data(), executor_);
    buffer<std::int32_t> times("projected_index", std::array{tokens_}), pivot("projected_index", std::array{queries});
    std::fill_n(times.data(), tokens_, 0);
    for (index_t i = 0; i < queries; ++i) {
      std::int32_t const* const of_query = nearest.data() + i * k;
      pivot[i] = of_query[0];
      for (index_t n = 1; n < k && of_query[n] >= 0; ++n)
        if (times[of_query[n]] < times[pivot[i]]) pivot[i] = of_query[n];
      if (pivot[i] >= 0) ++times[pivot[i]];
    }
    key_graph const queries_of = grouped(tokens_, [&](auto const& pair) {
      for (index_t i = 0; i < queries; ++i)
        if (pivot[i] >= 0) pair(pivot[i], i);
    });
    links to(tokens_, settings_.links);
    double const products = static_cast<double>(queries * k * settings_.links) / static_cast<double>(tokens_);
    for_keys(products, [&](index_t key, keeper& with) {
      auto const from = queries_of.links(key);
      if (from.empty()) return;
      scratch memory;
      auto* const candidates = memory.allocate<std::int32_t>(static_cast<index_t>(from.size()) * k);
      auto* const kept = memory.allocate<std::int32_t>(settings_.links + 1);
      std::size_t count = 0;
      for (index_t const i : from)
        for (index_t n = 0; n < k && nearest[i * k + n] >= 0; ++n) candidates[count++] = nearest[i * k + n];
      to.set(key, kept, keep(key, {candidates, count}, settings_.links, with, kept));
    });
    return to;
  }

  /// Joins the keys that a key is joined to with it too, and where these are more than `most`, keeps some.
  links both_ways(links const& from, index_t most) {
    key_graph const back = grouped(tokens_, [&](auto const& pair) {
      for (index_t key = 0; key < tokens_; ++key)
        for (std::int32_t const token : from(key)) pair(token, key);
    });
    links to(tokens_, most);
    for_keys(static_cast<double>(2 * most * most), [&](index_t key, keeper& with) {
      auto const out = from(key), in = back.links(key);
      scratch memory;
      auto* const candidates = memory.allocate<std::int32_t>(static_cast<index_t>(out.size() + in.size()) + 1);
      auto* const kept = memory.allocate<std::int32_t>(most + 1);
      std::copy(in.begin(), in.end(), std::copy(out.begin(), out.end(), candidates));
      std::sort(candidates, candidates + out.size() + in.size(), ascending{});
      auto* const end = std::unique(candidates, candidates + out.size() + in.size());
      if (end - candidates <= most)
        to.set(key, candidates, end - candidates);
      else
        to.set(key, kept, keep(key, {candidates, end}, most, with, kept));
    });
    return to;
  }

  links bridge(links const& projected, std::int32_t entry) {
    links to(tokens_, settings_.bridges);
    if (settings_.bridges == 0) return to;
    for_keys(static_cast<double>(8 * settings_.building_beam), [&](index_t key, keeper& with) {
      scratch memory;
      graph_search search(memory, tokens_, settings_.links, {0, tokens_}, settings_.building_beam);
      read(key, with.key);
      with.scores.set_query(with.key);
      search.run(entry, projected, [&](std::int32_t const* token, index_t count, float* score) {
        with.scores.score(token, count, score);
        for (index_t i = 0; i < count; ++i) score[i] = nearness(score[i], key, token[i]);
      });
      auto const beam = search.beam();
      auto* const candidates = memory.allocate<std::int32_t>(static_cast<index_t>(beam.size()) + 1);
      auto* const kept = memory.allocate<std::int32_t>(settings_.bridges + 1);
      for (std::size_t i = 0; i < beam.size(); ++i) candidates[i] = beam[i].token;
      to.set(key, kept, keep(key, {candidates, beam.size()}, settings_.bridges, with, kept));
    });
    return to;
  }

  /// The key of largest product with the mean of the queries.
  std::int32_t nearest_to_mean(index_t queries, Query const& query) const {
    index_t const dimension = cache_.key_dimension();
    scratch memory;
    A* const mean = memory.allocate<A>(dimension + 1);
    std::fill_n(mean, dimension, A(0));
    for (index_t i = 0; i < queries; ++i) {
      A const* const from = query(i);
      for (index_t c = 0; c < dimension; ++c) mean[c] += from[c] / static_cast<A>(queries);
    }
    float* const scores = memory.allocate<float>(tokens_);
    score_stored_keys(cache_, sequence_, head_, 0, tokens_, 1, [&](index_t) { return mean; }, scores, tokens_, false);
    std::int32_t best = 0;
    selection::top_k(scores, tokens_, 1, &best);
    return best;
  }

  /// All links together, and those without which a key cannot be reached.
  key_graph reached(links const& projected, links const& bridges, std::int32_t entry) const {
    buffer<std::int32_t> parent("projected_index", std::array{tokens_}), stack("projected_index", std::array{tokens_}),
        chain_end("projected_index", std::array{tokens_});
    std::iota(chain_end.data(), chain_end.data() + tokens_, 0);
    constexpr std::int32_t unreached = -2, no_parent = -1;
    std::fill_n(parent.data(), tokens_, unreached);
    auto const mark_from = [&](std::int32_t start, std::int32_t its_parent) {
      index_t waiting = 0;
      parent[start] = its_parent;
      stack[waiting++] = start;
      while (waiting > 0) {
        std::int32_t const key = stack[--waiting];
        for (auto const of_key : {projected(key), bridges(key)})
          for (std::int32_t const token : of_key)
            if (parent[token] == unreached) {
              parent[token] = no_parent;
              stack[waiting++] = token;
            }
      }
    };
    mark_from(entry, no_parent);
    for (index_t key = 0; key < tokens_; ++key) {
      if (parent[key] != unreached) continue;
      std::int32_t from = entry;
      for (std::int32_t const token : bridges(key))
        if (parent[token] != unreached) {
          from = token;
          break;
        }
      mark_from(static_cast<std::int32_t>(key), std::exchange(chain_end[from], static_cast<std::int32_t>(key)));
    }
    key_graph to = grouped(tokens_, [&](auto const& pair) {
      for (index_t key = 0; key < tokens_; ++key) {
        auto const first = projected(key);
        for (std::int32_t const token : first) pair(key, token);
        for (std::int32_t const token : bridges(key))
          if (std::find(first.begin(), first.end(), token) == first.end()) pair(key, token);
        if (parent[key] >= 0) pair(parent[key], key);
      }
    });
    to.entry = entry;
    return to;
  }

  Cache const& cache_;
  index_t sequence_, head_, tokens_;
  selection::projection_settings settings_;
  E& executor_;
  buffer<float> square_;
};

}  // namespace detail

}  // namespace attend::inline ATTEND_TARGET
