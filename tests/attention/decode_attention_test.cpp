// SPDX-License-Identifier: BSD-3-Clause
// The split engine against the definition: over tensors and over caches of every element type, with policies, for one
// and several queries, over shapes that are not multiples of anything.
#include <attend/attention/cached/decode_attention.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/reference/softmax_attention.hpp>

#include "support/problem.hpp"

namespace attend {
using namespace options;

namespace {

template <class T>
void expect_definition(test::sizes const& s, unsigned seed) {
  SCOPED_TRACE(testing::Message() << s.batches << ' ' << s.query_heads << ' ' << s.key_heads << ' ' << s.value_heads
                                  << ' ' << s.queries << ' ' << s.keys << ' ' << s.key_dimension << ' '
                                  << s.value_dimension);
  auto const in = test::random_inputs<T>(s, seed);
  test::outputs<T> out{test::filled<T, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, T(7)),
                       test::filled<accumulation_t<T>, 3>({s.batches, s.query_heads, s.queries}, 7),
                       {}};
  decode_attention(in.query.view(), in.key.view(), in.value.view(), out.output.view(),
                   log_sum_exp(out.log_sum_exp.view()));
  EXPECT_TRUE(test::agrees(in, out, {}));
  reference::options with;
  with.visible = reference::causal_bottom_right();
  decode_attention(in.query.view(), in.key.view(), in.value.view(), out.output.view(),
                   log_sum_exp(out.log_sum_exp.view()), causal{});
  EXPECT_TRUE(test::agrees(in, out, with));
}

template <class T>
class DecodeAttention : public testing::Test {};
using Elements = testing::Types<float, double, half, bfloat16>;
TYPED_TEST_SUITE(DecodeAttention, Elements);

TYPED_TEST(DecodeAttention, FollowsItsDefinitionOnAwkwardShapes) {
  unsigned seed = 1;
  for (test::sizes const& s : std::initializer_list<test::sizes>{{1, 1, 1, 1, 1, 1, 1, 1},
                                                                 {1, 1, 1, 1, 1, 65, 128, 128},
                                                                 {2, 3, 3, 3, 1, 64, 32, 16},
                                                                 {1, 4, 2, 2, 1, 129, 64, 80},
                                                                 {1, 6, 3, 2, 3, 31, 5, 3},
                                                                 {1, 8, 1, 1, 1, 300, 17, 33},
                                                                 {1, 8, 2, 2, 4, 200, 96, 72},
                                                                 {2, 32, 2, 2, 1, 70, 40, 128},
                                                                 {1, 5, 1, 1, 16, 77, 24, 20},
                                                                 {1, 1, 1, 1, 2, 1000, 256, 256},
                                                                 {1, 2, 1, 1, 5, 3, 8, 8},
                                                                 {1, 2, 1, 1, 0, 9, 8, 8},
                                                                 {1, 2, 1, 1, 3, 0, 8, 8},
                                                                 {0, 2, 1, 1, 1, 4, 8, 8},
                                                                 {1, 0, 1, 1, 1, 4, 8, 8},
                                                                 {1, 2, 1, 1, 1, 4, 8, 0}})
    expect_definition<TypeParam>(s, seed += 3);
}

// So many keys that they are split, with a last part that is shorter.
TEST(DecodeAttention, SplitsKeys) {
  expect_definition<float>({.query_heads = 2, .keys = 5003, .key_dimension = 128, .value_dimension = 128}, 1);
}

// Beside logits this large, the logarithm of a part's mass has no bits left: the parts must be merged without it.
TEST(DecodeAttention, SplitsKeysWithLargeLogits) {
  test::sizes const s{.keys = 5003, .key_dimension = 128, .value_dimension = 128};
  for (float logit : {1e4f, 1e8f, -1e8f, 1e30f}) {
    auto in = test::random_inputs<float>(s, 1);
    std::fill(in.query.elements.begin(), in.query.elements.end(), 0.f);
    in.query.elements[0] = 1;
    for (index_t j = 0; j < s.keys; ++j) in.key.view()(0, 0, j, 0) = logit;
    test::outputs<float> out{test::filled<float, 4>({1, 1, 1, 128}, 7), {}, test::filled<float, 4>({1, 1, 1, 5003}, 7)};
    decode_attention(in.query.view(), in.key.view(), in.value.view(), out.output.view(), scale(1),
                     weights(out.weights.view()));
    reference::options with;
    with.scale = 1;
    EXPECT_TRUE(test::agrees(in, out, with)) << logit;
  }
}

}  // namespace
}  // namespace attend
