// SPDX-License-Identifier: BSD-3-Clause
// Tokens to text: every byte from the character that stands for it, and lines that no byte stands for are refused.
#include "vocabulary.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <stdexcept>
#include <string>

namespace {

using testing::HasSubstr;
using testing::SizeIs;
using testing::StartsWith;
using whisper::vocabulary;

class VocabularyTest : public testing::Test {
 protected:
  VocabularyTest()
      : path_(std::filesystem::path(testing::TempDir()) /
              (std::string("attend_vocabulary_") + testing::UnitTest::GetInstance()->current_test_info()->name())) {}
  ~VocabularyTest() override { std::filesystem::remove(path_); }

  vocabulary read(std::string const& lines) const {
    std::ofstream(path_, std::ios::binary) << lines;
    return vocabulary(path_);
  }

  std::string refusal(std::string const& lines) const {
    try {
      read(lines);
    } catch (std::runtime_error const& error) {
      EXPECT_THAT(error.what(), StartsWith(path_.string()));
      return error.what();
    }
    return "not refused";
  }

  std::filesystem::path path_;
};

TEST_F(VocabularyTest, GivesTheBytesOfTokens) {
  // A space, a newline, the two bytes of e with an acute accent, and a soft hyphen's byte.
  vocabulary const words = read("!\n\u0120the\n\u010a\n\u00c3\u00a9\n\u0143\n<|endoftext|>\n<|\n");
  EXPECT_EQ(words.size(), 7u);
  EXPECT_EQ(words.text(0), "!");
  EXPECT_EQ(words.text(1), " the");
  EXPECT_EQ(words.text(2), "\n");
  EXPECT_EQ(words.text(3), "\u00e9");
  EXPECT_EQ(words.text(4), "\xAD");
  EXPECT_EQ(words.text(5), "");
  EXPECT_EQ(words.text(6), "<|");
  EXPECT_EQ(words.command("endoftext"), 5);
  EXPECT_THROW(words.text(7), std::out_of_range);
  EXPECT_THROW(words.text(-1), std::out_of_range);
  EXPECT_THROW(words.command("other"), std::runtime_error);
}

TEST_F(VocabularyTest, HasACharacterForEveryByte) {
  std::string lines;
  for (int character = '!'; character < 0x144; ++character) {
    bool const stands_for_a_byte = (character < 0x7F) || (character > 0xA0 && character != 0xAD);
    if (!stands_for_a_byte) continue;
    if (character < 0x80)
      lines += static_cast<char>(character);
    else
      (lines += static_cast<char>(0xC0 | character >> 6)) += static_cast<char>(0x80 | (character & 0x3F));
    lines += '\n';
  }
  vocabulary const words = read(lines);
  std::set<std::string> bytes;
  for (int token = 0; token < 256; ++token) bytes.insert(words.text(token));
  EXPECT_EQ(words.size(), 256u);
  EXPECT_THAT(bytes, SizeIs(256));
  EXPECT_THAT(bytes, testing::Each(SizeIs(1)));
}

TEST_F(VocabularyTest, RefusesOtherCharacters) {
  EXPECT_THAT(refusal("a\na b\n"), HasSubstr("line 2: expected characters that stand for bytes, got 'a b'"));
  EXPECT_THAT(refusal("a\r\n"), HasSubstr("line 1"));
  EXPECT_THAT(refusal("\u00ad\n"), HasSubstr("line 1"));
  EXPECT_THAT(refusal("\u0144\n"), HasSubstr("line 1"));
  EXPECT_THAT(refusal("\xC4\n"), HasSubstr("line 1"));      // the first half of a character
  EXPECT_THAT(refusal("\xC0\xA1\n"), HasSubstr("line 1"));  // '!' in too many bytes
  EXPECT_THAT(refusal("\u20ac\n"), HasSubstr("line 1"));
  EXPECT_THAT(refusal(""), HasSubstr("expected a token a line, got none"));
  EXPECT_THROW(vocabulary(path_.string() + ".none"), std::runtime_error);
}

}  // namespace
