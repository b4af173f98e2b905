// Checks of tensor arguments. Each throws argument_error, whose message says which argument it was.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include "error.hpp"
#include "tensor_view.hpp"

namespace attend::detail {

template <int Rank>
std::string shape_text(std::array<index_t, Rank> const& extents) {
  std::ostringstream text;
  text << '[';
  for (int axis = 0; axis < Rank; ++axis) text << (axis ? ", " : "") << extents[axis];
  text << ']';
  return text.str();
}

/// Offsets, in elements, of the first and one past the last element that a view can touch.
struct element_span {
  index_t first = 0;
  index_t last = 0;
  bool overflow = false;
};

/// No machine has this many bytes of memory, and sums of a few such offsets and addresses do not overflow.
inline constexpr index_t byte_limit = index_t{1} << 60;

template <class T, int Rank>
element_span span_of(tensor_view<T, Rank> const& view) {
  element_span span{0, 1, false};
  for (int axis = 0; axis < Rank; ++axis) {
    index_t reach;
    span.overflow |= __builtin_mul_overflow(view.extent(axis) - 1, view.stride(axis), &reach);
    index_t& end = reach < 0 ? span.first : span.last;
    span.overflow |= __builtin_add_overflow(end, reach, &end);
  }
  index_t const limit = byte_limit / static_cast<index_t>(sizeof(T));
  span.overflow |= span.last > limit || span.first < -limit;
  return span;
}

/// Extents are not negative and do not overflow, the last stride is 1, and there is data where there are elements.
template <class T, int Rank>
void check_view(char const* argument, tensor_view<T, Rank> const& view) {
  for (index_t extent : view.extents())
    if (extent < 0) fail(argument, "expected extents of at least 0, got ", shape_text<Rank>(view.extents()));
  index_t count = 1;
  bool overflow = false;
  for (index_t extent : view.extents())
    if (extent > 0) overflow |= __builtin_mul_overflow(count, extent, &count);
  index_t bytes;
  if (overflow || __builtin_mul_overflow(count, static_cast<index_t>(sizeof(T)), &bytes))
    fail(argument, "expected extents whose product fits in memory, got ", shape_text<Rank>(view.extents()));
  if (view.empty()) return;
  if (view.extent(Rank - 1) > 1 && view.stride(Rank - 1) != 1)
    fail(argument, "expected a last stride of 1, got ", view.stride(Rank - 1));
  if (span_of(view).overflow)
    fail(argument, "expected strides that stay in memory, got extents ", shape_text<Rank>(view.extents()),
         " and strides ", shape_text<Rank>(view.strides()));
  if (view.data() == nullptr)
    fail(argument, "expected data for extents ", shape_text<Rank>(view.extents()), ", got null");
}

/// The same, for a tensor that is written: no two indices may name the same element, as far as one axis shows it.
template <class T, int Rank>
void check_output_view(char const* argument, tensor_view<T, Rank> const& view) {
  check_view(argument, view);
  if (view.empty()) return;
  for (int axis = 0; axis < Rank; ++axis)
    if (view.extent(axis) > 1 && view.stride(axis) == 0)
      fail(argument, "expected distinct elements, got stride 0 on axis ", axis, " of extent ", view.extent(axis));
}

inline void check_extent(char const* argument, char const* what, index_t got, index_t expected, char const* as) {
  if (got != expected) fail(argument, "expected ", what, " ", expected, " (as ", as, "), got ", got);
}

inline void check_finite(char const* argument, double value) {
  if (!std::isfinite(value)) fail(argument, "expected a finite number, got ", value);
}

/// An axis on which two views step alike: its stride in bytes, and the extents of the one and of the other. By default
/// it takes no step.
struct shared_axis {
  index_t stride = std::numeric_limits<index_t>::max();
  index_t extent = 1, other_extent = 1;
};

/// Whether `shift` is a sum of digit * stride over the axes, with -other_extent < digit < extent, and of a rest in
/// [low, high]. Strides ascend, and each is larger than all that the smaller ones and the rest reach: so only two
/// digits can serve on an axis.
template <int Rank, int Axis = Rank - 1>
bool is_difference(std::array<shared_axis, Rank> const& axes, index_t low, index_t high, index_t shift) {
  if constexpr (Axis < 0) {
    return low <= shift && shift <= high;
  } else {
    auto const& [stride, extent, other_extent] = axes[Axis];
    index_t const digit = shift / stride - (shift % stride < 0);
    for (index_t d : {digit, digit + 1})
      if (-other_extent < d && d < extent && is_difference<Rank, Axis - 1>(axes, low, high, shift - d * stride))
        return true;
    return false;
  }
}

/// Whether two views may have a byte in common. The answer is exact where they step alike on all axes: so it knows that
/// query, key, value and output columns of one packed buffer are apart, although their address ranges meet. Axes on
/// which they do not, and shorter ones, count as the range that they span.
template <class A, class B, int Rank>
bool overlap(tensor_view<A, Rank> const& a, tensor_view<B, Rank> const& b) {
  if (a.empty() || b.empty()) return false;
  index_t const size_a = sizeof(A), size_b = sizeof(B);
  std::array<shared_axis, Rank> axes;
  // The difference of what an element of a and one of b add to their places on the shared axes.
  index_t low = 1 - size_b, high = size_a - 1;
  auto const widen = [&](index_t reach) { (reach < 0 ? low : high) += reach; };
  for (int axis = 0; axis < Rank; ++axis) {
    index_t const extent_a = a.extent(axis), extent_b = b.extent(axis);
    index_t const stride_a = extent_a > 1 ? a.stride(axis) * size_a : 0;
    index_t const stride_b = extent_b > 1 ? b.stride(axis) * size_b : 0;
    index_t const stride = extent_a > 1 ? stride_a : stride_b;
    if (stride > 0 && (stride == stride_b || extent_b == 1)) {
      axes[axis] = {stride, extent_a, extent_b};
    } else {
      widen((extent_a - 1) * stride_a);
      widen(-(extent_b - 1) * stride_b);
    }
  }
  std::sort(axes.begin(), axes.end(), [](auto const& one, auto const& other) { return one.stride < other.stride; });
  index_t reach = std::max(high, -low);
  for (int axis = 0; axis < Rank; ++axis) {
    if (axes[axis].stride > reach) {
      reach += (std::max(axes[axis].extent, axes[axis].other_extent) - 1) * axes[axis].stride;
      continue;
    }
    for (int smaller = 0; smaller <= axis; ++smaller) {
      widen((axes[smaller].extent - 1) * axes[smaller].stride);
      widen(-(axes[smaller].other_extent - 1) * axes[smaller].stride);
      axes[smaller] = {};
    }
    reach = std::max(high, -low);
  }
  index_t const shift = static_cast<index_t>(reinterpret_cast<std::intptr_t>(b.data())) -
                        static_cast<index_t>(reinterpret_cast<std::intptr_t>(a.data()));
  return is_difference<Rank>(axes, low, high, shift);
}

template <class A, class B, int Rank>
void check_apart(char const* output, tensor_view<A, Rank> const& written, char const* input,
                 tensor_view<B, Rank> const& read) {
  if (overlap(written, read)) fail(output, "expected memory of its own, got memory that overlaps ", input);
}

}  // namespace attend::detail
