// SPDX-License-Identifier: BSD-3-Clause
// Statistics of rows in random problems: masks, scores, slots, gains, gates, lengths and threads, all at once, each
// beside what the stored weights of the same call say. These are held against the definition in double.
#include <attend/policy/normalizer/relu.hpp>
#include <attend/policy/normalizer/sinks.hpp>
#include <attend/policy/row_statistics.hpp>

#include <numeric>

#include "engine/random_combinations.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

/// The statistics of a call, with room for them.
template <class A>
struct told {
  std::vector<key_range> ranges;
  block_extents block;
  test::tensor<A, 3> of_entropy;
  test::tensor<A, 4> masses, heaviest, maxima;
  test::tensor<std::int32_t, 4> keys;

  told(test::sizes const& s, index_t kept, std::vector<key_range> of_keys, block_extents of_block)
      : ranges(std::move(of_keys)),
        block(of_block),
        of_entropy(test::filled<A, 3>({s.batches, s.query_heads, s.queries}, A(7))),
        masses(test::filled<A, 4>({s.batches, s.query_heads, s.queries, static_cast<index_t>(ranges.size())}, A(7))),
        heaviest(test::filled<A, 4>({s.batches, s.query_heads, s.queries, kept}, A(7))),
        maxima(test::filled<A, 4>(
            {s.batches, s.query_heads, divide_up(s.queries, block.queries), divide_up(s.keys, block.keys)}, A(7))),
        keys(test::filled<std::int32_t, 4>({s.batches, s.query_heads, s.queries, kept}, 7)) {}
};

/// Ranges that ascend: some are empty, leave gaps, or end behind the last key.
template <class Problem>
std::vector<key_range> random_ranges(Problem& problem, index_t count) {
  std::vector<key_range> ranges;
  for (index_t at = 0; static_cast<index_t>(ranges.size()) < count;) {
    index_t const first = at + (problem.chance(0.3) ? problem.from_to(0, 30) : 0);
    ranges.push_back({first, first + problem.from_to(0, 60)});
    at = ranges.back().last;
  }
  return ranges;
}

/// Holds statistics against stored weights and logits.
template <class A>
testing::AssertionResult fit(told<A> const& got, test::tensor<A, 4> const& weights, test::tensor<A, 4> const& logits,
                             bool by_weight) {
  auto const [batches, heads, queries, keys] = weights.extents;
  index_t const kept = got.keys.extents[3];
  auto expected_maxima = test::filled<A, 4>(got.maxima.extents, A(0));
  std::vector<index_t> order;
  for (index_t b = 0; b < batches; ++b)
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < queries; ++i) {
        auto const weight = [&](index_t j) { return weights.view()(b, h, i, j); };
        auto const rank = [&](index_t j) { return by_weight ? weight(j) : logits.view()(b, h, i, j); };
        auto const fails = [&](auto const&... text) {
          auto result = testing::AssertionFailure() << " in row " << b << ", " << h << ", " << i << ": ";
          ((result << text << ' '), ...);
          return result;
        };
        order.clear();
        double entropy = 0, sum = 0;
        for (index_t j = 0; j < keys; ++j) {
          if (logits.view()(b, h, i, j) > -infinity<A>) order.push_back(j);
          double const p = static_cast<double>(weight(j));
          sum += std::abs(p);
          if (p > 0) entropy -= p * std::log(p);
          A& most = expected_maxima.view()(b, h, i / got.block.queries, j / got.block.keys);
          most = std::max(most, weight(j));
        }
        double const bound = test::tolerance<A>(std::max(1.0, sum));
        for (std::size_t r = 0; r < got.ranges.size(); ++r) {
          double mass = 0;
          for (index_t j = got.ranges[r].first; j < std::min(got.ranges[r].last, keys); ++j)
            mass += static_cast<double>(weight(j));
          A const told_mass = got.masses.view()(b, h, i, static_cast<index_t>(r));
          if (!(std::abs(static_cast<double>(told_mass) - mass) <= bound))
            return fails("mass", r, mass, "got", told_mass);
        }
        // p ln p has the error of p times ln p, whose size is below 100 where p is a number.
        A const told_entropy = got.of_entropy.view()(b, h, i);
        if (!by_weight && !(std::abs(static_cast<double>(told_entropy) - entropy) <= 10 * bound))
          return fails("entropy", entropy, "got", told_entropy);
        std::stable_sort(order.begin(), order.end(), [&](index_t x, index_t y) { return rank(x) > rank(y); });
        for (index_t n = 0; n < kept; ++n) {
          bool const there = n < static_cast<index_t>(order.size());
          index_t const key = there ? order[static_cast<std::size_t>(n)] : -1;
          if (got.keys.view()(b, h, i, n) != key) return fails("key", n, key, "got", got.keys.view()(b, h, i, n));
          if (got.heaviest.view()(b, h, i, n) != (there ? weight(key) : A(0)))
            return fails("weight", n, "of", key, "got", got.heaviest.view()(b, h, i, n));
        }
      }
  if (!test::same_bits(got.maxima.elements, expected_maxima.elements))
    return testing::AssertionFailure() << " maxima of blocks";
  return testing::AssertionSuccess();
}

