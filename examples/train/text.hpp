// SPDX-License-Identifier: BSD-3-Clause
// The text that is trained on, in the characters that the model knows: printable ASCII and the line feed.
//
// This repository's own text is README.md, CONTRIBUTING.md, CHANGELOG.md, the pages of docs/ and the comments of the
// headers, one behind the other in the order of their paths. docs/design.md is held out: no character of it is trained
// on. ../generate/train.py reads the same.
#pragma once

#include <algorithm>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "../io/bytes.hpp"

namespace train {

/// Each character once; a token is the place of its character here.
inline std::string const& characters() {
  static std::string const all = [] {
    std::string result = "\n";
    for (char character = ' '; character <= '~'; ++character) result += character;
    return result;
  }();
  return all;
}

/// A text in UTF-8 in the characters that the model knows. Others are left out, but for some that look like those.
inline std::string known(std::string text) {
  struct replacement {
    std::string_view typographic;
    char plain;
  };
  for (auto const& [typographic, plain] :
       {replacement{"\u2018", '\''}, replacement{"\u2019", '\''}, replacement{"\u00b5", 'u'}})
    for (std::size_t at = 0; (at = text.find(typographic, at)) != std::string::npos;)
      text.replace(at, typographic.size(), 1, plain);
  std::erase_if(text, [](char character) { return characters().find(character) == std::string::npos; });
  return text;
}

/// The sentences of a header: its comments without what marks them as such.
inline std::string comments(std::string_view header) {
  std::string result;
  while (!header.empty()) {
    std::size_t const end = std::min(header.find('\n'), header.size() - 1);
    std::string_view line = header.substr(0, end + 1);
    header.remove_prefix(end + 1);
    constexpr char const* space = " \t\r\n";
    line.remove_prefix(std::min(line.find_first_not_of(space), line.size()));
    line = line.substr(0, line.find_last_not_of(space) + 1);
    if (!line.starts_with("//")) continue;
    line.remove_prefix(std::min(line.find_first_not_of('/'), line.size()));
    if (line.starts_with(' ')) line.remove_prefix(1);
    (result += result.empty() ? "" : "\n") += line;
  }
  return result;
}

struct texts {
  std::string trained, held_out;
};

inline std::string read_text(std::filesystem::path const& path) {
  auto const bytes = attend_io::detail::read_file(path);
  return {reinterpret_cast<char const*>(bytes.data()), bytes.size()};
}

/// The text of this repository, whose sources lie at `root`. Throws std::runtime_error that names what cannot be read.
inline texts repository_texts(std::filesystem::path const& root) {
  namespace files = std::filesystem;
  auto const sorted = [](auto entries, std::string_view extension) {
    std::vector<files::path> result;
    for (files::directory_entry const& entry : entries)
      if (entry.path().extension() == extension) result.push_back(entry.path());
    std::sort(result.begin(), result.end());
    return result;
  };
  std::string all;
  auto const add = [&](std::string const& part) { (all += all.empty() ? "" : "\n\n") += part; };
  for (char const* const page : {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"}) add(read_text(root / page));
  files::path const held_out = root / "docs" / "design.md";
  for (files::path const& page : sorted(files::directory_iterator(root / "docs"), ".md"))
    if (page != held_out) add(read_text(page));
  for (files::path const& header : sorted(files::recursive_directory_iterator(root / "include"), ".hpp"))
    add(comments(read_text(header)));
  return {known(std::move(all)), known(read_text(held_out))};
}

/// A text of the user's, of which the last tenth is held out. Throws std::runtime_error that names the file.
inline texts texts_of_file(std::filesystem::path const& path) {
  std::string text = known(read_text(path));
  std::size_t const trained = text.size() - text.size() / 10;
  std::string held_out = text.substr(trained);
  text.resize(trained);
  return {std::move(text), std::move(held_out)};
}

/// The tokens of a text of known characters.
inline std::vector<int> tokens_of(std::string_view text) {
  std::vector<int> tokens;
  tokens.reserve(text.size());
  for (char const character : text) tokens.push_back(static_cast<int>(characters().find(character)));
  return tokens;
}

}  // namespace train
