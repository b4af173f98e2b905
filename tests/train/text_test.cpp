// SPDX-License-Identifier: BSD-3-Clause
// The text of examples/train: characters that the model knows, the comments of headers, and files in their order.
#include "text.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

namespace {

namespace files = std::filesystem;

TEST(TrainText, IsOfKnownCharacters) {
  EXPECT_EQ(train::characters().size(), 96u);
  EXPECT_EQ(train::known("a\tb\r\n~\x7f"), "ab\n~");
  EXPECT_EQ(train::known("it\u2019s \u2018so\u2019, 5 \u00b5s, na\u00efve"), "it's 'so', 5 us, nave");
  EXPECT_EQ(train::known(""), "");
  EXPECT_THAT(train::tokens_of("\n ~"), testing::ElementsAre(0, 1, 95));
}

TEST(TrainText, HasTheSentencesOfHeaders) {
  EXPECT_EQ(train::comments("// One.\n//\n#pragma once\r\n  /// Two.\r\nint x;  // not this\n//  three"),
            "One.\n\nTwo.\n three");
  EXPECT_EQ(train::comments(""), "");
  EXPECT_EQ(train::comments("\n\n"), "");
}

TEST(TrainText, IsTheRepositorysButForWhatIsHeldOut) {
  files::path const root = files::path(testing::TempDir()) / "attend_train_text";
  auto const write = [&](files::path const& name, std::string const& text) {
    files::create_directories((root / name).parent_path());
    std::ofstream(root / name, std::ios::binary) << text;
  };
  write("README.md", "first");
  write("CONTRIBUTING.md", "second");
  EXPECT_THROW(train::repository_texts(root), std::runtime_error) << "CHANGELOG.md is not there";
  write("CHANGELOG.md", "third");
  write("docs/design.md", "held out");
  write("docs/z.md", "page z");
  write("docs/a.md", "page a");
  write("docs/a.txt", "no page");
  // In the order of paths, folder by folder: a.hpp stands in front of a folder's a-b.hpp.
  write("include/b.hpp", "// header b\n");
  write("include/a/c.hpp", "// header c\n");
  train::texts const text = train::repository_texts(root);
  EXPECT_EQ(text.trained, "first\n\nsecond\n\nthird\n\npage a\n\npage z\n\nheader c\n\nheader b");
  EXPECT_EQ(text.held_out, "held out");

  write("mine.txt", std::string(15, 'x') + "\u00e9" + std::string(6, 'y'));
  train::texts const mine = train::texts_of_file(root / "mine.txt");
  EXPECT_EQ(mine.trained, std::string(15, 'x') + "yyyy");
  EXPECT_EQ(mine.held_out, "yy");
  EXPECT_THROW(train::texts_of_file(root / "none.txt"), std::runtime_error);
  files::remove_all(root);
}

}  // namespace