template <class T, bool Split, class N>
void expect_statistics(unsigned first_seed, unsigned count, N const& normalizer,
                       std::function<void(reference::options&, test::placed_sequence const&)> const& normalize) {
  using A = accumulation_t<T>;
  constexpr bool by_weight = !N::keeps_maximum;
  for (unsigned seed = first_seed; seed < first_seed + count; ++seed) {
    test::random_problem<T> problem(seed);
    auto const run = [&]<class Sequences, class... Options>(Sequences const& sequences, Options const&... options) {
      test::sizes const& s = problem.size;
      auto const output = [&] {
        return test::filled<T, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, T(7));
      };
      test::outputs<T> all{output(), {}, {}}, with_statistics{output(), {}, {}};
      auto const call = [&](test::outputs<T>& to, auto const&... wanted) {
        if constexpr (Split)
          decode_attention(problem.in.query.view(), problem.in.key.view(), problem.in.value.view(), to.output.view(),
                           sequences, options..., wanted...);
        else
          softmax_attention(problem.in.query.view(), problem.in.key.view(), problem.in.value.view(), to.output.view(),
                            sequences, options..., wanted...);
      };
      told<A> got(s, problem.from_to(0, 6), random_ranges(problem, problem.from_to(0, 5)),
                  {problem.from_to(1, 70), problem.from_to(1, 70)});
      auto const ask = [&](auto const&... more) {
        call(with_statistics, range_mass(got.ranges, got.masses.view()),
             heaviest_keys(got.keys.view(), got.heaviest.view()), more...);
      };
      if constexpr (std::same_as<Sequences, ragged>) {
        ask();
        return with_statistics;
      } else {
        std::array const pairs{s.batches, s.query_heads, s.queries, s.keys};
        all.weights = test::filled<A, 4>(pairs, A(7));
        auto logit = test::filled<A, 4>(pairs, A(7));
        call(all, weights(all.weights.view()), logits(logit.view()));
        if constexpr (by_weight)
          ask(block_maxima(got.maxima.view(), got.block));
        else
          ask(block_maxima(got.maxima.view(), got.block), entropy(got.of_entropy.view()));
        EXPECT_TRUE(test::same_bits(all.output.elements, with_statistics.output.elements)) << seed;
        EXPECT_TRUE(fit(got, all.weights, logit, by_weight)) << " seed " << seed;
        return all;
      }
    };
    ASSERT_TRUE((problem.template agrees_with<Split>(normalizer, normalize, run))) << "seed " << seed;
  }
}

TEST(RowStatistics, OfTiles) {
  expect_statistics<float, false>(
      100, 300, sinks(1.5), [](reference::options& with, auto const&) { with.sink = [](index_t) { return 1.5; }; });
}

TEST(RowStatistics, OfTilesOnAMatrixUnit) {
  expect_statistics<bfloat16, false>(1100, 300, softmax{}, [](auto&, auto const&) {});
}

TEST(RowStatistics, OfSplitKeys) {
  expect_statistics<float, true>(
      2100, 200, sinks(-0.5), [](reference::options& with, auto const&) { with.sink = [](index_t) { return -0.5; }; });
}

TEST(RowStatistics, OfWeightsWithoutAMaximum) {
  expect_statistics<double, false>(
      3100, 200, relu_weights{relu_scaling::count},
      [](reference::options& with, auto const&) { with.settings = reference::normalizer::relu_by_count; });
}

}  // namespace
}  // namespace attend
