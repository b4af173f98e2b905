// SPDX-License-Identifier: BSD-3-Clause
// What the examples write: files that are whole or not there, and .safetensors that their reader reads.
#include "save_safetensors.hpp"

#include "option_values.hpp"
#include "safetensors.hpp"
#include "whole_file.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

namespace files = std::filesystem;

class IoSave : public testing::Test {
 protected:
  IoSave() : path_(files::path(testing::TempDir()) / "attend_io_save") {}
  ~IoSave() override { files::remove_all(path_); }

  std::string content() const {
    std::ifstream stream(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }

  files::path path_;
};

TEST_F(IoSave, WritesWholeFilesOrNone) {
  attend_io::write_whole(path_, std::string("first\n\0bytes", 12));
  EXPECT_EQ(content(), std::string("first\n\0bytes", 12));
  attend_io::write_whole(path_, "second");
  EXPECT_EQ(content(), "second");
  EXPECT_FALSE(files::exists(path_.string() + ".partial"));

  files::path const nowhere = path_ / "no" / "folder";
  try {
    attend_io::write_whole(nowhere, "third");
    ADD_FAILURE();
  } catch (std::runtime_error const& error) {
    EXPECT_THAT(error.what(), testing::StartsWith(nowhere.string() + ": cannot be written"));
  }
  EXPECT_EQ(content(), "second");

  // A folder does not lose its name to a file.
  files::remove(path_);
  files::create_directories(path_ / "inside");
  EXPECT_THROW(attend_io::write_whole(path_, "fourth"), std::runtime_error);
  EXPECT_TRUE(files::is_directory(path_));
  EXPECT_FALSE(files::exists(path_.string() + ".partial"));
}

TEST_F(IoSave, WritesSafetensorsThatAreRead) {
  std::vector<float> const numbers{1, -2.5f, 3, 4, 5, 6};
  attend_io::save_safetensors<float>(path_, {{"b", {{2, 3}, numbers}}, {"a", {{}, std::span(numbers).first(1)}}},
                                     {{"format", "a \"quoted\"\n word"}});
  attend_io::safetensors const read(path_);
  EXPECT_EQ(read.metadata().at("format"), "a \"quoted\"\n word");
  EXPECT_EQ(read.tensors().size(), 2u);
  EXPECT_EQ(read.at("b").dtype, "F32");
  EXPECT_THAT(read.at("b").shape, testing::ElementsAre(2, 3));
  EXPECT_EQ(read.values<float>("b"), numbers);
  EXPECT_THAT(read.values<float>("a"), testing::ElementsAre(1));

  std::vector<Eigen::half> const halves{Eigen::half(.5f), Eigen::half(-8.f)};
  attend_io::save_safetensors<Eigen::half>(path_, {{"h", {{2}, halves}}}, {});
  EXPECT_EQ(attend_io::safetensors(path_).at("h").dtype, "F16");
  EXPECT_THAT(attend_io::safetensors(path_).values<float>("h"), testing::ElementsAre(.5f, -8));

  EXPECT_THROW(attend_io::save_safetensors<float>(path_, {{"b", {{7}, numbers}}}, {}), std::runtime_error);
  EXPECT_EQ(attend_io::safetensors(path_).at("h").dtype, "F16") << "the file of before stays";
}

TEST(IoOptionValues, AreWholeNumbersWithinLimits) {
  EXPECT_EQ(attend_io::parse_number("--steps", "12", 1, 12), 12);
  for (char const* const text : {"", "0", "13", "-1", "1.5", "1x", " 1", "99999999999999"}) try {
      attend_io::parse_number("--steps", text, 1, 12);
      ADD_FAILURE() << text;
    } catch (std::invalid_argument const& error) {
      EXPECT_EQ(error.what(), "--steps: expected a number from 1 to 12, got '" + std::string(text) + "'");
    }
}

}  // namespace
