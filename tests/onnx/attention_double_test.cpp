// SPDX-License-Identifier: BSD-3-Clause
// ONNX's Attention in double: its node tests of float, as far from the exact result as ONNX's own expectation is.
#include "onnx/attention_nodes.hpp"

namespace attend {
namespace {

TEST(OnnxAttentionInDouble, FloatNodeTestsPass) { EXPECT_EQ(test::expect_attention_nodes<double>("F32"), 82); }

}  // namespace
}  // namespace attend
