// SPDX-License-Identifier: BSD-3-Clause
// The work on a block of value columns by a matrix unit (pair_chunk.hpp), with the products of a chunk
//
//   added   D = along^T . written       what the chunk adds to the state, in float
//   read    A = queries . state         from the state before the chunk
//   weighed B = weights . values        from the chunk's own tokens
//
//   values   [token][column]     in pairs of tokens, as the tensor has them
//   written  [token][column]     values, times decays to the chunk's end and rates: two parts where there are some
//   state    [feature][column]   in pairs of features, two parts
//
// A panel is as many columns as a register tile is wide, as everywhere in the engine. The unit computes each sum by
// itself, so bits do not depend on how columns are cut.
//
// A weight of 0 times an infinite value would be NaN in rows that do not see the value: values that are not finite are
// zeros for the unit, and are added where they are seen.
#pragma once

#include "chunk_products.hpp"
#include "pair_chunk.hpp"

namespace attend::inline ATTEND_TARGET::engine {

class pair_columns {
 public:
  /// `columns` is padded to whole vectors. With `weighs` what tokens write differs from their values.
  pair_columns(scratch& memory, index_t features, index_t max_tokens, index_t columns, bool weighs)
      : depth_(pair_chunk::depth_of(features)),
        tokens_(pair_chunk::depth_of(max_tokens)),
        columns_(columns),
        weighs_(weighs),
        values_(memory.allocate<simd::pair_bits>(tokens_ / 2 * columns)),
        written_(weighs ? memory.allocate<simd::pair_bits>(tokens_ * columns) : nullptr),
        state_(memory.allocate<simd::pair_bits>(depth_ * columns)),
        added_(memory.allocate<float>(depth_ * columns)),
        sums_(memory.allocate<float>(4 * most_sums)) {
    std::fill_n(state_, depth_ * columns, simd::pair_bits(0));
  }

  /// Sets the values of a panel: `read(j, v)` is vector v of token j. Tokens write them times `factors`.
  template <int Vectors, class Read>
  void set_values(index_t column, index_t count, float const* factors, Read const& read) {
    constexpr index_t lanes = Vectors * width;
    simd::pair_bits *const to = values_of(column), *const written = written_of(column);
    auto const pack = [&](auto const& read_finite) ATTEND_INLINE_LAMBDA {
      for (index_t j = 0; j < pair_chunk::depth_of(count); j += 2) ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) {
          simd::vector<float> const nothing(0.0f), first = j < count ? read_finite(j, v) : nothing,
                                                   second = j + 1 < count ? read_finite(j + 1, v) : nothing;
          index_t const at = j / 2 * lanes + v * width;
          bits const pairs = (std::bit_cast<bits>(first) >> 16) | std::bit_cast<bits>(second);
          std::memcpy(to + at, &pairs, sizeof(pairs));
          if (weighs_ && j < count)
            simd::store_pair_parts(first * simd::vector<float>(factors[j]),
                                   second * simd::vector<float>(factors[j + 1]), written + at, written + part() + at);
          else if (weighs_)
            for (index_t p = 0; p < 2; ++p) std::fill_n(written + p * part() + at, width, simd::pair_bits(0));
        }
    };
    // Infinite or NaN: an exponent with all bits set carries into the sign.
    bits carried{};
    pack([&](index_t j, int v) ATTEND_INLINE_LAMBDA {
      simd::vector<float> const x = read(j, v);
      carried |= (std::bit_cast<bits>(x) & 0x7fffffffu) + 0x800000u;
      return x;
    });
    simd::pair_bits any = 0;
    for (int lane = 0; lane < width; ++lane) any |= carried[lane];
    if (column == 0) finite_ = true;
    if (any < 0x80000000u) return;
    finite_ = false;
    pack([&](index_t j, int v) {
      simd::vector<float> const x = read(j, v);
      return simd::select(simd::abs(x) < simd::vector<float>(infinity<float>), x, simd::vector<float>(0.0f));
    });
  }
  /// Whether no value is infinite or NaN.
  bool values_are_finite() const { return finite_; }

