// SPDX-License-Identifier: BSD-3-Clause
// Sums over all tokens that features ask for: in rounds, in parts of long sequences, by any executor.
#include <attend/engine/chunked/feature_totals.hpp>

#include <gtest/gtest.h>

#include "support/compare.hpp"
#include "support/executors.hpp"
#include "support/random_tensor.hpp"

namespace attend {
using namespace extend;

namespace {

/// Round 0 sums up the first elements of keys and queries, round 1 counts the keys whose first element is above the
/// mean.
struct counting_features {
  using option_kind = option::features;
  static constexpr bool sums_keys = false, resumes = false;
  static constexpr int rounds = 2;
  static constexpr bool asks(int round, token_side side) { return round == 0 || side == token_side::key; }

  template <class A>
  struct totals_of {
    double sum[2] = {0, 0};
    index_t tokens[2] = {0, 0}, above = 0;

    totals_of(scratch&, index_t) {}
    void join(int round, totals_of const& part) {
      for (int side : {0, 1})
        if (round == 0) sum[side] += part.sum[side], tokens[side] += part.tokens[side];
      if (round == 1) above += part.above;
    }
  };

  template <class A>
  void add(int round, token_rows<A> const& rows, totals_of<A> const& known, totals_of<A>& to) const {
    int const side = rows.side == token_side::key;
    for (index_t i = 0; i < rows.count; ++i) {
      double const x = static_cast<double>(rows.row(i)[0]);
      if (round == 0)
        to.sum[side] += x, ++to.tokens[side];
      else
        to.above += x > known.sum[1] / static_cast<double>(known.tokens[1]);
    }
  }
};
static_assert(TotalledFeatures<counting_features>);

template <class T>
engine::state_problem<T> problem_of(test::tensor<T, 4> const& query, test::tensor<T, 4> const& key) {
  engine::state_problem<T> p;
  p.query = query.view(), p.key = key.view();
  p.shape.batches = key.extents[0];
  p.shape.query_heads = query.extents[1], p.shape.key_heads = p.shape.value_heads = key.extents[1];
  p.shape.queries = query.extents[2], p.shape.keys = key.extents[2];
  p.shape.key_dimension = key.extents[3];
  return p;
}

template <class T>
void expect_totals(index_t queries, index_t keys) {
  auto const query = test::normal<T, 4>({2, 3, queries, 5}, 1), key = test::normal<T, 4>({2, 3, keys, 5}, 2);
  auto const p = problem_of(query, key);
  std::vector<double> first_sums;
  test::for_executors([&](auto&& executor, std::string const& name) {
    SCOPED_TRACE(name);
    std::vector<double> sums;
    scratch memory;
    auto const* const totals = engine::feature_totals(p, counting_features{}, memory, executor);
    for (index_t head = 0; head < 6; ++head) {
      double sum = 0, of_queries = 0, magnitude = 0;
      for (index_t j = 0; j < keys; ++j) {
        double const x = static_cast<double>(key.view()(head / 3, head % 3, j, 0));
        sum += x, magnitude += std::abs(x);
      }
      for (index_t i = 0; i < queries; ++i) {
        double const x = static_cast<double>(query.view()(head / 3, head % 3, i, 0));
        of_queries += x, magnitude += std::abs(x);
      }
      index_t above = 0;
      for (index_t j = 0; j < keys; ++j)
        above +=
            static_cast<double>(key.view()(head / 3, head % 3, j, 0)) > totals[head].sum[1] / static_cast<double>(keys);
      EXPECT_EQ(totals[head].tokens[0], queries);
      EXPECT_EQ(totals[head].tokens[1], keys);
      // Sums in double, in another order.
      EXPECT_NEAR(totals[head].sum[0], of_queries, test::tolerance<double>(magnitude));
      EXPECT_NEAR(totals[head].sum[1], sum, test::tolerance<double>(magnitude));
      EXPECT_EQ(totals[head].above, above);
      sums.insert(sums.end(), totals[head].sum, totals[head].sum + 2);
    }
    if (first_sums.empty()) first_sums = sums;
    EXPECT_EQ(sums, first_sums) << "other bits";
  });
}

TEST(FeatureTotals, AreSumsOverAllTokens) {
  expect_totals<float>(70, 33);
  expect_totals<half>(1, 130);
  expect_totals<double>(0, 9);
}

TEST(FeatureTotals, PartsOfLongSequencesJoin) {
  expect_totals<float>(20, 9000);
  expect_totals<bfloat16>(4097, 4096);
}

TEST(FeatureTotals, NothingIsAddedWithoutTokensOrDimensions) {
  auto const none = test::normal<float, 4>({1, 2, 0, 5}, 1), flat = test::normal<float, 4>({1, 2, 7, 0}, 1);
  serial alone;
  for (auto const& tensor : {none, flat}) {
    scratch memory;
    auto const* const totals = engine::feature_totals(problem_of(tensor, tensor), counting_features{}, memory, alone);
    for (int head : {0, 1}) EXPECT_EQ(totals[head].tokens[0] + totals[head].tokens[1] + totals[head].above, 0);
  }
}

}  // namespace
}  // namespace attend
