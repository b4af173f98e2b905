// SPDX-License-Identifier: BSD-3-Clause
// Angular hashing with sorted buckets: tokens with a large product fall into the same or neighbouring buckets.
//
//   bit t of code(x) = [x . g_t > 0]                     g_t normal directions
//   bucket(x)        = the place of code(x) in the reflected Gray order
//
// so that the codes of neighbouring buckets differ in one bit. (The authors' program computes the Gray code of code(x)
// instead, which is the inverse function; codes of its neighbouring buckets may differ in many bits.)
//
// Cost: 2 * bits * dimension operations for each token, and a counting sort.
//
// Moses Charikar: Similarity Estimation Techniques from Rounding Algorithms, 2002 (the hash); Insu Han et al.:
// HyperAttention: Long-context Attention in Near-Linear Time, 2023 (sorted by it).
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "../core/arithmetic_mode.hpp"
#include "../core/error.hpp"
#include "../core/scratch.hpp"
#include "../core/tensor_view.hpp"

namespace attend::inline ATTEND_TARGET {

namespace selection {

/// Random directions [bits, dimension], which are drawn once from a seed.
///
///     hash_directions const directions(7, 128, 1);  // bits, key dimension, seed
class hash_directions {
 public:
  static constexpr index_t max_bits = 16;

  hash_directions(index_t bits, index_t dimension, std::uint64_t seed) : bits_(bits), dimension_(dimension) {
    extend::arithmetic_mode const arithmetic;
    if (bits < 0 || bits > max_bits) extend::fail("hash_directions", "expected 0 to ", max_bits, " bits, got ", bits);
    if (dimension < 0 || dimension >= extend::token_limit)
      extend::fail("hash_directions", "expected a dimension from 0 to ", extend::token_limit - 1, ", got ", dimension);
    std::mt19937_64 engine(seed);
    std::normal_distribution<double> normal;
    for (index_t i = 0; i < bits * dimension; ++i) directions_.push_back(normal(engine));
  }

  index_t bits() const { return bits_; }
  index_t dimension() const { return dimension_; }
  tensor_view<double const, 2> view() const { return {directions_.data(), {bits_, dimension_}}; }

 private:
  index_t bits_, dimension_;
  std::vector<double> directions_;
};

}  // namespace selection

namespace detail {

/// The place of a code in the reflected Gray order: the number whose Gray code is `code`.
constexpr std::uint32_t gray_place(std::uint32_t code) {
  for (int shift = 1; shift < 32; shift *= 2) code ^= code >> shift;
  return code;
}

/// Sorts the tokens [first, first + count) by bucket[token], which is below `buckets`. Tokens of one bucket keep their
/// order.
inline void sort_by_bucket(std::uint16_t const* bucket, index_t buckets, index_t first, index_t count,
                           std::int32_t* sorted) {
  scratch memory;
  auto* const next = memory.allocate<index_t>(buckets + 1);
  std::fill_n(next, buckets + 1, index_t{0});
  for (index_t i = first; i < first + count; ++i) ++next[bucket[i] + 1];
  for (index_t b = 0; b < buckets; ++b) next[b + 1] += next[b];
  for (index_t i = first; i < first + count; ++i) sorted[next[bucket[i]]++] = static_cast<std::int32_t>(i);
}

}  // namespace detail
}  // namespace attend::inline ATTEND_TARGET
