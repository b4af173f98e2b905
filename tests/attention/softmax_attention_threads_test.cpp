// SPDX-License-Identifier: BSD-3-Clause
// Threads change nothing: the same bits come out of one, of several, of more than there are processors, of some that
// are pinned to one processor, and of a pool of the caller's.
#if defined(__linux__)
#include <sched.h>
#endif

#include <unsupported/Eigen/CXX11/ThreadPool>

#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/gain.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/window.hpp>

#include "support/problem.hpp"

namespace attend {
using namespace options;

namespace {

int more_than_processors() { return 2 * static_cast<int>(detail::processors()) + 1; }

template <class T>
void expect_same_bits(test::sizes const& s) {
  auto const in = test::random_inputs<T>(s, 1);
  auto const lone = test::attend_to(in, causal{});
  Eigen::ThreadPool pool(3);
  // Which thread takes which task differs from run to run.
  for (int run = 0; run < 3; ++run) {
    for (int count : {0, 1, 2, 3, more_than_processors()}) {
      auto const several = test::attend_to(in, causal{}, threads{count});
      EXPECT_TRUE(test::same_bits(several.output.elements, lone.output.elements)) << count;
      EXPECT_TRUE(test::same_bits(several.log_sum_exp.elements, lone.log_sum_exp.elements)) << count;
      EXPECT_TRUE(test::same_bits(several.weights.elements, lone.weights.elements)) << count;
    }
    auto pooled = test::filled<T, 4>(lone.output.extents, T(7));
    softmax_attention(in.query.view(), in.key.view(), in.value.view(), pooled.view(), causal{}, pool);
    EXPECT_TRUE(test::same_bits(pooled.elements, lone.output.elements));
  }
}

TEST(Threads, GiveTheSameBits) {
  expect_same_bits<float>({.batches = 2,
                           .query_heads = 4,
                           .key_heads = 2,
                           .value_heads = 2,
                           .queries = 300,
                           .keys = 333,
                           .key_dimension = 16,
                           .value_dimension = 24});
}
TEST(Threads, GiveTheSameBitsForOneHead) {
  expect_same_bits<bfloat16>({.queries = 700, .keys = 700, .key_dimension = 20, .value_dimension = 20});
}

// Threads that share the tiles of a task read the blocks of the whole task, whose first keys differ from tile to tile.
TEST(Threads, GiveTheSameBitsWhereTheyShareTasks) {
  test::sizes const s{.query_heads = 4, .key_heads = 2, .value_heads = 2, .queries = 900, .keys = 1000};
  auto const check = [](auto const& in, auto const& mask) {
    auto const lone = test::attend_to(in, mask);
    auto const several = test::attend_to(in, mask, threads{more_than_processors()});
    EXPECT_TRUE(test::same_bits(several.output.elements, lone.output.elements));
    EXPECT_TRUE(test::same_bits(several.log_sum_exp.elements, lone.log_sum_exp.elements));
  };
  auto const in = test::random_inputs<float>(s, 1);
  check(in, causal{});
  check(in, window{-1, -1});
  check(in, window{450, 50});
  check(test::random_inputs<half>(s, 2), causal{});
  check(test::random_inputs<double>(s, 3), causal{} & window{600, 0});
}

// A call that does not fit one core's tasks is right as well, not only equal.
TEST(Threads, GiveWhatTheDefinitionSays) {
  auto const in = test::random_inputs<float>({.query_heads = 4, .queries = 200, .keys = 200, .value_dimension = 9}, 1);
  reference::options with;
  with.visible = reference::causal_bottom_right();
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, causal{}, threads{3}), with));
}

TEST(Threads, CountWorkOnce) {
  test::sizes const s{.query_heads = 4, .queries = 400, .keys = 400};
  EXPECT_EQ(test::count_work(s, causal{}, threads{3}).pairs, test::count_work(s, causal{}).pairs);
}

// Several callers at once, each with threads of the library's one pool.
TEST(Threads, ServeSeveralCallers) {
  auto const in = test::random_inputs<float>({.query_heads = 4, .queries = 300, .keys = 300}, 1);
  auto const lone = test::attend_to(in, causal{});
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int caller = 0; caller < 3; ++caller)
    callers.emplace_back([&] {
      for (int call = 0; call < 3; ++call) {
        auto out = test::filled<float, 4>(lone.output.extents, 7);
        softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), causal{}, threads{2});
        wrong += !test::same_bits(out.elements, lone.output.elements);
      }
    });
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong, 0);
}

#if defined(__linux__)
// A caller that is pinned to one processor. Workers that the pool starts for this call are pinned as well.
TEST(Threads, GiveTheSameBitsOnOneProcessor) {
  auto const in = test::random_inputs<float>({.query_heads = 4, .queries = 300, .keys = 300}, 1);
  auto const lone = test::attend_to(in, causal{});
  bool pinned = false;
  bool same = false;
  std::thread([&] {
    cpu_set_t first;
    CPU_ZERO(&first);
    CPU_SET(static_cast<unsigned>(sched_getcpu()), &first);
    pinned = sched_setaffinity(0, sizeof(first), &first) == 0;
    auto out = test::filled<float, 4>(lone.output.extents, 7);
    softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), causal{},
                      threads{more_than_processors()});
    same = test::same_bits(out.elements, lone.output.elements);
  }).join();
  EXPECT_TRUE(pinned);
  EXPECT_TRUE(same);
}
#endif

}  // namespace
}  // namespace attend
