// SPDX-License-Identifier: BSD-3-Clause
// From tokens to text: a token of byte-level byte-pair encoding stands for some bytes, and the bytes of all of them are
// UTF-8.
//
// The file vocabulary.txt has a token a line, the first of which is token 0. So that every byte can be seen, it is
// written as a character: bytes that are printable characters of Latin-1 as themselves, and the 68 others, in their
// order, as the characters from U+0100 on: a space is U+0120. What stands between <| and |> says what is to be done,
// and is no text.
//
// Alec Radford et al.: Language Models are Unsupervised Multitask Learners, 2019 (GPT-2), and its encoder.py.
#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace whisper {

class vocabulary {
 public:
  /// Throws std::runtime_error that names the file where it cannot be read, or a line has other characters.
  explicit vocabulary(std::filesystem::path const& path) {
    std::ifstream stream(path);
    if (!stream) throw std::runtime_error(path.string() + ": cannot be read");
    for (std::string line; std::getline(stream, line);) {
      auto const token = static_cast<int>(bytes_.size());
      if (line.starts_with("<|") && line.ends_with("|>") && line.size() > 4) {
        commands_.emplace(line, token);
        bytes_.emplace_back();
      } else {
        bytes_.push_back(bytes_of(line, path.string() + ": line " + std::to_string(token + 1)));
      }
    }
    if (bytes_.empty()) throw std::runtime_error(path.string() + ": expected a token a line, got none");
    file_ = path.string();
  }

  std::size_t size() const { return bytes_.size(); }

  /// The bytes of a token, none of one that is no text: a character may be parted among several. Throws
  /// std::out_of_range for what is no token.
  std::string const& text(int token) const { return bytes_.at(static_cast<std::size_t>(token)); }

  /// The token <|name|>. Throws std::runtime_error where there is none.
  int command(std::string const& name) const {
    auto const found = commands_.find("<|" + name + "|>");
    if (found == commands_.end()) throw std::runtime_error(file_ + ": expected a token <|" + name + "|>, got none");
    return found->second;
  }

 private:
  /// Of the characters up to U+0143 the byte that each stands for, or -1.
  static std::array<int, 0x144> byte_of_character() {
    std::array<int, 0x144> result;
    result.fill(-1);
    std::size_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      bool const seen = (byte > ' ' && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
      result[seen ? static_cast<std::size_t>(byte) : next++] = byte;
    }
    return result;
  }

  static std::string bytes_of(std::string_view line, std::string const& where) {
    static std::array<int, 0x144> const table = byte_of_character();
    std::string result;
    for (std::size_t i = 0; i < line.size(); ++i) {
      auto const unit = [&](std::size_t at) {
        return at < line.size() ? static_cast<std::size_t>(static_cast<unsigned char>(line[at])) : std::size_t{0};
      };
      std::size_t character = unit(i);
      // All of them have one or two bytes in UTF-8.
      if (character >= 0xC2 && character <= 0xC5 && (unit(i + 1) & 0xC0) == 0x80)
        character = (character & 0x1F) << 6 | (unit(++i) & 0x3F);
      else if (character >= 0x80)
        character = table.size();
      if (character >= table.size() || table[character] < 0)
        throw std::runtime_error(where + ": expected characters that stand for bytes, got '" + std::string(line) + "'");
      result += static_cast<char>(table[character]);
    }
    return result;
  }

  std::string file_;
  std::vector<std::string> bytes_;
  std::unordered_map<std::string, int> commands_;
};

}  // namespace whisper
