// SPDX-License-Identifier: BSD-3-Clause
// Which tokens make up a sequence: padded batches, and sequences packed one after the other.
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/window.hpp>
#include <attend/policy/sequence/sequences.hpp>
#include <attend/policy/slots.hpp>

#include "support/packed_sequences.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

using lengths = std::vector<std::int64_t>;

// Tokens past the lengths hold NaN: they are not read.
template <class T>
void spoil_padding(test::inputs<T>& in, lengths const& query, lengths const& key) {
  T const nan = std::numeric_limits<T>::quiet_NaN();
  auto const spoil = [&](test::tensor<T, 4>& tensor, lengths const& list) {
    auto const view = tensor.view();
    for (index_t b = 0; b < view.extent(0); ++b)
      for (index_t h = 0; h < view.extent(1); ++h)
        for (index_t token = list[static_cast<std::size_t>(b)]; token < view.extent(2); ++token)
          std::fill_n(&view(b, h, token, 0), view.extent(3), nan);
  };
  spoil(in.query, query);
  spoil(in.key, key);
  spoil(in.value, key);
}

test::sizes const batched{.batches = 5, .query_heads = 4, .key_heads = 2, .value_heads = 1, .queries = 70, .keys = 150};
lengths const query_lengths{70, 0, 33, 1, 64}, key_lengths_of_batches{33, 20, 0, 150, 100};

template <class T>
class Padded : public testing::Test {};
using Elements = testing::Types<float, double>;
TYPED_TEST_SUITE(Padded, Elements);

TYPED_TEST(Padded, BatchesEndWhereTheirLengthsSay) {
  auto in = test::random_inputs<TypeParam>(batched, 1);
  spoil_padding(in, query_lengths, key_lengths_of_batches);
  reference::options with;
  with.query_length = [](index_t b) { return query_lengths[static_cast<std::size_t>(b)]; };
  with.key_length = [](index_t b) { return key_lengths_of_batches[static_cast<std::size_t>(b)]; };
  auto const out = test::attend_to(in, padded(query_lengths, key_lengths_of_batches));
  EXPECT_TRUE(test::agrees(in, out, with));
  with.visible = reference::causal_bottom_right();
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, padded(query_lengths, key_lengths_of_batches), causal{}), with));
}

TYPED_TEST(Padded, RowsPastTheLengthSeeNothing) {
  auto const in = test::random_inputs<TypeParam>(batched, 1);
  auto const out = test::attend_to(in, padded(query_lengths, key_lengths_of_batches));
  for (index_t b = 0; b < batched.batches; ++b)
    for (index_t h = 0; h < batched.query_heads; ++h)
      for (index_t query = query_lengths[static_cast<std::size_t>(b)]; query < batched.queries; ++query) {
        for (index_t c = 0; c < batched.value_dimension; ++c) EXPECT_EQ(out.output.view()(b, h, query, c), 0);
        EXPECT_EQ(out.log_sum_exp.view()(b, h, query), -infinity<TypeParam>);
        for (index_t key = 0; key < batched.keys; ++key) EXPECT_EQ(out.weights.view()(b, h, query, key), 0);
      }
}

TEST(PaddedKeys, LeaveAllQueriesAndCountFromTheirOwnEnd) {
  auto in = test::random_inputs<float>(batched, 1);
  spoil_padding(in, lengths(5, batched.queries), key_lengths_of_batches);
  reference::options with;
  with.key_length = [](index_t b) { return key_lengths_of_batches[static_cast<std::size_t>(b)]; };
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, padded_keys(key_lengths_of_batches)), with));
  // The reference's positions are bottom-right in each sequence, as those of the kernel.
  with.visible = reference::causal_bottom_right();
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, padded_keys(key_lengths_of_batches), causal{}), with));
  with.visible = reference::causal_with_offset(3);
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, padded_keys(key_lengths_of_batches), causal{offset(3)}), with));
  with.visible = reference::sliding_window(10, 5);
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, padded_keys(key_lengths_of_batches), window{10, 5}), with));
}

TEST(PaddedOnce, HoldsForQueriesAndKeys) {
  std::vector<std::int32_t> const list{70, 0, 33, 1, 64};
  auto in = test::random_inputs<float>({.batches = 5, .queries = 70, .keys = 70}, 1);
  spoil_padding(in, query_lengths, query_lengths);
  reference::options with;
  with.query_length = with.key_length = [](index_t b) { return query_lengths[static_cast<std::size_t>(b)]; };
  with.visible = reference::causal_bottom_right();
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, padded(list), causal{}), with));
}

