// SPDX-License-Identifier: BSD-3-Clause
// A small decoder of the Llama family: layers of rotary grouped-query attention and a gated feed-forward network, each
// behind a root-mean-square norm, on a residual stream. Its weights are random numbers from a fixed seed: it babbles,
// but it babbles the same whatever cache its keys and values go through, if that cache loses nothing.
//
// Where its tokens stand is the cache's to know: queries and keys are handed over unrotated, with the rotary policy
// that turns them. A call of `forward` takes any number of tokens: a prompt, a part of one, or the last token.
#pragma once

#include <Eigen/Core>

#include <attend/core/tensor_view.hpp>
#include <attend/policy/position/rotary.hpp>

#include <cmath>
#include <random>
#include <span>
#include <vector>

namespace generate {

using attend::index_t;
using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

struct decoder_shape {
  index_t layers = 4, width = 256, feed_forward = 512, query_heads = 8, key_value_heads = 2, head_dimension = 64,
          vocabulary = 32;
};

class decoder {
 public:
  explicit decoder(decoder_shape const& shape, unsigned seed)
      : shape_(shape), position_(attend::options::rotary_frequencies(shape.head_dimension)) {
    std::mt19937 engine(seed);
    auto const random = [&](index_t rows, index_t columns) {
      // So that a row of unit numbers stays one.
      std::normal_distribution<float> distribution(0, 1 / std::sqrt(static_cast<float>(rows)));
      return matrix(matrix::NullaryExpr(rows, columns, [&] { return distribution(engine); }));
    };
    index_t const w = shape.width, queries = shape.query_heads * shape.head_dimension,
                  keys = shape.key_value_heads * shape.head_dimension;
    embedding_ = random(shape.vocabulary, w) * std::sqrt(static_cast<float>(shape.vocabulary));
    for (index_t l = 0; l < shape.layers; ++l)
      // Queries are enlarged, so that some tokens weigh more than others, as in a decoder that was trained.
      layers_.push_back({random(w, queries) * 3, random(w, keys), random(w, keys), random(queries, w),
                         random(w, shape.feed_forward), random(w, shape.feed_forward), random(shape.feed_forward, w)});
    output_ = random(w, shape.vocabulary) * 3;
  }

  decoder_shape const& shape() const { return shape_; }
  attend::rotary<attend::options::rotary_frequencies> const& position() const { return position_; }

  /// Logits of the token that follows the last of `tokens`. attend(layer, query, key, value, output) rotates, appends
  /// the keys and values of a layer to its cache and attends; the views are [1, head, token, dimension].
  template <class Attend>
  Eigen::RowVectorXf forward(std::span<int const> tokens, Attend&& attend) const {
    auto const count = static_cast<index_t>(tokens.size());
    matrix stream(count, shape_.width);
    for (index_t t = 0; t < count; ++t) stream.row(t) = embedding_.row(tokens[static_cast<std::size_t>(t)]);
    matrix attended(count, shape_.query_heads * shape_.head_dimension);
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      layer const& weights = layers_[l];
      matrix const normal = normalized(stream);
      matrix query = normal * weights.query, key = normal * weights.key, value = normal * weights.value;
      attend(l, heads(query), heads(key), heads(value), heads(attended));
      stream += attended * weights.output;

      matrix const again = normalized(stream);
      matrix const gate = again * weights.gate, up = again * weights.up;
      stream += (gate.array() / (1 + (-gate.array()).exp()) * up.array()).matrix() * weights.down;
    }
    return normalized(stream.bottomRows(1)) * output_;
  }

 private:
  struct layer {
    matrix query, key, value, output, gate, up, down;
  };

  /// [token, head * dimension] as [1, head, token, dimension], with no copy.
  attend::tensor_view<float, 4> heads(matrix& rows) const {
    index_t const dimension = shape_.head_dimension, columns = rows.cols();
    return {rows.data(), {1, columns / dimension, rows.rows(), dimension}, {0, dimension, columns, 1}};
  }

  static matrix normalized(matrix const& rows) {
    return rows.array().colwise() / (rows.rowwise().squaredNorm() / static_cast<float>(rows.cols())).array().sqrt();
  }

  decoder_shape shape_;
  attend::rotary<attend::options::rotary_frequencies> position_;
  matrix embedding_, output_;
  std::vector<layer> layers_;
};

}  // namespace generate
