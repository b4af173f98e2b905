// SPDX-License-Identifier: BSD-3-Clause
// Attention flow: how much can flow from an input token to a token behind several layers of self-attention, through a
// network whose pipes are as wide as the weights.
//
//   A_l = mean or maximum over heads of P_l             residual_map: the map of one layer, P_l its weights
//   B_l = (A_l + I) / (row sums)
//
//   R = B_L ... B_2 B_1                                 map_rollout: rollout of stored maps
//   F_ij = the maximum flow from node (L, i) to node (0, j)                    attention_flow
//
// The network has a node for each token before the first layer, (0, i), and behind each, (l, i), and a pipe from (l, i)
// to (l - 1, j) of capacity B_l,ij. Flow keeps to the capacities and is neither lost nor gained at a node between; so
// F_ij is the least that has to be cut to separate the two (Ford and Fulkerson).
//
// Maps are [layer, token, token] of the accumulation type, and stored: both calls are for some hundred tokens. Rollout
// with the mean of the heads does without (attention_rollout.hpp).
//
// Cost: a map, the weights of all heads; rollout, 2 tokens^3 operations for each layer; flow, an algorithm of Dinitz
// for each pair of tokens: at most layers * tokens phases of a search through all pipes, and few in practice, since all
// shortest ways are as long as there are layers. Memory of flow: 2 numbers for each pipe, for each thread.
//
// Samira Abnar, Willem Zuidema: Quantifying Attention Flow in Transformers, 2020 (flows as they are; the authors' code
// then divides those of a token by their sum). Yefim Dinitz: Algorithm for Solution of a Problem of Maximum Flow in
// Networks with Power Estimation, 1970.
#pragma once

#include "attention_rollout.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// How the weights of heads become one map.
enum class head_fusion { mean, maximum };

}  // namespace systems

namespace detail {

/// A network of layers, and the maximum flow between two of its nodes.
class layer_network {
 public:
  template <class A>
  layer_network(tensor_view<A const, 3> const& maps, scratch& memory)
      : layers_(maps.extent(0)), tokens_(maps.extent(1)), nodes_((layers_ + 1) * tokens_) {
    index_t const pipes = layers_ * tokens_ * tokens_;
    capacity_ = memory.allocate<double>(pipes);
    down_ = memory.allocate<double>(pipes);
    up_ = memory.allocate<double>(pipes);
    distance_ = memory.allocate<index_t>(nodes_);
    next_ = memory.allocate<index_t>(nodes_);
    queue_ = memory.allocate<index_t>(nodes_);
    way_ = memory.allocate<index_t>(nodes_ + 1);
    for (index_t l = 0; l < layers_; ++l)
      for (index_t i = 0; i < tokens_; ++i)
        for (index_t j = 0; j < tokens_; ++j)
          capacity_[(l * tokens_ + i) * tokens_ + j] = static_cast<double>(maps(l, i, j));
  }

  /// What can flow from a token behind the last layer to one before the first.
  double flow(index_t from, index_t to) {
    index_t const pipes = layers_ * tokens_ * tokens_;
    std::copy_n(capacity_, pipes, down_);
    std::fill_n(up_, pipes, 0.0);
    source_ = layers_ * tokens_ + from, sink_ = to;
    double total = 0;
    while (find_distances()) {
      std::fill_n(next_, nodes_, index_t{0});
      for (double more = push_one_way(); more > 0; more = push_one_way()) total += more;
    }
    return total;
  }

 private:
  // Node (l, i) is number l * tokens + i. Its neighbours are those of the layer below, number 0 to tokens - 1, and
  // those of the layer above.
  index_t neighbour(index_t node, index_t number) const {
    index_t const layer = node / tokens_;
    return number < tokens_ ? (layer - 1) * tokens_ + number : layer * tokens_ + number;
  }
  /// What may still flow from a node to a neighbour: down a pipe, or back what came down it.
  double& rest(index_t node, index_t number) const {
    index_t const layer = node / tokens_, token = node % tokens_;
    return number < tokens_ ? down_[((layer - 1) * tokens_ + token) * tokens_ + number]
                            : up_[(layer * tokens_ + number - tokens_) * tokens_ + token];
  }
  double& reverse(index_t node, index_t number) const {
    index_t const layer = node / tokens_, token = node % tokens_;
    return number < tokens_ ? up_[((layer - 1) * tokens_ + token) * tokens_ + number]
                            : down_[(layer * tokens_ + number - tokens_) * tokens_ + token];
  }
  index_t first_number(index_t node) const { return node < tokens_ ? tokens_ : 0; }
  index_t last_number(index_t node) const { return node < layers_ * tokens_ ? 2 * tokens_ : tokens_; }

