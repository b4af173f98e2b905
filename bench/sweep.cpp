// SPDX-License-Identifier: BSD-3-Clause
// How much of what a sparse pattern promises is measured: the speed-up over dense attention of the same program beside
// the bound that its tiles set.
//
//   bound      pairs of dense attention / pairs in the tiles that the pattern touches
//   padded     the same with the lanes that a tile leaves empty counted: what windows smaller than a tile can reach
//   speed-up   time of dense attention / time of the pattern, for as many heads, tokens and dimensions; where dense
//              attention would take long, that of its first queries
//   reached    speed-up / bound
//   of work    time / (allowed pairs at the speed of dense attention): what a user pays for each allowed pair
//
// Two more parts hold engines and executors against each other: sweep_small.cpp, sweep_engines.cpp.
//
//   attend_sweep [--quick] [windows|growth|tables|images|volumes|small|engines]...
#include <attend/attention/image/neighborhood_attention.hpp>
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/mask/block_builders.hpp>
#include <attend/policy/mask/block_sparse.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>
#include <string>

#include "random_tensor.hpp"
#include "run_parts.hpp"
#include "sweep_engines.hpp"

namespace attend_bench {
namespace {

using attend::index_t;
using attend::grids::neighborhood_axis;

bool quick = false;

/// Tensors of one shape, and how long a call on them takes: the best of some runs.
struct problem {
  index_t heads, tokens, dimension;
  random_tensor<float> query, key, value, output;

  problem(index_t heads, index_t tokens, index_t dimension)
      : heads(heads),
        tokens(tokens),
        dimension(dimension),
        query({1, heads, tokens, dimension}, 1),
        key({1, heads, tokens, dimension}, 2),
        value({1, heads, tokens, dimension}, 3),
        output({1, heads, tokens, dimension}, 4) {}

