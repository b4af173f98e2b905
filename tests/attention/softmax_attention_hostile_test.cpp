// SPDX-License-Identifier: BSD-3-Clause
// NaN and infinity in the tensors: hidden ones have no influence, visible ones reach those that see them and nobody
// else.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/gain.hpp>
#include <attend/policy/mask/boolean_mask.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/predicate.hpp>
#include <attend/policy/normalizer/relu.hpp>
#include <attend/policy/normalizer/sigmoid.hpp>
#include <attend/policy/score/bias.hpp>
#include <attend/policy/sequence/sequences.hpp>

#include "support/boolean_tensor.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;

namespace {

template <class T>
T const nan_of = std::numeric_limits<T>::quiet_NaN();
template <class T>
T const infinity_of = std::numeric_limits<T>::infinity();

// Value dimensions that are read where they stand, in whole vectors and not, and one that is copied first.
std::vector<index_t> const value_dimensions{8, 11, 32};

test::sizes sizes_with(index_t value_dimension) {
  return {.batches = 1,
          .query_heads = 4,
          .key_heads = 2,
          .value_heads = 1,
          .queries = 90,
          .keys = 150,
          .key_dimension = 8,
          .value_dimension = value_dimension};
}

template <class T>
void fill_token(test::tensor<T, 4>& tensor, index_t token, T with) {
  auto const view = tensor.view();
  for (index_t b = 0; b < view.extent(0); ++b)
    for (index_t h = 0; h < view.extent(1); ++h) std::fill_n(&view(b, h, token, 0), view.extent(3), with);
}

// Every third key and value: NaN, infinity and minus infinity in turn.
template <class T>
std::vector<bool> spoil_some(test::inputs<T>& in) {
  std::vector<bool> spoilt(static_cast<std::size_t>(in.size.keys));
  T const bad[] = {nan_of<T>, infinity_of<T>, -infinity_of<T>};
  for (index_t key = 1; key < in.size.keys; key += 3) {
    fill_token(in.key, key, bad[key % 2]);
    fill_token(in.value, key, bad[key % 3]);
    spoilt[static_cast<std::size_t>(key)] = true;
  }
  return spoilt;
}

template <class T>
class Hostile : public testing::Test {};
using Elements = testing::Types<float, bfloat16>;
TYPED_TEST_SUITE(Hostile, Elements);

// The last keys are the future of all queries but the last ones, which must become NaN, and nobody else.
TYPED_TEST(Hostile, KeysReachThoseThatSeeThem) {
  for (index_t dimension : value_dimensions)
    for (TypeParam bad : {nan_of<TypeParam>, infinity_of<TypeParam>}) {
      auto in = test::random_inputs<TypeParam>(sizes_with(dimension), 1);
      for (index_t key = 120; key < 150; ++key) fill_token(in.key, key, bad);
      auto out = test::attend_to(in, causal{});
      reference::options with;
      with.visible = reference::causal_bottom_right();
      auto const expected =
          reference::softmax_attention<TypeParam>(in.query.view(), in.key.view(), in.value.view(), with);
      EXPECT_TRUE(test::near(out.output.elements, expected.output,
                             test::tolerance<TypeParam>(test::largest_magnitude(in.value.elements))));
      // Query 59 stands at 119: the last that sees no bad key.
      EXPECT_TRUE(std::isfinite(static_cast<float>(out.output.view()(0, 3, 59, 0))));
      EXPECT_TRUE(std::isnan(static_cast<float>(out.output.view()(0, 3, 89, 0))));
    }
}

TYPED_TEST(Hostile, ValuesReachThoseThatSeeThem) {
  for (index_t dimension : value_dimensions)
    for (TypeParam bad : {nan_of<TypeParam>, infinity_of<TypeParam>}) {
      auto in = test::random_inputs<TypeParam>(sizes_with(dimension), 1);
      // One element of one value: its column, from its position on.
      in.value.view()(0, 0, 100, 3) = bad;
      reference::options with;
      with.visible = reference::causal_bottom_right();
      auto const out = test::attend_to(in, causal{});
      EXPECT_TRUE(test::agrees(in, out, with));
      EXPECT_TRUE(std::isfinite(static_cast<float>(out.output.view()(0, 3, 39, 3))));
      EXPECT_FALSE(std::isfinite(static_cast<float>(out.output.view()(0, 3, 40, 3))));
      EXPECT_TRUE(std::isfinite(static_cast<float>(out.output.view()(0, 3, 40, 4))));
    }
}

// Where each vector of queries sees other parts of a block of keys, values that nobody in a row sees do not change the
// order of its sums either.
TYPED_TEST(Hostile, HiddenValuesChangeNoBit) {
  for (index_t dimension : value_dimensions) {
    auto in = test::random_inputs<TypeParam>(sizes_with(dimension), 1);
    auto const shown = mask([](auto query, auto key) { return query / 6 == key / 6 || key % 40 == 7; });
    auto const clean = test::attend_to(in, shown);
    fill_token(in.value, 100, nan_of<TypeParam>);
    auto const spoilt = test::attend_to(in, shown);
    for (index_t head = 0; head < 4; ++head)
      for (index_t query = 0; query < 90; ++query) {
        if ((query + 60) / 6 == 100 / 6) continue;
        for (index_t c = 0; c < dimension; ++c)
          ASSERT_EQ(spoilt.output.view()(0, head, query, c), clean.output.view()(0, head, query, c))
              << "dimension " << dimension << ", query " << query;
      }
  }
}

TYPED_TEST(Hostile, QueriesReachTheirOwnRow) {
  auto in = test::random_inputs<TypeParam>(sizes_with(8), 1);
  in.query.view()(0, 2, 50, 1) = nan_of<TypeParam>;
  auto const out = test::attend_to(in, causal{});
  for (index_t head = 0; head < 4; ++head)
    for (index_t query = 0; query < 90; ++query)
      for (index_t c = 0; c < 8; ++c)
        EXPECT_EQ(std::isnan(static_cast<float>(out.output.view()(0, head, query, c))), head == 2 && query == 50);
}

TYPED_TEST(Hostile, PaddingHasNoInfluence) {
  for (index_t dimension : value_dimensions) {
    auto in = test::random_inputs<TypeParam>(sizes_with(dimension), 1);
    for (index_t key = 100; key < 150; ++key) {
      fill_token(in.key, key, nan_of<TypeParam>);
      fill_token(in.value, key, infinity_of<TypeParam>);
    }
    for (index_t query = 40; query < 90; ++query) fill_token(in.query, query, nan_of<TypeParam>);
    std::vector<std::int64_t> const queries{40}, keys{100};
    reference::options with;
    with.visible = reference::causal_bottom_right();
    with.query_length = [](index_t) { return 40; };
    with.key_length = [](index_t) { return 100; };
    EXPECT_TRUE(test::agrees(in, test::attend_to(in, causal{}, padded(queries, keys)), with));
  }
}

TEST(HostileHidden, ByABooleanMaskHaveNoInfluence) {
  for (index_t dimension : value_dimensions) {
    auto in = test::random_inputs<float>(sizes_with(dimension), 1);
    auto const spoilt = spoil_some(in);
    test::boolean_tensor<1> seen({150});
    for (index_t key = 0; key < 150; ++key) seen.view()(key) = !spoilt[static_cast<std::size_t>(key)];
    reference::options with;
    with.visible = [&](reference::place const& at) { return seen.view()(at.key); };
    EXPECT_TRUE(test::agrees(in, test::attend_to(in, boolean_mask(seen.view())), with));
    // Gains of hidden keys may hold anything too.
    auto gains = test::filled<float, 1>({150}, 1);
    for (std::size_t key = 0; key < 150; ++key)
      if (spoilt[key]) gains.elements[key] = key % 2 ? nan_of<float> : infinity_of<float>;
    EXPECT_TRUE(test::agrees(in, test::attend_to(in, boolean_mask(seen.view()), value_gain(gains.view())), with));
    // And where the values are good, as well.
    auto good = test::random_inputs<float>(sizes_with(dimension), 1);
    EXPECT_TRUE(test::agrees(good, test::attend_to(good, boolean_mask(seen.view()), value_gain(gains.view())), with));
  }
}

TEST(HostileHidden, ByABiasHaveNoInfluence) {
  for (index_t dimension : value_dimensions) {
    auto in = test::random_inputs<float>(sizes_with(dimension), 1);
    auto const spoilt = spoil_some(in);
    auto added = test::normal<float, 2>({90, 150}, 4);
    for (index_t query = 0; query < 90; ++query)
      for (index_t key = 0; key < 150; ++key)
        if (spoilt[static_cast<std::size_t>(key)]) added.view()(query, key) = -infinity_of<float>;
    reference::options with;
    with.visible = [&](reference::place const& at) { return !spoilt[static_cast<std::size_t>(at.key)]; };
    with.scores = {[&](double s, reference::place const& at) { return s + added.view()(at.query, at.key); }};
    EXPECT_TRUE(test::agrees(in, test::attend_to(in, bias(added.view())), with));
  }
}

// What a bias holds for keys that the mask hides is not asked for.
TEST(HostileHidden, BiasesHaveNoInfluence) {
  auto const in = test::random_inputs<float>(sizes_with(8), 1);
  auto added = test::normal<float, 2>({90, 150}, 4);
  for (index_t query = 0; query < 90; ++query)
    for (index_t key = query + 61; key < 150; ++key)
      added.view()(query, key) = key % 2 ? nan_of<float> : infinity_of<float>;
  reference::options with;
  with.visible = reference::causal_bottom_right();
  with.scores = {[&](double s, reference::place const& at) { return s + added.view()(at.query, at.key); }};
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, bias(added.view()), causal{}), with));
}

