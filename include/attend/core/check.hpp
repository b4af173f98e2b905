// SPDX-License-Identifier: BSD-3-Clause
// Checks of tensor arguments. Each throws argument_error, whose message says which argument it was.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <utility>

#include "error.hpp"
#include "tensor_view.hpp"

namespace attend::inline ATTEND_TARGET::detail {

inline std::string list_text(std::span<index_t const> numbers) {
  std::string text = "[";
  for (index_t const number : numbers) text += (text.size() > 1 ? ", " : "") + std::to_string(number);
  return text + ']';
}

template <int Rank>
std::string shape_text(typename tensor_view<float, Rank>::extents_type const& extents) {
  return list_text(extents);
}

/// The extents, strides and address of a view, for checks. It is one type for all element types and ranks, so that a
/// program compiles the checks once. The view must outlive it.
struct view_layout {
  static constexpr int max_axes = 6;

  std::span<index_t const> extents, strides;
  void const* data;
  index_t element_bytes;

  template <class T, int Rank>
  view_layout(tensor_view<T, Rank> const& view)
      : extents(view.extents()), strides(view.strides()), data(view.data()), element_bytes(sizeof(T)) {
    static_assert(Rank <= max_axes);
  }

  int rank() const { return static_cast<int>(extents.size()); }
  bool empty() const { return std::find(extents.begin(), extents.end(), 0) != extents.end(); }
};

/// Offsets, in elements, of the first and one past the last element that a view can touch.
struct element_span {
  index_t first = 0;
  index_t last = 0;
  bool overflow = false;
};

/// The most bytes that a tensor may span: sums of a few offsets and addresses below this limit do not overflow. No
/// 64-bit machine has this many bytes of memory; on a 32-bit one the limit is 256 MiB.
inline constexpr index_t byte_limit = std::numeric_limits<index_t>::max() / 8 + 1;

inline element_span span_of(view_layout const& view) {
  element_span span{0, 1, false};
  for (std::size_t axis = 0; axis < view.extents.size(); ++axis) {
    index_t reach;
    span.overflow |= __builtin_mul_overflow(view.extents[axis] - 1, view.strides[axis], &reach);
    index_t& end = reach < 0 ? span.first : span.last;
    span.overflow |= __builtin_add_overflow(end, reach, &end);
  }
  index_t const limit = byte_limit / view.element_bytes;
  span.overflow |= span.last > limit || span.first < -limit;
  return span;
}

/// Checks that extents are not negative, that neither their product nor an offset overflows, that the last stride is 1,
/// and that a view with elements has data.
inline void check_view(char const* argument, view_layout const& view) {
  for (index_t const extent : view.extents)
    if (extent < 0) fail(argument, "expected extents of at least 0, got ", list_text(view.extents));
  index_t count = 1;
  bool overflow = false;
  for (index_t const extent : view.extents)
    if (extent > 0) overflow |= __builtin_mul_overflow(count, extent, &count);
  index_t bytes;
  if (overflow || __builtin_mul_overflow(count, view.element_bytes, &bytes))
    fail(argument, "expected extents whose product fits in memory, got ", list_text(view.extents));
  if (view.empty()) return;
  if (view.extents.back() > 1 && view.strides.back() != 1)
    fail(argument, "expected a last stride of 1, got ", view.strides.back());
  if (span_of(view).overflow)
    fail(argument, "expected strides that stay in memory, got extents ", list_text(view.extents), " and strides ",
         list_text(view.strides));
  if (view.data == nullptr) fail(argument, "expected data for extents ", list_text(view.extents), ", got null");
}

/// Checks the same of a tensor that is written, and that no axis of several elements has stride 0: its indices would
/// all name one element.
inline void check_output_view(char const* argument, view_layout const& view) {
  check_view(argument, view);
  if (view.empty()) return;
  for (std::size_t axis = 0; axis < view.extents.size(); ++axis)
    if (view.extents[axis] > 1 && view.strides[axis] == 0)
      fail(argument, "expected distinct elements, got stride 0 on axis ", axis, " of extent ", view.extents[axis]);
}

inline void check_extent(char const* argument, char const* what, index_t got, index_t expected, char const* as) {
  if (got != expected) fail(argument, "expected ", what, " ", expected, " (as ", as, "), got ", got);
}

/// Checks the number of heads that a function such as alibi_slopes is asked to compute numbers for.
inline void check_heads(index_t heads) {
  if (heads < 0) fail("heads", "expected at least 0, got ", heads);
}

/// The expected count, for error messages, where one may serve for all: "1 head", "1 or 4 heads".
inline std::string one_or(index_t count, char const* one, char const* several) {
  return count == 1 ? std::string("1 ") + one : "1 or " + std::to_string(count) + ' ' + several;
}

/// Checks the length of a list that has one number for each head of a kind (query heads, say), or one for all of them.
inline void check_head_numbers(char const* argument, index_t got, index_t heads, char const* kind) {
  if (got != heads && got != 1)
    fail(argument, "expected ", one_or(heads, "number", "numbers"), " (for all or for each ", kind, "), got ", got);
}

inline void check_finite(char const* argument, double value) {
  if (!std::isfinite(value)) fail(argument, "expected a finite number, got ", value);
}

/// An axis on which two views have the same stride: that stride in bytes, and the extents of the one and of the other.
/// The default is an axis of extent 1 for both, which adds nothing to an offset.
struct shared_axis {
  index_t stride = std::numeric_limits<index_t>::max();
  index_t extent = 1, other_extent = 1;

