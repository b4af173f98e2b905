// SPDX-License-Identifier: BSD-3-Clause
// The tiled engine against the definition, over shapes that are not multiples of anything.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/reference/softmax_attention.hpp>

#include "support/compare.hpp"
#include "support/random_tensor.hpp"

namespace attend {
using namespace options;

namespace {

struct shape {
  index_t batch, query_heads, key_heads, value_heads, queries, keys, key_dimension, value_dimension;
};

template <class T>
void expect_definition(shape const& s, unsigned seed) {
  SCOPED_TRACE(testing::Message() << s.batch << ' ' << s.query_heads << ' ' << s.key_heads << ' ' << s.value_heads
                                  << ' ' << s.queries << ' ' << s.keys << ' ' << s.key_dimension << ' '
                                  << s.value_dimension);
  auto const q = test::normal<T, 4>({s.batch, s.query_heads, s.queries, s.key_dimension}, seed);
  auto const k = test::normal<T, 4>({s.batch, s.key_heads, s.keys, s.key_dimension}, seed + 1);
  auto const v = test::normal<T, 4>({s.batch, s.value_heads, s.keys, s.value_dimension}, seed + 2);
  auto o = test::filled<T, 4>({s.batch, s.query_heads, s.queries, s.value_dimension}, T(7));
  softmax_attention(q.view(), k.view(), v.view(), o.view());
  EXPECT_TRUE(
      test::near(o.elements, reference::softmax_attention(q.view(), k.view(), v.view()).output, test::tolerance<T>(4)));
  reference::options causal_options;
  causal_options.visible = reference::causal_bottom_right();
  softmax_attention(q.view(), k.view(), v.view(), o.view(), causal{});
  EXPECT_TRUE(test::near(o.elements, reference::softmax_attention(q.view(), k.view(), v.view(), causal_options).output,
                         test::tolerance<T>(4)));
}

template <class T>
class SoftmaxAttention : public testing::Test {};
using Elements = testing::Types<float, double, half, bfloat16>;
TYPED_TEST_SUITE(SoftmaxAttention, Elements);

TYPED_TEST(SoftmaxAttention, FollowsItsDefinitionOnAwkwardShapes) {
  unsigned seed = 1;
  for (shape const& s : std::initializer_list<shape>{{1, 1, 1, 1, 1, 1, 1, 1},
                                                     {1, 1, 1, 1, 7, 7, 8, 8},
                                                     {2, 3, 3, 3, 33, 65, 40, 24},
                                                     {1, 4, 2, 2, 49, 129, 64, 64},
                                                     {1, 6, 3, 2, 17, 31, 5, 3},
                                                     {1, 8, 1, 1, 50, 300, 17, 33},
                                                     {1, 2, 2, 1, 100, 3, 72, 80},
                                                     {1, 1, 1, 1, 400, 257, 128, 128},
                                                     {1, 1, 1, 1, 5, 9, 576, 512},
                                                     {1, 2, 1, 1, 0, 9, 8, 8},
                                                     {1, 2, 1, 1, 9, 0, 8, 8},
                                                     {0, 2, 1, 1, 9, 4, 8, 8},
                                                     {1, 2, 1, 1, 9, 4, 8, 0}})
    expect_definition<TypeParam>(s, seed += 3);
}

}  // namespace
}  // namespace attend
