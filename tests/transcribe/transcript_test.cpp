// SPDX-License-Identifier: BSD-3-Clause
// When words are not believed, and how texts differ in words.
#include "transcript.hpp"

#include "word_errors.hpp"

#include <gtest/gtest.h>

namespace {

using whisper::transcript;
using whisper::word_errors;

TEST(Transcripts, AreNoSpeechWhereBothSignsSaySo) {
  EXPECT_FALSE((transcript{{1}, 0.61, -1.01}.is_speech()));
  EXPECT_TRUE((transcript{{1}, 0.6, -1.01}.is_speech()));
  EXPECT_TRUE((transcript{{1}, 0.61, -1}.is_speech()));
  EXPECT_TRUE((transcript{{1}, 0.99, -0.1}.is_speech()));
}

TEST(WordErrors, AreTheFewestChangesOfWords) {
  EXPECT_EQ(word_errors("", ""), 0u);
  EXPECT_EQ(word_errors(" Close the  door.", "Close the door."), 0u);
  EXPECT_EQ(word_errors("", "Close the door."), 3u);
  EXPECT_EQ(word_errors("Close the door.", ""), 3u);
  EXPECT_EQ(word_errors("Close a door.", "Close the door."), 1u);
  EXPECT_EQ(word_errors("Close door.", "Close the door."), 1u);
  EXPECT_EQ(word_errors("Please close the the door.", "Close the door."), 3u);
  // A word put in ahead shifts the others, which stay right.
  EXPECT_EQ(word_errors("now open the window", "open the window"), 1u);
  EXPECT_EQ(word_errors("open the window", "close the window now"), 2u);
}

}  // namespace