  template <class Call>
  double seconds(Call const& call) {
    using clock = std::chrono::steady_clock;
    double best = 1e9, all = 0;
    do {
      auto const begin = clock::now();
      call();
      double const time = std::chrono::duration<double>(clock::now() - begin).count();
      best = std::min(best, time);
      all += time;
    } while (all < (quick ? 0 : 0.4));
    return best;
  }
};

/// Seconds of dense attention on the same tensors for each pair of a head, from all queries or enough of them.
double dense_pair(problem& p) {
  index_t const enough = std::max<index_t>(2048, (index_t{1} << 26) / (p.heads * p.tokens));
  index_t const queries = std::min(p.tokens, enough);
  auto const first = attend::detail::part(p.query.view(), 2, 0, queries),
             to = attend::detail::part(p.output.view(), 2, 0, queries);
  double const time = p.seconds([&] { attend::softmax_attention(first, p.key.view(), p.value.view(), to); });
  return time / (static_cast<double>(p.heads * queries) * static_cast<double>(p.tokens));
}

/// One line: call(options...) runs the pattern.
template <class Call>
void report(std::string const& name, problem& p, double allowed, Call const& call) {
  attend::options::tile_counts counts;
  call(attend::options::count_tiles(counts));
  // Dense attention and the pattern in turns: a machine's speed changes with time.
  double const pair = dense_pair(p), time = p.seconds([&] { call(); });
  double const all = static_cast<double>(p.heads) * static_cast<double>(p.tokens) * static_cast<double>(p.tokens);
  double const bound = all / static_cast<double>(counts.pairs), padded = all / static_cast<double>(counts.padded_pairs);
  double const speedup = all * pair / time;
  std::printf("%-44s %8.2f ms   bound %8.2f   padded %8.2f   speed-up %8.2f   reached %5.2f   of work %5.2f\n",
              name.c_str(), time * 1e3, bound, padded, speedup, speedup / bound, time / (allowed * pair));
}

template <int Axes>
void neighborhood(index_t heads, index_t dimension, std::array<index_t, Axes> extents,
                  std::array<neighborhood_axis, Axes> const& axes) {
  std::string name;
  index_t tokens = 1;
  double allowed = static_cast<double>(heads);
  for (int a = 0; a < Axes; ++a) {
    if (quick) extents[a] = std::max(axes[a].window * axes[a].dilation, extents[a] / (Axes == 1 ? 32 : 4));
    auto const& [window, stride, dilation, causal, at_border, shift] = axes[a];
    name += (a ? " x " : "") + std::to_string(extents[a]);
    tokens *= extents[a];
    double seen = 0;
    for (index_t i = 0; i < extents[a]; ++i) {
      index_t const residue = i % dilation, length = (extents[a] - residue + dilation - 1) / dilation;
      seen += static_cast<double>(axes[a].keys(i / dilation, length).count());
    }
    allowed *= seen;
  }
  auto const& first = axes[0];
  name += " w" + std::to_string(first.window) + " s" + std::to_string(first.stride) + " d" +
          std::to_string(first.dilation) + (first.causal ? " causal" : "") + " dim" + std::to_string(dimension);
  problem p(heads, tokens, dimension);
  report(name, p, allowed, [&](auto const&... options) {
    attend::grids::neighborhood_attention<Axes>(p.query.view(), p.key.view(), p.value.view(), p.output.view(), extents,
                                                axes, options...);
  });
}

void windows() {
  for (index_t dimension : {64, 128})
    for (neighborhood_axis axis :
         {neighborhood_axis{256}, {256, 1, 1, true}, {256, 64}, {256, 256}, {256, 1, 4}, {1024}, {1024, 256}})
      neighborhood<1>(1, dimension, {32768}, {axis});
}

void growth() {
  for (index_t tokens : {8192, 16384, 32768, 65536, 131072}) neighborhood<1>(1, 64, {tokens}, {{{256, 1, 1, true}}});
}

void images() {
  for (neighborhood_axis axis : {neighborhood_axis{13}, {33}, {64}, {16, 16}, {32, 32}, {64, 16}, {32, 8}, {16, 1, 4}})
    neighborhood<2>(1, 128, {128, 128}, {axis, axis});
  neighborhood<2>(8, 32, {56, 56}, {{{7, 7}, {7, 7}}});
}

void volumes() {
  for (neighborhood_axis axis : {neighborhood_axis{8}, {16}, {8, 8}, {16, 8}})
    neighborhood<3>(1, 128, {32, 32, 32}, {axis, axis, axis});
}

/// Random tables: time against density * dense time.
void tables() {
  index_t const tokens = quick ? 512 : 4096;
  for (index_t dimension : {64, 128})
    for (index_t block : {64, 128})
      for (double density : {0.0, 0.1, 0.2, 0.5, 1.0}) {
        problem p(2, tokens, dimension);
        std::mt19937 engine(3);
        std::bernoulli_distribution listed(density);
        attend::options::block_table const table = attend::options::table_of_blocks(
            {1, 2, tokens, tokens, block, block}, [&](auto...) { return listed(engine); });
        report("table of blocks of " + std::to_string(block) + ", density " +
                   std::to_string(table.density()).substr(0, 5) + " dim" + std::to_string(dimension),
               p, std::max(table.density(), 1e-9) * 2 * static_cast<double>(tokens * tokens),
               [&](auto const&... options) {
                 attend::softmax_attention(p.query.view(), p.key.view(), p.value.view(), p.output.view(),
                                           attend::options::block_sparse(table), options...);
               });
      }
}

}  // namespace
}  // namespace attend_bench

int main(int count, char** arguments) {
  using namespace attend_bench;
  part const parts[] = {{"windows", windows},
                        {"growth", growth},
                        {"tables", tables},
                        {"images", images},
                        {"volumes", volumes},
                        {"small", [] { small(quick); }},
                        {"engines", [] { engines(quick); }}};
  return run_parts(count, arguments, parts, quick);
}
