// SPDX-License-Identifier: BSD-3-Clause
// The version stands in version.hpp: what must repeat it, since its readers know no headers, repeats it rightly.
#include <gmock/gmock.h>
#include <attend/version.hpp>

#include <fstream>
#include <sstream>
#include <string>

namespace {

std::string const version = std::to_string(ATTEND_VERSION_MAJOR) + "." + std::to_string(ATTEND_VERSION_MINOR) + "." +
                            std::to_string(ATTEND_VERSION_PATCH);

std::string text_of(std::string const& name) {
  std::string const path = ATTEND_TEST_DATA "/../../" + name;
  std::ifstream file(path);
  EXPECT_TRUE(file) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(Version, IsTheBuilds) { EXPECT_EQ(version, ATTEND_BUILD_VERSION); }

TEST(Version, IsOneNumberInOrder) {
  static_assert(ATTEND_VERSION / 10000 == ATTEND_VERSION_MAJOR);
  static_assert(ATTEND_VERSION / 100 % 100 == ATTEND_VERSION_MINOR);
  static_assert(ATTEND_VERSION % 100 == ATTEND_VERSION_PATCH);
}

TEST(Version, IsThePortsAndHasAnEntryInTheChangelog) {
  EXPECT_THAT(text_of("ports/attend/vcpkg.json"), testing::HasSubstr("\"version-semver\": \"" + version + "\""));
  EXPECT_THAT(text_of("CHANGELOG.md"), testing::HasSubstr("\n## [" + version + "] - "));
}

}  // namespace
