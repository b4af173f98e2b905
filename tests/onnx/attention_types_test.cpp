// SPDX-License-Identifier: BSD-3-Clause
// ONNX's Attention in 16-bit types: its own node tests of them.
#include "onnx/attention_nodes.hpp"

namespace attend {
namespace {

TEST(OnnxAttentionTypes, HalfNodeTestsPass) { EXPECT_EQ(test::expect_attention_nodes<half>("F16"), 6); }
TEST(OnnxAttentionTypes, Bfloat16NodeTestsPass) { EXPECT_EQ(test::expect_attention_nodes<bfloat16>("BF16"), 5); }

}  // namespace
}  // namespace attend
