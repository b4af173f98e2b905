// SPDX-License-Identifier: BSD-3-Clause
// Attention rollout: how much of each input token is in each token behind several layers of self-attention, if tokens
// mix as their weights say and each layer's residual connection counts as much as its attention.
//
//   A_l = mean over heads of P_l                          P_l the weights of layer l
//   B_l = (A_l + I) / (row sums)                          (A_l + I) / 2 where the weights of a row add up to 1
//   R = B_L ... B_2 B_1                                   R_ij: of input j in token i behind layer L
//
//   attention_rollout        R x, for columns x [batch, token, column]: x = B_l x, from the first layer on
//   attention_rollout_rows   y R, for rows y [batch, row, token]: y = y B_l, from the last layer on; the row of a class
//                            token is that of a y which is 1 there
//
// A layer is its queries and keys, [batch, head, token, dimension]. No map is made: A x is attention with x for values,
// one for all heads, and y A is its transpose, by the rows' log-sum-exps. A further column of ones gives the row sums,
// which sinks and hidden rows make smaller.
//
// Cost of a layer: columns as one call of softmax_attention, rows as that and one of its gradients. Memory: a number
// for each head, token and column; for rows, besides, as much as a layer's queries and keys.
//
// Samira Abnar, Willem Zuidema: Quantifying Attention Flow in Transformers, 2020. Maximum in the place of the mean:
// attention_flow.hpp, whose maps are stored.
#pragma once

#include <span>

#include "../../core/head_loop.hpp"
#include "key_sums.hpp"

namespace attend::inline ATTEND_TARGET {

namespace call {

using rollout_options =
    allows<option::mask, option::score, option::scale, option::normalizer, option::sequences, option::executor>;

}  // namespace call

namespace systems {

/// The queries and keys of a layer of self-attention, [batch, head, token, dimension]; query heads may share key heads.
template <extend::Element T>
struct rollout_layer {
  using element_type = T;
  tensor_view<T const, 4> query, key;
};

}  // namespace systems

namespace detail {

/// Checks that layers have the batches and tokens of what is rolled out.
template <class Layer>
void check_rollout_layers(std::span<Layer const> layers, index_t batches, index_t tokens, char const* as) {
  for (Layer const& layer : layers) {
    call::checked_shape<typename Layer::element_type>(layer.query, layer.key);
    check_extent("query", "batch", layer.query.extent(0), batches, as);
    check_extent("query", "tokens", layer.query.extent(2), tokens, as);
    check_extent("key", "tokens", layer.key.extent(2), tokens, as);
  }
}

/// Checks what is rolled out and where that goes.
template <class T>
void check_rolled(char const* argument, tensor_view<T const, 3> const& from, tensor_view<T, 3> const& to) {
  check_view(argument, from);
  check_output_view("rolled", to);
  if (to.extents() != from.extents())
    fail("rolled", "expected shape ", shape_text<3>(from.extents()), " (as ", argument, "), got ",
         shape_text<3>(to.extents()));
  check_apart("rolled", to, argument, from);
}

/// One number for all elements of a tensor with these extents, which end with columns of which there are at most as
/// many as `row` has elements.
template <class T>
tensor_view<T const, 4> same_rows(T const* row, std::array<index_t, 4> const& extents) {
  return {row, extents, {0, 0, 0, 1}};
}

/// What is rolled out, as values that all heads share, [batch, 1, token, column], in working memory.
template <class T, class E>
class rollout_state {
 public:
  using A = accumulation_t<T>;

  rollout_state(index_t batches, index_t tokens, index_t columns, E& executor, scratch& memory)
      : values(memory.allocate<T>(batches * tokens * columns), {batches, 1, tokens, columns}), executor_(executor) {}

  tensor_view<T, 4> const values;

  /// Calls body(batch, token) for all tokens.
  template <class Body>
  void for_tokens(Body const& body) const {
    detail::for_tokens(executor_, values.extent(0), 1, values.extent(2), loop_cost::of(4 * values.extent(3)),
                       [&](index_t b, index_t, index_t first, index_t last) {
                         for (index_t i = first; i < last; ++i) body(b, i);
                       });
  }

  /// Takes columns [batch, token, column], or rows [batch, row, token].
  void read(tensor_view<T const, 3> const& from, bool are_rows) const {
    for_tokens([&](index_t b, index_t i) {
      for (index_t c = 0; c < from.extent(are_rows ? 1 : 2); ++c)
        values(b, 0, i, c) = are_rows ? from(b, c, i) : from(b, i, c);
    });
  }
  void write(tensor_view<T, 3> const& to, bool are_rows) const {
    for_tokens([&](index_t b, index_t i) {
      for (index_t c = 0; c < to.extent(are_rows ? 1 : 2); ++c)
        (are_rows ? to(b, c, i) : to(b, i, c)) = values(b, 0, i, c);
    });
  }

  /// Adds the mean over heads of what has been added up over them, [batch, 1, token, column].
  void add_mean(tensor_view<A, 4> const& sums, index_t heads) const {
    for_tokens([&](index_t b, index_t i) {
      for (index_t c = 0; c < values.extent(3); ++c) {
        T& y = values(b, 0, i, c);
        y = static_cast<T>(static_cast<A>(y) + sums(b, 0, i, c) / static_cast<A>(std::max<index_t>(heads, 1)));
      }
    });
  }

  /// A tensor for all heads, of which each has the same values.
  tensor_view<T const, 4> for_heads(index_t heads) const {
    auto extents = values.extents(), strides = values.strides();
    extents[1] = heads;
    strides[1] = 0;
    return {values.data(), extents, strides};
  }

