// SPDX-License-Identifier: BSD-3-Clause
// The graph that is projected from queries, against its definition in double; and RetrievalAttention through it.
#include <attend/attention/sparse_decode/retrieval_attention.hpp>
#include <attend/cache/paged.hpp>
#include <attend/select/projected_index.hpp>

#include "support/chosen_inputs.hpp"
#include "support/count_allocations.hpp"
#include "support/selection.hpp"

namespace attend {
using namespace selection;
using namespace systems;

namespace {

using test::expect_error;
using test::shape_of;
using test::sizes;
using rows = std::vector<reference::number_row>;
using list = std::vector<std::int32_t>;

double product(reference::number_row const& a, reference::number_row const& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

/// The k tokens of largest value, equal ones in their order.
list largest(std::vector<double> const& value, std::size_t k) {
  list order(value.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) {
    return value[static_cast<std::size_t>(a)] > value[static_cast<std::size_t>(b)];
  });
  order.resize(std::min(k, order.size()));
  return order;
}

/// The graph as projected_graph.hpp defines it.
struct defined_graph {
  rows const& keys;
  std::vector<list> links;
  std::int32_t entry = 0;

  defined_graph(rows const& all_keys, rows const& queries, projection_settings const& settings) : keys(all_keys) {
    std::size_t const tokens = keys.size();
    std::vector<list> own(tokens), projected(tokens);
    std::vector<int> times(tokens, 0);
    reference::number_row mean(keys[0].size(), 0.0);
    for (auto const& q : queries) {
      std::vector<double> logits;
      for (auto const& k : keys) logits.push_back(product(q, k));
      list const nearest = largest(logits, static_cast<std::size_t>(settings.nearest));
      std::int32_t pivot = nearest[0];
      for (auto const token : nearest)
        if (times[at(token)] < times[at(pivot)]) pivot = token;
      ++times[at(pivot)];
      own[at(pivot)].insert(own[at(pivot)].end(), nearest.begin(), nearest.end());
      for (std::size_t c = 0; c < mean.size(); ++c) mean[c] += q[c] / static_cast<double>(queries.size());
    }
    for (std::size_t key = 0; key < tokens; ++key) projected[key] = keep(key, own[key], settings.links);
    projected = both_ways(projected, settings.links);
    std::vector<double> to_mean;
    for (auto const& k : keys) to_mean.push_back(product(mean, k));
    entry = largest(to_mean, 1)[0];
    std::vector<list> bridges(tokens);
    for (std::size_t key = 0; key < tokens; ++key)
      bridges[key] = keep(key, search(projected, key, settings.building_beam), settings.bridges);
    bridges = both_ways(bridges, settings.bridges);
    links = projected;
    for (std::size_t key = 0; key < tokens; ++key)
      links[key].insert(links[key].end(), bridges[key].begin(), bridges[key].end());
    std::vector<bool> reached(tokens, false);
    std::vector<std::int32_t> chain_end(tokens);
    std::iota(chain_end.begin(), chain_end.end(), 0);
    auto const of_both = links;
    std::function<void(std::int32_t)> const mark = [&](std::int32_t key) {
      reached[at(key)] = true;
      for (auto const token : of_both[at(key)])
        if (!reached[at(token)]) mark(token);
    };
    mark(entry);
    for (std::size_t key = 0; key < tokens; ++key) {
      if (reached[key]) continue;
      std::int32_t from = entry;
      for (auto const token : bridges[key])
        if (reached[at(token)]) {
          from = token;
          break;
        }
      links[at(chain_end[at(from)])].push_back(static_cast<std::int32_t>(key));
      chain_end[at(from)] = static_cast<std::int32_t>(key);
      mark(static_cast<std::int32_t>(key));
    }
    for (auto& of_key : links) {
      std::sort(of_key.begin(), of_key.end());
      of_key.erase(std::unique(of_key.begin(), of_key.end()), of_key.end());
    }
  }

 private:
  static std::size_t at(std::int32_t token) { return static_cast<std::size_t>(token); }

  double nearness(std::size_t a, std::size_t b) const {
    double sum = 0;
    for (std::size_t c = 0; c < keys[a].size(); ++c) sum -= (keys[a][c] - keys[b][c]) * (keys[a][c] - keys[b][c]);
    return sum;
  }

  list keep(std::size_t key, list candidates, index_t most) const {
    std::sort(candidates.begin(), candidates.end());
    candidates.erase(std::unique(candidates.begin(), candidates.end()), candidates.end());
    std::erase(candidates, static_cast<std::int32_t>(key));
    std::vector<double> near;
    for (auto const token : candidates) near.push_back(nearness(key, at(token)));
    list kept;
    for (auto const number : largest(near, near.size())) {
      std::int32_t const token = candidates[at(number)];
      bool const occluded = std::any_of(kept.begin(), kept.end(), [&](auto other) {
        return nearness(at(token), at(other)) > nearness(at(token), key);
      });
      if (!occluded && static_cast<index_t>(kept.size()) < most) kept.push_back(token);
    }
    return kept;
  }

