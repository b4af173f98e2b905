// SPDX-License-Identifier: BSD-3-Clause
// Indexes of keys for RetrievalAttention, at 131072 keys of dimension 128 and with queries that are distributed as the
// prompt's are, and not as keys (distant_queries.hpp).
//
//   select/index    the search for the 100 keys of largest product of a query of one head, by beams of several widths.
//                   recall: the share of them that is found; scored: the share of all keys that was multiplied
//   select/decode   a step of 32 query heads on 8, bfloat16, with 640 resident tokens and 100 that are found
//
// hnswlib's graph is the off-the-shelf index, where that is installed. Making the graphs takes a minute or some.
#include <attend/attention/sparse_decode/retrieval_attention.hpp>
#include <attend/select/projected_index.hpp>
#if defined(ATTEND_BENCH_HNSWLIB)
#include <attend/select/hnsw_index.hpp>
#endif

#include <benchmark/benchmark.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "benchmarks.hpp"
#include "distant_queries.hpp"
#include "select_benchmark.hpp"

namespace attend_bench {
namespace {

using attend::bfloat16;
using attend::caches::cache_shape;
using attend::selection::projected_index;

constexpr index_t query_heads = 32, key_heads = 8, group_size = query_heads / key_heads, keys = 131072, dimension = 128,
                  prompt_queries = 4096, steps = 32, tokens = 100;
constexpr attend::systems::retrieval_options choice{.first = 128, .last = 512, .tokens = tokens};

/// One key head, or all of them.
struct graph_problem {
  index_t heads;
  cache_shape shape{.sequences = 1, .key_value_heads = heads, .key_dimension = dimension, .value_dimension = dimension};
  attend::contiguous_cache<bfloat16> store{shape, keys};
  std::vector<bfloat16> prompt, last;  // [query head][query][dimension], [step][query head][dimension]

  explicit graph_problem(index_t key_value_heads) : heads(key_value_heads) {
    distant_queries made(dimension, 1);
    auto const some = [](index_t rows) { return std::vector<bfloat16>(static_cast<std::size_t>(rows * dimension)); };
    std::vector<bfloat16> key = some(heads * keys);
    prompt = some(heads * group_size * prompt_queries);
    last = some(steps * heads * group_size);
    std::vector<bfloat16> of_head = some(steps);
    for (index_t head = 0; head < heads; ++head) {
      made.fill(made.make_map(), keys, key.data() + head * keys * dimension);
      for (index_t h = head * group_size; h < (head + 1) * group_size; ++h) {
        auto const map = made.make_map();
        made.fill(map, prompt_queries, prompt.data() + h * prompt_queries * dimension);
        made.fill(map, steps, of_head.data(), 64);
        for (index_t step = 0; step < steps; ++step)
          std::copy_n(of_head.data() + step * dimension, dimension,
                      last.data() + (step * heads * group_size + h) * dimension);
      }
    }
    attend::tensor_view<bfloat16 const, 4> const all(key.data(), {1, heads, keys, dimension});
    store.append(all, all);
  }

  attend::tensor_view<bfloat16 const, 4> prompt_view() const {
    return {prompt.data(), {1, heads * group_size, prompt_queries, dimension}};
  }
  attend::tensor_view<bfloat16 const, 4> step(index_t number) const {
    index_t const of_step = heads * group_size;
    return {last.data() + number % steps * of_step * dimension, {1, of_step, 1, dimension}};
  }
  projected_index projected(index_t beam) const {
    projected_index index(shape, keys, beam);
    index.build(store, prompt_view(), attend::threads{});
    return index;
  }

  static graph_problem const& of_one_head() {
    static graph_problem const problem(1);
    return problem;
  }
  static graph_problem const& of_all_heads() {
    static graph_problem const problem(key_heads);
    return problem;
  }
};

using found_tokens = std::vector<std::int32_t>;

/// The queries of one head, and what an exact index finds for each.
struct index_problem {
  graph_problem const& problem = graph_problem::of_one_head();
  std::vector<float> query = std::vector<float>(problem.last.begin(), problem.last.end());
  std::vector<found_tokens> exact;

  index_problem() {
    attend::selection::flat_index flat;
    for (index_t i = 0; i < steps * group_size; ++i) exact.push_back(search(flat, i));
  }

  template <class Index>
  found_tokens search(Index& index, index_t number) const {
    found_tokens tokens_of;
    index.search(
        problem.store, 0, 0, 0, keys, tokens, 1, [&](index_t) { return query.data() + number * dimension; },
        [&](index_t, std::span<std::int32_t const> list) { tokens_of.assign(list.begin(), list.end()); });
    return tokens_of;
  }
  double recall(index_t number, found_tokens const& got) const {
    found_tokens common;
    auto const& all = exact[static_cast<std::size_t>(number)];
    std::set_intersection(got.begin(), got.end(), all.begin(), all.end(), std::back_inserter(common));
    return static_cast<double>(common.size()) / static_cast<double>(tokens);
  }

