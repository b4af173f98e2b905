// SPDX-License-Identifier: BSD-3-Clause
// Latents sliced along their principal axes (latent_slicing.hpp):
//
//   U    the principal axes of given latents, the largest first, dealt out to the slices one at a time
//   p_a  their share of the second moment  E |c'_a|^2 / E |c'|^2
//
// tokens * r^2 operations for the second moment of latents of dimension r, and some r^3 for its axes.
//
// attend.hpp leaves this header out: Eigen's eigenvalue solvers would take a good part of everybody's compile time.
//
// Xiaojuan Tang et al.: TPLA: Tensor Parallel Latent Attention for Efficient Disaggregated Prefill and Decode
// Inference, 2025. The axes are dealt out, where the order is left open.
#pragma once

#include <Eigen/Eigenvalues>

#include "latent_slicing.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Finds the principal axes of latents [token, latent dimension], and gives a latent_slicing for so many shards.
///
/// Throws argument_error where there is no token, or the shards do not divide the latent dimension.
///
///     auto const slicing = principal_slicing(matrix, 2);
template <TensorArgument Latents>
auto principal_slicing(Latents const& tensor, index_t shards) {
  arithmetic_mode const arithmetic;
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

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
