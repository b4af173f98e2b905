// SPDX-License-Identifier: BSD-3-Clause
// Hedgehog's learned features: with y = W x + b, a linear layer of each head for queries and one for keys,
//
//   phi(x) = softmax([y, -y])              over both halves together: twice the dimension
//   phi(x) = [softmax(y), softmax(-y)]     over each half: features.softmax_of_halves()
//   phi(x) = [exp(y), exp(-y)]             as the paper writes it: features.exponentials()
//
// Without weights y = x. The features are spiky, as those of the softmax are, and grow or fall with x along each row of
// W.
//
// Michael Zhang, Kush Bhatia, Hermann Kumbong, Christopher Re: The Hedgehog & the Porcupine: Expressive Linear
// Attentions with Softmax Mimicry, 2024. The text has exp in the place of softmax; what is trained and released divides
// by a sum, which keeps the features from overflowing: public kernels by that of both halves, of 2 y in some of them (W
// and b doubled), the authors' later code by that of each (Michael Zhang et al.: LoLCATs: On Low-Rank Linearizing of
// Large Language Models, 2024). The forms differ by a factor for each token, or for each half of it, which for keys
// does not cancel.
//
// Exponentials are kept within range where that changes nothing: those of a query are divided by the largest of them,
// which the division by the sum of keys cancels, so that no query overflows. Those of keys stand as they are, and so do
// the sums over keys: with the largest |y| of a key, ln(2 dimension keys |v|) more must stay below 88 in float, 709 in
// double. Beyond that outputs are not finite; the softmax has no such bound.
#pragma once

#include "../state/normalizer.hpp"
#include "projection.hpp"
#include "softmax_features.hpp"

namespace attend::inline ATTEND_TARGET {

namespace linear {

/// Holds Hedgehog's learned layers. A is the accumulation type: float, or double for tensors of double.
///
///     hedgehog_features<float> const layers(head_matrices, head_matrices);  // of queries, of keys
///     hedgehog_attention(q, k, v, o, layers.softmax_of_halves(), causal{});
template <class A = float>
class hedgehog_features {
 public:
  using option_kind = option::features;

  hedgehog_features() = default;
  /// Copies weights [query head, feature, dimension] and [key head, feature, dimension]. There are as many features as
  /// dimensions, and leading axes may be left out where one matrix serves all heads.
  template <TensorArgument Query, TensorArgument Key>
  hedgehog_features(Query const& query_weights, Key const& key_weights)
      : query_("hedgehog_features", extend::raise<3>(read(query_weights)), no_bias),
        key_("hedgehog_features", extend::raise<3>(read(key_weights)), no_bias) {}
  /// The same with biases [query head, feature] and [key head, feature].
  template <TensorArgument Query, TensorArgument Key, TensorArgument QueryBias, TensorArgument KeyBias>
  hedgehog_features(Query const& query_weights, Key const& key_weights, QueryBias const& query_bias,
                    KeyBias const& key_bias)
      : query_("hedgehog_features", extend::raise<3>(read(query_weights)), extend::raise<2>(read(query_bias))),
        key_("hedgehog_features", extend::raise<3>(read(key_weights)), extend::raise<2>(read(key_bias))) {}

  /// Gives the same layers with a softmax of each half.
  hedgehog_features softmax_of_halves() const { return with(form::halves); }
  /// Gives the same layers with exp in the place of softmax.
  hedgehog_features exponentials() const { return with(form::exponentials); }
  /// Gives the normalizer of the paper. A sum of softmaxes has 1e-6 beside it; one of exponentials is at least twice
  /// the number of features, and what is added to a query's part of it would not cancel.
  key_sum normalizer() const { return key_sum{form_ == form::exponentials ? 0 : 1e-6}; }

  index_t features(index_t dimension) const { return 2 * dimension; }
  void check(extend::state_shape const& shape) const {
    if (!query_) return;
    query_.check("hedgehog_features (query)", shape.query_heads, shape.key_dimension);
    key_.check("hedgehog_features (key)", shape.key_heads, shape.key_dimension);
    for (auto const* projection : {&query_, &key_})
      if (projection->features() != shape.key_dimension)
        extend::fail("hedgehog_features", "expected ", shape.key_dimension, " features (as dimensions), got ",
                     projection->features());
  }
  void fill(extend::token_rows<A> const& rows, A* to, index_t stride) const {
    constexpr index_t step = simd::width<A>;
    if (query_)
      (rows.side == extend::token_side::query ? query_ : key_).fill(rows, to, stride);
    else
      extend::fill_features(identity_features{}, rows, to, stride);
    index_t const d = rows.dimension;
    for (index_t i = 0; i < rows.count; ++i) {
      A* const row = to + i * stride;
      index_t c = 0;
      for (; c + step <= d; c += step) (-simd::widen(row + c)).store_unaligned(row + d + c);
      for (; c < d; ++c) row[d + c] = -row[c];
      switch (form_) {
        case form::whole:
          detail::softmax_row<A>(row, nullptr, 2 * d, row);
          break;
        case form::halves:
          detail::softmax_row<A>(row, nullptr, d, row);
          detail::softmax_row<A>(row + d, nullptr, d, row + d);
          break;
        case form::exponentials:
          exponentiate(row, 2 * d, rows.side == extend::token_side::query ? detail::largest_of<A>(row, 2 * d) : A(0));
      }
    }
  }

 private:
  enum class form { whole, halves, exponentials };

  hedgehog_features with(form other) const {
    hedgehog_features result(*this);
    result.form_ = other;
    return result;
  }
  template <class Tensor>
  static auto read(Tensor const& tensor) {
    auto const view = view_of(tensor);
    using view_type = std::remove_const_t<decltype(view)>;
    return tensor_view<typename view_type::value_type const, view_type::rank>(view);
  }
  static constexpr tensor_view<A const, 2> no_bias{};

  /// exp(x - less), in place.
  static void exponentiate(A* row, index_t count, A less) {
    constexpr index_t step = simd::width<A>;
    simd::vector<A> const by(less);
    index_t c = 0;
    for (; c + step <= count; c += step) simd::exp<A>(simd::widen(row + c) - by).store_unaligned(row + c);
    if (c < count) simd::narrow_part(row + c, simd::exp<A>(simd::widen_part(row + c, count - c) - by), count - c);
  }

  detail::feature_projection<A> query_, key_;
  form form_ = form::whole;
};

}  // namespace linear

}  // namespace attend::inline ATTEND_TARGET
