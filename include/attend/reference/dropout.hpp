// SPDX-License-Identifier: BSD-3-Clause
// Dropout by definition: the random words of a pair's counter, and the factor of its weight.
//
// John Salmon, Mark Moraes, Ron Dror, David Shaw: Parallel Random Numbers: As Easy as 1, 2, 3, 2011 (Philox4x32-10).
#pragma once

#include <array>
#include <cstdint>

#include "../core/types.hpp"

namespace attend::inline ATTEND_TARGET::reference {

using philox_words = std::array<std::uint32_t, 4>;

/// Ten rounds, each of two products and an exchange of words, between which the key goes on by two constants.
inline philox_words philox(philox_words x, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    std::uint64_t const left = std::uint64_t{0xD2511F53} * x[0], right = std::uint64_t{0xCD9E8D57} * x[2];
    auto const high = [](std::uint64_t product) { return static_cast<std::uint32_t>(product >> 32); };
    x = {high(right) ^ x[1] ^ key[0], static_cast<std::uint32_t>(right), high(left) ^ x[3] ^ key[1],
         static_cast<std::uint32_t>(left)};
    key = {key[0] + 0x9E3779B9, key[1] + 0xBB67AE85};
  }
  return x;
}

/// The factor of the weight of a query and a key, tokens of their tensors, in row `head` of all batches' query heads.
inline double dropout_gain(double probability, std::uint64_t seed, std::uint32_t offset, index_t head, index_t query,
                           index_t key) {
  auto const word = [](auto number) { return static_cast<std::uint32_t>(number); };
  philox_words const words =
      philox({word(key / 4), word(query), word(head), offset}, {word(seed & 0xFFFFFFFF), word(seed >> 32)});
  return words[static_cast<std::size_t>(key % 4)] < probability * 0x1p32 ? 0 : 1 / (1 - probability);
}

}  // namespace attend::inline ATTEND_TARGET::reference
