// SPDX-License-Identifier: BSD-3-Clause
// What attends in the decoder's layers while it learns: a call of attend, and that of its gradient.
//
//   softmax_layer     o = softmax_attention(q, k, v, causal)
//   linear_layer      o = norm(linear_attention(q, k, v, causal, a decay for each head)), normed head by head:
//   retention
//
// Queries and keys are rotated before, in both.
//
// Yutao Sun et al.: Retentive Network: A Successor to Transformer for Large Language Models, 2023: here without its
// gate, and with a norm that subtracts no mean.
#pragma once

#include <attend/gradients.hpp>
#include <attend/linear.hpp>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "../generate/decoder.hpp"
#include "norm.hpp"

namespace train {

using attend::index_t;
using generate::decoder_shape;

/// The attention of one layer to one text. It keeps what the gradient needs from one call to the other.
template <class T>
class layer_attention {
 public:
  using view = attend::tensor_view<T, 4>;  // [1, head, token, dimension]

  virtual ~layer_attention() = default;

  /// The heads of a token's output lie one behind the other, and so do the tokens.
  virtual void forward(view const& query, view const& key, view const& value, view const& output) = 0;

  /// Writes the gradients of query, key and value, given that of the output; the first four are those of `forward`, and
  /// the gradient of the output lies as the output does.
  virtual void backward(view const& query, view const& key, view const& value, view const& output,
                        view const& of_output, view const& of_query, view const& of_key, view const& of_value) = 0;
};

template <class T>
class softmax_layer : public layer_attention<T> {
 public:
  using typename layer_attention<T>::view;

  void forward(view const& query, view const& key, view const& value, view const& output) override {
    denominators_.resize(static_cast<std::size_t>(query.extent(1) * query.extent(2)));
    attend::softmax_attention(query, key, value, output, attend::causal{},
                              attend::options::log_sum_exp(denominators(query)));
  }

  void backward(view const& query, view const& key, view const& value, view const& output, view const& of_output,
                view const& of_query, view const& of_key, view const& of_value) override {
    attend::options::softmax_attention_backward(query, key, value, output, denominators(query), of_output, of_query,
                                                of_key, of_value, attend::causal{});
  }

 private:
  attend::tensor_view<T, 3> denominators(view const& query) {
    return {denominators_.data(), {1, query.extent(1), query.extent(2)}};
  }

  std::vector<T> denominators_;
};

template <class T>
class linear_layer : public layer_attention<T> {
 public:
  using typename layer_attention<T>::view;

  explicit linear_layer(index_t states) {
    for (float const decay : attend::systems::retention_decays(states)) decays_.push_back(static_cast<T>(decay));
  }

  void forward(view const& query, view const& key, view const& value, view const& output) override {
    // A row of a head, as the norm has it.
    unnormed_.resize(output.extent(1) * output.extent(2), output.extent(3));
    attend::linear_attention(query, key, value, lying_as(output, unnormed_), attend::causal{},
                             attend::linear::head_decay(decays_));
    norm_.apply(unnormed_);
    rows_of(output) = norm_.output;
  }

  void backward(view const& query, view const& key, view const& value, view const&, view const& of_output,
                view const& of_query, view const& of_key, view const& of_value) override {
    of_unnormed_.setZero(unnormed_.rows(), unnormed_.cols());
    norm_.add_gradient(rows_of(of_output), of_unnormed_);
    attend::linear::linear_attention_backward(query, key, value, lying_as(of_output, of_unnormed_), of_query, of_key,
                                              of_value, attend::causal{}, attend::linear::head_decay(decays_));
  }

 private:
  using matrix = matrix_of<T>;

  static view lying_as(view const& output, matrix& rows) { return {rows.data(), output.extents(), output.strides()}; }
  static Eigen::Map<matrix> rows_of(view const& output) {
    return {output.data(), output.extent(1) * output.extent(2), output.extent(3)};
  }

  std::vector<T> decays_;  // of a state, and so of the heads that share its keys and values
  matrix unnormed_, of_unnormed_;
  norm<T> norm_;
};

/// By the name that the command line and model.safetensors have. Throws std::invalid_argument where there is none of
/// it.
template <class T>
std::unique_ptr<layer_attention<T>> make_attention(std::string const& name, decoder_shape const& shape) {
  if (name == "softmax") return std::make_unique<softmax_layer<T>>();
  if (name == "linear") return std::make_unique<linear_layer<T>>(shape.key_value_heads);
  throw std::invalid_argument("attention: expected softmax or linear, got '" + name + "'");
}

}  // namespace train
