// SPDX-License-Identifier: BSD-3-Clause
// Numbers for a query and a segment of keys: documents, pieces of a context, an image among text.
//
//   segment_gain{ranges, g}   output = sum_j p_ij g_i,s(j) v_j   the weight times a factor; nothing is normalized again
//   segment_bias{ranges, b}   s_ij + b_i,s(j)                    within the softmax: a segment with -inf is hidden
//
//   g, b    [batch, query head, query, segment]; an axis but the last may be 1 and then holds for all
//   ranges  ascending ranges of keys that do not overlap, as key_range: the same for all sequences, or as many for each
//           sequence, one sequence after the other. They may be empty, leave gaps, and end behind the last key
//   s(j)    the segment of key j; a key in none has gain 1 and bias 0
//
// Factors that come from sums of weights over segments are a second pass: the first one tells the sums.
//
// Cheng-Yu Hsieh et al.: Found in the Middle: Calibrating Positional Attention Bias Improves Long Context Utilization,
// 2024 (gains of documents). Zhisong Zhang et al.: Attention Entropy is a Key Factor, 2024 (pieces hidden from a
// query).
#pragma once

#include <cstdint>
#include <span>

#include "../core/check.hpp"
#include "../core/options.hpp"
#include "tile.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

template <class Value>
class segment_table {
 public:
  template <class Tensor>
  segment_table(std::span<key_range const> ranges, Tensor const& numbers)
      : ranges_(ranges), numbers_(raise<4>(view_of(numbers))) {}

  void check(char const* argument, problem_shape const& shape) const {
    check_view(argument, numbers_);
    index_t const expected[] = {shape.batches, shape.query_heads, shape.queries};
    for (int axis = 0; axis < 3; ++axis)
      if (numbers_.extent(axis) != expected[axis] && numbers_.extent(axis) != 1)
        fail(argument, "expected shape ", shape_text<3>({expected[0], expected[1], expected[2]}),
             " (batch, query head, query) with 1 for an axis that is shared, then segments, got ",
             shape_text<4>(numbers_.extents()));
    index_t const segments = numbers_.extent(3), count = std::ssize(ranges_);
    if (count != segments && count != segments * shape.sequences)
      fail(argument, "expected ", segments, " or ", segments * shape.sequences, " ranges of keys, got ", count);
    for (index_t i = 0; i < count; ++i) {
      key_range const range = ranges_[static_cast<std::size_t>(i)];
      index_t const from = i % std::max<index_t>(segments, 1) == 0 ? 0 : ranges_[static_cast<std::size_t>(i - 1)].last;
      if (range.first < from || range.last < range.first)
        fail(argument, "expected ascending ranges of keys that do not overlap, got ", range.first, " to ", range.last,
             " at ", i);
    }
  }

  /// The numbers of a tile's lanes for the segments that a block of keys meets.
  template <class T>
  struct bound {
    index_t first_key;
    std::uint8_t row[max_block_keys];  // of each key, the row of its numbers
    alignas(64) T number[max_block_keys + 1][array_size(tile_rows<T>::lanes)];

    ATTEND_INLINE simd::vector<T> at(score_place<T> const& place) const {
      return simd::load(number[row[place.key_index - first_key]] + place.lane);
    }
  };

  template <class T>
  bound<T> bind(tile_rows<T> const& rows, key_range range, T outside) const {
    bound<T> result;
    result.first_key = range.first;
    std::fill_n(result.row, range.count(), std::uint8_t{0});
    std::fill_n(result.number[0], tile_rows<T>::lanes, outside);
    index_t const segments = numbers_.extent(3);
    bool const shared = std::ssize(ranges_) == segments;
    auto const all = ranges_.subspan(shared ? 0 : static_cast<std::size_t>(rows.sequence * segments),
                                     static_cast<std::size_t>(segments));
    auto const begin = std::partition_point(all.begin(), all.end(),
                                            [&](key_range const& segment) { return segment.last <= range.first; });
    std::uint8_t next = 0;
    for (auto segment = begin; segment != all.end() && segment->first < range.last; ++segment) {
      key_range const here = intersection(*segment, range);
      if (here.empty()) continue;
      ++next;
      for (int lane = 0; lane < tile_rows<T>::lanes; ++lane)
        result.number[next][lane] = static_cast<T>(row_of(rows, lane)[segment - all.begin()]);
      std::fill(result.row + (here.first - range.first), result.row + (here.last - range.first), next);
    }
    return result;
  }

 private:
  template <class T>
  Value const* row_of(tile_rows<T> const& rows, int lane) const {
    auto const along = [&](int axis, index_t index) {
      return numbers_.extent(axis) == 1 ? 0 : index * numbers_.stride(axis);
    };
    return numbers_.data() + along(0, rows.batch) + along(1, rows.head[lane]) + along(2, rows.query_token(lane));
  }

  std::span<key_range const> ranges_;
  tensor_view<Value const, 4> numbers_;
};

}  // namespace detail

namespace options {

/// Multiplies the weights of each query by a factor for each segment of keys, after the softmax. A call throws
/// argument_error where ranges or shape do not fit.
///
///     std::vector<key_range> const documents{{0, 64}, {64, 512}};
///     softmax_attention(q, k, v, o, causal{}, segment_gain(documents, tensor<4>(1, 32, 512, 2)));
template <class Value>
class segment_gain {
 public:
  using option_kind = option::pair_gain;

  template <TensorArgument Tensor>
  segment_gain(std::span<extend::key_range const> ranges, Tensor const& factors) : table_(ranges, factors) {}

  void check(extend::problem_shape const& shape) const { table_.check("segment_gain", shape); }
  template <class T>
  auto bind(extend::tile_rows<T> const& rows, extend::key_range range) const {
    return [table = table_.bind(rows, range, T(1))](extend::score_place<T> const& place)
               ATTEND_INLINE_LAMBDA { return table.at(place); };
  }

 private:
  detail::segment_table<Value> table_;
};
template <class Ranges, class Tensor>
segment_gain(Ranges&&, Tensor const&) -> segment_gain<element_of_t<Tensor const>>;

/// Adds a number for each query and segment of keys to the logits; a segment whose number is -inf is hidden from the
/// query. A call throws argument_error where ranges or shape do not fit.
///
///     std::vector<key_range> const pieces{{0, 64}, {64, 512}};
///     softmax_attention(q, k, v, o, causal{}, segment_bias(pieces, tensor<4>(1, 32, 512, 2)));
template <class Value>
class segment_bias {
 public:
  using option_kind = option::score;
  static constexpr bool may_hide = true;

  template <TensorArgument Tensor>
  segment_bias(std::span<extend::key_range const> ranges, Tensor const& numbers) : table_(ranges, numbers) {}

  void check(extend::problem_shape const& shape) const { table_.check("segment_bias", shape); }
  template <class T>
  auto bind(extend::tile_rows<T> const& rows, extend::key_range range) const {
    return [table = table_.bind(rows, range, T(0))](simd::vector<T> const& s, extend::score_place<T> const& place)
               ATTEND_INLINE_LAMBDA {
                 // What hides a key hides it whatever its logit is, NaN included.
                 simd::vector<T> const added = table.at(place), hidden(-extend::infinity<T>);
                 return simd::select(added == hidden, hidden, s + added);
               };
  }

 private:
  detail::segment_table<Value> table_;
};
template <class Ranges, class Tensor>
segment_bias(Ranges&&, Tensor const&) -> segment_bias<element_of_t<Tensor const>>;

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
