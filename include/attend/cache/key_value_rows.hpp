// SPDX-License-Identifier: BSD-3-Clause
// What a key-value store gives to the engines that read it: runs of rows, where they lie, with no copy.
//
// A store keeps the keys and values of some sequences, each with some heads. It may keep them in one piece, in pages,
// or in a ring, and may have dropped some of them; all that a reader asks for is the longest run of rows, from a given
// one on, that lie at a constant stride. Elements are those of the tensors, or 8 or 4 bits wide:
//
//   stored                              value of element c of token t
//   float, double, half, bfloat16       x
//   std::int8_t  in [-127, 127]         scale[t] * channel_scale[c] * x
//   int4_pair    in [1, 15], two each   scale[t] * channel_scale[c] * (x - 8)
//
// Scales are per token and head. Channel scales, if any, are for keys alone, and are the same for all rows of a run.
// Symmetric storage without zero points, in the manner of Zirui Liu et al.: KIVI, 2024 (scales per channel for keys).
#pragma once

#include "../core/storage.hpp"

namespace attend::inline ATTEND_TARGET {

/// Rows of one sequence and one key-value head that lie at a constant stride. Row i has its key at
/// key + i * key_stride, and stands at position + i. Strides count storage elements: T, not halves of int4_pair.
template <StorageElement Key, StorageElement Value = Key>
struct key_value_rows {
  Key const* key = nullptr;
  Value const* value = nullptr;
  index_t key_stride = 0, value_stride = 0;

  /// One for each row, at their strides; null where elements have none.
  float const* key_scale = nullptr;
  float const* value_scale = nullptr;
  index_t key_scale_stride = 1, value_scale_stride = 1;
  /// One for each element of a key, the same for all rows; null for all ones.
  float const* channel_scale = nullptr;

  index_t count = 0;     // of rows in the run
  index_t position = 0;  // of the first row; consecutive rows have consecutive positions
};

/// A store of keys and values.
///
///   sequences(), key_value_heads()       how many there are
///   key_dimension(), value_dimension()   in elements (an int4_pair holds two)
///   size(sequence)                       tokens appended: the position of the next one
///   stored(sequence, head)               rows to attend to: as many as `size` unless some were dropped
///   rows(sequence, head, first)          the longest run that begins at stored row `first` < stored(sequence, head);
///                                        constant time. Positions rise with the stored row.
///
/// Where the values of a run are the first elements of its keys, in the same memory, they are fetched once.
template <class Source>
concept KeyValueSource = requires(Source const& source, index_t i) {
  requires StorageElement<typename Source::key_element>;
  requires StorageElement<typename Source::value_element>;
  { source.sequences() } -> std::convertible_to<index_t>;
  { source.key_value_heads() } -> std::convertible_to<index_t>;
  { source.key_dimension() } -> std::convertible_to<index_t>;
  { source.value_dimension() } -> std::convertible_to<index_t>;
  { source.size(i) } -> std::convertible_to<index_t>;
  { source.stored(i, i) } -> std::convertible_to<index_t>;
  {
    source.rows(i, i, i)
  } -> std::same_as<key_value_rows<typename Source::key_element, typename Source::value_element>>;
};

namespace detail {
/// Throws argument_error where a source that can lack something its rows need does. Whoever reads rows asks before.
template <KeyValueSource Source>
void check_readable(Source const& source) {
  if constexpr (requires { source.check_readable(); }) source.check_readable();
}
}  // namespace detail

}  // namespace attend::inline ATTEND_TARGET
