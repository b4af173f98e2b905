// How latents are sliced: an orthogonal transform that spreads or sorts their energy, and what each slice holds of it.
//
//   c' = c U,   slice a = columns [a r/g, (a+1) r/g) of c',   proportion p_a = E |c'_a|^2 / E |c'|^2
//
//   Hadamard   U = diag(signs) H / sqrt(r), H the Hadamard matrix, r a power of two: every slice has 1/g
//   PCA        U = the principal axes of given latents, the largest first, dealt out to the slices one at a time;
//              p_a is their share of the second moment
//
// q . W c = q . (W U) c' for orthogonal U: projections take it in once (transform_projection), and latents before they
// are cached.
//
// Xiaojuan Tang et al.: TPLA: Tensor Parallel Latent Attention for Efficient Disaggregated Prefill and Decode
// Inference, 2025. Proportions as shares that sum to 1, for both transforms; the axes are dealt out, where the order is
// left open.
#pragma once

#include <Eigen/Eigenvalues>

#include <bit>
#include <numeric>
#include <vector>

#include "../core/check.hpp"

namespace attend {

/// A is float or double.
template <class A>
struct latent_slicing {
  using matrix = Eigen::Matrix<A, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  matrix transform;           // [latent dimension, latent dimension], orthogonal
  std::vector<A> proportion;  // of each slice; they sum to 1

  index_t shards() const { return static_cast<index_t>(proportion.size()); }
};

namespace detail {
inline void check_slices(char const* argument, index_t dimension, index_t shards) {
  if (shards < 1 || dimension < 1 || dimension % shards != 0)
    fail(argument, "expected shards that divide the latent dimension (", dimension, "), got ", shards);
}
}  // namespace detail

/// The Hadamard transform. Signs are those of a fixed pseudorandom sequence. The dimension is a power of two.
template <class A = float>
latent_slicing<A> hadamard_slicing(index_t dimension, index_t shards) {
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

/// The principal axes of latents [token, latent dimension].
template <TensorLike Latents>
auto principal_slicing(Latents const& tensor, index_t shards) {
  auto const latents = view_of(tensor);
  static_assert(decltype(latents)::rank == 2, "attend: latents are [token, latent dimension]");
  using A = accumulation_t<element_of_t<Latents const>>;
  detail::check_view("latents", latents);
  index_t const tokens = latents.extent(0), dimension = latents.extent(1), width = shards > 0 ? dimension / shards : 0;
  detail::check_slices("principal_slicing", dimension, shards);
  if (tokens < 1) fail("latents", "expected at least one token, got ", tokens);
  Eigen::MatrixXd moment = Eigen::MatrixXd::Zero(dimension, dimension);
  Eigen::VectorXd row(dimension);
  for (index_t t = 0; t < tokens; ++t) {
    for (index_t c = 0; c < dimension; ++c) row[c] = static_cast<double>(latents(t, c));
    moment.selfadjointView<Eigen::Lower>().rankUpdate(row, 1 / static_cast<double>(tokens));
  }
  Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> const axes(moment.selfadjointView<Eigen::Lower>());
  if (axes.info() != Eigen::Success) fail("latents", "expected finite numbers, got some whose axes cannot be found");
  double const whole = axes.eigenvalues().cwiseMax(0).sum();
  latent_slicing<A> slicing;
  slicing.transform.resize(dimension, dimension);
  std::vector<double> share(static_cast<std::size_t>(shards), 0.0);
  for (index_t i = 0; i < dimension; ++i) {
    index_t const rank = dimension - 1 - i;  // of the i-th largest
    index_t const shard = i % shards, column = shard * width + i / shards;
    slicing.transform.col(column) = axes.eigenvectors().col(rank).template cast<A>();
    share[static_cast<std::size_t>(shard)] +=
        whole > 0 ? std::max(axes.eigenvalues()[rank], 0.0) / whole : 1 / static_cast<double>(dimension);
  }
  // The shares of one shard sum to 1 but for rounding.
  for (double const part : share) {
    slicing.proportion.push_back(static_cast<A>(std::min(part, 1.0)));
    if (slicing.proportion.back() == 0) fail("latents", "expected energy in each of ", shards, " slices, got one of 0");
  }
  return slicing;
}

/// projection [head, row, latent dimension] times the transform, into `transformed` of the same shape: once, when
/// weights are loaded.
template <TensorLike Projection, class A, TensorLike Transformed>
void transform_projection(Projection const& projection, latent_slicing<A> const& slicing, Transformed&& transformed) {
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

}  // namespace attend