 private:
  E& executor_;
};

/// The mean over heads of an element.
template <class T>
accumulation_t<T> mean_of_heads(tensor_view<T, 4> const& of, index_t b, index_t i, index_t c) {
  using A = accumulation_t<T>;
  A sum = 0;
  for (index_t h = 0; h < of.extent(1); ++h) sum += static_cast<A>(of(b, h, i, c));
  return sum / static_cast<A>(std::max<index_t>(of.extent(1), 1));
}

}  // namespace detail

namespace systems {

/// Writes R x: `columns` and `rolled` are [batch, token, column], layers a vector of rollout_layer, the first one
/// first. A column that is 1 at one input token and 0 elsewhere becomes that token's share in all tokens. Options: a
/// mask, scores, scale, sinks, sequences and executor, the same for all layers.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     std::vector<rollout_layer<float>> const layers{{view_of(q), view_of(k)}, {view_of(q), view_of(k2)}};
///     attention_rollout(layers, rows, targets, causal{});
template <class Layers, TensorArgument Columns, TensorArgument Rolled, class... Options>
void attention_rollout(Layers const& layers, Columns const& columns, Rolled&& rolled, Options&&... options) {
  using layer_type = typename Layers::value_type;
  using T = typename layer_type::element_type;
  using A = accumulation_t<T>;
  call::rollout_options::check<Options...>();
  std::span<layer_type const> const all(layers);
  tensor_view<T const, 3> const from = raise<3>(view_of(columns));
  tensor_view<T, 3> const to = raise<3>(view_of(rolled));
  detail::check_rolled<T>("columns", from, to);
  index_t const batches = from.extent(0), tokens = from.extent(1), count = from.extent(2);
  detail::check_rollout_layers(all, batches, tokens, "columns");
  auto& executor = call::executor_of(options...);

  arithmetic_mode const arithmetic;
  scratch memory;
  // The last column is ones.
  detail::rollout_state<T, std::remove_reference_t<decltype(executor)>> const state(batches, tokens, count + 1,
                                                                                    executor, memory);
  state.read(from, false);
  state.for_tokens([&](index_t b, index_t i) { state.values(b, 0, i, count) = T(1); });
  for (layer_type const& layer : all) {
    scratch of_layer;
    index_t const heads = layer.query.extent(1);
    tensor_view<T, 4> const mixed(of_layer.allocate<T>(batches * heads * tokens * (count + 1)),
                                  {batches, heads, tokens, count + 1});
    softmax_attention(layer.query, layer.key, tensor_view<T const, 4>(state.values), mixed, options...);
    state.for_tokens([&](index_t b, index_t i) {
      A const total = A(1) + detail::mean_of_heads(mixed, b, i, count);
      for (index_t c = 0; c < count; ++c) {
        T& x = state.values(b, 0, i, c);
        x = static_cast<T>((static_cast<A>(x) + detail::mean_of_heads(mixed, b, i, c)) / total);
      }
    });
  }
  state.write(to, false);
}

/// Writes y R: `rows` and `rolled` are [batch, row, token], layers and options as for attention_rollout. A row that is
/// 1 at one token becomes the shares of all input tokens in it.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     std::vector<rollout_layer<float>> const layers{{view_of(q), view_of(k)}, {view_of(q), view_of(k2)}};
///     attention_rollout_rows(layers, rows, targets, causal{});
template <class Layers, TensorArgument Rows, TensorArgument Rolled, class... Options>
void attention_rollout_rows(Layers const& layers, Rows const& rows, Rolled&& rolled, Options&&... options) {
  using layer_type = typename Layers::value_type;
  using T = typename layer_type::element_type;
  using A = accumulation_t<T>;
  call::rollout_options::check<Options...>();
  std::span<layer_type const> const all(layers);
  tensor_view<T const, 3> const from = raise<3>(view_of(rows));
  tensor_view<T, 3> const to = raise<3>(view_of(rolled));
  detail::check_rolled<T>("rows", from, to);
  index_t const batches = from.extent(0), count = from.extent(1), tokens = from.extent(2);
  detail::check_rollout_layers(all, batches, tokens, "rows");
  auto& executor = call::executor_of(options...);

  arithmetic_mode const arithmetic;
  scratch memory;
  detail::rollout_state<T, std::remove_reference_t<decltype(executor)>> const state(batches, tokens, count, executor,
                                                                                    memory);
  tensor_view<A, 4> const spread(memory.allocate<A>(batches * tokens * count), state.values.extents());
  T const one(1);
  state.read(from, true);
  for (std::size_t l = all.size(); l-- > 0;) {
    layer_type const& layer = all[l];
    scratch of_layer;
    index_t const heads = layer.query.extent(1);
    tensor_view<T, 4> const sums(of_layer.allocate<T>(batches * heads * tokens), {batches, heads, tokens, 1});
    tensor_view<A, 3> const lse(of_layer.allocate<A>(batches * heads * tokens), {batches, heads, tokens});
    softmax_attention(layer.query, layer.key, detail::same_rows(&one, {batches, 1, tokens, 1}), sums,
                      options::log_sum_exp(lse), options...);
    state.for_tokens([&](index_t b, index_t i) {
      A const total = A(1) + detail::mean_of_heads(sums, b, i, 0);
      for (index_t c = 0; c < count; ++c)
        state.values(b, 0, i, c) = static_cast<T>(static_cast<A>(state.values(b, 0, i, c)) / total);
    });
    transposed_attention(layer.query, layer.key, lse, state.for_heads(heads), spread, options...);
    state.add_mean(spread, heads);
  }
  state.write(to, true);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
