// SPDX-License-Identifier: BSD-3-Clause
// Tensor-parallel latent attention: latents are sliced, and each of g shards keeps its slice of every token, for all
// heads.
//
//   c'     = c U
//   x_j^a  = c'_j^a / sqrt(|c'_j^a|^2 / (r p_a) + epsilon)     each shard a normalizes its slice alone
//   s_ij^a = scale * (n_i W_K^a . x_j^a / p_a + r_i . r_j)
//   o_i    = sum_a W_V^a sum_j softmax_j(s_ij^a) x_j^a
//
// with an orthogonal U and p_a, the proportion of slice a (latent_slicing.hpp), n_i and r_i the plain and the rotary
// part of the query, r_j the rotary key, and W^a the slice's columns of W U,
// so that shards exchange outputs and nothing else. One shard is latent attention over RMS-normalized latents. More are
// an approximation: each takes its softmax of an estimate of the logit, made from its slice. Where shards add up their
// logits n_i W_K^a . x_j^a before one softmax (one more exchange), only the norms are approximated: that is
// latent_attention over a cache of one shard, to which append_sliced gives the slices side by side.
//
// A shard is a head of the cache, and to the engine the g * heads queries are heads of their own. Cost 2 * (2 r/g +
// rotary) operations for each (shard, head, query, key); the cache holds r + g * rotary numbers a token.
//
// Xiaojuan Tang et al.: TPLA: Tensor Parallel Latent Attention for Efficient Disaggregated Prefill and Decode
// Inference, 2025. The gain of the norm is folded into the projections.
#pragma once

#include "latent_attention.hpp"
#include "latent_slicing.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// Each slice of a row to its own length.
template <class A>
void normalize_slices(latent_slicing<A> const& slicing, double epsilon, A* row) {
  index_t const dimension = slicing.transform.rows(), width = dimension / slicing.shards();
  for (A proportion : slicing.proportion) {
    double square = 0;
    for (index_t c = 0; c < width; ++c) square += static_cast<double>(row[c]) * static_cast<double>(row[c]);
    double const mean = square / (static_cast<double>(dimension) * static_cast<double>(proportion));
    // A slice without energy is 0, whatever its length should be.
    A const factor = square > 0 ? static_cast<A>(1 / std::sqrt(mean + epsilon)) : A(0);
    for (index_t c = 0; c < width; ++c) row[c] *= factor;
    row += width;
  }
}

template <class Cache, class A>
void check_slicing(Cache const& cache, latent_slicing<A> const& slicing) {
  static_assert(std::same_as<A, storage_accumulation_t<typename Cache::key_element>>,
                "attend: a slicing of double goes with a cache of double, and one of float with all others");
  check_extent("slicing", "dimension", slicing.transform.rows(), cache.shape().latent_dimension, "the cache");
  for (A proportion : slicing.proportion)
    if (!(proportion > 0 && proportion <= 1))
      fail("slicing", "expected proportions above 0 and up to 1, got ", proportion);
}

}  // namespace detail