  std::vector<list> both_ways(std::vector<list> const& from, index_t most) const {
    std::vector<list> all = from;
    for (std::size_t key = 0; key < from.size(); ++key)
      for (auto const token : from[key]) all[at(token)].push_back(static_cast<std::int32_t>(key));
    for (std::size_t key = 0; key < all.size(); ++key) {
      std::sort(all[key].begin(), all[key].end());
      all[key].erase(std::unique(all[key].begin(), all[key].end()), all[key].end());
      if (static_cast<index_t>(all[key].size()) > most) all[key] = keep(key, all[key], most);
    }
    return all;
  }

  list search(std::vector<list> const& graph, std::size_t key, index_t width) const {
    list beam{entry}, expanded, scored{entry};
    auto const is_in = [](list const& all, std::int32_t token) {
      return std::find(all.begin(), all.end(), token) != all.end();
    };
    for (;;) {
      auto const next = std::find_if(beam.begin(), beam.end(), [&](auto token) { return !is_in(expanded, token); });
      if (next == beam.end()) return beam;
      expanded.push_back(*next);
      for (auto const token : graph[at(expanded.back())]) {
        if (is_in(scored, token)) continue;
        scored.push_back(token);
        auto const worse = std::find_if(
            beam.begin(), beam.end(), [&](auto other) { return nearness(key, at(other)) < nearness(key, at(token)); });
        beam.insert(worse, token);
        if (static_cast<index_t>(beam.size()) > width) beam.pop_back();
      }
    }
  }
};

template <class S>
void expect_defined_graph(sizes s, projection_settings const& settings, unsigned seed) {
  auto const in = test::whole_number_inputs<float>(s, seed);
  auto const cache = test::filled_cache<S>(in);
  auto const stored = test::as_stored(cache, in);
  auto const q = stored.query.view(), k = stored.key.view();
  auto const of_head = [](auto const& tensor, index_t head) {
    rows all;
    for (index_t t = 0; t < tensor.extent(2); ++t)
      all.emplace_back(&tensor(0, head, t, 0), &tensor(0, head, t, 0) + tensor.extent(3));
    return all;
  };
  rows const keys = of_head(k, 1), queries = of_head(q, 1);
  auto const row = [&](index_t i) { return &in.query.view()(0, 1, i, 0); };
  serial alone;
  detail::key_graph const graph =
      detail::graph_projection<contiguous_cache<S>, decltype(row), serial>(cache, 0, 1, s.keys, settings, alone)
          .make(s.queries, row);
  defined_graph const expected(keys, queries, settings);
  EXPECT_EQ(graph.entry, expected.entry);
  for (index_t key = 0; key < s.keys; ++key) {
    auto const of_key = graph.links(key);
    list got(of_key.begin(), of_key.end());
    std::sort(got.begin(), got.end());
    EXPECT_EQ(got, expected.links[static_cast<std::size_t>(key)]) << key;
  }
}

// Whole numbers, and a power of two of queries: no sum is rounded.
TEST(ProjectedIndex, HasTheGraphOfItsDefinition) {
  expect_defined_graph<float>({1, 2, 2, 2, 32, 90, 7, 3}, {.nearest = 9, .links = 4, .bridges = 2, .building_beam = 6},
                              1);
  expect_defined_graph<float>({1, 2, 2, 2, 64, 70, 16, 3},
                              {.nearest = 20, .links = 3, .bridges = 0, .building_beam = 1}, 2);
  expect_defined_graph<bfloat16>({1, 2, 2, 2, 1, 50, 33, 3}, {.nearest = 60, .links = 8, .bridges = 3}, 3);
}

TEST(ProjectedIndex, FindsTheNearestKeysOfQueries) {
  sizes const s{1, 1, 1, 1, 500, 1300, 9, 3};
  auto const in = test::whole_number_inputs<float>(s, 4);
  auto const cache = test::filled_cache<float>(in);
  auto const row = [&](index_t i) { return &in.query.view()(0, 0, i, 0); };
  list found(500 * 7), threaded = found;
  serial alone;
  threads two{2};
  detail::nearest_keys(cache, 0, 0, s.keys, s.queries, row, 7, found.data(), alone);
  detail::nearest_keys(cache, 0, 0, s.keys, s.queries, row, 7, threaded.data(), two);
  EXPECT_EQ(found, threaded);
  for (index_t i = 0; i < 500; ++i) {
    std::vector<double> logits;
    for (index_t j = 0; j < s.keys; ++j)
      logits.push_back(std::inner_product(row(i), row(i) + 9, &in.key.view()(0, 0, j, 0), 0.0));
    EXPECT_EQ(list(found.begin() + i * 7, found.begin() + i * 7 + 7), largest(logits, 7)) << i;
  }
}

/// Queries and keys from different parts of space, as those of attention are.
test::inputs<float> distant_inputs(sizes const& s, unsigned seed) {
  auto in = test::random_inputs<float>(s, seed);
  for (index_t t = 0; t < s.keys; ++t)
    for (index_t h = 0; h < s.key_heads; ++h) {
      float* const key = &in.key.view()(0, h, t, 0);
      for (index_t c = 0; c < s.key_dimension; ++c) key[c] = c < 4 ? 4 * key[c] : key[c] + 1;
    }
  for (std::size_t i = 0; i < in.query.elements.size(); ++i)
    if (i % static_cast<std::size_t>(s.key_dimension) >= 8) in.query.elements[i] *= 0.3f;
  return in;
}

sizes const some{1, 4, 2, 2, 300, 2000, 24, 13};

tensor_view<float const, 4> token_of(test::inputs<float> const& in, index_t token) {
  auto const q = in.query.view();
  return {&q(0, 0, token, 0), {1, q.extent(1), 1, q.extent(3)}, q.strides()};
}

/// The share of the exact tokens that an index finds, over the last 40 queries; it is built from those before.
struct outcome {
  double found = 0, scored = 0;  // shares of the exact tokens and of all keys
};
template <class Cache, class E = serial>
outcome measure(test::inputs<float> const& in, Cache const& cache, retrieval_options const& choice, index_t beam,
                E executor = {}) {
  sizes const& s = in.size;
  projected_index index(shape_of(s), s.keys, beam);
  auto const q = in.query.view();
  index.build(cache, tensor_view<float const, 4>(q.data(), {1, 4, 260, s.key_dimension}, q.strides()), executor);
  retrieval_selector<projected_index> selector(shape_of(s), 4, s.keys, choice, std::move(index));
  retrieval_selector<> exact(shape_of(s), 4, s.keys, choice);
  selector.update(cache);
  outcome sum;
  for (index_t t = 260; t < 300; ++t) {
    selector.select(token_of(in, t), cache, executor);
    exact.select(token_of(in, t), cache);
    for (index_t h = 0; h < 4; ++h) {
      auto const got = selector.lists()(0, h), all = exact.lists()(0, h);
      list common;
      std::set_intersection(got.begin(), got.end(), all.begin(), all.end(), std::back_inserter(common));
      EXPECT_EQ(got.size(), all.size());
      sum.found += static_cast<double>(common.size());
    }
    for (index_t h : {0, 1}) sum.scored += static_cast<double>(selector.index().scored(0, h));
  }
  return {sum.found / static_cast<double>(160 * choice.tokens), sum.scored / static_cast<double>(160 * s.keys)};
}

TEST(ProjectedIndex, FindsMostByFewKeysWhereQueriesAreFarFromKeys) {
  auto const in = distant_inputs(some, 5);
  auto const cache = test::filled_cache<float>(in);
  outcome const got = measure(in, cache, {.first = 4, .last = 50, .tokens = 20}, 40);
  EXPECT_GE(got.found, 0.9);
  EXPECT_LE(got.scored, 0.2);
}

// Every key can be reached: a beam of all keys is exact, whatever the storage.
TEST(ProjectedIndex, OfAWholeBeamIsExact) {
  auto const in = distant_inputs(some, 6);
  retrieval_options const choice{.first = 4, .last = 50, .tokens = 60};
  EXPECT_EQ(measure(in, test::filled_cache<float>(in), choice, 2000).found, 1);
  EXPECT_EQ(measure(in, test::filled_cache<std::int8_t>(in), choice, 2000).found, 1);
  auto channels = test::filled<float, 2>({2, 24}, 0.5f);
  contiguous_cache<std::int8_t> scaled(shape_of(some), some.keys, channels.view());
  scaled.append(in.key.view(), in.value.view());
  EXPECT_EQ(measure(in, scaled, choice, 2000).found, 1);
  paged_cache<bfloat16> pages(shape_of(some), {.pages = 100, .page_tokens = 32});
  pages.append(in.key.view(), in.value.view());
  EXPECT_EQ(measure(in, pages, choice, 2000).found, 1);
}

TEST(ProjectedIndex, ReadsWhatCameBehindTheGraph) {
  auto const in = distant_inputs(some, 7);
  auto const k = in.key.view(), v = in.value.view();
  auto const part = [](auto const& of, index_t first, index_t count) {
    return tensor_view<float const, 4>(&of(0, 0, first, 0), {1, 2, count, of.extent(3)}, of.strides());
  };
  contiguous_cache<float> cache(shape_of(some), some.keys);
  projected_index index(shape_of(some), some.keys, 2000);
  cache.append(part(k, 0, 1500), part(v, 0, 1500));
  index.build(cache, in.query.view());
  cache.append(part(k, 1500, 500), part(v, 1500, 500));
  for (index_t last : {7, 700, 10}) {
    retrieval_options const choice{.first = 3, .last = last, .tokens = 90};
    retrieval_selector<> exact(shape_of(some), 4, some.keys, choice);
    retrieval_selector<projected_index> selector(shape_of(some), 4, some.keys, choice, std::move(index));
    auto output = test::filled<float, 4>({1, 4, 1, 13}, 7), expected = output;
    selector.update(cache);
    retrieval_attention(token_of(in, 1), cache, selector, output.view());
    retrieval_attention(token_of(in, 1), cache, exact, expected.view());
    EXPECT_TRUE(test::same_bits(output.elements, expected.elements)) << last;
    index = projected_index(shape_of(some), some.keys, 2000);  // no graph: all are behind it
  }
}

TEST(ProjectedIndex, GivesTheSameBitsForAnyThreads) {
  auto const in = distant_inputs(some, 8);
  auto const cache = test::filled_cache<bfloat16>(in);
  auto const run = [&](auto executor) {
    projected_index index(shape_of(some), some.keys, 30);
    index.build(cache, in.query.view(), executor);
    retrieval_selector<projected_index> selector(shape_of(some), 4, some.keys, {.last = 20, .tokens = 30},
                                                 std::move(index));
    auto output = test::filled<float, 4>({1, 4, 1, 13}, 7);
    retrieval_attention(token_of(in, 9), cache, selector, output.view(), executor);
    output.elements.push_back(static_cast<float>(selector.bytes()));
    return output.elements;
  };
  auto const alone = run(serial{});
  EXPECT_TRUE(test::same_bits(alone, run(threads{2})));
  EXPECT_TRUE(test::same_bits(alone, run(threads{3})));
}

TEST(ProjectedIndex, AllocatesNothingInASearch) {
  auto const in = distant_inputs(some, 9);
  auto const cache = test::filled_cache<float>(in);
  projected_index index(shape_of(some), some.keys, 50);
  index.build(cache, in.query.view());
  retrieval_selector<projected_index> selector(shape_of(some), 4, some.keys, {.tokens = 30}, std::move(index));
  auto output = test::filled<float, 4>({1, 4, 1, 13}, 7);
  index_t token = 0;
  auto const step = [&] { retrieval_attention(token_of(in, token++), cache, selector, output.view()); };
  step();
  EXPECT_EQ(test::allocations_of_two(step).second, 0);
}

TEST(ProjectedIndex, SaysWhatIsWrong) {
  expect_error("projected_index: expected extents of at least 0, got -1", [] { projected_index({1, 1, 8, 8}, -1); });
  expect_error("beam: expected at least 1 key, got 0", [] { projected_index({1, 1, 8, 8}, 10, 0); });
  expect_error("projection_settings: expected at least 1, got 0",
               [] { projected_index({1, 1, 8, 8}, 10, 5, {.links = 0}); });
  expect_error("projection_settings: expected at least 0 bridges, got -1",
               [] { projected_index({1, 1, 8, 8}, 10, 5, {.bridges = -1}); });
  auto const in = test::random_inputs<float>({1, 4, 2, 2, 3, 40, 24, 13}, 1);
  auto cache = test::filled_cache<float>(in);
  cache_shape const shape = shape_of(in.size);
  projected_index index(shape, 40), small(shape, 39);
  expect_error("cache: expected at most 39 tokens (the capacity), got 40",
               [&] { small.build(cache, in.query.view()); });
  expect_error("query: expected at least one query, got none",
               [&] { index.build(cache, tensor_view<float const, 4>(in.query.view().data(), {1, 4, 0, 24})); });
  expect_error("query: expected head dimension 24 (as the selector), got 23",
               [&] { index.build(cache, tensor_view<float const, 4>(in.query.view().data(), {1, 4, 3, 23})); });
  expect_error("query_heads: expected a multiple of 2 (the key-value heads), got 3",
               [&] { index.build(cache, tensor_view<float const, 4>(in.query.view().data(), {1, 3, 3, 24})); });
  expect_error("threads: expected a count of at least 0, got -1",
               [&] { index.build(cache, in.query.view(), threads{-1}); });
  index.build(cache, in.query.view());
  cache.truncate(0, 30);
  expect_error("cache: expected at least 40 tokens (as the graph has), got 30", [&] { index.update(cache); });
}

}  // namespace
}  // namespace attend
