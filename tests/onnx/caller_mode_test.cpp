// SPDX-License-Identifier: BSD-3-Clause
// The operators of ONNX have the same bits in whatever floating-point mode they are called, on numbers of all sizes.
#include <attend/onnx/attention.hpp>
#include <attend/onnx/linear_attention.hpp>
#include <attend/onnx/multi_head_attention.hpp>
#include <attend/onnx/rotary_embedding.hpp>

#include "support/caller_mode_names.hpp"

namespace attend {
using namespace options;

namespace {

TEST(CallerModeOfOnnx, OfAttention) {
  auto const q = of_all_sizes<half, 3>({1, 20, 48}, 1), k = of_all_sizes<half, 3>({1, 20, 24}, 2);
  auto const mask = of_all_sizes<half, 2>({20, 20}, 3);
  expect_one_result([&] {
    auto y = test::filled<half, 3>(q.extents, half(7)), z = y;
    onnx::attention(q.view(), k.view(), k.view(), y.view(),
                    {.is_causal = 1, .kv_num_heads = 2, .q_num_heads = 4, .softcap = 3.3}, {.attn_mask = mask.view()});
    onnx::microsoft::multi_head_attention(q.view(), q.view(), q.view(), z.view(), {.num_heads = 4, .scale = 0.3});
    return bytes() << y << z;
  });
}

TEST(CallerModeOfOnnx, OfStatesAndRotation) {
  auto const q = of_all_sizes<float, 3>({1, 20, 32}, 1);
  auto const decay = test::filled<float, 3>({1, 20, 2}, -0.1f), rates = test::normal<float, 3>({1, 20, 2}, 2, 0.1);
  auto const cosine = test::normal<float, 2>({20, 8}, 3), sine = test::normal<float, 2>({20, 8}, 4);
  std::vector<index_t> positions(20);
  for (index_t i = 0; i < 20; ++i) positions[static_cast<std::size_t>(i)] = i;
  expect_one_result([&] {
    auto y = test::filled<float, 3>(q.extents, 7.f), z = y;
    onnx::linear_attention(q.view(), q.view(), q.view(), y.view(),
                           {.kv_num_heads = 2, .q_num_heads = 2, .update_rule = "gated_delta"},
                           {.decay = decay.view(), .beta = rates.view()});
    onnx::rotary_embedding(q.view(), cosine.view(), sine.view(), z.view(), {.num_heads = 2}, positions);
    return bytes() << y << z;
  });
}

}  // namespace
}  // namespace attend
