// A tensor with an element for each (batch, query head, query, key), any of whose axes may have extent 1 and then holds
// for all: what boolean masks and additive biases are made of. It is read a tile at a time, transposed into lanes.
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

  void check(char const* argument, problem_shape const& shape) const {
    check_view(argument, view_);
    index_t const expected[] = {shape.batches, shape.query_heads, shape.queries, shape.keys};
    for (int axis = 0; axis < 4; ++axis)
      if (view_.extent(axis) != expected[axis] && view_.extent(axis) != 1)
        fail(argument, "expected shape ", shape_text<4>({expected[0], expected[1], expected[2], expected[3]}),
             " with 1 for an axis that is shared, got ", shape_text<4>(view_.extents()));
  }

  /// The element of a lane's query and its sequence's key 0; further keys follow it, if the key axis is not shared.
  template <class A>
  T const* row(tile_rows<A> const& rows, int lane) const {
    return view_.data() + step(0) * rows.batch + step(1) * rows.head[lane] + step(2) * rows.query_token(lane) +
           step(3) * rows.first_key_token;
  }
  bool keys_shared() const { return view_.extent(3) == 1; }

  /// The elements of a tile and a range of keys, as lanes of A: pairs[key - range.first][lane].
  template <class A>
  void read(tile_rows<A> const& rows, key_range range, A (*pairs)[tile_rows<A>::lanes]) const {
    constexpr int lanes = tile_rows<A>::lanes;
    T const* from[lanes];
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
    for (int lane = 0; lane < lanes; ++lane)
      for (index_t key = 0; key < range.count(); ++key)
        pairs[key][lane] = static_cast<A>(from[lane][keys_shared() ? 0 : key]);
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
};

}  // namespace attend::inline ATTEND_TARGET::detail
