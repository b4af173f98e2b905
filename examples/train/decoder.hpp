// SPDX-License-Identifier: BSD-3-Clause
// The decoder of ../generate/decoder.hpp while it learns: the loss on a text, and its gradient.
//
//   loss = - sum over tokens of ln softmax(logits)[the token that follows]
//
// Backwards, with d_y the gradient of the loss with respect to y:
//
//   y = x W^T                       d_x = d_y W,  d_W = d_y^T x
//   y = norm(x)                     norm.hpp
//   h = silu(g) u = g s u           d_u = d_h g s,  d_g = d_h u s (1 + g (1 - s))        s = 1 / (1 + e^-g)
//   y = x rotated                   d_x = d_y rotated back
//   y = attention(q, k, v)          attention.hpp, which calls attend
//   loss of a token's logits        d_logits = softmax(logits) - (1 at the token that follows)
//
// Cost: of each product two more, so a step takes about three times as long as reading the text. What is kept are the
// inputs of all products: for each token, 2 (width + queries + keys) + 3 feed_forward numbers of each layer.
//
// Noam Shazeer: GLU Variants Improve Transformer, 2020.
#pragma once

#include <Eigen/Core>

#include <attend/softmax.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "attention.hpp"
#include "norm.hpp"
#include "weights.hpp"

namespace train {

/// One text on its way through the decoder and back. Each thread that works on a text has one of its own.
template <class T>
class decoder_pass {
 public:
  using matrix = matrix_of<T>;
  using attention_maker = std::function<std::unique_ptr<layer_attention<T>>()>;

  decoder_pass(decoder_shape const& shape, attention_maker const& make)
      : shape_(shape), position_(attend::options::rotary_frequencies(shape.head_dimension)) {
    for (index_t l = 0; l < shape.layers; ++l) layers_.push_back({.attention = make()});
  }

  /// Gives ln of the probability of each token but the first, given those before it. There are at least two tokens.
  std::vector<double> const& forward(weights<T> const& of, std::span<int const> tokens) {
    tokens_ = tokens;
    auto const count = static_cast<Index>(tokens.size()) - 1;
    auto const embedding = of.embedding();
    stream_.resize(count, shape_.width);
    for (Index t = 0; t < count; ++t) stream_.row(t) = embedding.row(token(t));
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      layer& kept = layers_[l];
      kept.first.apply(stream_);
      kept.heads.noalias() = kept.first.output * of.of(l, part::query, part::value).transpose();
      kept.attended.resize(count, queries());
      turn(kept.heads, attend::options::token_positions(0));
      kept.attention->forward(query(kept.heads), key(kept.heads), value(kept.heads), whole(kept.attended));
      stream_.noalias() += kept.attended * of.of(l, part::output).transpose();

      kept.second.apply(stream_);
      kept.gates.noalias() = kept.second.output * of.of(l, part::gate, part::up).transpose();
      auto const gate = kept.gates.leftCols(shape_.feed_forward).array();
      auto const up = kept.gates.rightCols(shape_.feed_forward).array();
      kept.inner = gate / (1 + (-gate).exp()) * up;
      stream_.noalias() += kept.inner * of.of(l, part::down).transpose();
    }
    last_.apply(stream_);
    probabilities_.noalias() = last_.output * embedding.transpose();
    log_likelihoods_.resize(static_cast<std::size_t>(count));
    for (Index t = 0; t < count; ++t) {
      auto logits = probabilities_.row(t).array();
      T const most = logits.maxCoeff(), following = logits[token(t + 1)] - most;
      logits = (logits - most).exp();
      T const sum = logits.sum();
      logits /= sum;
      log_likelihoods_[static_cast<std::size_t>(t)] = static_cast<double>(following - std::log(sum));
    }
    return log_likelihoods_;
  }