namespace systems {

/// Appends tokens to one sequence of a cache: latent [token, latent dimension], as the model makes it, not normalized,
/// is transformed, and each slice is normalized with `epsilon`. The cache has as many shards as the slicing, or one,
/// which gets all slices. rotary_key [token, rotary dimension] is rotated already, or by a rotary policy that follows
/// epsilon.
///
/// Throws argument_error, and the cache is as it was, where shapes do not fit or where there is no room.
///
///     latent_cache<float> latents({.sequences = 8, .latent_dimension = 512, .rotary_dimension = 64, .shards = 2},
///                                 4096);  // tokens
///     append_sliced(latents, 0, matrix, matrix, hadamard_slicing(512, 2), 1e-6);
template <StorageElement T, class Rows, TensorArgument Latent, TensorArgument Key, class A, class... Rotary>
void append_sliced(latent_cache<T, Rows>& cache, index_t sequence, Latent const& latent_tensor, Key const& key_tensor,
                   latent_slicing<A> const& slicing, double epsilon, Rotary const&... settings) {
  arithmetic_mode const arithmetic;
  using U = element_of_t<Latent const>;
  static_assert(std::same_as<element_of_t<Key const>, U>, "attend: latents and rotary keys have one element type");
  static_assert(sizeof...(Rotary) <= 1, "attend: rotary given twice");
  tensor_view<U const, 2> const latent = raise<2>(view_of(latent_tensor)), key = raise<2>(view_of(key_tensor));
  detail::check_sequence(sequence, cache.sequences());
  detail::check_slicing(cache, slicing);
  if (cache.shape().shards != 1)
    detail::check_extent("slicing", "shards", slicing.shards(), cache.shape().shards, "the cache");
  if (!(epsilon >= 0 && std::isfinite(epsilon)))
    fail("epsilon", "expected a finite number of at least 0, got ", epsilon);
  detail::check_view("latent", latent);
  detail::check_view("rotary_key", key);
  detail::check_extent("latent", "dimension", latent.extent(1), slicing.transform.rows(), "the slicing");
  detail::check_extent("rotary_key", "tokens", key.extent(0), latent.extent(0), "latent");
  detail::check_extent("rotary_key", "dimension", key.extent(1), cache.shape().rotary_dimension, "the cache");
  cache.check_room(sequence, latent.extent(0), settings...);

  index_t const dimension = latent.extent(1), tokens = latent.extent(0);
  scratch memory;
  tensor_view<A const, 2> const transform(slicing.transform.data(), {dimension, dimension});
  constexpr index_t chunk = simd::tile_lanes<A>;
  A* const sliced = memory.allocate<A>(chunk * dimension);
  A* const rotary_key = memory.allocate<A>(chunk * key.extent(1));
  for (index_t first = 0; first < tokens; first += chunk) {
    index_t const count = std::min(chunk, tokens - first);
    U const* from[array_size(chunk)];
    A* to[array_size(chunk)];
    for (index_t t = 0; t < count; ++t) {
      from[t] = latent.data() + (first + t) * latent.stride(0);
      to[t] = sliced + t * dimension;
      detail::convert_row(key.data() + (first + t) * key.stride(0), key.extent(1), rotary_key + t * key.extent(1));
    }
    scratch of_product;
    engine::projection(of_product, transform, count).multiply(from, to);
    for (index_t t = 0; t < count; ++t) detail::normalize_slices(slicing, epsilon, to[t]);
    cache.append(sequence, tensor_view<A const, 2>(sliced, {count, dimension}),
                 tensor_view<A const, 2>(rotary_key, {count, key.extent(1)}), settings...);
  }
}

/// Attends as latent_attention does, in the absorbed form, over a cache that append_sliced filled, with projections
/// that transform_projection made. The cache has as many shards as the slicing; other shapes and the errors are those
/// of latent_attention. Options: a mask of positions, scale, a rotary policy for the queries, full_precision,
/// count_tiles and executor.
///
///     latent_cache<float> latents({.sequences = 8, .latent_dimension = 512, .rotary_dimension = 64, .shards = 2},
///                                 4096);  // tokens
///     latent_projections const projections(head_matrices, head_matrices);
///     sliced_latent_attention(q, latents, projections, hadamard_slicing(512, 2), o);
template <TensorArgument Query, StorageElement C, class Rows, Element W, class A, TensorArgument Output,
          class... Options>
void sliced_latent_attention(Query const& query, latent_cache<C, Rows> const& cache,
                             latent_projections<W> const& projections, latent_slicing<A> const& slicing,
                             Output&& output, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  static_assert(Element<T> && std::same_as<element_of_t<Query const>, T>,
                "attend: query and output must have one element type");
  static_assert(std::same_as<accumulation_t<T>, A> && std::same_as<accumulation_t<W>, A>,
                "attend: double goes with a cache, projections and a slicing of double, and no other type does");
  call::allows<option::mask, option::scale, option::position, option::tile_counts, option::precision,
               option::executor>::check<Options...>();
  detail::check_slicing(cache, slicing);
  detail::check_extent("slicing", "shards", slicing.shards(), cache.shape().shards, "the cache");
  auto const plan = detail::plan_latent<T>(query, cache, projections, output, options...);
  if (!plan.problem.empty()) detail::attend_absorbed(plan, slicing.proportion.data());
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