TEST(Padded, ComputesNoMoreThanTheLengths) {
  test::sizes const s{.batches = 3, .queries = 100, .keys = 200};
  lengths const query{100, 10, 0}, key{7, 200, 200};
  EXPECT_EQ(test::count_work(s, padded(query, key)).pairs, 100 * 7 + 10 * 200);
  EXPECT_EQ(test::count_work(s, padded_keys(key)).pairs, 100 * (7 + 200 + 200));
}

// Sequences without queries, without keys, without both, and at both ends.
test::packed_sequences const packed{{0, 0, 33, 33, 34, 104, 160, 160}, {0, 12, 82, 82, 92, 92, 250, 250}};
test::sizes const packed_heads{.query_heads = 4, .key_heads = 2, .value_heads = 2};

template <class T>
class Ragged : public testing::Test {};
TYPED_TEST_SUITE(Ragged, Elements);

TYPED_TEST(Ragged, SequencesAreOnTheirOwn) {
  auto const in = test::random_inputs<TypeParam>(packed.fitted(packed_heads), 1);
  reference::options with;
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, packed.offsets()), packed, [&](index_t) { return with; }));
  with.visible = reference::causal_bottom_right();
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, packed.offsets(), causal{}), packed, [&](index_t) { return with; }));
}

TEST(Ragged, AlignsWindowsWithinEachSequence) {
  auto const in = test::random_inputs<float>(packed.fitted(packed_heads), 1);
  reference::options with;
  with.visible = reference::sliding_window(20, 0);
  EXPECT_TRUE(
      test::agrees(in, test::attend_to(in, packed.offsets(), window{20, 0}), packed, [&](index_t) { return with; }));
  with.visible = [](reference::place const& at) { return at.key >= at.query - 20 && at.key <= at.query + 3; };
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, packed.offsets(), window{20, 3, top_left}), packed,
                           [&](index_t) { return with; }));
}

TEST(Ragged, OnceHoldsForQueriesAndKeys) {
  std::vector<std::int32_t> const narrow{0, 0, 33, 33, 34, 104, 160, 160};
  test::packed_sequences const both{packed.query_offsets, packed.query_offsets};
  auto const in = test::random_inputs<float>(both.fitted({.query_heads = 2}), 1);
  reference::options with;
  with.visible = reference::causal_bottom_right();
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, ragged(narrow), causal{}), both, [&](index_t) { return with; }));
}

TEST(Ragged, SlotsAreSeenByEverySequence) {
  auto const in = test::random_inputs<float>(packed.fitted(packed_heads), 1);
  auto const key = test::normal<float, 4>({1, 2, 3, 8}, 5), value = test::normal<float, 4>({1, 2, 3, 8}, 6);
  std::vector<double> const exact_key(key.elements.begin(), key.elements.end());
  std::vector<double> const exact_value(value.elements.begin(), value.elements.end());
  reference::options with;
  with.slot_key = tensor_view<double const, 4>(exact_key.data(), {1, 2, 3, 8});
  with.slot_value = tensor_view<double const, 4>(exact_value.data(), {1, 2, 3, 8});
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, packed.offsets(), prefix_key_values(key.view(), value.view())),
                           packed, [&](index_t) { return with; }));
}

TEST(Ragged, MayHoldNoSequenceAndOnlyEmptyOnes) {
  lengths const one{0}, many{0, 0, 0};
  auto const in = test::random_inputs<float>({.queries = 0, .keys = 0}, 1);
  EXPECT_TRUE(test::attend_to(in, ragged(one)).output.elements.empty());
  EXPECT_TRUE(test::attend_to(in, ragged(many)).output.elements.empty());
}

TEST(Ragged, ComputesNoMoreThanItsSequences) {
  index_t allowed = 0;
  for (index_t s = 0; s < packed.size(); ++s) allowed += packed.queries(s) * packed.keys(s);
  EXPECT_EQ(test::count_work(packed.fitted({.query_heads = 3}), packed.offsets()).pairs, 3 * allowed);
}

}  // namespace
}  // namespace attend
