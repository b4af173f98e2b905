// SPDX-License-Identifier: BSD-3-Clause
// The mask of a call behind the virtual interface of its policies: which keys a tile of rows sees. Forward calls and
// gradients ask the same.
#pragma once

#include <utility>

#include "visible_parts.hpp"

namespace attend::inline ATTEND_TARGET::engine {

template <class A>
class any_mask {
 public:
  virtual tile_grain grain(problem_shape const& shape) const = 0;
  virtual key_range bounds(tile_rows<A> const& rows) const = 0;
  /// The first run of keys at or after `from` that may be visible to the rows.
  virtual key_range next(tile_rows<A> const& rows, index_t from) const = 0;
  virtual visibility classify(tile_rows<A> const& rows, key_range range) const = 0;
  /// Finds which parts of a block are visible to the rows, and initializes the logits as visible_parts does.
  virtual void find_visible(int vectors, tile_rows<A> const& rows, key_range range, A* logits,
                            visible_parts& seen) const = 0;

 protected:
  any_mask() = default;
  ~any_mask() = default;
};

/// The part of an interface `Any`, which is an any_mask<A>, that a mask answers.
template <class Any, class A, class Mask>
class erased_mask : public Any {
 public:
  tile_grain grain(problem_shape const& shape) const final { return detail::grain_of(mask_, shape); }
  key_range bounds(tile_rows<A> const& rows) const final { return mask_.bounds(rows); }
  key_range next(tile_rows<A> const& rows, index_t from) const final { return detail::next_run(mask_, rows, from); }
  visibility classify(tile_rows<A> const& rows, key_range range) const final { return mask_.classify(rows, range); }
  void find_visible(int vectors, tile_rows<A> const& rows, key_range range, A* logits,
                    visible_parts& seen) const final {
    seen = visible_parts(vectors, rows, range, detail::bind_mask(mask_, rows, range), logits);
  }

 protected:
  template <class... Facts>
  explicit erased_mask(Mask const& mask, Facts... facts) : Any(facts...), mask_(mask) {}
  ~erased_mask() = default;

 private:
  Mask const& mask_;
};

}  // namespace attend::inline ATTEND_TARGET::engine
