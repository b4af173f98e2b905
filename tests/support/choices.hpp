// SPDX-License-Identifier: BSD-3-Clause
// Where random problems get their choices from: a seed, or bytes that a fuzzer changes one by one.
#pragma once

#include <attend/core/types.hpp>

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>

namespace attend::test {

/// Independent choices from a seed.
class seeded_choices {
 public:
  explicit seeded_choices(unsigned seed) : engine_(seed) {}

  index_t from_to(index_t least, index_t most) { return std::uniform_int_distribution<index_t>(least, most)(engine_); }
  bool chance(double probability) { return std::bernoulli_distribution(probability)(engine_); }
  double real(double least, double most) { return std::uniform_real_distribution<double>(least, most)(engine_); }
  /// A seed for what follows.
  unsigned fresh() { return static_cast<unsigned>(engine_()); }

 private:
  std::mt19937 engine_;
};

/// Each choice is a byte of the input, so that a changed byte changes that choice alone; after the last byte, zeros.
/// Seeds count up: other data need no other choices.
class byte_choices {
 public:
  explicit byte_choices(std::span<std::uint8_t const> bytes) : bytes_(bytes) {}

  index_t from_to(index_t least, index_t most) { return least + next() % (most - least + 1); }
  bool chance(double probability) { return next() >= 256 * (1 - probability); }
  double real(double least, double most) { return least + (most - least) * static_cast<double>(next()) / 255; }
  unsigned fresh() { return 256 * ++seeds_ + static_cast<unsigned>(next()); }

 private:
  index_t next() {
    if (bytes_.empty()) return 0;
    index_t const byte = bytes_.front();
    bytes_ = bytes_.subspan(1);
    return byte;
  }

  std::span<std::uint8_t const> bytes_;
  unsigned seeds_ = 0;
};

}  // namespace attend::test
