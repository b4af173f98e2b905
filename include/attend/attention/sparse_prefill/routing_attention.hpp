// SPDX-License-Identifier: BSD-3-Clause
// Routing attention (Routing Transformer): queries and keys meet in clusters, which are balanced by construction.
//
//   q^, k^      = queries and keys of length 1
//   Q_c, K_c    = the w queries with the largest q^ . mu_c, and the w keys with the largest k^ . mu_c
//   o_i         = mean over the clusters c with i in Q_c of softmax attention of q_i to the keys of K_c
//
// under causal{} to those of them at or before its position. A query in no cluster has output 0; one that sees no key
// of a cluster has 0 from it. Ties go to the lower token. Centroids mu [head, cluster, dimension] learn by online
// k-means:
//
//   mu_c <- lambda mu_c + (1 - lambda) / 2 (sum of the q^ nearest to it + sum of the k^ nearest to it), at length 1
//
//   query, key, value, output   as for softmax_attention
//
// Cost: 2 * dimension operations for each query or key and cluster, and w * w pairs for each cluster, half of them
// under causal{}: with sqrt(n) clusters, O(n^1.5), of which finding who is where is the larger part. A cluster takes
// the tokens that are most like its centroid, not all that are nearest to it: a token, or a needle that a query looks
// for, may be in none. Rows are gathered where they lie. Memory: tokens * clusters scores and the sums of a head for
// each thread.
//
// Aurko Roy, Mohammad Saffar, Ashish Vaswani, David Grangier: Efficient Content-Based Sparse Attention with Routing
// Transformers, 2021. Length 1 stands for its layer normalization without scale, which is the same up to a factor where
// the elements of a row have mean 0; the sums of the update are its text's, where a later public implementation takes
// the mean of each cluster. A causal model shares queries and keys: key is then query. Centroids to begin with are
// those of some updates with lambda = 0. Not here: that implementation's learned null key and value of each cluster,
// and its rule that a token sees itself only where it sees no other.
#pragma once

#include "../../call/plan.hpp"
#include "../../core/head_loop.hpp"
#include "../../engine/softmax/gathered.hpp"
#include "../../policy/mask/causal.hpp"
#include "../../select/clusters.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// A head of a batch: all its clusters.
template <Element T, Mask M>
void route_head(engine::problem<T> const& p, tensor_view<accumulation_t<T> const, 2> const& centroids, index_t most,
                index_t batch, index_t head) {
  using A = accumulation_t<T>;
  scratch memory;
  index_t const queries = p.shape.queries, clusters = centroids.extent(0), dimension = p.shape.value_dimension;
  cluster_members<T> const members(p, centroids, most, batch, head, memory);
  A* const sums = memory.allocate<A>(queries * dimension);
  auto* const times = memory.allocate<index_t>(queries);
  std::fill_n(times, queries, index_t{0});

  engine::problem_rows<T> const source(p);
  using rows_type = engine::source_rows<engine::problem_rows<T>>;
  rows_type const in_memory{&source, batch, head / p.heads_per_group()};
  engine::gathered_tiles<T> tiles(p, batch, memory);
  for (index_t c = 0; c < clusters; ++c) {
    std::span const chosen_queries = members.queries(c), chosen_keys = members.keys(c);
    index_t const some = std::ssize(chosen_queries), others = std::ssize(chosen_keys);
    for (index_t first = 0; first < some; first += tiles.max_rows) {
      std::int32_t const* const list = chosen_queries.data() + first;
      index_t const count = std::min(tiles.max_rows, some - first);
      tiles.set_rows(count, [&](index_t i) { return typename engine::gathered_tiles<T>::row{head, list[i]}; });
      if (others > 0) {
        scratch memory_of_keys;
        engine::ordered_rows<rows_type, engine::token_list> const rows{in_memory, {chosen_keys.data()}};
        engine::key_block block(memory_of_keys, rows, tiles.shape_of_block());
        if constexpr (std::same_as<M, causal>)
          tiles.add_keys(block, rows, 0, others, engine::listed_before{chosen_keys.data(), others, 0});
        else
          tiles.add_keys(block, rows, 0, others, full{});
      }
      tiles.add([&](index_t i) { return sums + list[i] * dimension; }, [&](index_t i) { return times[list[i]] == 0; });
      for (index_t i = 0; i < count; ++i) ++times[list[i]];
    }
  }
  if (dimension == 0) return;
  for (index_t i = 0; i < queries; ++i) {
    A const factor = times[i] > 0 ? 1 / static_cast<A>(times[i]) : A(0);
    engine::merge_rows(
        &factor, 1, [&](index_t) { return sums + i * dimension; }, dimension, &p.output(batch, head, i, 0));
  }
}

}  // namespace detail