  /// Writes the gradient of `factor` times the loss of the text that `forward` had last, with the same weights.
  void backward(weights<T> const& of, T factor, weights<T>& gradient) {
    Index const count = probabilities_.rows();
    for (Index t = 0; t < count; ++t) probabilities_(t, token(t + 1)) -= 1;
    probabilities_ *= factor;
    gradient.embedding().noalias() = probabilities_.transpose() * last_.output;
    of_normal_.noalias() = probabilities_ * of.embedding();
    of_stream_.setZero(count, shape_.width);
    last_.add_gradient(of_normal_, of_stream_);
    for (std::size_t l = layers_.size(); l-- > 0;) {
      layer& kept = layers_[l];
      gradient.of(l, part::down).noalias() = of_stream_.transpose() * kept.inner;
      of_inner_.noalias() = of_stream_ * of.of(l, part::down);
      differentiate_gates(kept);
      gradient.of(l, part::gate, part::up).noalias() = of_gates_.transpose() * kept.second.output;
      of_normal_.noalias() = of_gates_ * of.of(l, part::gate, part::up);
      kept.second.add_gradient(of_normal_, of_stream_);

      gradient.of(l, part::output).noalias() = of_stream_.transpose() * kept.attended;
      of_attended_.noalias() = of_stream_ * of.of(l, part::output);
      of_heads_.resize(count, kept.heads.cols());
      kept.attention->backward(query(kept.heads), key(kept.heads), value(kept.heads), whole(kept.attended),
                               whole(of_attended_), query(of_heads_), key(of_heads_), value(of_heads_));
      turn_back(of_heads_);
      gradient.of(l, part::query, part::value).noalias() = of_heads_.transpose() * kept.first.output;
      of_normal_.noalias() = of_heads_ * of.of(l, part::query, part::value);
      kept.first.add_gradient(of_normal_, of_stream_);
    }
    auto of_embedding = gradient.embedding();
    for (Index t = 0; t < count; ++t) of_embedding.row(token(t)) += of_stream_.row(t);
  }

 private:
  using view = typename layer_attention<T>::view;

  /// What a layer keeps from the way there for the way back.
  struct layer {
    std::unique_ptr<layer_attention<T>> attention;
    norm<T> first = {}, second = {};
    matrix heads = {}, attended = {}, gates = {}, inner = {};  // query, key, value; gate, up
  };

  int token(Index t) const { return tokens_[static_cast<std::size_t>(t)]; }
  Index queries() const { return shape_.query_heads * shape_.head_dimension; }
  Index keys() const { return shape_.key_value_heads * shape_.head_dimension; }

  /// Columns of a matrix of tokens as heads, with no copy.
  view columns(matrix& rows, Index first, Index count) const {
    index_t const dimension = shape_.head_dimension;
    return {rows.data() + first, {1, count / dimension, rows.rows(), dimension}, {0, dimension, rows.cols(), 1}};
  }
  view whole(matrix& rows) const { return columns(rows, 0, rows.cols()); }
  view query(matrix& heads) const { return columns(heads, 0, queries()); }
  view key(matrix& heads) const { return columns(heads, queries(), keys()); }
  view value(matrix& heads) const { return columns(heads, queries() + keys(), keys()); }

  /// Queries and keys lie next to each other, and are turned as one tensor.
  void turn(matrix& heads, attend::options::token_positions const& by) const {
    view const turned = columns(heads, 0, queries() + keys());
    attend::options::rotate_further(turned, position_, turned, by);
  }
  void turn_back(matrix& heads) {
    back_.resize(static_cast<std::size_t>(heads.rows()));
    for (std::size_t t = 0; t < back_.size(); ++t) back_[t] = -static_cast<std::int64_t>(t);
    turn(heads, attend::tensor_view<std::int64_t const, 1>(back_.data(), {heads.rows()}));
  }

  void differentiate_gates(layer const& kept) {
    Index const inner = shape_.feed_forward;
    of_gates_.resize(kept.gates.rows(), 2 * inner);
    auto const gate = kept.gates.leftCols(inner).array(), up = kept.gates.rightCols(inner).array();
    auto const of = of_inner_.array();
    sigmoid_ = 1 / (1 + (-gate).exp());
    auto const sigmoid = sigmoid_.array();
    of_gates_.leftCols(inner) = of * up * sigmoid * (1 + gate * (1 - sigmoid));
    of_gates_.rightCols(inner) = of * gate * sigmoid;
  }

  decoder_shape shape_;
  attend::rotary<attend::options::rotary_frequencies> position_;
  std::span<int const> tokens_;
  std::vector<layer> layers_;
  norm<T> last_;
  matrix stream_, probabilities_;
  matrix of_stream_, of_normal_, of_inner_, sigmoid_, of_gates_, of_attended_, of_heads_;
  std::vector<double> log_likelihoods_;
  std::vector<std::int64_t> back_;
};

}  // namespace train
