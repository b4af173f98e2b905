// SPDX-License-Identifier: BSD-3-Clause
// The rows of a gradient, as they are written: each is a sum over the heads that share it, in the accumulation type,
// rounded once. Where the tensor holds that type, it holds the sums as well.
#pragma once

#include "../../simd/transform_row.hpp"
#include "gradient_products.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// The place of a gradient's first row.
struct gradient_place {
  index_t batch, head, first;
};

template <Element T>
class gradient_rows {
 public:
  using A = accumulation_t<T>;

  gradient_rows(scratch& memory, index_t tokens, index_t dimension)
      : dimension_(dimension), sums_(memory.allocate<A>(std::same_as<T, A> ? 0 : tokens * dimension)) {}

  /// Adds `count` rows of one head: the first of the heads `begins` the sums, and with the last one they end.
  void add(rows_of<A> rows, index_t count, bool begins, bool ends, tensor_view<T, 4> const& to,
           gradient_place const& at) const {
    if (dimension_ == 0) return;
    for (index_t i = 0; i < count; ++i) {
      A const* const row = rows.row(i);
      T* const target = &to(at.batch, at.head, at.first + i, 0);
      if (begins && ends) {
        simd::narrow_row(row, target, dimension_);
        continue;
      }
      A* so_far;
      if constexpr (std::same_as<T, A>)
        so_far = target;
      else
        so_far = sums_ + i * dimension_;
      if (begins)
        std::copy_n(row, dimension_, so_far);
      else
        simd::transform_row(so_far, dimension_, [](number const& x, number const& y) { return x + y; }, so_far, row);
      if constexpr (!std::same_as<T, A>)
        if (ends) simd::narrow_row(so_far, target, dimension_);
    }
  }

 private:
  using number = simd::vector<A>;

  index_t dimension_;
  A* sums_;
};

}  // namespace attend::inline ATTEND_TARGET::engine
