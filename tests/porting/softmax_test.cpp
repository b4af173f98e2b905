// SPDX-License-Identifier: BSD-3-Clause
// Attention over plain memory, without Eigen's tensors: against its definition, and what a NaN among the keys does.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/mask/causal.hpp>

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <cmath>
#include <limits>
#include <vector>

namespace attend {
using namespace options;

namespace {

constexpr index_t heads = 2, tokens = 37, dimension = 20;
using shape = std::array<index_t, 4>;

template <class T>
std::vector<T> numbers(int seed) {
  std::vector<T> result(static_cast<std::size_t>(heads * tokens * dimension));
  for (std::size_t i = 0; i < result.size(); ++i)
    result[i] = static_cast<T>(std::sin(static_cast<double>(i) * 0.7 + seed) * 2);
  return result;
}

template <class T>
std::vector<T> causal_attention(std::vector<T> const& query, std::vector<T> const& key, std::vector<T> const& value) {
  std::vector<T> result(query.size());
  shape const all{1, heads, tokens, dimension};
  softmax_attention(tensor_view<T const, 4>(query.data(), all), tensor_view<T const, 4>(key.data(), all),
                    tensor_view<T const, 4>(value.data(), all), tensor_view<T, 4>(result.data(), all), causal{},
                    threads{2});
  return result;
}

template <class T>
double real(T x) {
  return static_cast<double>(static_cast<accumulation_t<T>>(x));
}

// Values are at most 2. A bfloat16 output is rounded, and so may be the weights: each changes it by 2^-8 of that.
template <class T>
double const tolerance =
    100 * double{std::numeric_limits<accumulation_t<T>>::epsilon()} + (std::same_as<T, bfloat16> ? 2 * 2 * 0x1p-8 : 0);

template <class T>
class PlainSoftmax : public testing::Test {};
using Reals = testing::Types<float, double, bfloat16>;
TYPED_TEST_SUITE(PlainSoftmax, Reals);

TYPED_TEST(PlainSoftmax, IsItsDefinition) {
  using T = TypeParam;
  auto const query = numbers<T>(1), key = numbers<T>(2), value = numbers<T>(3);
  auto const got = causal_attention(query, key, value);
  auto const at = [](index_t head, index_t token, index_t c) {
    return static_cast<std::size_t>((head * tokens + token) * dimension + c);
  };
  for (index_t h = 0; h < heads; ++h)
    for (index_t i = 0; i < tokens; ++i) {
      std::vector<double> sum(dimension);
      double weight_sum = 0;
      for (index_t j = 0; j <= i; ++j) {
        double logit = 0;
        for (index_t c = 0; c < dimension; ++c) logit += real(query[at(h, i, c)]) * real(key[at(h, j, c)]);
        double const weight = std::exp(logit / std::sqrt(double{dimension}));
        weight_sum += weight;
        for (index_t c = 0; c < dimension; ++c) sum[static_cast<std::size_t>(c)] += weight * real(value[at(h, j, c)]);
      }
      for (index_t c = 0; c < dimension; ++c)
        ASSERT_NEAR(real(got[at(h, i, c)]), sum[static_cast<std::size_t>(c)] / weight_sum, tolerance<T>);
    }
}

TYPED_TEST(PlainSoftmax, OfAVisibleNaNIsNaN) {
  using T = TypeParam;
  for (index_t const bad : {0, 5, 16, 36}) {
    auto key = numbers<T>(2);
    key[static_cast<std::size_t>(bad * dimension + 3)] = static_cast<T>(std::numeric_limits<float>::quiet_NaN());
    auto const got = causal_attention(numbers<T>(1), key, numbers<T>(3));
    for (index_t i = 0; i < heads * tokens; ++i)
      for (index_t c = 0; c < dimension; ++c)
        ASSERT_EQ(std::isnan(real(got[static_cast<std::size_t>(i * dimension + c)])), i >= bad && i < tokens)
            << "key " << bad << ", query " << i;
  }
}

}  // namespace
}  // namespace attend
