// SPDX-License-Identifier: BSD-3-Clause
// Tables for a caller's own scores and masks: the entry at an index, for a number and for vectors of them.
//
//   lookup(table, index)         table[index]           table [entries]
//   lookup(table, row, index)    table[row][index]      table [rows, entries], such as a row for each head
//
//   attend::score([&](auto s, auto const& at) {
//     return s + attend::extend::lookup(by_distance, at.query_position - at.key_position);
//   })
//   using attend::extend::lookup;
//   attend::mask([&](auto query, auto key) { return lookup(level, query) >= lookup(level, key); })
//
// An index outside of the table takes the nearest entry, and NaN the first: so that a table of distances goes on as it
// ends, and what a hidden pair would look up is nobody's concern. Of a number that is not whole the fraction is
// dropped. A table without entries gives 0.
//
// The table is anything with a view: a list, an array, a tensor, whose last axis has numbers one after the other. Whole
// numbers that are looked up by positions of a mask come back as such; everything else is of the score's own type. What
// is read is the table as it stands at that moment, by all threads.
//
// Cost: neighbouring queries mostly want neighbouring entries, or all the same: that is a load. Others are gathered, by
// an instruction where the machine has one, from float tables and std::int32_t in a mask (double and std::int64_t for
// tensors of double); tables of other types are read entry by entry.
#pragma once

#include "../core/tensor_view.hpp"
#include "../simd/gather.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// An index, within [0, count).
template <std::integral I>
index_t table_index(I index, index_t count) {
  return std::clamp<index_t>(static_cast<index_t>(index), 0, count - 1);
}
template <std::floating_point I>
index_t table_index(I index, index_t count) {
  return index > 0 ? static_cast<index_t>(std::min<I>(index, static_cast<I>(count - 1))) : 0;
}
template <class T>
ATTEND_INLINE simd::integers<T> table_index(simd::integers<T> const& index, index_t count) {
  using lanes = simd::vector<position_t<T>>;
  return simd::min<position_t<T>>(simd::max<position_t<T>>(index.lanes(), lanes(0)),
                                  lanes(static_cast<position_t<T>>(count - 1)));
}
template <std::floating_point T>
ATTEND_INLINE simd::integers<T> table_index(simd::vector<T> const& index, index_t count) {
  // Within what an integer holds first. NaN, which stands first, gives way, or becomes the least of integers.
  simd::vector<T> const most(static_cast<T>(std::min<index_t>(count, token_limit)));
  return table_index(
      simd::integers<T>(simd::truncated<T>(simd::min<T>(simd::max<T>(index, simd::vector<T>(T(0))), most))), count);
}

/// The entries at places of the table's memory.
template <class Entry, class I>
  requires std::is_arithmetic_v<I>
auto entries(Entry const* table, index_t place, I) {
  if constexpr (std::is_arithmetic_v<Entry>)
    return table[place];
  else
    return static_cast<accumulation_t<Entry>>(table[place]);
}
template <class Entry, std::floating_point T>
ATTEND_INLINE simd::vector<T> entries(Entry const* table, simd::integers<T> const& place, simd::vector<T> const&) {
  return simd::gather<T>(table, place.lanes());
}
template <class Entry, class T>
ATTEND_INLINE auto entries(Entry const* table, simd::integers<T> const& place, simd::integers<T> const&) {
  if constexpr (std::integral<Entry>)
    return simd::integers<T>(simd::gather<position_t<T>>(table, place.lanes()));
  else
    return simd::gather<T>(table, place.lanes());
}

}  // namespace detail

namespace extend {

/// table[index].
template <TensorArgument Table, class Index>
ATTEND_INLINE auto lookup(Table const& table, Index const& index) {
  auto const view = view_of(table);
  static_assert(decltype(view)::rank == 1, "attend: lookup(table, index) is for a table with one axis");
  using result = decltype(detail::entries(view.data(), detail::table_index(index, 1), index));
  if (view.extent(0) < 1) return result(0);
  return detail::entries(view.data(), detail::table_index(index, view.extent(0)), index);
}

/// table[row][index], for a table below 2^29 entries.
template <TensorArgument Table, class Row, class Index>
ATTEND_INLINE auto lookup(Table const& table, Row const& row, Index const& index) {
  auto const view = view_of(table);
  static_assert(decltype(view)::rank == 2, "attend: lookup(table, row, index) is for a table with two axes");
  using result = decltype(detail::entries(view.data(), detail::table_index(index, 1), index));
  if (view.extent(0) < 1 || view.extent(1) < 1) return result(0);
  return detail::entries(
      view.data(),
      detail::table_index(row, view.extent(0)) * view.stride(0) + detail::table_index(index, view.extent(1)), index);
}

}  // namespace extend

}  // namespace attend::inline ATTEND_TARGET
