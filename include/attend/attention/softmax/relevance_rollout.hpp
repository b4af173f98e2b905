// SPDX-License-Identifier: BSD-3-Clause
// Relevance-weighted rollout: attention rollout whose weights count as far as the output Y that is explained depends on
// them, by their gradient and by their relevance.
//
//   g_ij = dY/dp_ij = dY/do_i . v_j
//   R_p,ij = 1/2 p_ij r_i . v_j,   r_i = R_o,i / o_i          deep_taylor (attention_relevance.hpp)
//   A_l,ij = 1 if i = j, plus the mean over heads of max(0, g_ij R_p,ij)
//   C = A_L ... A_2 A_1                                       rows are not divided by their sums
//
//   relevance_rollout        C x, for columns x [batch, token, column]: from the first layer on
//   relevance_rollout_rows   y C, for rows y [batch, row, token]: from the last layer on; what explains a class token
//   is
//                            its row, that of a y which is 1 there, without the class token's own column
//
// A layer is its queries, keys, values and output, the gradient of Y and the relevance of that output, which a model's
// way back gives: here attention_relevance has its part, and softmax_attention_backward. Since a weight is never
// negative, max(0, g R_p) = p m with m = 1/2 max(0, (dY/do_i . v_j) (r_i . v_j)): C x is attention with a gain m of
// each pair, and y C its transpose with ln m added to the logits. m is made tile by tile, and no map is stored.
//
// Cost of a layer: that of attention_rollout, and two further products as wide as the values are. Memory: a number for
// each head, token and column, and a tensor of the output's size.
//
// Hila Chefer, Shir Gur, Lior Wolf: Transformer Interpretability Beyond Attention Visualization, 2021 (as in the
// authors' code: later layers on the left, and rows as they are).
#pragma once

#include "../../engine/softmax/backward_tile.hpp"
#include "../../simd/logarithm.hpp"
#include "attention_relevance.hpp"
#include "attention_rollout.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// A layer of self-attention on the way back from what is explained: the tensors of its call, [batch, head, token,
/// dimension], the gradient of its output, and its output's relevance. There are as many value heads as key heads.
template <extend::Element T>
struct relevance_layer {
  using element_type = T;
  tensor_view<T const, 4> query, key, value, output, of_output, relevance;
};

}  // namespace systems

namespace detail {

/// Gains m of pairs.
template <Element T>
class pair_relevance {
 public:
  using A = accumulation_t<T>;
  static constexpr int lanes = tile_rows<A>::lanes;

  pair_relevance(tensor_view<T const, 4> const& value, tensor_view<T const, 4> const& of_output,
                 tensor_view<T const, 4> const& divided)
      : value_(value), of_output_(of_output), divided_(divided) {}

  /// Writes those of a tile's rows and a range of keys.
  void fill(tile_rows<A> const& rows, key_range range, A (*to)[array_size(lanes)]) const {
    using namespace simd;
    scratch memory;
    index_t const depth = value_.extent(3), used = round_up(rows.count, width<A>);
    index_t const padded = round_up(range.count(), register_rows);
    A* const values = memory.allocate<A>(padded * depth);
    index_t const head = rows.head[0] / (of_output_.extent(1) / value_.extent(1));
    for (index_t j = 0; j < range.count(); ++j)
      if (depth > 0)
        widen_row(&value_(rows.batch, head, rows.first_key_token + range.first + j, 0), values + j * depth, depth);
    std::fill(values + range.count() * depth, values + padded * depth, A(0));
    A *packed[2], *product[2];
    for (int which = 0; which < 2; ++which) {
      auto const& tensor = which == 0 ? of_output_ : divided_;
      T const* row[array_size(lanes)];
      for (int lane = 0; lane < used; ++lane) {
        int const real = std::min(lane, rows.count - 1);
        row[lane] = depth > 0 ? &tensor(rows.batch, rows.head[real], rows.query_token(real), 0) : nullptr;
      }
      packed[which] = memory.allocate<A>(depth * used);
      pack_columns(row, static_cast<int>(used), depth, packed[which], used);
      product[which] = memory.allocate<A>(padded * used);
      std::fill_n(product[which], padded * used, A(0));
      engine::add_products<false>(values, depth, range.count(), engine::padded_rows<A>{packed[which], used, used},
                                  depth, product[which], used);
    }
    for (index_t lane = 0; lane < used; lane += width<A>) {
      // A row that is not finite has gains of NaN. Those of a key, which may be hidden, are 0.
      vector<A> const nothing(A(0));
      vector<A> of_row = nothing;
      for (index_t c = 0; c < depth; ++c)
        of_row = of_row + (load(packed[0] + c * used + lane) + load(packed[1] + c * used + lane)) * nothing;
      for (index_t j = 0; j < range.count(); ++j) {
        vector<A> const m = vector<A>(A(0.5)) * load(product[0] + j * used + lane) * load(product[1] + j * used + lane);
        store(to[j] + lane, simd::select(m > nothing, m, nothing) + of_row);
      }
    }
  }

