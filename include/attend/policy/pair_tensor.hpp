// SPDX-License-Identifier: BSD-3-Clause
// A tensor with an element for each (batch, head, query, key): what boolean masks and additive biases are made of. It
// is read a tile at a time, transposed into lanes.
//
// Any axis may have extent 1 and then holds for all. The head axis has the query heads, or the key heads: then each
// holds for the query heads that share it. A padded tensor has columns for the first keys alone, and of the others it
// says one thing: `beyond`. Its key axis is never shared: one column is that of key 0.
#pragma once

#include "../core/check.hpp"
#include "../simd/pack.hpp"
#include "tile.hpp"

namespace attend::inline ATTEND_TARGET::detail {

template <class T>
class pair_tensor {
 public:
  pair_tensor() = default;
  template <class Tensor>
  explicit pair_tensor(Tensor const& tensor) : view_(raise<4>(view_of(tensor))) {}

  /// The same tensor, for keys of which the last may have no column.
  pair_tensor padded(T beyond) const {
    pair_tensor shorter(*this);
    shorter.padded_ = true;
    shorter.beyond_ = beyond;
    return shorter;
  }

  void check(char const* argument, problem_shape const& shape) const {
    check_view(argument, view_);
    auto const& got = view_.extents();
    bool const fits = (got[0] == shape.batches || got[0] == 1) &&
                      (got[1] == shape.query_heads || got[1] == shape.key_heads || got[1] == 1) &&
                      (got[2] == shape.queries || got[2] == 1) &&
                      (padded_ ? got[3] <= shape.keys : got[3] == shape.keys || got[3] == 1);
    if (fits) return;
    fail(argument, "expected shape ", shape_text<4>({shape.batches, shape.query_heads, shape.queries, shape.keys}),
         shape.key_heads == shape.query_heads || shape.key_heads == 1
             ? std::string()
             : ", or " + std::to_string(shape.key_heads) + " heads (the key's),",
         padded_ ? " with 1 for an axis that is shared and at most as many keys, got "
                 : " with 1 for an axis that is shared, got ",
         shape_text<4>(got));
  }

  /// The element of a lane's query and its sequence's key 0; further keys follow it, if the key axis is not shared.
  template <class A>
  T const* row(tile_rows<A> const& rows, int lane) const {
    index_t const heads_of_one = std::max<index_t>(1, rows.shape->query_heads / std::max<index_t>(1, view_.extent(1)));
    return view_.data() + step(0) * rows.batch + step(1) * (rows.head[lane] / heads_of_one) +
           step(2) * rows.query_token(lane) + step(3) * rows.first_key_token;
  }
  tensor_view<T const, 4> const& view() const { return view_; }
  bool is_padded() const { return padded_; }
  bool keys_shared() const { return !padded_ && view_.extent(3) == 1; }
  /// The keys of a sequence that have a column, from its key 0 on.
  template <class A>
  index_t columns(tile_rows<A> const& rows) const {
    return padded_ ? std::clamp<index_t>(view_.extent(3) - rows.first_key_token, 0, rows.keys) : rows.keys;
  }

  /// The elements of a tile and a range of keys, as lanes of A: pairs[key - range.first][lane].
  template <class A>
  void read(tile_rows<A> const& rows, key_range range, A (*pairs)[tile_rows<A>::lanes]) const {
    constexpr int lanes = tile_rows<A>::lanes;
    if (index_t const there = columns(rows); there < range.last) {
      index_t const first = std::max(there, range.first);
      std::fill(pairs[first - range.first], pairs[range.count()], static_cast<A>(beyond_));
      if (there <= range.first) return;
      range.last = there;
    }
    T const* from[array_size(lanes)];
    for (int lane = 0; lane < lanes; ++lane) from[lane] = row(rows, lane) + (keys_shared() ? 0 : range.first);
    if constexpr (std::same_as<T, bool> || std::same_as<accumulation_of<T>, A>) {
      if (!keys_shared()) {
        simd::pack_columns(from, lanes, range.count(), pairs[0]);
        // The rows are far apart in memory, where no prefetcher follows: ask for what the next block will read.
        for (int lane = 0; lane < rows.count; ++lane)
          for (index_t key = range.count(); key < 2 * range.count(); key += elements_of_line)
            __builtin_prefetch(from[lane] + key, 0, 2);
        return;
      }
    }
    if (keys_shared()) {
      for (int lane = 0; lane < lanes; ++lane) pairs[0][lane] = static_cast<A>(from[lane][0]);
      for (index_t key = 1; key < range.count(); ++key) std::copy_n(pairs[0], lanes, pairs[key]);
      return;
    }
    for (int lane = 0; lane < lanes; ++lane)
      for (index_t key = 0; key < range.count(); ++key) pairs[key][lane] = static_cast<A>(from[lane][key]);
  }

 private:
  template <class U>
  struct accumulation {
    using type = accumulation_t<U>;
  };
  template <class U>
    requires(!Element<U>)
  struct accumulation<U> {
    using type = void;
  };
  template <class U>
  using accumulation_of = typename accumulation<U>::type;
  static constexpr index_t elements_of_line = 64 / static_cast<index_t>(sizeof(T));

  index_t step(int axis) const { return view_.extent(axis) == 1 ? 0 : view_.stride(axis); }

  tensor_view<T const, 4> view_;
  bool padded_ = false;
  T beyond_{};
};

}  // namespace attend::inline ATTEND_TARGET::detail
