// What a feature map is: what linear attention puts in the place of the softmax's kernel,
//
//   exp(q . k)  ->  phi(q) . phi(k)
//
// A feature map turns the rows of some tokens into rows of features, a chunk at a time, so that the features of a whole
// sequence never exist:
//
//   features(dimension)        how many features a row of that dimension has
//   check(shape)               throws argument_error for what does not fit
//   fill(rows, to, stride)     to[i * stride + f] = phi(rows, i)_f, for all i in [0, rows.count) and features f
//
// `rows` says whether they are queries or keys, and where they stand, for maps that treat them differently. A map that
// works on each element alone is an `elementwise_features` of a function of vectors.
#pragma once

#include "../../core/options.hpp"
#include "../../simd/convert.hpp"
#include "../../simd/math.hpp"
#include "../state/state_shape.hpp"

namespace attend {

template <class F>
concept FeatureMap = detail::has_kind<option::features, F>;

enum class token_side { query, key };

/// Some tokens' rows of one head, in the accumulation type: row i at data + i * stride. The first of them is token
/// `first` of its tensor; `head` is the tensor's own.
template <class A>
struct token_rows {
  A const* data;
  index_t stride, count, dimension;
  token_side side;
  index_t batch, head, first;

  A const* row(index_t i) const { return data + i * stride; }
};

/// phi(x) = x. The default.
struct identity_features {
  using option_kind = option::features;

  index_t features(index_t dimension) const { return dimension; }
  void check(state_shape const&) const {}
};

/// phi(x)_c = function(x_c). The function is generic: it is called with vectors.
///
///   attend::elementwise_features([](auto x) { return x * x; })
template <class Function>
class elementwise_features {
 public:
  using option_kind = option::features;

  constexpr explicit elementwise_features(Function function) : function_(std::move(function)) {}

  index_t features(index_t dimension) const { return dimension; }
  void check(state_shape const&) const {}
  template <class A>
  void fill(token_rows<A> const& rows, A* to, index_t stride) const {
    constexpr int step = simd::width<A>;
    for (index_t i = 0; i < rows.count; ++i, to += stride) {
      A const* const from = rows.row(i);
      index_t c = 0;
      for (; c + step <= rows.dimension; c += step)
        simd::vector<A>(function_(simd::widen(from + c))).store_unaligned(to + c);
      if (c < rows.dimension)
        simd::narrow_part<A>(to + c, function_(simd::widen_part(from + c, rows.dimension - c)), rows.dimension - c);
    }
  }

 private:
  Function function_;
};

}  // namespace attend
