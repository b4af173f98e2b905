// SPDX-License-Identifier: BSD-3-Clause
// How tensors come to ONNX's operators: some are optional, and heads are an axis or packed into the last one.
//
//   [batch, head, token, dimension]      four axes
//   [batch, token, head * dimension]     three axes: read and written as views with strides, nothing is copied
//
// The names of arguments and attributes, and what is left out, are those of the operators' specifications.
#pragma once

#include "../core/check.hpp"
#include "../core/executor.hpp"
#include "../core/head_loop.hpp"
#include "../core/scratch.hpp"
#include "../simd/convert.hpp"

namespace attend::inline ATTEND_TARGET {
namespace onnx {

/// A tensor of at most Rank axes that may be left out. Missing leading axes have extent 1. T is const where the
/// operator reads. Made from whatever a view can be made of, which must outlive it.
template <class T, int Rank>
class optional_tensor {
 public:
  constexpr optional_tensor() = default;
  template <TensorArgument Tensor>
  constexpr optional_tensor(Tensor&& tensor) : view_(raise<Rank>(view_of(tensor))), axes_(rank_of<Tensor>) {
    static_assert(std::same_as<element_of_t<Tensor>, std::remove_const_t<T>>,
                  "attend: this tensor of the operator has another element type");
  }

  constexpr explicit operator bool() const { return axes_ > 0; }
  constexpr tensor_view<T, Rank> const& view() const { return view_; }
  /// The axes that it was given with; 0 where it was not.
  constexpr int axes() const { return axes_; }

 private:
  tensor_view<T, Rank> view_;
  int axes_ = 0;
};

/// One of two element types, or left out: a mask of bool or of numbers, a state of T or of float.
template <class First, class Second, int Rank>
class either_tensor {
 public:
  constexpr either_tensor() = default;
  template <TensorArgument Tensor>
  constexpr either_tensor(Tensor&& tensor) {
    if constexpr (std::same_as<element_of_t<Tensor>, std::remove_const_t<First>>)
      first = optional_tensor<First, Rank>(tensor);
    else
      second = optional_tensor<Second, Rank>(tensor);
  }

  constexpr explicit operator bool() const { return static_cast<bool>(first) || static_cast<bool>(second); }
  /// Calls with the view of the one that is given.
  template <class Call>
  void with(Call&& call) const {
    if (first) call(first.view());
    if (second) call(second.view());
  }

  optional_tensor<First, Rank> first;
  optional_tensor<Second, Rank> second;
};

}  // namespace onnx

namespace detail {

/// A tensor of an operator with heads as an axis. `heads` is what the attribute says: needed for three axes, and 0 or
/// the tensor's own for four.
template <class T, int Rank>
tensor_view<T, 4> with_heads(char const* argument, tensor_view<T, Rank> const& tensor, char const* attribute,
                             index_t heads) {
  static_assert(Rank == 3 || Rank == 4,
                "attend: expected [batch, token, head * dimension] or [batch, head, token, dimension]");
  check_view(argument, tensor);
  if constexpr (Rank == 4) {
    if (heads != 0 && heads != tensor.extent(1))
      fail(attribute, "expected 0 or ", tensor.extent(1), " (the heads of ", argument, "), got ", heads);
    return tensor;
  } else {
    index_t const packed = tensor.extent(2);
    if (heads <= 0) fail(attribute, "expected at least 1 with three axes of ", argument, ", got ", heads);
    if (packed % heads != 0)
      fail(argument, "expected a last extent that is a multiple of ", heads, " (", attribute, "), got ", packed);
    index_t const dimension = packed / heads;
    return {tensor.data(),
            {tensor.extent(0), heads, tensor.extent(1), dimension},
            {tensor.stride(0), dimension, tensor.stride(1), 1}};
  }
}

/// An attribute that is 0 or 1.
inline bool flag(char const* attribute, index_t value) {
  if (value != 0 && value != 1) fail(attribute, "expected 0 or 1, got ", value);
  return value == 1;
}

template <class T, int Rank>
void check_shape(char const* argument, tensor_view<T, Rank> const& tensor,
                 typename tensor_view<T, Rank>::extents_type const& expected, char const* axes) {
  check_view(argument, tensor);
  if (tensor.extents() != expected)
    fail(argument, "expected shape ", list_text(expected), " (", axes, "), got ", list_text(tensor.extents()));
}

/// A tensor of the accumulation type in place of another: the same memory where that is its type already.
template <class T>
auto accumulating(scratch& memory, tensor_view<T, 4> const& tensor) {
  using A = accumulation_t<std::remove_const_t<T>>;
  if constexpr (std::same_as<std::remove_const_t<T>, A>) {
    return tensor;
  } else {
    index_t count = 1;
    for (index_t extent : tensor.extents()) count *= extent;
    return tensor_view<A, 4>(memory.allocate<A>(count + 1), tensor.extents());
  }
}

/// Whether rows stand in the same memory at the same places.
template <class A, class B>
bool same_rows(tensor_view<A, 4> const& a, tensor_view<B, 4> const& b) {
  return static_cast<void const*>(a.data()) == static_cast<void const*>(b.data()) && a.stride(0) == b.stride(0) &&
         a.stride(1) == b.stride(1) && a.stride(2) == b.stride(2);
}

/// to = from, row by row, rounded or widened; nothing where they are the same memory.
template <Element To, class From, class E>
void copy_rows(tensor_view<From, 4> const& from, tensor_view<To, 4> const& to, E& executor) {
  if (to.empty() || same_rows(from, to)) return;
  loop_cost const of_row = loop_cost::of(0, 2 * to.extent(3) * static_cast<index_t>(sizeof(To)));
  for_tokens(executor, to.extent(0), to.extent(1), to.extent(2), of_row,
             [&](index_t batch, index_t head, index_t first, index_t last) {
               for (index_t row = first; row < last; ++row) {
                 auto const* const source = &from(batch, head, row, 0);
                 To* const target = &to(batch, head, row, 0);
                 if constexpr (std::same_as<std::remove_const_t<From>, To>)
                   std::copy_n(source, to.extent(3), target);
                 else if constexpr (std::same_as<std::remove_const_t<From>, accumulation_t<To>>)
                   simd::narrow_row(source, target, to.extent(3));
                 else
                   simd::widen_row(source, target, to.extent(3));
               }
             });
}

}  // namespace detail
}  // namespace attend::inline ATTEND_TARGET