  static index_problem const& instance() {
    static index_problem const problem;
    return problem;
  }
};

/// search(problem, query, scored) gives the tokens, ascending, and adds the keys that it multiplied to `scored`.
template <class Search>
void add_index(std::string const& name, Search const& search) {
  benchmark::RegisterBenchmark(("select/index/" + name + "/bf16/skv131072/d128/top100/t1").c_str(),
                               [=](benchmark::State& state) {
                                 index_problem const& p = index_problem::instance();
                                 double recall = 0, scored = 0;
                                 index_t searches = 0;
                                 search(p, 0, scored);  // makes the index
                                 scored = 0;
                                 for (auto _ : state) {
                                   index_t const number = searches++ % (steps * group_size);
                                   found_tokens const got = search(p, number, scored);
                                   recall += p.recall(number, got);
                                 }
                                 state.counters["recall"] = recall / static_cast<double>(searches);
                                 state.counters["scored"] = scored / static_cast<double>(searches * keys);
                               })
      ->Unit(benchmark::kMicrosecond);
}

/// make(problem) gives an index, scored(index) the keys that the last step multiplied.
template <class Make, class Scored>
void add_decode(std::string const& name, Make const& make, Scored const& scored) {
  for (int const threads : {1, 2})
    register_select(
        "select/decode/retrieval_" + name + "/bf16/b1/hq32/hkv8/sq1/skv131072/d128/t" + std::to_string(threads), 5,
        [=] {
          graph_problem const& p = graph_problem::of_all_heads();
          using selector = attend::systems::retrieval_selector<std::remove_cvref_t<decltype(make(p))>>;
          // What took a minute to make serves both numbers of threads.
          static std::shared_ptr<selector> kept;
          if (!kept) kept.reset(new selector(p.shape, query_heads, keys, choice, make(p)));
          kept->update(p.store, attend::threads{2});
          auto const output =
              std::make_shared<random_tensor<bfloat16>>(std::array<index_t, 4>{1, query_heads, 1, dimension}, 3);
          auto const step = std::make_shared<index_t>(0);
          return select_run{[=, &p] {
                              attend::systems::retrieval_attention(p.step((*step)++), p.store, *kept, output->view(),
                                                                   attend::threads{threads});
                            },
                            [=, &p] {
                              attend::decode_attention(p.step((*step)++), p.store, output->view(),
                                                       attend::threads{threads});
                            },
                            [scored] {
                              constexpr double rows = key_heads * (choice.first + choice.last) + query_heads * tokens;
                              return 2.0 * key_heads * keys / (scored(*kept) + 2 * rows);
                            }};
        });
}

#if defined(ATTEND_BENCH_HNSWLIB)

constexpr attend::selection::hnsw_graph hnsw_settings{.building_beam = 64};

/// Products as hnswlib multiplies, counted.
class counted_products : public hnswlib::SpaceInterface<float> {
 public:
  static inline double count = 0;

  std::size_t get_data_size() override { return of_space_.get_data_size(); }
  hnswlib::DISTFUNC<float> get_dist_func() override { return counted; }
  void* get_dist_func_param() override { return of_space_.get_dist_func_param(); }

 private:
  static float counted(void const* a, void const* b, void const* size) {
    static hnswlib::DISTFUNC<float> const product = hnswlib::InnerProductSpace(dimension).get_dist_func();
    ++count;
    return product(a, b, size);
  }
  hnswlib::InnerProductSpace of_space_{dimension};
};

struct hnsw_of_head {
  counted_products space;
  hnswlib::HierarchicalNSW<float> graph{&space, keys, static_cast<std::size_t>(hnsw_settings.links),
                                        static_cast<std::size_t>(hnsw_settings.building_beam)};

  hnsw_of_head() {
    std::vector<float> wide(dimension);
    for (index_t token = 0; token < keys; ++token) {
      auto const run = graph_problem::of_one_head().store.rows(0, 0, token);
      std::copy_n(run.key, dimension, wide.begin());
      graph.addPoint(wide.data(), static_cast<std::size_t>(token));
    }
  }
  static hnsw_of_head& instance() {
    static hnsw_of_head index;
    return index;
  }
};

void add_hnsw() {
  for (std::size_t const beam : {100, 400, 1600, 6400})
    add_index("hnsw_beam" + std::to_string(beam), [=](index_problem const& p, index_t number, double& scored) {
      auto& graph = hnsw_of_head::instance().graph;
      graph.setEf(beam);
      counted_products::count = 0;
      auto nearest = graph.searchKnn(p.query.data() + number * dimension, tokens);
      scored += counted_products::count;
      found_tokens got;
      for (; !nearest.empty(); nearest.pop()) got.push_back(static_cast<std::int32_t>(nearest.top().second));
      std::sort(got.begin(), got.end());
      return got;
    });
  // Each step of a search reads the keys of a token's links: those that it has seen before are not read again, but how
  // many these are the index does not tell.
  add_decode(
      "hnsw", [](graph_problem const& p) { return attend::selection::hnsw_index(p.shape, keys, hnsw_settings); },
      [](auto const&) {
        return static_cast<double>(query_heads * (hnsw_settings.beam + choice.first + choice.last) *
                                   hnsw_settings.links);
      });
}

#else

void add_hnsw() {}

#endif

}  // namespace

void register_select_graphs() {
  add_index("flat", [](index_problem const& p, index_t number, double& scored) {
    attend::selection::flat_index flat;
    scored += static_cast<double>(keys);
    return p.search(flat, number);
  });
  for (index_t const beam : {100, 200, 400, 800})
    add_index("projected_beam" + std::to_string(beam), [=](index_problem const& p, index_t number, double& scored) {
      static projected_index index = p.problem.projected(beam);
      index.set_beam(beam);
      found_tokens got = p.search(index, number);
      scored += static_cast<double>(index.scored(0, 0));
      return got;
    });
  add_decode(
      "projected", [](graph_problem const& p) { return p.projected(200); },
      [](auto const& selector) {
        double sum = 0;
        for (index_t head = 0; head < key_heads; ++head) sum += static_cast<double>(selector.index().scored(0, head));
        return sum;
      });
  add_hnsw();
}

}  // namespace attend_bench
