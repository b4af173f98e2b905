// SPDX-License-Identifier: BSD-3-Clause
// Numbers at the ends of their range, and tensors with nothing in them.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/score/bias.hpp>
#include <attend/policy/sequence/sequences.hpp>

#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

// One query of 1 and a scale of 1: the keys are the logits.
template <class T>
test::inputs<T> with_logits(std::vector<T> const& logits) {
  auto in = test::random_inputs<T>({.keys = static_cast<index_t>(logits.size()), .key_dimension = 1}, 1);
  in.query.elements = {T(1)};
  in.key.elements = logits;
  return in;
}

template <class T>
class Extremes : public testing::Test {};
using Elements = testing::Types<float, double>;
TYPED_TEST_SUITE(Extremes, Elements);

TYPED_TEST(Extremes, OfEqualLogitsGiveTheAverage) {
  TypeParam const most = std::numeric_limits<TypeParam>::max();
  for (TypeParam logit : {TypeParam(1e4), TypeParam(1e8), TypeParam(1e10), TypeParam(1e20), TypeParam(1e30), most,
                          std::numeric_limits<TypeParam>::min(), std::numeric_limits<TypeParam>::denorm_min()})
    for (TypeParam sign : {TypeParam(1), TypeParam(-1)})
      for (std::size_t keys : {1, 3, 300}) {
        auto const in = with_logits<TypeParam>(std::vector<TypeParam>(keys, sign * logit));
        EXPECT_TRUE(test::agrees(in, test::attend_to(in), {})) << sign * logit << ' ' << keys;
      }
}

TYPED_TEST(Extremes, OfDifferentLogitsGiveTheLargest) {
  TypeParam const most = std::numeric_limits<TypeParam>::max();
  for (std::vector<TypeParam> const& logits :
       std::vector<std::vector<TypeParam>>{{-most, most},
                                           {most, -most, 0},
                                           {TypeParam(1e30), TypeParam(2e30), TypeParam(-1e30)},
                                           {-most, -most, TypeParam(-1e30)},
                                           {TypeParam(1e10), TypeParam(-1e10), TypeParam(1e10)},
                                           {-100, -200, -90},
                                           {100, 90, 88}}) {
    auto const in = with_logits<TypeParam>(logits);
    EXPECT_TRUE(test::agrees(in, test::attend_to(in), {})) << logits[0];
  }
  // The largest comes last, blocks after the others.
  std::vector<TypeParam> rising(1000, TypeParam(-1e30));
  rising[500] = 0;
  rising[999] = TypeParam(1e30);
  auto const in = with_logits<TypeParam>(rising);
  EXPECT_TRUE(test::agrees(in, test::attend_to(in), {}));
}

TYPED_TEST(Extremes, OfValuesGiveTheirFiniteAverages) {
  // Logits that rise by as much as the maximum may lag behind, over and over; few queries, and a tile of them.
  TypeParam const large = std::numeric_limits<TypeParam>::max() / 2;
  // In double the reference is no better than the kernel: fewer keys.
  index_t const keys = std::same_as<TypeParam, float> ? 5000 : 200;
  for (index_t queries : {1, 50})
    for (TypeParam step : {TypeParam(0), TypeParam(1e-3), TypeParam(0.05)}) {
      auto in = test::random_inputs<TypeParam>({.queries = queries, .keys = keys, .key_dimension = 1}, 2);
      std::fill(in.query.elements.begin(), in.query.elements.end(), TypeParam(1));
      for (std::size_t j = 0; j < in.key.elements.size(); ++j) in.key.elements[j] = step * static_cast<TypeParam>(j);
      for (bool alike : {true, false}) {
        for (TypeParam& x : in.value.elements) x = alike || x > 0 ? large : -large;
        EXPECT_TRUE(test::agrees(in, test::attend_to(in), {})) << queries << " queries, step " << step;
        EXPECT_TRUE(test::agrees(in, test::attend_to(in, chunk_invariant{}), {})) << queries << " queries, " << step;
      }
    }
}

TYPED_TEST(Extremes, OfInfiniteLogitsFollowTheFormula) {
  TypeParam const infinite = infinity<TypeParam>;
  for (std::vector<TypeParam> const& logits : std::vector<std::vector<TypeParam>>{
           {infinite, 0}, {0, infinite, infinite}, {-infinite, 0}, {-infinite, -infinite}, {infinite, -infinite, 1}}) {
    auto const in = with_logits<TypeParam>(logits);
    auto const out = test::attend_to(in);
    auto const expected = reference::softmax_attention<TypeParam>(in.query.view(), in.key.view(), in.value.view(), {});
    EXPECT_TRUE(test::near(out.output.elements, expected.output,
                           test::tolerance<TypeParam>(test::largest_magnitude(in.value.elements))));
    EXPECT_TRUE(test::near(out.log_sum_exp.elements, expected.log_sum_exp, test::tolerance<TypeParam>(1)));
  }
}

