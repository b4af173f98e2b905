// SPDX-License-Identifier: BSD-3-Clause
// What is read from a tile's logits, or done to them, against the same in plain loops.
#include <attend/engine/softmax/scored_keys.hpp>

#include "support/compare.hpp"
#include "support/random_tensor.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

/// Logits [key][lanes], aligned, with room for whole groups of keys.
template <class A>
struct logits {
  index_t count;
  int lanes;
  scratch memory;
  A* data;

  logits(index_t keys, int wide, unsigned seed)
      : count(keys), lanes(wide), data(memory.allocate<A>((keys + 16) * wide)) {
    auto const numbers = test::normal<A, 1>({(keys + 16) * wide}, seed, 3.0);
    std::copy(numbers.elements.begin(), numbers.elements.end(), data);
  }
  A& at(index_t key, index_t lane) { return data[key * lanes + lane]; }
};

template <class A>
class ScoredKeys : public testing::Test {
 protected:
  static constexpr int width = simd::width<A>;
};
using numbers = testing::Types<float, double>;
TYPED_TEST_SUITE(ScoredKeys, numbers);

TYPED_TEST(ScoredKeys, LargestOfARow) {
  using A = TypeParam;
  for (int vectors : {1, 2, 3}) {
    logits<A> s(9, vectors * this->width, 1);
    for (index_t j = 0; j < s.count; ++j)
      EXPECT_EQ(engine::largest_logit(&s.at(j, 0), s.lanes), *std::max_element(&s.at(j, 0), &s.at(j, 0) + s.lanes));
  }
}

TYPED_TEST(ScoredKeys, ColumnSumsOfSoftmaxWeights) {
  using A = TypeParam;
  for (int vectors : {1, 3})
    for (index_t count : {1, 7, 16, 33}) {
      logits<A> s(count, vectors * this->width, 2);
      int const rows = s.lanes - 1;
      // A row without keys, and a key that some do not see.
      for (index_t j = 0; j < count; ++j) s.at(j, 1) = -infinity<A>;
      if (count > 1) s.at(0, 0) = -infinity<A>;
      std::vector<double> expected(static_cast<std::size_t>(count), 0.5);
      for (int lane = 0; lane < rows; ++lane) {
        double most = -1e300, weight_sum = 0;
        for (index_t j = 0; j < count; ++j) most = std::max(most, static_cast<double>(s.at(j, lane)));
        if (lane == 1) continue;
        for (index_t j = 0; j < count; ++j) weight_sum += std::exp(static_cast<double>(s.at(j, lane)) - most);
        for (index_t j = 0; j < count; ++j)
          expected[static_cast<std::size_t>(j)] += std::exp(static_cast<double>(s.at(j, lane)) - most) / weight_sum;
      }
      std::vector<A> sums(static_cast<std::size_t>(count), A(0.5));
      engine::add_columns(s.data, count, s.lanes, rows, sums.data());
      EXPECT_TRUE(test::near(sums, expected, test::tolerance<A>(s.lanes)))
          << vectors << " vectors, " << count << " keys";
    }
}

TYPED_TEST(ScoredKeys, RaisedAndHidden) {
  using A = TypeParam;
  logits<A> s(5, 2 * this->width, 3), before(5, 2 * this->width, 3);
  A* const threshold = s.memory.template allocate<A>(s.lanes);
  for (int lane = 0; lane < s.lanes; ++lane) threshold[lane] = lane % 3 == 0 ? -infinity<A> : A(0.25);
  engine::raise_logits(s.data, 4, s.lanes, A(0.5));
  for (index_t j = 0; j < 5; ++j)
    for (index_t lane = 0; lane < s.lanes; ++lane)
      ASSERT_EQ(s.at(j, lane), before.at(j, lane) + (j < 4 ? A(0.5) : A(0)));
  engine::hide_below(s.data, 4, s.lanes, threshold);
  for (index_t j = 0; j < 5; ++j)
    for (index_t lane = 0; lane < s.lanes; ++lane) {
      A const raised = before.at(j, lane) + (j < 4 ? A(0.5) : A(0));
      ASSERT_EQ(s.at(j, lane), j < 4 && raised < threshold[lane] ? -infinity<A> : raised);
    }
  // Of no keys, or fewer: nothing.
  engine::hide_below(s.data, -3, s.lanes, threshold);
}

}  // namespace
}  // namespace attend
