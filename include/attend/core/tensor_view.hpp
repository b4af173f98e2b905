// SPDX-License-Identifier: BSD-3-Clause
// A view of a tensor that somebody else owns: a pointer, extents, and strides that are free except the last, which
// is 1.
//
// It is made from Eigen tensors and tensor maps (row-major), Eigen matrices, maps and blocks (row-major), std::vector
// and its like, a pointer with extents, and a pointer with extents and strides. So [batch, head, token, dim] and
// [batch, token, head, dim], a slice of a packed buffer, and a broadcast axis (stride 0) are all views, with no copy:
//
//     attend::tensor_view query(pointer, {batch, heads, tokens, dimension});
//     attend::tensor_view key(packed + width, {batch, heads, tokens, dimension},
//                             {tokens * 3 * width, dimension, 3 * width, 1});
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <type_traits>
#include <utility>

#include "types.hpp"

namespace attend::inline ATTEND_TARGET {

template <class T, int Rank>
class tensor_view {
 public:
  using value_type = std::remove_const_t<T>;
  using extents_type = std::array<index_t, static_cast<std::size_t>(Rank)>;
  static constexpr int rank = Rank;

  /// An empty view: no data, all extents zero.
  constexpr tensor_view() = default;

  /// Row-major and contiguous. Extents count elements.
  constexpr tensor_view(T* data, extents_type extents) : data_(data), extents_(extents) {
    index_t stride = 1;
    for (std::size_t axis = extents.size(); axis-- > 0;) {
      strides_[axis] = stride;
      // An overflowing product wraps around: the argument check sees it in the extents. A constant in its place would
      // let compilers make a second version of a loop for it, whose indices overflow, and gcc then takes the bound of
      // that version for the loop's.
      stride = static_cast<index_t>(static_cast<std::size_t>(stride) * static_cast<std::size_t>(extents[axis]));
    }
  }

  /// Strides count elements; the last must be 1 (checked where the view is used).
  constexpr tensor_view(T* data, extents_type extents, extents_type strides)
      : data_(data), extents_(extents), strides_(strides) {}

  /// A view that may write also serves as one that only reads.
  constexpr operator tensor_view<T const, Rank>() const
    requires(!std::is_const_v<T>)
  {
    return {data_, extents_, strides_};
  }

  constexpr T* data() const { return data_; }
  constexpr extents_type const& extents() const { return extents_; }
  constexpr extents_type const& strides() const { return strides_; }
  constexpr index_t extent(int axis) const { return extents_[static_cast<std::size_t>(axis)]; }
  constexpr index_t stride(int axis) const { return strides_[static_cast<std::size_t>(axis)]; }

  constexpr bool empty() const {
    for (index_t extent : extents_)
      if (extent == 0) return true;
    return false;
  }

  template <class... Indices>
    requires(sizeof...(Indices) == Rank)
  constexpr T& operator()(Indices... indices) const {
    index_t offset = 0;
    std::size_t axis = 0;
    ((offset += static_cast<index_t>(indices) * strides_[axis++]), ...);
    return data_[offset];
  }