TYPED_TEST(Extremes, OfValuesKeepTheirMagnitude) {
  TypeParam const small = std::same_as<TypeParam, float> ? TypeParam(1e-29) : TypeParam(1e-290);
  for (TypeParam size : {TypeParam(1e34), TypeParam(1e-20), small})
    for (index_t queries : {1, 40}) {
      auto in = test::random_inputs<TypeParam>({.queries = queries, .keys = 90}, 1);
      for (TypeParam& value : in.value.elements) value *= size;
      EXPECT_TRUE(test::agrees(in, test::attend_to(in), {})) << size << ", " << queries << " queries";
    }
}

// Masks are often made of the least finite number. Where it hides all keys of a row, softmax gives their average.
TEST(Extremes, OfBiasesAreNotInfinite) {
  auto const in = test::random_inputs<float>({.query_heads = 2, .queries = 60, .keys = 200}, 1);
  for (float least : {-1e9f, -1e10f, -1e30f, std::numeric_limits<float>::lowest()}) {
    auto added = test::filled<float, 2>({60, 200}, 0);
    for (index_t query = 0; query < 60; ++query)
      for (index_t key = 0; key < 200; ++key)
        if (query % 3 == 0 || key > query) added.view()(query, key) = least;
    // Beside such a number nothing is left of the logit, in float: so it is in the expectation.
    reference::options with;
    with.scores = {[&](double s, reference::place const& at) {
      return static_cast<double>(static_cast<float>(s) + added.view()(at.query, at.key));
    }};
    auto const out = test::attend_to(in, bias(added.view()));
    auto const expected = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), with);
    // A bias of -1e9 leaves logits that are multiples of 64: one that rounds the other way is another number. All of
    // these are far below the half of that.
    EXPECT_TRUE(test::near(out.output.elements, expected.output,
                           test::tolerance<float>(test::largest_magnitude(in.value.elements))))
        << least;
  }
}

TEST(Extremes, OfHalvesOverflowToInfinityAndNoFurther) {
  auto in = test::random_inputs<half>({.queries = 3, .keys = 5}, 1);
  for (half& value : in.value.elements) value = half(65504);
  for (half x : test::attend_to(in).output.elements) EXPECT_EQ(static_cast<float>(x), 65504);
}

TEST(Empty, TensorsGiveEmptyOutputs) {
  for (test::sizes const& s :
       std::vector<test::sizes>{{.batches = 0, .queries = 3, .keys = 4},
                                {.query_heads = 0, .key_heads = 0, .value_heads = 0, .queries = 3, .keys = 4},
                                {.query_heads = 0, .queries = 3, .keys = 4},
                                {.queries = 0, .keys = 4},
                                {.queries = 0, .keys = 0},
                                {.batches = 0,
                                 .query_heads = 0,
                                 .key_heads = 0,
                                 .value_heads = 0,
                                 .queries = 0,
                                 .keys = 0,
                                 .key_dimension = 0,
                                 .value_dimension = 0}}) {
    auto const in = test::random_inputs<float>(s, 1);
    EXPECT_TRUE(test::attend_to(in).output.elements.empty());
    EXPECT_TRUE(test::attend_to(in, causal{}).output.elements.empty());
  }
}

TEST(Empty, KeysGiveRowsThatSeeNothing) {
  auto const in =
      test::random_inputs<float>({.batches = 2, .query_heads = 3, .queries = 70, .keys = 0, .value_dimension = 9}, 1);
  auto const out = test::attend_to(in);
  for (float x : out.output.elements) EXPECT_EQ(x, 0);
  for (float x : out.log_sum_exp.elements) EXPECT_EQ(x, -infinity<float>);
  EXPECT_TRUE(test::same_bits(test::attend_to(in, causal{}).output.elements, out.output.elements));
}

// Where there is nothing to read, there need not be memory.
TEST(Empty, TensorsMayBeNull) {
  auto const q = test::normal<float, 4>({1, 2, 5, 8}, 1);
  auto o = test::filled<float, 4>({1, 2, 5, 8}, 7);
  tensor_view<float const, 4> const nothing(nullptr, {1, 2, 0, 8});
  softmax_attention(q.view(), nothing, nothing, o.view());
  for (float x : o.elements) EXPECT_EQ(x, 0);
  tensor_view<float const, 4> const no_query(nullptr, {1, 2, 0, 8});
  softmax_attention(no_query, q.view(), q.view(), tensor_view<float, 4>(nullptr, {1, 2, 0, 8}));
  softmax_attention(tensor_view<float const, 4>(), tensor_view<float const, 4>(), tensor_view<float const, 4>(),
                    tensor_view<float, 4>());
}

TEST(Empty, DimensionsGiveAveragesAndNothing) {
  // Without a key dimension all logits are 0; without a value dimension there is only the log-sum-exp.
  auto const no_key_dimension =
      test::random_inputs<float>({.query_heads = 2, .queries = 20, .keys = 30, .key_dimension = 0}, 1);
  reference::options with;
  with.visible = reference::causal_bottom_right();
  EXPECT_TRUE(test::agrees(no_key_dimension, test::attend_to(no_key_dimension, causal{}), with));
  auto const no_value_dimension =
      test::random_inputs<float>({.query_heads = 2, .queries = 20, .keys = 30, .value_dimension = 0}, 1);
  EXPECT_TRUE(test::agrees(no_value_dimension, test::attend_to(no_value_dimension, causal{}), with));
}

}  // namespace
}  // namespace attend
