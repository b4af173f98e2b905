// What choosing keys from the data gains in prefill: the time of each system, its choice included, beside our own dense
// causal attention of the same program, and the bound that the chosen pairs set.
//
//   bound      pairs of dense causal attention / pairs in the tiles that were chosen
//   reached    (dense time / time) / bound
//   exponent   of HyperAttention's time from each length to the next: log2 of the ratio of times
//
//   attend_chosen [--quick] [mixture|stripes|tree|hyper]...
#include <attend/variant/hierarchical_attention.hpp>
#include <attend/variant/hyper_attention.hpp>
#include <attend/variant/mixture_of_block_attention.hpp>
#include <attend/variant/sample_attention.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>

#include "random_tensor.hpp"
#include "run_parts.hpp"

namespace attend_bench {
namespace {

using attend::index_t;

bool quick = false;

/// One head.
struct problem {
  index_t tokens;
  random_tensor<float> query, key, value, output;

  explicit problem(index_t tokens)
      : tokens(tokens),
        query({1, 1, tokens, 128}, 1),
        key({1, 1, tokens, 128}, 2),
        value({1, 1, tokens, 128}, 3),
        output({1, 1, tokens, 128}, 4) {}

  template <class Call>
  double seconds(Call const& call) {
    using clock = std::chrono::steady_clock;
    double best = 1e9;
    for (int run = 0; run < (quick ? 1 : 3); ++run) {
      auto const begin = clock::now();
      call(query.view(), key.view(), value.view(), output.view());
      best = std::min(best, std::chrono::duration<double>(clock::now() - begin).count());
    }
    return best;
  }
};

/// One line: call(query, key, value, output, options...).
template <class Call>
void report(char const* name, Call const& call) {
  problem p(quick ? 1024 : 32768);
  attend::tile_counts counts;
  call(p.query.view(), p.key.view(), p.value.view(), p.output.view(), attend::count_tiles(counts));
  double const time = p.seconds(call),
               dense =
                   p.seconds([](auto const&... tensors) { attend::softmax_attention(tensors..., attend::causal{}); });
  double const pairs = static_cast<double>(p.tokens) * static_cast<double>(p.tokens + 1) / 2;
  double const bound = pairs / static_cast<double>(counts.pairs);
  std::printf("%-52s %8.1f ms   dense %8.1f ms   bound %6.2f   speed-up %6.2f   reached %5.2f\n", name, time * 1e3,
              dense * 1e3, bound, dense / time, dense / time / bound);
}

void mixture() {
  report("MoBA, blocks of 256, top 8",
         [](auto const& q, auto const& k, auto const& v, auto const& o, auto const&... options) {
           attend::mixture_of_block_attention(q, k, v, o, {256, 8}, options...);
         });
}

void stripes() {
  report("SampleAttention, 5% of rows, window 5%, stripes 5%",
         [](auto const& q, auto const& k, auto const& v, auto const& o, auto const&... options) {
           index_t const tokens = k.extent(2);
           attend::sample_attention(q, k, v, o, {.window = 0.05, .most = tokens / 20}, options...);
         });
}

void tree() {
  attend::block_table table;
  for (index_t query_block : {64, 96}) {
    std::string const name = "HiP, query blocks of " + std::to_string(query_block) + ", 2048 + 384 keys";
    report(name.c_str(), [&](auto const& q, auto const& k, auto const& v, auto const& o, auto const&... options) {
      attend::hierarchical_attention(q, k, v, o, table, {query_block, 64, 32, 4, 1}, options...);
    });
  }
}

void hyper() {
  attend::hash_directions const directions(7, 128, 1);
  for (bool const is_causal : {false, true}) {
    double before = 0;
    for (index_t tokens : {16384, 32768, 65536, 131072}) {
      problem p(quick ? tokens / 16 : tokens);
      attend::hyper_sampling const how{.exact_below = quick ? 256 : 4096};
      double const time = p.seconds([&](auto const&... tensors) {
        if (is_causal)
          attend::hyper_attention(tensors..., directions, how, attend::causal{});
        else
          attend::hyper_attention(tensors..., directions, how);
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
  part const parts[] = {{"mixture", mixture}, {"stripes", stripes}, {"tree", tree}, {"hyper", hyper}};
  return run_parts(count, arguments, parts, quick);
}