 private:
  T* data_ = nullptr;
  extents_type extents_{};
  extents_type strides_{};
};

template <class T, std::size_t Rank>
tensor_view(T*, index_t const (&extents)[Rank]) -> tensor_view<T, static_cast<int>(Rank)>;
template <class T, std::size_t Rank>
tensor_view(T*, index_t const (&extents)[Rank], index_t const (&strides)[Rank])
    -> tensor_view<T, static_cast<int>(Rank)>;

namespace detail {

template <class X>
inline constexpr bool is_tensor_view = false;
template <class T, int Rank>
inline constexpr bool is_tensor_view<tensor_view<T, Rank>> = true;

// Eigen's tensors and matrices are recognised by their shape, so that its heavy headers are not needed here.

/// Eigen::RowMajor.
inline constexpr int eigen_row_major = 1;

template <class X>
concept EigenTensor = requires(X& x) {
  typename X::Dimensions;
  { X::NumDimensions } -> std::convertible_to<int>;
  x.dimensions();
  x.data();
};

template <class X>
concept EigenMatrix = requires(X& x) {
  x.data();
  { x.rows() } -> std::convertible_to<index_t>;
  { x.outerStride() } -> std::convertible_to<index_t>;
  { x.innerStride() } -> std::convertible_to<index_t>;
  { X::IsRowMajor } -> std::convertible_to<bool>;
};

// std::vector, std::array, std::span and what looks like them: one axis.
template <class X>
concept ContiguousRange = !is_tensor_view<X> && !EigenTensor<X> && !EigenMatrix<X> && requires(X& x) {
  x.data();
  { x.size() } -> std::convertible_to<std::size_t>;
  x.begin();
};

// A pointer, or an array that becomes one.
template <class X>
concept Pointer = std::is_pointer_v<std::decay_t<X>>;

template <class T>
tensor_view<T, 1> view_of_pointer() {
  static_assert(!std::same_as<T, T>,
                "attend: a pointer alone has no extents: write attend::tensor_view(pointer, {batch, heads, tokens, "
                "dimension}), with a second list for strides that are not those of one row-major piece");
  return {};
}

}  // namespace detail

namespace extend {

/// Anything that a view can be made of.
template <class X>
concept TensorLike = detail::is_tensor_view<std::remove_cvref_t<X>> || detail::EigenTensor<std::remove_cvref_t<X>> ||
                     detail::EigenMatrix<std::remove_cvref_t<X>> || detail::ContiguousRange<std::remove_cvref_t<X>>;

/// What calls and options take as a tensor: anything that a view can be made of, and a pointer alone. A pointer alone
/// does not compile, but view_of then gives the one message, which says what to write instead.
template <class X>
concept TensorArgument = TensorLike<X> || detail::Pointer<X>;

/// The view of a tensor, with the rank that the tensor has. A const tensor gives a view that only reads.
template <class X>
  requires TensorArgument<X>
constexpr auto view_of(X&& x) {
  using Tensor = std::remove_cvref_t<X>;
  if constexpr (detail::is_tensor_view<Tensor>) {
    return x;
  } else if constexpr (detail::Pointer<Tensor>) {
    return detail::view_of_pointer<std::remove_const_t<std::remove_pointer_t<std::decay_t<Tensor>>>>();
  } else if constexpr (detail::EigenTensor<Tensor>) {
    constexpr int rank = Tensor::NumDimensions;
    static_assert(rank < 2 || static_cast<int>(Tensor::Layout) == detail::eigen_row_major,
                  "attend: a tensor's last stride must be 1: use Eigen::RowMajor");
    using T = std::remove_pointer_t<decltype(x.data())>;
    typename tensor_view<T, rank>::extents_type extents;
    for (std::size_t axis = 0; axis < extents.size(); ++axis) extents[axis] = static_cast<index_t>(x.dimension(axis));
    return tensor_view<T, rank>(x.data(), extents);
  } else if constexpr (detail::ContiguousRange<Tensor>) {
    using T = std::remove_pointer_t<decltype(x.data())>;
    return tensor_view<T, 1>(x.data(), {static_cast<index_t>(x.size())});
  } else {
    static_assert(Tensor::IsRowMajor || Tensor::ColsAtCompileTime == 1,
                  "attend: a matrix's last stride must be 1: use Eigen::RowMajor");
    using T = std::remove_pointer_t<decltype(x.data())>;
    if constexpr (Tensor::IsVectorAtCompileTime)
      return tensor_view<T, 1>(x.data(), {x.size()}, {x.innerStride()});
    else
      return tensor_view<T, 2>(x.data(), {x.rows(), x.cols()}, {x.outerStride(), x.innerStride()});
  }
}

template <class X>
using element_of_t = typename decltype(view_of(std::declval<X&>()))::value_type;

template <class X>
inline constexpr int rank_of = decltype(view_of(std::declval<X&>()))::rank;

}  // namespace extend

namespace detail {

/// The tensor that a call returns; core/eigen_tensor.hpp says what it is.
template <class T, int Rank>
struct owned_tensor;

/// The part [first, first + count) of a tensor along one of its axes.
template <class T, int Rank>
constexpr tensor_view<T, Rank> part(tensor_view<T, Rank> const& view, int axis, index_t first, index_t count) {
  auto extents = view.extents();
  extents[static_cast<std::size_t>(axis)] = count;
  return {view.data() + first * view.stride(axis), extents, view.strides()};
}

}  // namespace detail

namespace extend {

/// The same tensor with leading axes of extent 1, up to rank To: a matrix is one head of one batch.
template <int To, class T, int Rank>
constexpr tensor_view<T, To> raise(tensor_view<T, Rank> const& view) {
  static_assert(Rank <= To, "attend: a tensor has more axes than this argument takes");
  typename tensor_view<T, To>::extents_type extents, strides;
  extents.fill(1);
  strides.fill(0);
  std::copy(view.extents().begin(), view.extents().end(), extents.end() - Rank);
  std::copy(view.strides().begin(), view.strides().end(), strides.end() - Rank);
  return {view.data(), extents, strides};
}

}  // namespace extend

}  // namespace attend::inline ATTEND_TARGET
