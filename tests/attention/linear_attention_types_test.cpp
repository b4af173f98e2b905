// SPDX-License-Identifier: BSD-3-Clause
// Linear attention in each element type, and on views with strides.
#include <attend/policy/feature/elu.hpp>

#include "support/linear_problem.hpp"

namespace attend {
using namespace linear;

namespace {

template <class T>
class LinearAttentionTypes : public testing::Test {};
using Types = testing::Types<double, half, bfloat16>;
TYPED_TEST_SUITE(LinearAttentionTypes, Types);

TYPED_TEST(LinearAttentionTypes, AgreeWithTheRecurrence) {
  for (auto const& s : test::awkward_linear_sizes()) {
    test::linear_inputs<TypeParam> const in(s, 3);
    reference::linear_options with;
    with.log_decay = in.key_logs();
    EXPECT_TRUE(test::agrees(in, test::attend_linearly(in, causal{}, feature_decay(in.key_decays.view())), with));
    with.update = reference::state_update::delta;
    with.rate = in.by_token(in.rates);
    with.log_decay = in.token_logs();
    EXPECT_TRUE(test::agrees(in,
                             test::attend_linearly(in, causal{}, delta_rule(in.rates.view()),
                                                   token_decay(in.token_decays.view()), chunk_length(20)),
                             with));
  }
}

// Heads and tokens interleaved, a slice of wider rows, and one key and value for all batches.
TEST(LinearAttention, TakesViewsWithStrides) {
  test::linear_sizes const s{2, 2, 2, 2, 37, 37, 12, 20};
  test::linear_inputs<float> in(s, 5);
  std::copy_n(in.key.elements.begin(), in.key.elements.size() / 2,
              in.key.elements.begin() + in.key.elements.size() / 2);
  std::vector<float> queries(2 * 37 * 2 * 12), keys(2 * 37 * 30), outputs(2 * 37 * 2 * 25, 7.f);
  tensor_view<float, 4> const query(queries.data(), {2, 2, 37, 12}, {37 * 24, 12, 24, 1});
  tensor_view<float, 4> const key(keys.data(), {2, 2, 37, 12}, {0, 37 * 30, 30, 1});
  tensor_view<float, 4> const output(outputs.data() + 3, {2, 2, 37, 20}, {37 * 50, 25, 50, 1});
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 2; ++h)
      for (index_t t = 0; t < 37; ++t)
        for (index_t c = 0; c < 12; ++c) {
          query(b, h, t, c) = in.query.view()(b, h, t, c);
          key(b, h, t, c) = in.key.view()(b, h, t, c);
        }
  linear_attention(query, key, in.value.view(), output, causal{}, initial_state(in.state.view()));
  auto const plain = test::attend_linearly(in, causal{});
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 2; ++h)
      for (index_t t = 0; t < 37; ++t)
        for (index_t c = 0; c < 20; ++c) ASSERT_EQ(output(b, h, t, c), plain.output.view()(b, h, t, c));
  EXPECT_EQ(std::count(outputs.begin(), outputs.end(), 7.f), 2 * 37 * 2 * 5) << "elements between the rows";
}

}  // namespace
}  // namespace attend
