// SPDX-License-Identifier: BSD-3-Clause
// The inputs that are kept for a fuzz target, replayed without a fuzzer, by any compiler. Each must pass.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size);

namespace attend {
namespace {

TEST(Fuzz, KeptInputs) {
  std::vector<std::filesystem::path> inputs;
  for (auto const& entry : std::filesystem::directory_iterator(ATTEND_FUZZ_CORPUS)) inputs.push_back(entry.path());
  ASSERT_FALSE(inputs.empty());
  std::sort(inputs.begin(), inputs.end());
  for (auto const& input : inputs) {
    SCOPED_TRACE(input);
    std::ifstream stream(input, std::ios::binary);
    std::vector<char> const bytes{std::istreambuf_iterator<char>(stream), {}};
    // Exactly as many bytes as the fuzzer gave, for a sanitizer to see the end of.
    std::vector<std::uint8_t> const exact(bytes.begin(), bytes.end());
    EXPECT_NO_THROW(LLVMFuzzerTestOneInput(exact.data(), exact.size()));
  }
}

}  // namespace
}  // namespace attend
