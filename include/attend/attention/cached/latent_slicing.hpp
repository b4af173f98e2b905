// SPDX-License-Identifier: BSD-3-Clause
// How latents are sliced: an orthogonal transform that spreads or sorts their energy, and what each slice holds of it.
//
//   c' = c U,   slice a = columns [a r/g, (a+1) r/g) of c',   proportion p_a = E |c'_a|^2 / E |c'|^2
//
//   Hadamard   U = diag(signs) H / sqrt(r), H the Hadamard matrix, r a power of two: every slice has 1/g
//   PCA        principal_slicing.hpp
//
// q . W c = q . (W U) c' for orthogonal U: projections take it in once (transform_projection), and latents before they
// are cached.
//
// Xiaojuan Tang et al.: TPLA: Tensor Parallel Latent Attention for Efficient Disaggregated Prefill and Decode
// Inference, 2025. Proportions as shares that sum to 1, for both transforms.
#pragma once

#include <Eigen/Core>

#include <bit>
#include <cmath>
#include <vector>

#include "../../core/arithmetic_mode.hpp"
#include "../../core/check.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Holds a transform and what each slice holds of the energy. A is the accumulation type, float or double.
template <class A>
struct latent_slicing {
  using matrix = Eigen::Matrix<A, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  matrix transform;           // [latent dimension, latent dimension], orthogonal
  std::vector<A> proportion;  // of each slice; they sum to 1

  index_t shards() const { return static_cast<index_t>(proportion.size()); }
};

}  // namespace systems

namespace detail {
inline void check_slices(char const* argument, index_t dimension, index_t shards) {
  if (shards < 1 || dimension < 1 || dimension % shards != 0)
    fail(argument, "expected shards that divide the latent dimension (", dimension, "), got ", shards);
}
}  // namespace detail

namespace systems {

/// Makes the Hadamard transform of latents for so many shards. Its signs are those of a fixed pseudorandom sequence.
///
/// Throws argument_error where the dimension is not a power of two, or the shards do not divide it.
///
///     latent_slicing<float> const slicing = hadamard_slicing(512, 2);
template <class A = float>
latent_slicing<A> hadamard_slicing(index_t dimension, index_t shards) {
  arithmetic_mode const arithmetic;
  detail::check_slices("hadamard_slicing", dimension, shards);
  if (!std::has_single_bit(static_cast<std::size_t>(dimension)))
    fail("hadamard_slicing", "expected a latent dimension that is a power of two, got ", dimension);
  latent_slicing<A> slicing;
  slicing.transform.resize(dimension, dimension);
  A const size = 1 / std::sqrt(static_cast<A>(dimension));
  std::uint64_t state = 0x9e3779b97f4a7c15u;
  for (index_t row = 0; row < dimension; ++row) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    A const sign = (state >> 63) ? -size : size;
    for (index_t column = 0; column < dimension; ++column)
      slicing.transform(row, column) = std::popcount(static_cast<std::size_t>(row & column)) % 2 ? -sign : sign;
  }
  slicing.proportion.assign(static_cast<std::size_t>(shards), 1 / static_cast<A>(shards));
  return slicing;
}

/// Multiplies projection [head, row, latent dimension] by the transform, into `transformed` of the same shape. This is
/// done once, when weights are loaded.
///
/// Throws argument_error, before anything is written, where shapes, strides or memory do not fit.
///
///     transform_projection(head_matrices, hadamard_slicing(512, 2), transformed);
template <TensorArgument Projection, class A, TensorArgument Transformed>
void transform_projection(Projection const& projection, latent_slicing<A> const& slicing, Transformed&& transformed) {
  arithmetic_mode const arithmetic;
  auto const from = raise<3>(view_of(projection));
  auto const to = raise<3>(view_of(transformed));
  using T = element_of_t<Transformed>;
  static_assert(std::same_as<accumulation_t<T>, A> && std::same_as<accumulation_t<element_of_t<Projection const>>, A>,
                "attend: a slicing of double goes with tensors of double, and one of float with all others");
  detail::check_view("projection", from);
  detail::check_extent("projection", "latent dimension", from.extent(2), slicing.transform.rows(), "the slicing");
  detail::check_output_view("transformed", to);
  if (to.extents() != from.extents())
    fail("transformed", "expected shape ", detail::shape_text<3>(from.extents()), " (as projection), got ",
         detail::shape_text<3>(to.extents()));
  detail::check_apart("transformed", to, "projection", tensor_view<element_of_t<Projection const> const, 3>(from));
  typename latent_slicing<A>::matrix rows(from.extent(1), from.extent(2));
  for (index_t head = 0; head < from.extent(0); ++head) {
    for (index_t r = 0; r < rows.rows(); ++r)
      for (index_t c = 0; c < rows.cols(); ++c) rows(r, c) = static_cast<A>(from(head, r, c));
    rows = (rows * slicing.transform).eval();
    for (index_t r = 0; r < rows.rows(); ++r)
      for (index_t c = 0; c < rows.cols(); ++c) to(head, r, c) = static_cast<T>(rows(r, c));
  }
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