 private:
  tensor_view<T const, 4> value_, of_output_, divided_;
};

/// The gains, as what multiplies weights.
template <Element T>
struct relevance_gain {
  using option_kind = option::pair_gain;
  pair_relevance<T> const& pairs;

  void check(problem_shape const&) const {}
  template <class A>
  auto bind(tile_rows<A> const& rows, key_range range) const {
    struct bound {
      index_t first;
      // Uninitialised beyond the range: it is never read there.
      alignas(64) A gain[max_block_keys][tile_rows<A>::lanes];
      simd::vector<A> operator()(score_place<A> const& place) const {
        return simd::load(gain[place.key_index - first] + place.lane);
      }
    };
    bound result;
    result.first = range.first;
    pairs.fill(rows, range, result.gain);
    return result;
  }
};

/// Their logarithms, added to logits.
template <Element T>
struct relevance_score {
  using option_kind = option::score;
  static constexpr bool may_hide = true;
  pair_relevance<T> const& pairs;

  void check(problem_shape const&) const {}
  template <class A>
  auto bind(tile_rows<A> const& rows, key_range range) const {
    return [gain = relevance_gain<T>{pairs}.bind(rows, range)](simd::vector<A> const& s, score_place<A> const& place) {
      return s + simd::log<A>(gain(place));
    };
  }
};

/// Checks the tensors of layers besides queries and keys.
template <class T>
void check_relevance_layers(std::span<relevance_layer<T> const> layers, index_t batches, index_t tokens,
                            char const* as) {
  check_rollout_layers(layers, batches, tokens, as);
  for (auto const& layer : layers) {
    problem_shape shape = call::checked_shape<T>(layer.query, layer.key);
    call::check_value<T>(layer.value, shape);
    check_extent("value", "heads", shape.value_heads, shape.key_heads, "key");
    for (auto const& [name, tensor] : {std::pair("output", &layer.output), std::pair("of_output", &layer.of_output),
                                       std::pair("relevance", &layer.relevance)}) {
      check_view(name, *tensor);
      call::check_extents_of_output(name, *tensor, shape);
    }
  }
}

/// Calls body(layer, gains) with the gains of a layer's pairs.
template <class T, class E, class Body>
void with_pair_relevance(relevance_layer<T> const& layer, E& executor, Body const& body) {
  scratch memory;
  auto const& o = layer.output.extents();
  tensor_view<T, 4> const divided(memory.allocate<T>(o[0] * o[1] * o[2] * o[3]), o);
  divide_relevance<deep_taylor>(layer.relevance, layer.output, static_cast<accumulation_t<T>>(deep_taylor{}.epsilon),
                                divided, executor);
  body(pair_relevance<T>(layer.value, layer.of_output, divided));
}

}  // namespace detail