TEST(HostileHidden, HaveNoInfluenceOnOtherNormalizers) {
  for (index_t dimension : value_dimensions) {
    auto in = test::random_inputs<float>(sizes_with(dimension), 1);
    for (index_t key = 60; key < 150; key += 2) {
      fill_token(in.key, key, nan_of<float>);
      fill_token(in.value, key, key % 3 ? nan_of<float> : infinity_of<float>);
    }
    reference::options with;
    with.visible = [](reference::place const& at) { return at.key < 60; };
    auto const first_sixty = causal{offset(-30)};
    with.visible = [](reference::place const& at) { return at.key <= at.query - 30; };
    with.settings = reference::normalizer::sigmoid;
    with.sigmoid_bias = -1;
    EXPECT_TRUE(test::agrees(in, test::attend_to(in, sigmoid_weights(-1), first_sixty), with));
    for (auto [scaling, settings] : {std::pair{relu_scaling::none, reference::normalizer::relu},
                                     {relu_scaling::count, reference::normalizer::relu_by_count},
                                     {relu_scaling::sum, reference::normalizer::relu_by_sum}}) {
      with.settings = settings;
      with.relu_epsilon = 1;
      EXPECT_TRUE(test::agrees(in, test::attend_to(in, relu_weights{scaling, 1}, first_sixty), with));
    }
  }
}

}  // namespace
}  // namespace attend
