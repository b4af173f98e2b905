// SPDX-License-Identifier: BSD-3-Clause
// ONNX's Attention: the published node tests, none left out, and that a past may grow in place.
#include <attend/onnx/attention.hpp>

#include "onnx/attention_nodes.hpp"
#include "support/random_tensor.hpp"

namespace attend {
namespace {

TEST(OnnxAttention, PublishedNodeTestsPass) { EXPECT_EQ(test::expect_attention_nodes<float>("F32"), 82); }

// A cache whose rows are there already is not copied: past and present begin in the same memory.
TEST(OnnxAttention, APastMayGrowInPlace) {
  auto const q = test::normal<float, 4>({2, 4, 3, 8}, 1), k = test::normal<float, 4>({2, 2, 3, 8}, 2),
             v = test::normal<float, 4>({2, 2, 3, 8}, 3), past_k = test::normal<float, 4>({2, 2, 5, 8}, 4),
             past_v = test::normal<float, 4>({2, 2, 5, 8}, 5);
  auto y = test::filled<float, 4>({2, 4, 3, 8}, 7), in_place = y;
  auto present_k = test::filled<float, 4>({2, 2, 8, 8}, 7), present_v = present_k;
  onnx::attention(q.view(), k.view(), v.view(), y.view(), {.is_causal = 1},
                  {.past_key = past_k.view(), .past_value = past_v.view()},
                  {.present_key = present_k.view(), .present_value = present_v.view()});
  auto cache_k = test::filled<float, 4>({2, 2, 10, 8}, 7), cache_v = cache_k;
  auto const some = [](auto& cache, index_t tokens) { return attend::detail::part(cache.view(), 2, 0, tokens); };
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 2; ++h) {
      std::copy_n(&past_k.view()(b, h, 0, 0), 40, &cache_k.view()(b, h, 0, 0));
      std::copy_n(&past_v.view()(b, h, 0, 0), 40, &cache_v.view()(b, h, 0, 0));
    }
  onnx::attention(q.view(), k.view(), v.view(), in_place.view(), {.is_causal = 1},
                  {.past_key = some(cache_k, 5), .past_value = some(cache_v, 5)},
                  {.present_key = some(cache_k, 8), .present_value = some(cache_v, 8)});
  EXPECT_EQ(y.elements, in_place.elements);
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 2; ++h)
      for (index_t t = 0; t < 10; ++t)
        for (index_t c = 0; c < 8; ++c) EXPECT_EQ(cache_k.view()(b, h, t, c), t < 8 ? present_k.view()(b, h, t, c) : 7);
}

// A past without a present is read where the operator would have put it.
TEST(OnnxAttention, APastNeedsNoPresent) {
  auto const q = test::normal<float, 3>({2, 3, 32}, 1), k = test::normal<float, 3>({2, 3, 16}, 2);
  auto const past = test::normal<float, 4>({2, 2, 5, 8}, 4);
  auto y = test::filled<float, 3>({2, 3, 32}, 7), alone = y;
  auto present_k = test::filled<float, 4>({2, 2, 8, 8}, 7), present_v = present_k;
  onnx::attention_attributes const attributes{.is_causal = 1, .kv_num_heads = 2, .q_num_heads = 4};
  onnx::attention(q.view(), k.view(), k.view(), y.view(), attributes,
                  {.past_key = past.view(), .past_value = past.view()},
                  {.present_key = present_k.view(), .present_value = present_v.view()}, threads{2});
  onnx::attention(q.view(), k.view(), k.view(), alone.view(), attributes,
                  {.past_key = past.view(), .past_value = past.view()});
  EXPECT_EQ(y.elements, alone.elements);
}

// Tensors without elements may have no memory: what is asked for is then empty too.
TEST(OnnxAttention, NoQueriesHaveNoProducts) {
  tensor_view<float, 4> const none(nullptr, {2, 2, 0, 8}), products(nullptr, {2, 2, 0, 5});
  auto const past = test::normal<float, 4>({2, 2, 5, 8}, 1);
  for (index_t mode : {0, 1, 2, 3})
    EXPECT_NO_THROW(onnx::attention(none, none, none, none, {.qk_matmul_output_mode = mode, .softcap = 2},
                                    {.past_key = past.view(), .past_value = past.view()},
                                    {.qk_matmul_output = products}));
}

}  // namespace
}  // namespace attend