namespace systems {

/// Writes C x: `columns` and `rolled` are [batch, token, column], layers a vector of relevance_layer, the first one
/// first. Elements are float, double or bfloat16. Options: a mask, scores, scale, sinks, sequences and executor, the
/// same for all layers.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     std::vector<relevance_layer<float>> const layers{
///         {view_of(q), view_of(k), view_of(v), view_of(o), view_of(of_o), view_of(o2)}};
///     relevance_rollout(layers, rows, targets);
template <class Layers, TensorArgument Columns, TensorArgument Rolled, class... Options>
void relevance_rollout(Layers const& layers, Columns const& columns, Rolled&& rolled, Options&&... options) {
  using T = typename Layers::value_type::element_type;
  using A = accumulation_t<T>;
  static_assert(!std::same_as<T, half>, "attend: relevance divided by an output leaves the range of halves");
  call::rollout_options::check<Options...>();
  std::span<relevance_layer<T> const> const all(layers);
  tensor_view<T const, 3> const from = raise<3>(view_of(columns));
  tensor_view<T, 3> const to = raise<3>(view_of(rolled));
  detail::check_rolled<T>("columns", from, to);
  index_t const batches = from.extent(0), tokens = from.extent(1), count = from.extent(2);
  detail::check_relevance_layers(all, batches, tokens, "columns");
  auto& executor = call::executor_of(options...);

  arithmetic_mode const arithmetic;
  scratch memory;
  detail::rollout_state<T, std::remove_reference_t<decltype(executor)>> const state(batches, tokens, count, executor,
                                                                                    memory);
  state.read(from, false);
  for (auto const& layer : all)
    detail::with_pair_relevance(layer, executor, [&](detail::pair_relevance<T> const& pairs) {
      scratch of_layer;
      index_t const heads = layer.query.extent(1);
      tensor_view<T, 4> const mixed(of_layer.allocate<T>(batches * heads * tokens * count),
                                    {batches, heads, tokens, count});
      softmax_attention(layer.query, layer.key, tensor_view<T const, 4>(state.values), mixed,
                        detail::relevance_gain<T>{pairs}, options...);
      state.for_tokens([&](index_t b, index_t i) {
        for (index_t c = 0; c < count; ++c) {
          T& x = state.values(b, 0, i, c);
          x = static_cast<T>(static_cast<A>(x) + detail::mean_of_heads(mixed, b, i, c));
        }
      });
    });
  state.write(to, false);
}

/// Writes y C: `rows` and `rolled` are [batch, row, token], layers and options as for relevance_rollout.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     std::vector<relevance_layer<float>> const layers{
///         {view_of(q), view_of(k), view_of(v), view_of(o), view_of(of_o), view_of(o2)}};
///     relevance_rollout_rows(layers, rows, targets);
template <class Layers, TensorArgument Rows, TensorArgument Rolled, class... Options>
void relevance_rollout_rows(Layers const& layers, Rows const& rows, Rolled&& rolled, Options&&... options) {
  using T = typename Layers::value_type::element_type;
  using A = accumulation_t<T>;
  static_assert(!std::same_as<T, half>, "attend: relevance divided by an output leaves the range of halves");
  call::rollout_options::check<Options...>();
  std::span<relevance_layer<T> const> const all(layers);
  tensor_view<T const, 3> const from = raise<3>(view_of(rows));
  tensor_view<T, 3> const to = raise<3>(view_of(rolled));
  detail::check_rolled<T>("rows", from, to);
  index_t const batches = from.extent(0), count = from.extent(1), tokens = from.extent(2);
  detail::check_relevance_layers(all, batches, tokens, "rows");
  auto& executor = call::executor_of(options...);

  arithmetic_mode const arithmetic;
  scratch memory;
  detail::rollout_state<T, std::remove_reference_t<decltype(executor)>> const state(batches, tokens, count, executor,
                                                                                    memory);
  tensor_view<A, 4> const spread(memory.allocate<A>(batches * tokens * count), state.values.extents());
  state.read(from, true);
  for (std::size_t l = all.size(); l-- > 0;)
    detail::with_pair_relevance(all[l], executor, [&](detail::pair_relevance<T> const& pairs) {
      auto const& layer = all[l];
      scratch of_layer;
      index_t const heads = layer.query.extent(1);
      tensor_view<A, 3> const lse(of_layer.allocate<A>(batches * heads * tokens), {batches, heads, tokens});
      tensor_view<T const, 4> const no_values(nullptr, {batches, 1, tokens, 0});
      tensor_view<T, 4> const no_output(nullptr, {batches, heads, tokens, 0});
      softmax_attention(layer.query, layer.key, no_values, no_output, options::log_sum_exp(lse), options...);
      transposed_attention(layer.query, layer.key, lse, state.for_heads(heads), spread, options...,
                           detail::relevance_score<T>{pairs});
      state.add_mean(spread, heads);
    });
  state.write(to, true);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
