// SPDX-License-Identifier: BSD-3-Clause
#include <attend/dispatch.hpp>

#include <gmock/gmock.h>

#if defined(__x86_64__)

namespace {

struct level {
  int number;
};

namespace targets = attend::targets;
using attend::detail::choose;
using attend::detail::processor_features;
namespace processor = attend::detail::processor;

}  // namespace

template <>
level attend::compiled<level, attend::targets::x86_64>() {
  return {1};
}
template <>
level attend::compiled<level, attend::targets::x86_64_v2>() {
  return {2};
}
template <>
level attend::compiled<level, attend::targets::sapphirerapids>() {
  return {5};
}

namespace {

TEST(Processor, HasWhatThisTestIsCompiledFor) {
  EXPECT_TRUE(attend::detail::features_of_this_processor().includes(processor::compiled));
}

TEST(Processor, LevelsIncludeTheOnesBefore) {
  EXPECT_TRUE(processor::x86_64_v4.includes(processor::x86_64_v3));
  EXPECT_FALSE(processor::x86_64_v3.includes(processor::x86_64_v4));
  EXPECT_TRUE(processor::sapphirerapids.includes(processor::icelake_server));
  EXPECT_TRUE(processor::sapphirerapids.includes(processor::cooperlake));
  EXPECT_FALSE(processor::icelake_server.includes(processor::cooperlake));
}

TEST(Processor, WithoutASystemThatSavesTheRegistersALevelIsNotThere) {
  processor_features without_upper_halves = processor::x86_64_v4;
  without_upper_halves.bits[6] = attend::detail::bits_at(1, 2);
  EXPECT_TRUE(without_upper_halves.includes(processor::x86_64_v3));
  EXPECT_FALSE(without_upper_halves.includes(processor::x86_64_v4));
  without_upper_halves.bits[6] = attend::detail::bits_at(1);
  EXPECT_TRUE(without_upper_halves.includes(processor::x86_64_v2));
  EXPECT_FALSE(without_upper_halves.includes(processor::x86_64_v3));
}

TEST(Dispatch, TakesTheLastThatTheProcessorCanRun) {
  EXPECT_EQ(choose<level>(targets::list<targets::x86_64>{}, "").number, 1);
  bool const second = attend::detail::features_of_this_processor().includes(processor::x86_64_v2);
  EXPECT_EQ((choose<level>(targets::list<targets::x86_64, targets::x86_64_v2>{}, "").number), second ? 2 : 1);
  EXPECT_EQ((choose<level>(targets::list<targets::x86_64_v2, targets::x86_64>{}, "").number), 1);
}

TEST(Dispatch, TakesTheOneThatIsNamed) {
  EXPECT_EQ((choose<level>(targets::list<targets::x86_64, targets::x86_64_v2>{}, "x86-64").number), 1);
}

TEST(Dispatch, RefusesWhatIsNotThere) {
  try {
    choose<level>(targets::list<targets::x86_64>{}, "x86-64-v2");
    FAIL();
  } catch (attend::argument_error const& error) {
    EXPECT_THAT(error.what(), testing::StartsWith("ATTEND_DISPATCH: expected one of x86-64 "));
    EXPECT_THAT(error.what(), testing::HasSubstr("got x86-64-v2"));
  }
  if (attend::detail::features_of_this_processor().includes(processor::sapphirerapids)) return;
  try {
    choose<level>(targets::list<targets::sapphirerapids>{}, "");
    FAIL();
  } catch (attend::argument_error const& error) {
    EXPECT_THAT(error.what(), testing::StartsWith("processor: expected one that can run sapphirerapids"));
  }
}

}  // namespace

#endif
