// SPDX-License-Identifier: BSD-3-Clause
// The sets of Sparse Transformers: against their definitions, each alone and both together, with fewer queries than
// keys; the masks of the same sets; the released code's local part.
#include <attend/attention/sparse_prefill/sparse_transformer_attention.hpp>
#include <attend/policy/mask/patterns.hpp>

#include "support/chosen_inputs.hpp"
#include "support/selected.hpp"

namespace attend {
using namespace extend;
using namespace systems;

namespace {

using test::sizes;

sizes of_tokens(index_t queries, index_t keys) {
  sizes s = test::odd;
  s.queries = queries;
  s.keys = keys;
  return s;
}

/// The paper's sets, for positions: query i, key j.
bool strided_sees(index_t i, index_t j, index_t stride, sparse_set set, index_t local) {
  bool const near = i - j < local, column = (i - j) % stride == 0;
  return j <= i && (set == sparse_set::both ? near || column : set == sparse_set::local ? near : column);
}
bool fixed_sees(index_t i, index_t j, index_t stride, index_t columns, sparse_set set) {
  bool const near = i / stride == j / stride, column = j % stride >= stride - columns;
  return j <= i && (set == sparse_set::both ? near || column : set == sparse_set::local ? near : column);
}

template <class T>
testing::AssertionResult strided(test::inputs<T> const& in, strided_sets const& sets) {
  auto const got = test::attend_by(in, [&](auto q, auto k, auto v, auto o, auto const&... options) {
    strided_sparse_attention(q, k, v, o, sets, options...);
  });
  index_t const before = in.size.keys - in.size.queries;
  reference::options with;
  with.visible = [=](reference::place const& at) {
    return strided_sees(at.query + before, at.key, sets.stride, sets.set, sets.local);
  };
  return test::agrees(in, got, with);
}
template <class T>
testing::AssertionResult fixed(test::inputs<T> const& in, fixed_sets const& sets) {
  auto const got = test::attend_by(in, [&](auto q, auto k, auto v, auto o, auto const&... options) {
    fixed_sparse_attention(q, k, v, o, sets, options...);
  });
  index_t const before = in.size.keys - in.size.queries;
  reference::options with;
  with.visible = [=](reference::place const& at) {
    return fixed_sees(at.query + before, at.key, sets.stride, sets.columns, sets.set);
  };
  return test::agrees(in, got, with);
}

constexpr sparse_set all_sets[] = {sparse_set::both, sparse_set::local, sparse_set::columns};

TEST(StridedSparseAttention, FollowsItsDefinition) {
  auto const in = test::random_inputs<float>(of_tokens(183, 183), 1, 1.5);
  for (sparse_set set : all_sets)
    for (index_t stride : {1, 2, 13, 64, 182, 183, 1000}) EXPECT_TRUE(strided(in, {stride, set})) << stride;
  auto const fewer = test::random_inputs<float>(of_tokens(70, 183), 2, 1.5);
  for (sparse_set set : all_sets)
    for (index_t stride : {7, 60, 150}) EXPECT_TRUE(strided(fewer, {stride, set})) << stride;
  EXPECT_TRUE(strided(test::random_inputs<float>(of_tokens(1, 300), 3), 17));
  EXPECT_TRUE(strided(test::random_inputs<float>(of_tokens(0, 0), 4), 17));
  EXPECT_TRUE(strided(test::random_inputs<float>(of_tokens(0, 20), 5), 17));
}

// So much work that threads are woken for it.
TEST(StridedSparseAttention, FollowsItsDefinitionOverManyTokens) {
  sizes s = of_tokens(2500, 2500);
  s.batches = s.key_heads = 1;
  s.query_heads = 2;
  s.key_dimension = s.value_dimension = 16;
  EXPECT_TRUE(strided(test::random_inputs<float>(s, 19), 50));
}

TEST(StridedSparseAttention, FollowsItsDefinitionInOtherTypes) {
  EXPECT_TRUE(strided(test::random_inputs<double>(of_tokens(100, 130), 6, 1.5), 11));
  EXPECT_TRUE(strided(test::random_inputs<bfloat16>(of_tokens(100, 130), 7), 11));
}

TEST(StridedSparseAttention, TakesAnyLocalPart) {
  auto const in = test::random_inputs<float>(of_tokens(120, 150), 8, 1.5);
  for (sparse_set set : all_sets)
    for (index_t local : {1, 5, 9, 10, 11, 30, 400}) EXPECT_TRUE(strided(in, {10, set, local})) << local;
}

TEST(StridedSparseAttention, ShowsAValueToItsSet) {
  auto const in = test::with_nan_values(test::random_inputs<float>(of_tokens(150, 150), 9));
  for (sparse_set set : all_sets) EXPECT_TRUE(strided(in, {12, set}));
}

TEST(StridedSparseAttention, IsItsMask) {
  auto const in = test::random_inputs<float>(of_tokens(140, 170), 10);
  auto const call = [&](auto const& function) { return test::attend_by(in, function); };
  auto const masked = call([](auto const& q, auto const& k, auto const& v, auto const& o, auto const&... options) {
    softmax_attention(q, k, v, o, strided_pattern(15), options...);
  });
  // The released code's l local keys: the union is the same.
  for (strided_sets const& sets : {strided_sets{15}, strided_sets{15, sparse_set::both, 15}}) {
    auto const got = call([&](auto const& q, auto const& k, auto const& v, auto const& o, auto const&... options) {
      strided_sparse_attention(q, k, v, o, sets, options...);
    });
    EXPECT_TRUE(test::near(got.output.elements, masked.output.elements,
                           2 * test::tolerance<float>(test::largest_magnitude(in.value.elements))));
  }
}

TEST(FixedSparseAttention, FollowsItsDefinition) {
  auto const in = test::random_inputs<float>(of_tokens(183, 183), 11, 1.5);
  for (sparse_set set : all_sets)
    for (fixed_sets const& sets : {fixed_sets{1, 1}, {13, 1}, {13, 13}, {64, 9}, {183, 5}, {1000, 3}})
      EXPECT_TRUE(fixed(in, {sets.stride, sets.columns, set})) << sets.stride;
  auto const fewer = test::random_inputs<float>(of_tokens(70, 183), 12, 1.5);
  for (sparse_set set : all_sets) EXPECT_TRUE(fixed(fewer, {20, 3, set}));
  EXPECT_TRUE(fixed(test::random_inputs<float>(of_tokens(900, 900), 13), {500, 8}));
  EXPECT_TRUE(fixed(test::random_inputs<float>(of_tokens(0, 0), 14), {5, 2}));
  EXPECT_TRUE(fixed(test::random_inputs<bfloat16>(of_tokens(100, 130), 15), {16, 4}));
}

TEST(FixedSparseAttention, ShowsAValueToItsSet) {
  auto const in = test::with_nan_values(test::random_inputs<float>(of_tokens(150, 150), 16));
  for (sparse_set set : all_sets) EXPECT_TRUE(fixed(in, {16, 5, set}));
}

TEST(SparseTransformer, IsDenseWhereASetHasAllKeys) {
  auto const in = test::random_inputs<float>(of_tokens(90, 90), 17);
  auto const dense =
      test::attend_by(in, [](auto const& q, auto const& k, auto const& v, auto const& o, auto const&... options) {
        softmax_attention(q, k, v, o, causal{}, options...);
      });
  double const allowed = 2 * test::tolerance<float>(test::largest_magnitude(in.value.elements));
  auto got = dense.output;
  auto const q = in.query.view();
  strided_sparse_attention(q, in.key.view(), in.value.view(), got.view(), {1, sparse_set::columns});
  EXPECT_TRUE(test::near(got.elements, dense.output.elements, allowed));
  fixed_sparse_attention(q, in.key.view(), in.value.view(), got.view(), {10, 10});
  EXPECT_TRUE(test::near(got.elements, dense.output.elements, allowed));
}

TEST(SparseTransformer, RefusesWhatDoesNotFit) {
  auto const in = test::random_inputs<float>({.query_heads = 1, .queries = 9, .keys = 5}, 18);
  auto output = test::filled<float, 4>({1, 1, 9, 8}, 7);
  auto const q = in.query.view();
  auto const strided_with = [&](strided_sets const& sets) { strided_sparse_attention(q, q, q, output.view(), sets); };
  auto const fixed_with = [&](fixed_sets const& sets) { fixed_sparse_attention(q, q, q, output.view(), sets); };
  test::expect_error("stride: expected 1 to 536870911, got 0", [&] { strided_with(0); });
  test::expect_error("stride: expected 1 to 536870911, got 536870912", [&] { strided_with(token_limit); });
  test::expect_error("local: expected 1 to 536870912 keys, got 0", [&] { strided_with({3, sparse_set::both, 0}); });
  test::expect_error("stride: expected 1 to 536870911, got -1", [&] { fixed_with({-1, 1}); });
  test::expect_error("columns: expected 1 to 4 (the stride), got 5", [&] { fixed_with({4, 5}); });
  test::expect_error("columns: expected 1 to 4 (the stride), got 0", [&] { fixed_with({4, 0}); });
  test::expect_error("query: expected at most 5 tokens (as key), got 9",
                     [&] { strided_sparse_attention(q, in.key.view(), in.value.view(), output.view(), 2); });
  test::expect_error("key: expected head dimension 8 (as query), got 5", [&] {
    fixed_sparse_attention(q, test::random_inputs<float>({.keys = 9, .key_dimension = 5}, 1).key.view(), q,
                           output.view(), {2, 1});
  });
  test::expect_scale_error([&](scale const& factor) { strided_sparse_attention(q, q, q, output.view(), 2, factor); });
  for (float x : output.elements) EXPECT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
