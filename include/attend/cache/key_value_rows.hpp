// SPDX-License-Identifier: BSD-3-Clause
// The interface between key-value stores and the engines that read them: runs of rows, which are read in place.
//
// A store holds the keys and values of some sequences, each with some heads. It may hold them in one piece, in pages,
// or in a ring, and may have dropped some of them; a reader only asks for the longest run of rows at a constant stride
// that begins at a given row. Elements are those of tensors, or have 8 or 4 bits:
//
//   stored                              value of element c of token t
//   float, double, half, bfloat16       x
//   std::int8_t  in [-127, 127]         scale[t] * channel_scale[c] * x
//   int4_pair    in [1, 15], two each   scale[t] * channel_scale[c] * (x - 8)
//
// Scales are per token and head. Channel scales, if any, are for keys alone, and are the same for all rows of a run.
// Symmetric storage without zero points, in the manner of Zirui Liu et al.: KIVI, 2024 (scales per channel for keys).
#pragma once

#include <algorithm>

#include "../core/storage.hpp"

namespace attend::inline ATTEND_TARGET {

namespace caches {

/// Rows of one sequence and one key-value head at a constant stride. The key of row i is at key + i * key_stride, and
/// its position is position + i. Strides are in storage elements: an int4_pair, which holds two numbers, is one.
template <StorageElement Key, StorageElement Value = Key>
struct key_value_rows {
  Key const* key = nullptr;
  Value const* value = nullptr;
  index_t key_stride = 0, value_stride = 0;

  /// The scale of each row, at the strides below; null where elements have no scales.
  float const* key_scale = nullptr;
  float const* value_scale = nullptr;
  index_t key_scale_stride = 1, value_scale_stride = 1;
  /// The scale of each element of a key, the same for all rows; null where all are 1.
  float const* channel_scale = nullptr;

  index_t count = 0;     // the number of rows
  index_t position = 0;  // the position of the first row; consecutive rows have consecutive positions
};

}  // namespace caches

namespace detail {

template <class S>
concept HasStoredElements = StorageElement<typename S::key_element> && StorageElement<typename S::value_element>;
template <class S>
concept HasSequences = requires(S const& store) {
  { store.sequences() } -> std::convertible_to<index_t>;
};
template <class S>
concept HasKeyValueHeads = requires(S const& store) {
  { store.key_value_heads() } -> std::convertible_to<index_t>;
};
template <class S>
concept HasKeyDimension = requires(S const& store) {
  { store.key_dimension() } -> std::convertible_to<index_t>;
};
template <class S>
concept HasValueDimension = requires(S const& store) {
  { store.value_dimension() } -> std::convertible_to<index_t>;
};
template <class S>
concept HasSizeOfSequences = requires(S const& store, index_t i) {
  { store.size(i) } -> std::convertible_to<index_t>;
};
template <class S>
concept HasStoredRows = requires(S const& store, index_t i) {
  { store.stored(i, i) } -> std::convertible_to<index_t>;
};
template <class S>
concept HasRunsOfRows = requires(S const& store, index_t i) {
  { store.rows(i, i, i) } -> std::same_as<key_value_rows<typename S::key_element, typename S::value_element>>;
};

/// What is meant as a store, although it may lack members: it says what its elements are, or gives rows.
template <class S>
concept StoreLike =
    requires { typename S::key_element; } || requires(S const& store, index_t i) { store.rows(i, i, i); };

/// Whether a store has all members; an error names each one that is missing.
template <class S>
consteval bool has_store_members() {
  static_assert(HasStoredElements<S>,
                "attend: a store needs key_element and value_element, types of elements that can be stored");
  static_assert(HasSequences<S>, "attend: a store needs sequences() const, which gives a number");
  static_assert(HasKeyValueHeads<S>, "attend: a store needs key_value_heads() const, which gives a number");
  static_assert(HasKeyDimension<S>, "attend: a store needs key_dimension() const, which gives a number");
  static_assert(HasValueDimension<S>, "attend: a store needs value_dimension() const, which gives a number");
  static_assert(HasSizeOfSequences<S>, "attend: a store needs size(sequence) const, which gives a number");
  static_assert(HasStoredRows<S>, "attend: a store needs stored(sequence, head) const, which gives a number");
  static_assert(HasRunsOfRows<S>,
                "attend: a store needs rows(sequence, head, first) const, which gives "
                "key_value_rows<key_element, value_element>");
  return true;
}

}  // namespace detail

namespace extend {

/// A store of keys and values.
///
///   sequences(), key_value_heads()       the numbers of sequences and heads
///   key_heads(), value_heads()           the numbers of heads of keys and of values, of which key_value_heads() is the
///                                        least common multiple; a store may lack these members where all are the same.
///                                        Consecutive heads that share a key head or value head have the same rows
///   key_dimension(), value_dimension()   in numbers (an int4_pair holds two)
///   size(sequence)                       the number of tokens appended, which is the position of the next one
///   stored(sequence, head)               the number of rows to attend to: `size` unless some were dropped
///   rows(sequence, head, first)          the longest run that begins at stored row `first` < stored(sequence, head),
///                                        in constant time. Positions ascend with the stored row.
///
/// A store that has dropped tokens between others may also offer
///
///   adjacent_rows(sequence, head, first) the longest run of rows that lie at a constant stride, whatever tokens are
///                                        missing between them: only the position of its first row counts
///
/// by which engines read it, in full blocks, where no policy asks for positions.
///
/// Where the values of a run are the first elements of its keys, in the same memory, the engines read them once.
template <class Source>
concept KeyValueSource =
    detail::HasStoredElements<Source> && detail::HasSequences<Source> && detail::HasKeyValueHeads<Source> &&
    detail::HasKeyDimension<Source> && detail::HasValueDimension<Source> && detail::HasSizeOfSequences<Source> &&
    detail::HasStoredRows<Source> && detail::HasRunsOfRows<Source>;

}  // namespace extend

namespace detail {

/// The numbers of heads of keys and of values.
template <KeyValueSource Source>
index_t key_heads_of(Source const& source) {
  if constexpr (requires { source.key_heads(); })
    return source.key_heads();
  else
    return source.key_value_heads();
}
template <KeyValueSource Source>
index_t value_heads_of(Source const& source) {
  if constexpr (requires { source.value_heads(); })
    return source.value_heads();
  else
    return source.key_value_heads();
}

/// The number of consecutive key-value heads that share one key head, or one value head.
template <KeyValueSource Source>
index_t heads_of_key(Source const& source) {
  return source.key_value_heads() / std::max<index_t>(key_heads_of(source), 1);
}
template <KeyValueSource Source>
index_t heads_of_value(Source const& source) {
  return source.key_value_heads() / std::max<index_t>(value_heads_of(source), 1);
}

/// Throws argument_error where the source's rows cannot be read, such as quantized tensors without scales. Callers
/// check this before they read rows.
template <KeyValueSource Source>
void check_readable(Source const& source) {
  if constexpr (requires { source.check_readable(); }) source.check_readable();
}

/// The longest run of rows from stored row `first` on, for readers to whom positions are nothing.
template <KeyValueSource Source>
auto adjacent_rows(Source const& source, index_t sequence, index_t head, index_t first) {
  if constexpr (requires { source.adjacent_rows(sequence, head, first); })
    return source.adjacent_rows(sequence, head, first);
  else
    return source.rows(sequence, head, first);
}
}  // namespace detail

}  // namespace attend::inline ATTEND_TARGET
