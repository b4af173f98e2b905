// SPDX-License-Identifier: BSD-3-Clause
// PyTorch's scaled_dot_product_attention, computed in double: grouped heads, masks, odd sizes.
#include "support/outside_vectors.hpp"

namespace attend {
namespace {

TEST(TorchAttention, OutputsAgree) {
  test::outside_cases const cases("torch_attention.safetensors");
  int count = 0;
  for (auto const& about : cases.manifest.at("cases")) test::expect_case<float>(cases, about), ++count;
  EXPECT_EQ(count, 22);
}

}  // namespace
}  // namespace attend
