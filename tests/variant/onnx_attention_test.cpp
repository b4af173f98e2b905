// The published node tests of ONNX's Attention operator, through the public call.
#include "support/outside_vectors.hpp"

namespace attend {
namespace {

TEST(OnnxAttention, PublishedNodeTestsPass) {
  test::outside_cases const cases("onnx_attention.safetensors");
  int float_cases = 0, half_cases = 0, bfloat16_cases = 0;
  for (auto const& about : cases.manifest.at("cases")) {
    std::string const element = about.at("dtype");
    if (element == "float32") {
      test::expect_case<float>(cases, about), ++float_cases;
    } else if (element == "float16") {
      test::expect_case<half>(cases, about), ++half_cases;
    } else {
      test::expect_case<bfloat16>(cases, about), ++bfloat16_cases;
    }
  }
  EXPECT_EQ(float_cases, 82);
  EXPECT_EQ(half_cases, 6);
  EXPECT_EQ(bfloat16_cases, 5);
  EXPECT_TRUE(cases.manifest.at("inexpressible").empty());
}

}  // namespace
}  // namespace attend
