// Checks of tensor arguments. Each throws argument_error, whose message says which argument it was.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
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

template <class T, int Rank>
element_span span_of(tensor_view<T, Rank> const& view) {
  element_span span{0, 1, false};
  for (int axis = 0; axis < Rank; ++axis) {
    index_t reach;
    span.overflow |= __builtin_mul_overflow(view.extent(axis) - 1, view.stride(axis), &reach);
    index_t& end = reach < 0 ? span.first : span.last;
    span.overflow |= __builtin_add_overflow(end, reach, &end);
  }
  index_t bytes;
  span.overflow |= __builtin_mul_overflow(span.last, static_cast<index_t>(sizeof(T)), &bytes);
  span.overflow |= __builtin_mul_overflow(span.first, static_cast<index_t>(sizeof(T)), &bytes);
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
    fail(argument, "expected strides that stay in memory, got extents ", shape_text<Rank>(view.extents()), " and strides ",
         shape_text<Rank>(view.strides()));
  if (view.data() == nullptr) fail(argument, "expected data for extents ", shape_text<Rank>(view.extents()), ", got null");
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

/// Whether `shift` is a difference of two index tuples: the sum of digit * stride with |digit| < extent, strides sorted
/// downwards and each larger than all that the smaller ones reach, so that only two digits can serve on an axis.
inline bool is_index_difference(index_t const* strides, index_t const* extents, int axes, index_t shift) {
  if (axes == 0) return shift == 0;
  index_t const digit = shift >= 0 ? shift / *strides : -((-shift + *strides - 1) / *strides);
  for (index_t d : {digit, digit + 1})
    if (std::abs(d) < *extents && is_index_difference(strides + 1, extents + 1, axes - 1, shift - d * *strides)) return true;
  return false;
}

/// Whether two views with the same strides, one `shift` elements after the other, have no element in common although
/// their address ranges meet: the query, key, value and output columns of one packed buffer.
template <int Rank>
bool interleaved(std::array<index_t, Rank> const& strides, std::array<index_t, Rank> const& extents, index_t shift) {
  std::array<index_t, Rank> sorted_strides{}, sorted_extents{};
  std::array<int, Rank> order;
  for (int axis = 0; axis < Rank; ++axis) order[axis] = axis;
  std::sort(order.begin(), order.end(), [&](int a, int b) { return strides[a] > strides[b]; });
  int axes = 0;
  for (int axis : order) {
    if (extents[axis] <= 1) continue;
    if (strides[axis] <= 0) return false;
    sorted_strides[axes] = strides[axis];
    sorted_extents[axes++] = extents[axis];
  }
  index_t reach = 0;
  for (int i = axes - 1; i >= 0; --i) {
    if (sorted_strides[i] <= reach) return false;
    reach += (sorted_extents[i] - 1) * sorted_strides[i];
  }
  return !is_index_difference(sorted_strides.data(), sorted_extents.data(), axes, shift);
}

template <class A, class B, int Rank>
bool overlap(tensor_view<A, Rank> const& a, tensor_view<B, Rank> const& b) {
  if (a.empty() || b.empty()) return false;
  auto const address = [](auto const& view, index_t offset) {
    return reinterpret_cast<std::intptr_t>(view.data()) + offset * static_cast<index_t>(sizeof(*view.data()));
  };
  element_span const span_a = span_of(a), span_b = span_of(b);
  if (address(a, span_a.last) <= address(b, span_b.first) || address(b, span_b.last) <= address(a, span_a.first))
    return false;
  if constexpr (sizeof(A) == sizeof(B)) {
    std::array<index_t, Rank> extents, strides;
    for (int axis = 0; axis < Rank; ++axis) {
      extents[axis] = std::max(a.extent(axis), b.extent(axis));
      strides[axis] = a.extent(axis) > 1 ? a.stride(axis) : b.stride(axis);
      if (a.extent(axis) > 1 && b.extent(axis) > 1 && a.stride(axis) != b.stride(axis)) return true;
    }
    index_t const bytes = address(b, 0) - address(a, 0);
    if (bytes % static_cast<index_t>(sizeof(A)) != 0) return true;
    index_t const shift = bytes / static_cast<index_t>(sizeof(A));
    return !interleaved<Rank>(strides, extents, shift);
  }
  return true;
}

template <class A, class B, int Rank>
void check_apart(char const* output, tensor_view<A, Rank> const& written, char const* input,
                 tensor_view<B, Rank> const& read) {
  if (overlap(written, read)) fail(output, "expected memory of its own, got memory that overlaps ", input);
}

}  // namespace attend::detail
