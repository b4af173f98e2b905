// SPDX-License-Identifier: BSD-3-Clause
// Word errors: the fewest words that must be replaced, left out or put in, so that a text is the original (the
// distance of Levenshtein, over words). A word is what stands between spaces; case and punctuation count.
#pragma once

#include <algorithm>
#include <cstddef>
#include <sstream>
#include <string>
#include <vector>

namespace whisper {

inline std::vector<std::string> words_of(std::string const& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

/// O(words of one times words of the other).
inline std::size_t word_errors(std::string const& text, std::string const& original) {
  std::vector<std::string> const got = words_of(text), expected = words_of(original);
  // errors[j]: between the words so far and the first j of the original.
  std::vector<std::size_t> errors(expected.size() + 1);
  for (std::size_t j = 0; j < errors.size(); ++j) errors[j] = j;
  for (std::size_t i = 0; i < got.size(); ++i) {
    std::size_t shorter = errors[0]++;
    for (std::size_t j = 0; j < expected.size(); ++j) {
      std::size_t const replaced = shorter + (got[i] == expected[j] ? 0 : 1);
      shorter = errors[j + 1];
      errors[j + 1] = std::min({replaced, errors[j] + 1, errors[j + 1] + 1});
    }
  }
  return errors.back();
}

}  // namespace whisper