  /// Computes what the chunk adds to the features of a panel.
  template <int Vectors>
  void multiply_added(chunk_unit& unit, pair_chunk const& chunk, index_t column, index_t features, index_t count) {
    constexpr index_t lanes = Vectors * width;
    pair_columns_in_parts const written = weighs_ ? pair_columns_in_parts{written_of(column), lanes, part(), 2}
                                                  : pair_columns_in_parts{values_of(column), lanes, 0, 1};
    for_row_groups<Vectors>(pair_chunk::rows_of(features), [&]<int Groups>(index_t f) {
      multiply_parts<Groups, Vectors>(unit, chunk.along().from(f), written, pair_chunk::depth_of(count),
                                      added(column) + f * lanes, lanes, [] {});
    });
  }
  /// [feature][Vectors * width]
  float* added(index_t column) const { return added_ + column * depth_; }

  /// Sets the state that is read, of which `features` rows are not zeros: an even number.
  template <int Vectors>
  void set_state(index_t column, float const* state, index_t features) {
    constexpr index_t lanes = Vectors * width;
    simd::pair_bits* const to = state_ + column * depth_ / 2;
    for (index_t f = 0; f < features; f += 2) ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) {
        float const* const from = state + f * lanes + v * width;
        index_t const at = f / 2 * lanes + v * width;
        simd::store_pair_parts(simd::load(from), simd::load(from + lanes), to + at, to + columns_ * depth_ / 2 + at);
      }
  }

  /// Calls answer(i, rows, A, B) for tiles of queries, whose sums have Vectors * width columns; without `weighs`, B is
  /// not there. Tiles are answered while the unit multiplies the next ones, and take the steps of the prefetch.
  template <int Vectors, class Answer>
  void read(chunk_unit& unit, pair_chunk const& chunk, index_t head, index_t column, index_t queries, bool weighs,
            chunk_prefetch& prefetch, Answer const& answer) {
    constexpr index_t lanes = Vectors * width;
    auto const beside = [&]() ATTEND_INLINE_LAMBDA { prefetch.step(); };
    float *now = sums_, *before = sums_ + 2 * most_sums;
    index_t answered = 0;
    pair_columns_in_parts const state{state_ + column * depth_ / 2, lanes, columns_ * depth_ / 2, 2},
        values{values_of(column), lanes, 0, 1};
    for_row_groups<Vectors>(pair_chunk::rows_of(queries), [&]<int Groups>(index_t i) {
      multiply_parts<Groups, Vectors>(unit, chunk.queries(head).from(i), state, depth_, now, lanes, beside);
      if (weighs)
        multiply_parts<Groups, Vectors>(unit, chunk.weights(head).from(i), values,
                                        pair_chunk::depth_of(i + Groups * simd::pair_tile), now + most_sums, lanes,
                                        beside);
      if (i > 0) answer(answered, i - answered, before, before + most_sums);
      answered = i;
      std::swap(now, before);
    });
    answer(answered, queries - answered, before, before + most_sums);
  }

 private:
  using bits [[gnu::vector_size(sizeof(float) * simd::width<float>)]] = simd::pair_bits;
  static constexpr index_t width = simd::width<float>;
  static constexpr index_t most_sums = 4 * simd::pair_tile * width;

  simd::pair_bits* values_of(index_t column) const { return values_ + column * tokens_ / 2; }
  simd::pair_bits* written_of(index_t column) const { return written_ + column * tokens_ / 2; }
  index_t part() const { return columns_ * tokens_ / 2; }

  index_t depth_, tokens_, columns_;
  bool weighs_, finite_ = true;
  simd::pair_bits *values_, *written_, *state_;
  float *added_, *sums_;
};

}  // namespace attend::inline ATTEND_TARGET::engine
