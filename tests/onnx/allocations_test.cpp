// SPDX-License-Identifier: BSD-3-Clause
// After a first call of the same shape, the operators allocate nothing.
#include <gtest/gtest.h>
#include <attend/onnx/attention.hpp>
#include <attend/onnx/group_query_attention.hpp>

#include "support/count_allocations.hpp"
#include "support/random_tensor.hpp"

namespace attend {
namespace {

template <class Call>
void expect_none(Call const& call) {
  call();
  call();
  long const before = test::allocations;
  call();
  EXPECT_EQ(test::allocations - before, 0);
}

TEST(OnnxAllocations, HappenInTheFirstCallAlone) {
  auto const q = test::normal<float, 3>({2, 5, 64}, 1), k = test::normal<float, 3>({2, 5, 32}, 2);
  auto const past = test::normal<float, 4>({2, 2, 7, 16}, 3), mask = test::normal<float, 4>({1, 1, 5, 9}, 4);
  auto const angles = test::normal<float, 2>({20, 8}, 5);
  auto y = test::filled<float, 3>({2, 5, 64}, 7);
  auto pairs = test::filled<float, 4>({2, 4, 5, 12}, 7);
  expect_none([&] {
    onnx::attention(q.view(), k.view(), k.view(), y.view(),
                    {.is_causal = 1, .kv_num_heads = 2, .q_num_heads = 4, .softcap = 3},
                    {.attn_mask = mask.view(), .past_key = past.view(), .past_value = past.view()},
                    {.qk_matmul_output = pairs.view()});
  });
  std::vector<std::int32_t> const lengths{11, 8};
  expect_none([&] {
    onnx::microsoft::group_query_attention(q.view(), k.view(), k.view(), y.view(),
                                           {.do_rotary = 1, .kv_num_heads = 2, .num_heads = 4},
                                           {.seqlens_k = lengths,
                                            .total_sequence_length = 12,
                                            .past_key = past.view(),
                                            .past_value = past.view(),
                                            .cos_cache = angles.view(),
                                            .sin_cache = angles.view()});
  });
}

}  // namespace
}  // namespace attend