  friend bool operator<(shared_axis const& one, shared_axis const& other) { return one.stride < other.stride; }
};

/// Whether `shift` is a sum of digit * stride over the axes, with -other_extent < digit < extent, and of a rest in
/// [low, high]. Strides ascend, and each is larger than all that the smaller ones and the rest reach: so only two
/// digits can serve on an axis.
inline bool is_difference(std::span<shared_axis const> axes, index_t low, index_t high, index_t shift) {
  if (axes.empty()) return low <= shift && shift <= high;
  auto const& [stride, extent, other_extent] = axes.back();
  index_t const digit = shift / stride - (shift % stride < 0);
  for (index_t const d : {digit, digit + 1})
    if (-other_extent < d && d < extent && is_difference(axes.first(axes.size() - 1), low, high, shift - d * stride))
      return true;
  return false;
}

/// How many bytes the data of `b` lies behind that of `a`.
inline index_t shift_between(view_layout const& a, view_layout const& b) {
  return static_cast<index_t>(reinterpret_cast<std::intptr_t>(b.data)) -
         static_cast<index_t>(reinterpret_cast<std::intptr_t>(a.data));
}

/// Whether all bytes of the one view, neither of which is empty, come before all of the other: so it is for most
/// tensors, which have memory of their own, and a short call would notice the time of a closer look.
inline bool ranges_apart(view_layout const& a, view_layout const& b) {
  // The range of the differences in address between a byte of a and one of b.
  index_t low = 1 - b.element_bytes, high = a.element_bytes - 1;
  for (std::size_t axis = 0; axis < a.extents.size(); ++axis) {
    index_t const reach_a = (a.extents[axis] - 1) * a.strides[axis] * a.element_bytes;
    index_t const reach_b = (b.extents[axis] - 1) * b.strides[axis] * b.element_bytes;
    low += std::min<index_t>(reach_a, 0) - std::max<index_t>(reach_b, 0);
    high += std::max<index_t>(reach_a, 0) - std::min<index_t>(reach_b, 0);
  }
  index_t const shift = shift_between(a, b);
  return shift < low || shift > high;
}

/// Whether two views may have a byte in common. The answer is exact where they have the same strides on all axes: so
/// query, key, value and output columns of one packed buffer count as apart, although their address ranges overlap. An
/// axis on which the strides differ counts as the whole range of bytes that it spans, and so does every axis whose
/// stride is not larger than that range.
inline bool overlap(view_layout const& a, view_layout const& b) {
  if (a.empty() || b.empty() || ranges_apart(a, b)) return false;
  std::array<shared_axis, view_layout::max_axes> storage;
  std::span<shared_axis> const axes(storage.data(), a.extents.size());
  // The range of the differences in address between a byte of a and one of b that have the same place on all shared
  // axes; axes that are not shared widen it.
  index_t low = 1 - b.element_bytes, high = a.element_bytes - 1;
  auto const widen = [&](index_t reach) { (reach < 0 ? low : high) += reach; };
  for (std::size_t axis = 0; axis < axes.size(); ++axis) {
    index_t const extent_a = a.extents[axis], extent_b = b.extents[axis];
    index_t const stride_a = extent_a > 1 ? a.strides[axis] * a.element_bytes : 0;
    index_t const stride_b = extent_b > 1 ? b.strides[axis] * b.element_bytes : 0;
    index_t const stride = extent_a > 1 ? stride_a : stride_b;
    if (stride > 0 && (stride == stride_b || extent_b == 1)) {
      axes[axis] = {stride, extent_a, extent_b};
    } else {
      widen((extent_a - 1) * stride_a);
      widen(-(extent_b - 1) * stride_b);
    }
  }
  // Sorts by insertion: for std::sort gcc warns of reads beyond this short array, in the branch for more than 16
  // elements.
  for (std::size_t end = 1; end < axes.size(); ++end)
    for (std::size_t axis = end; axis > 0 && axes[axis] < axes[axis - 1]; --axis) std::swap(axes[axis], axes[axis - 1]);
  index_t reach = std::max(high, -low);
  for (std::size_t axis = 0; axis < axes.size(); ++axis) {
    if (axes[axis].stride > reach) {
      reach += (std::max(axes[axis].extent, axes[axis].other_extent) - 1) * axes[axis].stride;
      continue;
    }
    for (shared_axis& smaller : axes.first(axis + 1)) {
      widen((smaller.extent - 1) * smaller.stride);
      widen(-(smaller.other_extent - 1) * smaller.stride);
      smaller = {};
    }
    reach = std::max(high, -low);
  }
  return is_difference(axes, low, high, shift_between(a, b));
}

/// Checks that two views, which have the same number of axes, have no byte in common.
inline void check_apart(char const* output, view_layout const& written, char const* input, view_layout const& read) {
  if (overlap(written, read)) fail(output, "expected memory of its own, got memory that overlaps ", input);
}

struct named_layout {
  char const* argument;
  view_layout layout;
};

/// Checks that no written view has a byte in common with a view that is read or with another written view. All views
/// have the same number of axes.
inline void check_apart(std::span<named_layout const> written, std::span<named_layout const> read) {
  // Most of the tensors that a call may write are left out.
  for (named_layout const& output : written)
    if (!output.layout.empty())
      for (named_layout const& input : read) check_apart(output.argument, output.layout, input.argument, input.layout);
  for (std::size_t i = 0; i < written.size(); ++i)
    if (!written[i].layout.empty())
      for (std::size_t j = 0; j < i; ++j)
        check_apart(written[i].argument, written[i].layout, written[j].argument, written[j].layout);
}

}  // namespace attend::inline ATTEND_TARGET::detail