  /// Steps from the source over pipes that take more, breadth first. Gives whether the sink is reached.
  bool find_distances() {
    std::fill_n(distance_, nodes_, index_t{-1});
    distance_[source_] = 0;
    queue_[0] = source_;
    for (index_t at = 0, end = 1; at < end; ++at) {
      index_t const node = queue_[at];
      for (index_t n = first_number(node); n < last_number(node); ++n) {
        index_t const other = neighbour(node, n);
        if (distance_[other] >= 0 || !(rest(node, n) > 0)) continue;
        distance_[other] = distance_[node] + 1;
        if (other == sink_) return true;
        queue_[end++] = other;
      }
    }
    return false;
  }

  /// Fills a shortest way to the sink as far as its narrowest pipe allows, and gives how much that is: 0 where no
  /// shortest way is left. A pipe that leads to no way is not tried again.
  double push_one_way() {
    index_t length = 0;
    way_[0] = source_;
    while (way_[length] != sink_) {
      index_t const node = way_[length];
      index_t& n = next_[node];
      n = std::max(n, first_number(node));
      while (n < last_number(node) && !(rest(node, n) > 0 && distance_[neighbour(node, n)] == distance_[node] + 1)) ++n;
      if (n < last_number(node))
        way_[++length] = neighbour(node, n);
      else if (length == 0)
        return 0;
      else
        ++next_[way_[--length]];
    }
    double narrowest = infinity<double>;
    for (index_t step = 0; step < length; ++step) narrowest = std::min(narrowest, rest(way_[step], next_[way_[step]]));
    for (index_t step = 0; step < length; ++step) {
      index_t const node = way_[step];
      // What is narrowest becomes 0 exactly: so each way that is filled closes a pipe.
      rest(node, next_[node]) -= narrowest;
      reverse(node, next_[node]) += narrowest;
    }
    return narrowest;
  }

  index_t layers_, tokens_, nodes_, source_ = 0, sink_ = 0;
  double *capacity_, *down_, *up_;  // [layer, token, token]
  index_t *distance_, *next_, *queue_, *way_;
};

/// Checks maps [layer, token, token].
template <class A>
void check_maps(tensor_view<A const, 3> const& maps) {
  check_view("maps", maps);
  check_extent("maps", "keys", maps.extent(2), maps.extent(1), "its tokens");
}

}  // namespace detail

namespace systems {

/// Writes B of one layer of self-attention: the weights of its heads as one, with the identity, and rows that add up to
/// 1. Query and key are [batch, head, token, dimension], map [batch, token, token] of the accumulation type. The
/// weights of all heads are held in working memory. Options: a mask, scores, scale, sinks, sequences that are not
/// packed, executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     residual_map(q, k, gates, head_fusion::maximum, causal{});  // gates: [batch, token, token]
template <TensorArgument Query, TensorArgument Key, TensorArgument Map, class... Options>
void residual_map(Query const& query, Key const& key, Map&& map, head_fusion fusion, Options&&... options) {
  using T = element_of_t<Query const>;
  using A = accumulation_t<T>;
  call::rollout_options::check<Options...>();
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key));
  tensor_view<A, 3> const to = raise<3>(view_of(map));
  problem_shape const shape = call::checked_shape<T>(q, k);
  index_t const heads = shape.query_heads, tokens = shape.queries;
  detail::check_extent("key", "tokens", shape.keys, tokens, "query");
  detail::check_output_view("map", to);
  detail::check_extent("map", "batch", to.extent(0), shape.batches, "query");
  detail::check_extent("map", "tokens", to.extent(1), tokens, "query");
  detail::check_extent("map", "keys", to.extent(2), tokens, "query");
  auto& executor = call::executor_of(options...);
  scratch memory;
  tensor_view<A, 4> const weights(memory.allocate<A>(shape.batches * heads * tokens * tokens),
                                  {shape.batches, heads, tokens, tokens});
  attention_weights(q, k, weights, options...);

  arithmetic_mode const arithmetic;
  detail::for_tokens(executor, shape.batches, 1, tokens, detail::loop_cost::of((heads + 2) * tokens),
                     [&](index_t b, index_t, index_t first, index_t last) {
                       for (index_t i = first; i < last; ++i) {
                         A sum = 1;
                         for (index_t j = 0; j < tokens; ++j) {
                           A fused = 0;
                           for (index_t h = 0; h < heads; ++h) {
                             A const weight = weights(b, h, i, j);
                             fused = fusion == head_fusion::mean
                                         ? fused + weight / static_cast<A>(heads)
                                         : (weight > fused || std::isnan(weight) ? weight : fused);
                           }
                           sum += fused;
                           to(b, i, j) = fused + static_cast<A>(i == j);
                         }
                         for (index_t j = 0; j < tokens; ++j) to(b, i, j) /= sum;
                       }
                     });
}

