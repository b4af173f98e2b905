// SPDX-License-Identifier: BSD-3-Clause
// The k largest scores: against a full sort with the same order, for every kind of score and every k.
#include <attend/select/top_k.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>
#include <vector>

#include "support/expect_error.hpp"

namespace attend {
using namespace selection;
using namespace extend;

namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();

std::vector<std::int32_t> by_sorting(std::vector<float> const& scores, index_t k, top_k_order order) {
  std::vector<std::int32_t> indices(scores.size());
  std::iota(indices.begin(), indices.end(), 0);
  std::stable_sort(indices.begin(), indices.end(), [&](std::int32_t a, std::int32_t b) {
    float const first = scores[static_cast<std::size_t>(a)], second = scores[static_cast<std::size_t>(b)];
    if (std::isnan(first) || std::isnan(second)) return !std::isnan(first) && std::isnan(second);
    return first > second;
  });
  indices.resize(static_cast<std::size_t>(std::min(k, static_cast<index_t>(scores.size()))));
  if (order == top_k_order::index) std::sort(indices.begin(), indices.end());
  return indices;
}

void expect_same(std::vector<float> const& scores, index_t k) {
  for (top_k_order order : {top_k_order::index, top_k_order::score}) {
    std::vector<std::int32_t> chosen(scores.size() + 1, -1);
    index_t const count = top_k(scores.data(), static_cast<index_t>(scores.size()), k, chosen.data(), order);
    ASSERT_EQ(count, std::min(k, static_cast<index_t>(scores.size())));
    ASSERT_EQ(chosen[static_cast<std::size_t>(count)], -1) << "written past the k-th";
    chosen.resize(static_cast<std::size_t>(count));
    ASSERT_EQ(chosen, by_sorting(scores, k, order)) << scores.size() << " scores, k = " << k;
  }
}

void expect_same_for_all_k(std::size_t count, std::function<float(std::mt19937&)> const& draw) {
  std::mt19937 engine(static_cast<unsigned>(count));
  std::vector<float> scores(count);
  for (float& score : scores) score = draw(engine);
  auto const n = static_cast<index_t>(count);
  for (index_t k : {index_t{0}, index_t{1}, index_t{2}, n / 20, n / 2, n - 1, n, n + 5})
    if (k >= 0) expect_same(scores, k);
}

TEST(TopK, IsWhatASortGives) {
  for (std::size_t count : {0, 1, 2, 15, 16, 17, 33, 100, 1000, 5003, 20011}) {
    expect_same_for_all_k(count, [](auto& engine) { return std::normal_distribution<float>(0, 1)(engine); });
    expect_same_for_all_k(count, [](auto& engine) { return std::normal_distribution<float>(1e6f, 1)(engine); });
    expect_same_for_all_k(count, [](auto& engine) { return std::cauchy_distribution<float>(0, 1)(engine); });
  }
}

TEST(TopK, TakesTheLowerIndexOfEquals) {
  for (std::size_t count : {1, 17, 64, 999}) {
    expect_same_for_all_k(count, [](auto&) { return 1.f; });
    expect_same_for_all_k(count, [](auto& engine) { return static_cast<float>(engine() % 3); });
    expect_same_for_all_k(count, [](auto& engine) { return engine() % 2 ? 0.f : -0.f; });
  }
}

// Of many scores a sample says where to look: here it sees none of the largest, or nothing but them.
TEST(TopK, IsNotMisledByItsSample) {
  for (bool high : {false, true}) {
    std::vector<float> scores(16384);
    for (std::size_t i = 0; i < scores.size(); ++i)
      scores[i] = (i % 16 == 0) == high ? 100 + static_cast<float>(i) : -static_cast<float>(i);
    for (index_t k : {1, 100, 1024, 1025, 3000}) expect_same(scores, k);
  }
}

// The sample's bound is the score that most have: it rules out next to nothing.
TEST(TopK, EndsWhereMostScoresAreEqual) {
  std::vector<float> scores(20000, 0.f);
  expect_same(scores, 1000);
  for (std::size_t i = 0; i < scores.size(); i += 397) scores[i] = 1;
  for (std::size_t i = 5; i < scores.size(); i += 1001) scores[i] = -1;
  for (index_t k : {1, 51, 52, 1000, 4999}) expect_same(scores, k);
}

TEST(TopK, TakesNumbersBeforeNan) {
  std::vector<float> const special{nan,
                                   infinity<float>,
                                   -infinity<float>,
                                   0.f,
                                   -0.f,
                                   1e-45f,
                                   -1e-45f,
                                   -nan,
                                   std::numeric_limits<float>::max(),
                                   std::numeric_limits<float>::lowest()};
  for (std::size_t count : {10, 40, 333})
    expect_same_for_all_k(count, [&](auto& engine) { return special[engine() % special.size()]; });
  expect_same_for_all_k(50, [](auto&) { return nan; });
}

TEST(TopK, SaysWhatIsWrong) {
  float const score = 1;
  std::int32_t chosen = 7;
  test::expect_error("k: expected at least 0, got -1", [&] { top_k(&score, 1, -1, &chosen); });
  test::expect_error("count: expected at least 0, got -2", [&] { top_k(&score, -2, 1, &chosen); });
  EXPECT_EQ(chosen, 7);
}

}  // namespace
}  // namespace attend