namespace systems {

/// Attends within clusters. Query, key, value and output have the shapes of softmax_attention; centroids [head,
/// cluster, dimension] have the accumulation type. A cluster takes at most `most` queries and as many keys; 0, the
/// default, stands for tokens / clusters, rounded up. Options: causal{}, scale (1/sqrt(key dimension) unless given) and
/// executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     routing_attention(q, k, v, o, head_matrices, 128, causal{});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output,
          TensorArgument Centroids, class... Options>
void routing_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                       Centroids const& centroids, index_t most, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  call::allows<option::mask, option::scale, option::executor>::check<Options...>();
  call::check_only_causal<Options...>();
  static_assert(std::same_as<element_of_t<Centroids const>, A>,
                "attend: centroids have the accumulation type: float, or double for tensors of double");
  tensor_view<A const, 3> const all = raise<3>(view_of(centroids));
  auto problem = call::problem_of(query, key, value, output);
  detail::check_centroids(all, problem.shape);
  detail::check_apart("output", problem.output, "centroids", raise<4>(all));
  full everything;
  detail::check_last_at_last(detail::find_option<option::mask>(everything, options...), problem.shape);
  if (most < 0) fail("most", "expected at least 0 tokens of a cluster, got ", most);
  index_t const tokens = std::max(problem.shape.queries, problem.shape.keys), clusters = all.extent(1);
  if (most == 0 && clusters > 0) most = divide_up(tokens, clusters);
  most = std::min(most, tokens);
  auto plan = call::plan(problem, options...);
  using mask_type = typename decltype(plan.policies())::mask_type;
  problem_shape const& shape = problem.shape;
  detail::loop_cost const of_cluster =
      detail::loop_cost::of(2 * (shape.queries + shape.keys) * shape.key_dimension +
                            2 * most * most * (shape.key_dimension + shape.value_dimension));
  detail::for_heads(plan.executor, shape.batches, shape.query_heads, clusters * of_cluster,
                    [&](index_t batch, index_t head) {
                      detail::route_head<T, mask_type>(problem, detail::centroids_of(all, head), most, batch, head);
                    });
}

/// Makes one step of online k-means with all queries and keys, where `decay` is lambda. Shapes are those of
/// routing_attention. Option: executor.
///
/// Throws argument_error, before anything is written, where shapes, strides or memory do not fit, or the decay is not
/// in [0, 1].
///
///     update_centroids(head_matrices, q, k, 0.999);
template <TensorArgument Centroids, TensorArgument Query, TensorArgument Key, class... Options>
void update_centroids(Centroids&& centroids, Query const& query, Key const& key, double decay, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Query const>;
  using A = accumulation_t<T>;
  call::allows<option::executor>::check<Options...>();
  auto const q = raise<4>(view_of(query));
  auto const k = raise<4>(view_of(key));
  tensor_view<A, 3> const all = raise<3>(view_of(centroids));
  problem_shape const shape = call::checked_shape<T>(q, k);
  detail::check_centroids<A>(all, shape);
  detail::check_output_view("centroids", all);
  detail::check_apart("centroids", raise<4>(all), "query", q);
  detail::check_apart("centroids", raise<4>(all), "key", k);
  if (!(decay >= 0 && decay <= 1)) fail("decay", "expected a number from 0 to 1, got ", decay);
  auto& executor = call::executor_of(options...);
  detail::loop_cost const of_head =
      detail::loop_cost::of(2 * shape.batches * (shape.queries + shape.keys) * all.extent(1) * all.extent(2));
  detail::for_heads(executor, 1, shape.query_heads, of_head,
                    [&](index_t, index_t head) { detail::move_centroids<T>(all, q, k, head, decay); });
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