/// Writes R of stored maps: maps [layer, token, token], the first layer first, rollout [token, token].
///
/// Throws argument_error, before anything is written, where shapes, strides or memory do not fit.
///
///     map_rollout(head_matrices, matrix);
template <TensorArgument Maps, TensorArgument Rollout>
void map_rollout(Maps const& maps, Rollout&& rollout) {
  using A = element_of_t<Maps const>;
  static_assert(std::same_as<A, accumulation_t<A>>, "attend: maps are of float or of double");
  tensor_view<A const, 3> const all = raise<3>(view_of(maps));
  tensor_view<A, 2> const to = raise<2>(view_of(rollout));
  detail::check_maps(all);
  detail::check_output_view("rollout", to);
  index_t const tokens = all.extent(1);
  detail::check_extent("rollout", "tokens", to.extent(0), tokens, "maps");
  detail::check_extent("rollout", "keys", to.extent(1), tokens, "maps");
  detail::check_apart("rollout", raise<3>(to), "maps", all);
  arithmetic_mode const arithmetic;
  scratch memory;
  A* const before = memory.allocate<A>(tokens * tokens);
  for (index_t i = 0; i < tokens; ++i)
    for (index_t j = 0; j < tokens; ++j) to(i, j) = static_cast<A>(i == j);
  for (index_t l = 0; l < all.extent(0); ++l) {
    for (index_t i = 0; i < tokens; ++i)
      for (index_t j = 0; j < tokens; ++j) before[i * tokens + j] = std::exchange(to(i, j), A(0));
    for (index_t i = 0; i < tokens; ++i)
      for (index_t m = 0; m < tokens; ++m)
        for (index_t j = 0; j < tokens; ++j) to(i, j) += all(l, i, m) * before[m * tokens + j];
  }
}

/// Writes the flow from each of the tokens that `outputs` lists, behind the last layer, to each input token: maps
/// [layer, token, token], the first layer first, outputs [count] of std::int64_t, flow [count, token]. Options:
/// executor.
///
/// Throws argument_error, before anything is written, where shapes, strides or memory do not fit, a token in `outputs`
/// does not exist, there is no layer, or a number of the maps is negative or not finite.
///
///     attention_flow(head_matrices, ids, matrix, threads{2});
template <TensorArgument Maps, TensorArgument Outputs, TensorArgument Flow, class... Options>
void attention_flow(Maps const& maps, Outputs const& outputs, Flow&& flow, Options&&... options) {
  using A = element_of_t<Maps const>;
  static_assert(std::same_as<A, accumulation_t<A>>, "attend: maps are of float or of double");
  call::allows<option::executor>::check<Options...>();
  tensor_view<A const, 3> const all = raise<3>(view_of(maps));
  tensor_view<std::int64_t const, 1> const from = view_of(outputs);
  tensor_view<A, 2> const to = raise<2>(view_of(flow));
  detail::check_maps(all);
  detail::check_view("outputs", from);
  detail::check_output_view("flow", to);
  index_t const layers = all.extent(0), tokens = all.extent(1);
  if (layers < 1) fail("maps", "expected at least 1 layer, got ", layers);
  detail::check_extent("flow", "rows", to.extent(0), from.extent(0), "outputs");
  detail::check_extent("flow", "tokens", to.extent(1), tokens, "maps");
  detail::check_apart("flow", raise<3>(to), "maps", all);
  for (index_t n = 0; n < from.extent(0); ++n)
    if (from(n) < 0 || from(n) >= tokens)
      fail("outputs", "expected tokens from 0 to ", tokens - 1, ", got ", from(n), " at ", n);
  for (index_t l = 0; l < layers; ++l)
    for (index_t i = 0; i < tokens; ++i)
      for (index_t j = 0; j < tokens; ++j)
        if (!(all(l, i, j) >= 0) || !std::isfinite(all(l, i, j)))
          fail("maps", "expected finite numbers of at least 0, got ", static_cast<double>(all(l, i, j)));
  auto& executor = call::executor_of(options...);
  // Some ten searches through all pipes for each pair.
  detail::parallel_for(executor, from.extent(0),
                       from.extent(0) * detail::loop_cost::of(10 * layers * tokens * tokens * tokens), [&](index_t n) {
                         scratch memory;
                         detail::layer_network network(all, memory);
                         for (index_t j = 0; j < tokens; ++j) to(n, j) = static_cast<A>(network.flow(from(n), j));
                       });
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
