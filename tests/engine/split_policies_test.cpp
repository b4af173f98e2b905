// SPDX-License-Identifier: BSD-3-Clause
// The split engine with slots, gains and normalizers that know no maximum, over keys that are split into several parts:
// against the definition, in each element type, and the same bits for any threads.
#include <attend/attention/cached/decode_attention.hpp>
#include <attend/policy/gain.hpp>
#include <attend/policy/mask/predicate.hpp>
#include <attend/policy/normalizer/relu.hpp>
#include <attend/policy/normalizer/sigmoid.hpp>
#include <attend/policy/slots.hpp>

#include "support/problem.hpp"

namespace attend {
using namespace options;

namespace {

/// 41 rows of a key head: several vectors of them, and a tile of slots.
template <class T>
class split_policies {
 public:
  using A = accumulation_t<T>;

  template <class... Options>
  std::vector<T> run(Options const&... options) const {
    auto output = test::filled<T, 4>({1, size.query_heads, size.queries, size.value_dimension}, T(7));
    decode_attention(in.query.view(), in.key.view(), in.value.view(), output.view(),
                     prefix_key_values(slot_key.view(), slot_value.view()), value_gain(gains.view()), options...);
    return output.elements;
  }

  template <class N>
  void expect_definition(N const& normalizer, reference::options with) const {
    std::vector<double> const key(slot_key.elements.begin(), slot_key.elements.end());
    std::vector<double> const value(slot_value.elements.begin(), slot_value.elements.end());
    with.slot_key = tensor_view<double const, 4>(key.data(), slot_key.extents);
    with.slot_value = tensor_view<double const, 4>(value.data(), slot_value.extents);
    with.value_gain = [&](index_t, index_t, index_t j) { return static_cast<double>(gains.view()(0, 0, j)); };
    test::outputs<T> got;
    auto const alone = run(normalizer);
    got.output = {{1, size.query_heads, size.queries, size.value_dimension}, alone};
    EXPECT_TRUE(test::agrees(in, got, with, std::max(1.0, test::largest_magnitude(gains.elements))));
    for (int count : {2, 3, 7}) EXPECT_TRUE(test::same_bits(alone, run(normalizer, threads{count}))) << count;
  }

  static constexpr test::sizes size{
      .query_heads = 41, .queries = 1, .keys = 20000, .key_dimension = 19, .value_dimension = 21};
  test::inputs<T> const in = test::random_inputs<T>(size, 1);
  test::tensor<T, 4> const slot_key = test::normal<T, 4>({1, 1, 5, size.key_dimension}, 2),
                           slot_value = test::normal<T, 4>({1, 1, 5, size.value_dimension}, 3);
  test::tensor<A, 3> const gains = test::normal<A, 3>({1, 1, size.keys}, 4);
};

template <class T>
class SplitPolicies : public testing::Test {};
using Elements = testing::Types<float, double, half, bfloat16>;
TYPED_TEST_SUITE(SplitPolicies, Elements);

TYPED_TEST(SplitPolicies, OfSoftmax) { split_policies<TypeParam>().expect_definition(softmax{}, {}); }

TYPED_TEST(SplitPolicies, OfSigmoid) {
  reference::options with;
  with.settings = reference::normalizer::sigmoid;
  with.sigmoid_bias = -10;
  split_policies<TypeParam>().expect_definition(sigmoid_weights{-10}, with);
}

TYPED_TEST(SplitPolicies, OfRelu) {
  reference::options with;
  with.settings = reference::normalizer::relu_by_count;
  split_policies<TypeParam>().expect_definition(relu_weights{relu_scaling::count}, with);
}

TEST(SplitPolicies, KeepWhatIsHiddenFromGains) {
  split_policies<float> problem;
  auto gains = problem.gains;
  auto hidden = problem.in;
  // Behind the last key that is seen: neither its gain nor its value may count.
  mask const seen([](auto const& at) { return at.key_position < 19000; });
  auto const expected = problem.run(seen);
  for (index_t j = 19000; j < problem.size.keys; ++j) {
    gains.view()(0, 0, j) = std::numeric_limits<float>::quiet_NaN();
    hidden.value.view()(0, 0, j, 3) = std::numeric_limits<float>::infinity();
  }
  auto output = test::filled<float, 4>({1, 41, 1, 21}, 7.f);
  decode_attention(hidden.query.view(), hidden.key.view(), hidden.value.view(), output.view(), seen,
                   prefix_key_values(problem.slot_key.view(), problem.slot_value.view()), value_gain(gains.view()));
  EXPECT_TRUE(test::near(output.elements, expected, test::tolerance<float>(5)));
}

}  // namespace
}  // namespace attend
