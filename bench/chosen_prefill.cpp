// SPDX-License-Identifier: BSD-3-Clause
// What choosing keys from the data gains in prefill: the time of each system, its choice included, beside our own dense
// causal attention of the same program, and the bound that the chosen pairs set.
//
//   bound      pairs of dense causal attention / pairs in the tiles that were chosen; of patterns
//   (chosen_patterns.cpp),
//              pairs that a query may see
//   reached    (dense time / time) / bound
//   exponent   of HyperAttention's time from each length to the next: log2 of the ratio of times
//
//   attend_chosen [--quick] [PART]...
#include <attend/attention/sparse_prefill/hip_attention.hpp>
#include <attend/attention/sparse_prefill/hyper_attention.hpp>
#include <attend/attention/sparse_prefill/long_heads_prompt_attention.hpp>
#include <attend/attention/sparse_prefill/moba_attention.hpp>
#include <attend/attention/sparse_prefill/sample_attention.hpp>
#include <attend/attention/sparse_prefill/x_attention.hpp>

#include <cmath>
#include <string>

#include "chosen_patterns.hpp"
#include "run_parts.hpp"

namespace attend_bench {

bool quick = false;

namespace {

using attend::index_t;

/// One line: call(query, key, value, output, options...).
template <class Call>
void report(char const* name, Call const& call) {
  chosen_problem p(quick ? 1024 : 32768);
  attend::options::tile_counts counts;
  call(p.query.view(), p.key.view(), p.value.view(), p.output.view(), attend::options::count_tiles(counts));
  report_bound(p, name, static_cast<double>(counts.pairs), call);
}

void mixture() {
  report("MoBA, blocks of 256, top 8",
         [](auto const& q, auto const& k, auto const& v, auto const& o, auto const&... options) {
           attend::systems::moba_attention(q, k, v, o, {256, 8}, options...);
         });
}

/// The choice includes the representatives of all chunks: attention within each.
void long_heads() {
  constexpr index_t chunk = 256, chunks = 16;
  chosen_problem p(quick ? 5000 : 32768);
  double pairs = 0;
  for (index_t t = 0; t < p.tokens; ++t)
    pairs += static_cast<double>(std::min(t / chunk, chunks - 1) * chunk + t % chunk + 1);
  attend::rotary const position(attend::options::rotary_frequencies(128));
  report_bound(p, "LongHeads, chunks of 256, 16 of them", pairs,
               [&](auto const& q, auto const& k, auto const& v, auto const& o) {
                 attend::systems::long_heads_selector<float> selector({1, 1, 128, 128}, 1, p.tokens, chunks, chunk);
                 attend::systems::long_heads_prompt_attention(q, k, v, o, selector, position);
               });
}

void stripes() {
  report("SampleAttention, 5% of rows, window 5%, stripes 5%",
         [](auto const& q, auto const& k, auto const& v, auto const& o, auto const&... options) {
           index_t const tokens = k.extent(2);
           attend::systems::sample_attention(q, k, v, o, {.window = 0.05, .most = tokens / 20}, options...);
         });
}

void tree() {
  attend::options::block_table table;
  for (index_t query_block : {64, 96}) {
    std::string const name = "HiP, query blocks of " + std::to_string(query_block) + ", 2048 + 384 keys";
    report(name.c_str(), [&](auto const& q, auto const& k, auto const& v, auto const& o, auto const&... options) {
      attend::systems::hip_attention(q, k, v, o, table, {query_block, 64, 32, 4, 1}, options...);
    });
  }
}

/// On random keys the share decides how many blocks there are; the choice alone costs 1 / stride of the scores.
void antidiagonals() {
  attend::options::block_table table;
  for (index_t stride : {8, 16}) {
    std::string const name = "XAttention, blocks of 128, stride " + std::to_string(stride) + ", share 0.1";
    report(name.c_str(), [&](auto const& q, auto const& k, auto const& v, auto const& o, auto const&... options) {
      attend::systems::x_attention(q, k, v, o, table, {128, stride, 0.1}, options...);
    });
  }
}

void hyper() {
  attend::selection::hash_directions const directions(7, 128, 1);
  for (bool const is_causal : {false, true}) {
    double before = 0;
    for (index_t tokens : {16384, 32768, 65536, 131072}) {
      chosen_problem p(quick ? tokens / 16 : tokens);
      attend::systems::hyper_options const settings{.exact_below = quick ? 256 : 4096};
      double const time = p.seconds([&](auto const&... tensors) {
        if (is_causal)
          attend::systems::hyper_attention(tensors..., directions, settings, attend::causal{});
        else
          attend::systems::hyper_attention(tensors..., directions, settings);
      });
      std::printf("HyperAttention%s, %7ld tokens %8.1f ms", is_causal ? ", causal" : "", static_cast<long>(p.tokens),
                  time * 1e3);
      if (before > 0) std::printf("   exponent %5.2f", std::log2(time / before));
      std::printf("\n");
      before = time;
    }
  }
}

}  // namespace
}  // namespace attend_bench

int main(int count, char** arguments) {
  using namespace attend_bench;
  part const parts[] = {{"mixture", mixture},
                        {"long_heads", long_heads},
                        {"stripes", stripes},
                        {"tree", tree},
                        {"antidiagonals", antidiagonals},
                        {"hyper", hyper},
                        {"strided", strided},
                        {"fixed", fixed},
                        {"lsg", lsg},
                        {"focus", focus},
                        {"axial", axial},
                        {"routing", routing}};
  return run_parts(count, arguments, parts, quick);
}
