// SPDX-License-Identifier: BSD-3-Clause
// Dropout: after the softmax, each weight is 0 with probability p, and otherwise multiplied by 1 / (1 - p), so that its
// mean is what it was.
//
//   o_i = sum_j p_ij d_ij v_j,    d_ij = 0 where word_ij < p 2^32, and 1 / (1 - p) elsewhere
//
// The words are those of a counter (simd/philox.hpp), so that the backward call makes the same ones again, and no mask
// is stored. With i and j the tokens of query and key on their tensors' axes:
//
//   word_ij = word j % 4 of philox(counter, key)
//   counter = (j / 4,  i,  batch * query heads + query head,  offset)        key = the low and the high half of the
//   seed
//
// So a word depends on nothing but the pair, the seed and the offset: neither on threads and tiles nor on the
// instruction set. The log-sum-exp is that of all weights. A call that takes tokens in an order of its own counts their
// places in that order.
//
// Cost: for 16 pairs about as much as 50 multiply-adds of vectors of 16.
//
// Nitish Srivastava et al.: Dropout, 2014; of attention's weights, with a mask that is made again: Tri Dao et al.:
// FlashAttention, 2022.
#pragma once

#include <cmath>
#include <cstring>

#include "../core/check.hpp"
#include "../core/options.hpp"
#include "../simd/philox.hpp"
#include "tile.hpp"

namespace attend::inline ATTEND_TARGET::options {

/// Drops weights at random, with a probability from 0 to below 1. A backward call with the same numbers drops the same
/// weights; every call that is to drop others takes another offset, such as the number of a step times the layers, plus
/// that of the layer. A call throws argument_error where the probability is out of its range.
///
///     softmax_attention(q, k, v, o, causal{}, dropout{.probability = 0.1, .seed = 7, .offset = 0});
struct dropout {
  using option_kind = option::pair_gain;

  double probability = 0;
  std::uint64_t seed = 0;
  std::uint32_t offset = 0;

  void check(problem_shape const&) const {
    if (!(probability >= 0 && probability < 1))
      fail("dropout (probability)", "expected a number from 0 to below 1, got ", probability);
  }

  template <class T>
  auto bind(tile_rows<T> const& rows, key_range range) const {
    struct bound {
      index_t first;
      // Uninitialised where nothing is worked on: it is never read there.
      alignas(64) T gains[max_block_keys][tile_rows<T>::lanes];
      simd::vector<T> operator()(score_place<T> const& place) const {
        return simd::load(gains[place.key_index - first] + place.lane);
      }
    };
    bound result;
    result.first = range.first;
    fill(rows, range, result.gains);
    return result;
  }

 private:
  template <class T>
  void fill(tile_rows<T> const& rows, key_range range, T (*gains)[tile_rows<T>::lanes]) const {
    using namespace simd;
    constexpr int step = width<double>, words_of_counter = 4;
    static_assert(tile_rows<T>::lanes % step == 0);
    using bits = position_t<T>;
    using signed_words [[gnu::vector_size(sizeof(wide_words))]] = std::int64_t;
    using narrow_words [[gnu::vector_size(sizeof(bits) * step)]] = bits;
    // Words are below 2^32, so that comparing them as signed numbers is right.
    auto const least = static_cast<std::int64_t>(std::llround(probability * 0x1p32));
    bits const kept = std::bit_cast<bits>(static_cast<T>(1 / (1 - probability)));
    index_t const first = rows.first_key_token + range.first, last = rows.first_key_token + range.last;
    int const used = rows.used > 0 ? rows.used : tile_rows<T>::lanes;
    for (int lane = 0; lane < used; lane += step) {
      wide_words query, head;
      for (int i = 0; i < step; ++i) {
        query[i] = static_cast<std::uint64_t>(rows.token[lane + i]);
        head[i] = static_cast<std::uint64_t>(rows.batch * rows.shape->query_heads + rows.head[lane + i]);
      }
      for (index_t key = first / words_of_counter * words_of_counter; key < last; key += words_of_counter) {
        wide_words words[words_of_counter] = {wide_words{} + static_cast<std::uint64_t>(key / words_of_counter), query,
                                              head, wide_words{} + std::uint64_t{offset}};
        philox(words, static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32));
        for (index_t j = std::max(key, first); j < std::min(key + words_of_counter, last); ++j) {
          auto const word = reinterpret_cast<signed_words>(words[j - key] & 0xFFFFFFFFu);
          narrow_words const gain = __builtin_convertvector(word >= least, narrow_words) & kept;
          std::memcpy(gains[j - first] + lane, &gain, sizeof(gain));
        }
      }
    }
  }
};

}  // namespace attend::inline ATTEND_TARGET::options
