// SPDX-License-Identifier: BSD-3-Clause
// Tasks that add to the same sums come one after the other, in the same order for any number of threads; and sums are
// the same wherever rows lie.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/engine/softmax/backward_rounds.hpp>
#include <attend/policy/mask/causal.hpp>

#include "support/problem.hpp"
#include "support/softmax_gradients.hpp"

namespace attend::test {
namespace {

constexpr index_t ranges_of_groups[] = {1, 5, 2, 7};
constexpr index_t groups = 4, units = 3, most = 7;

/// What each range of queries, and each range of keys, has met in turn.
struct meetings {
  std::vector<index_t> of_queries[groups][units][most], of_keys[groups][units][most];

  bool operator==(meetings const&) const = default;
};

meetings meet(auto executor) {
  meetings met;
  engine::scratch memory;
  engine::backward_rounds rounds(memory, groups, units, [](index_t group) { return ranges_of_groups[group]; });
  // So much work that all threads are woken.
  rounds.run(attend::detail::any_executor(executor), {1e12},
             [&](index_t group, index_t unit, index_t queries, index_t keys) {
               met.of_queries[group][unit][queries].push_back(keys);
               met.of_keys[group][unit][keys].push_back(queries);
             });
  return met;
}

TEST(BackwardRounds, EveryRangeMeetsEveryOtherInOneOrder) {
  meetings const alone = meet(serial{});
  for (index_t group = 0; group < groups; ++group)
    for (index_t unit = 0; unit < units; ++unit)
      for (index_t range = 0; range < ranges_of_groups[group]; ++range)
        for (auto const* met : {&alone.of_queries, &alone.of_keys}) {
          std::vector<index_t> all = (*met)[group][unit][range];
          std::sort(all.begin(), all.end());
          ASSERT_EQ(std::ssize(all), ranges_of_groups[group]);
          for (index_t other = 0; other < std::ssize(all); ++other)
            EXPECT_EQ(all[static_cast<std::size_t>(other)], other);
        }
  for (int repetition = 0; repetition < 20; ++repetition) EXPECT_TRUE(meet(threads{4}) == alone);
}

TEST(BackwardRounds, EndsWhereATaskThrows) {
  for (int const count : {1, 4}) {
    threads executor{count};
    engine::scratch memory;
    engine::backward_rounds rounds(memory, groups, units, [](index_t group) { return ranges_of_groups[group]; });
    EXPECT_THROW(rounds.run(attend::detail::any_executor(executor), {1e12},
                            [&](index_t group, index_t, index_t queries, index_t keys) {
                              if (group == 3 && queries == 2 && keys == 4) throw std::runtime_error("thrown");
                            }),
                 std::runtime_error);
  }
}

// Two ranges of queries and of keys, each of two pieces.
TEST(BackwardRounds, AgreesOverManyRanges) {
  auto const in = random_inputs<float>({1, 1, 1, 1, 1030, 1100, 4, 4}, 30);
  auto const of_output = gradient_of_output(in);
  reference::options with;
  EXPECT_TRUE(agrees(in, of_output, with, 1, threads{2}));
  with.visible = reference::causal_bottom_right();
  EXPECT_TRUE(agrees(in, of_output, with, 1, causal{}, threads{2}));
}

/// The same elements, `shift` elements behind where vectors could read them.
template <class T, std::size_t Rank>
struct shifted {
  explicit shifted(tensor<T, Rank> const& from, index_t shift)
      : extents(from.extents), memory(from.elements.size() + 32), first(shift) {
    while (reinterpret_cast<std::uintptr_t>(memory.data() + first) % 64 != static_cast<std::size_t>(shift) * sizeof(T))
      ++first;
    std::copy(from.elements.begin(), from.elements.end(), memory.begin() + first);
  }
  tensor_view<T, Rank> view() { return {memory.data() + first, extents}; }
  std::vector<T> elements() const {
    return {memory.begin() + first, memory.begin() + first + static_cast<std::ptrdiff_t>(memory.size()) - 32};
  }

  std::array<index_t, Rank> extents;
  std::vector<T> memory;
  index_t first;
};

TEST(BackwardRounds, BitsAreTheSameWhereverRowsLie) {
  auto const in = random_inputs<float>({1, 2, 1, 2, 170, 301, 16, 32}, 31);
  auto const output = gradient_of_output(in, 1), of_output = gradient_of_output(in, 2);
  auto const lse = filled<float, 3>({1, 2, 170}, 5.f);
  auto const run = [&](index_t shift) {
    shifted<float, 4> query(in.query, shift), key(in.key, shift), value(in.value, shift), of_query(in.query, shift),
        of_key(in.key, shift), of_value(in.value, shift);
    softmax_attention_backward(query.view(), key.view(), value.view(), output.view(), lse.view(), of_output.view(),
                               of_query.view(), of_key.view(), of_value.view(), causal{});
    return std::array{of_query.elements(), of_key.elements(), of_value.elements()};
  };
  EXPECT_EQ(run(0), run(1));
}

}  // namespace
}  // namespace attend::test
