// SPDX-License-Identifier: BSD-3-Clause
// ALiBi: s -> s - slope[head] * |position of the query - key|.
//
// Ofir Press, Noah Smith, Mike Lewis: Train Short, Test Long: Attention with Linear Biases Enables Input Length
// Extrapolation, 2022. The paper's slopes for H heads, a power of two, are 2^(-8 h / H), h = 1..H (`alibi_slopes`); for
// other H the slopes of the next smaller power are followed by every second one of the next larger.
#pragma once

#include <cmath>
#include <vector>

#include "../row_tensor.hpp"
#include "score.hpp"

namespace attend::inline ATTEND_TARGET {

/// Subtracts a slope times the distance in tokens. The slopes hold the accumulation type; a call throws argument_error
/// where there is not one for each query head.
///
///     softmax_attention(q, k, v, o, causal{}, alibi(alibi_slopes(8)));
template <class Value>
class alibi {
 public:
  using option_kind = option::score;
  static constexpr bool may_hide = false, keeps_slope = true;

  /// Takes one slope for each query head.
  template <extend::TensorArgument Slopes>
  explicit alibi(Slopes const& slopes) : slopes_(detail::row_tensor<Value>::of_heads(slopes)) {}

  void check(extend::problem_shape const& shape) const { slopes_.check("alibi", shape); }
  template <class T>
  auto bind(extend::tile_rows<T> const& rows, extend::key_range) const {
    return [slope = extend::lane_values<T>([&](int lane) { return slopes_.at(rows, lane); })](
               simd::vector<T> const& s, extend::score_place<T> const& place) {
      return s - slope.at(place.lane) * simd::abs(place.query_position - place.key_position);
    };
  }

 private:
  detail::row_tensor<Value> slopes_;
};
template <class Slopes>
alibi(Slopes const&) -> alibi<extend::element_of_t<Slopes const>>;

namespace options {

/// Gives the paper's slopes, one for each head. Throws argument_error for a negative number of heads.
///
///     std::vector<float> const slopes = alibi_slopes(8);
inline std::vector<float> alibi_slopes(index_t heads) {
  extend::arithmetic_mode const arithmetic;
  detail::check_heads(heads);
  std::vector<float> slopes;
  index_t power = 1;
  while (power * 2 <= heads) power *= 2;
  auto const slope = [&](double eighths) {
    slopes.push_back(static_cast<float>(std::exp2(-eighths / static_cast<double>(power))));
  };
  for (index_t h = 1; h <= power && h <= heads; ++h) slope(8 * static_cast<double>(h));
  for (index_t h = 1; static_cast<index_t>(slopes.size()) < heads; h += 2) slope(4 * static_cast<double>(h));
  return slopes;
}

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
