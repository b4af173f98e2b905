// SPDX-License-Identifier: BSD-3-Clause
// Whisper's encoder: 3000 frames of 80 bands in, 1500 tokens out, which the decoder looks at.
//
//   x = gelu(conv(x, 3 frames, step 1)), x = gelu(conv(x, 3 frames, step 2)), x += position
//   in each layer:
//     x += linear(attention(layer_norm(x)))       every token sees every token
//     x += linear(gelu(linear(layer_norm(x))))    width -> 4 width -> width
//   x = layer_norm(x)
//
// A convolution is a product: three frames that follow each other lie in one piece, and are a row of a matrix whose
// rows overlap.
//
// Alec Radford et al.: Robust Speech Recognition via Large-Scale Weak Supervision, 2022.
#pragma once

#include <attend/softmax.hpp>

#include "layers.hpp"
#include "model_shape.hpp"

namespace whisper {

/// [frame, channel] to [frame, channel]: three frames around each, or each second one, with silence around all of them.
struct convolution {
  static constexpr Index taps = 3;
  matrix weight;  // [output, 3 * input], the inputs of a frame in one piece
  row_vector bias;
  Index step;

  convolution(ctranslate2_model const& model, std::string const& name, Index inputs, Index outputs, Index each)
      : weight(outputs, taps * inputs), bias(read_vector(model, name + "/bias", outputs)), step(each) {
    std::vector<float> const stored = read_array(model, name + "/weight", {outputs, inputs, taps});
    for (Index output = 0; output < outputs; ++output)
      weight.row(output).reshaped<Eigen::RowMajor>(taps, inputs) =
          Eigen::Map<matrix const>(stored.data() + output * inputs * taps, inputs, taps).transpose();
  }

  matrix operator()(matrix const& x, workers& threads) const {
    Index const inputs = x.cols();
    matrix padded = matrix::Zero(x.rows() + taps - 1, inputs);
    padded.middleRows(1, x.rows()) = x;
    Eigen::Map<matrix const, 0, Eigen::OuterStride<>> const overlapping(padded.data(), x.rows() / step, taps * inputs,
                                                                        Eigen::OuterStride<>(step * inputs));
    matrix y = product(overlapping, weight, threads);
    y.rowwise() += bias;
    gelu(y, threads);
    return y;
  }
};

struct encoder_layer {
  layer_norm norm;
  linear<float> query_key_value, output;
  feed_forward<float> feed;
  Index heads;

  encoder_layer(ctranslate2_model const& model, std::string const& name, model_shape const& shape)
      : norm(model, name + "/self_attention/layer_norm", shape.width),
        query_key_value(model, name + "/self_attention/linear_0", shape.width, 3 * shape.width),
        output(model, name + "/self_attention/linear_1", shape.width, shape.width),
        feed(model, name + "/ffn", shape.width),
        heads(shape.heads) {}

  void operator()(matrix& x, workers& threads) const {
    // Query, key and value of all heads come out of one product, and are attended to where they stand.
    matrix const qkv = query_key_value(norm(x), threads);
    matrix seen(x.rows(), x.cols());
    Index const width = x.cols(), dimension = width / heads;
    auto const part = [&](Index which) {
      return heads_of(qkv.data() + which * width, x.rows(), 3 * width, heads, dimension);
    };
    attend::softmax_attention(part(0), part(1), part(2), heads_of(seen.data(), x.rows(), width, heads, dimension),
                              threads.pool());
    x += output(seen, threads);
    x += feed(x, threads);
  }
};

class encoder {
 public:
  encoder(ctranslate2_model const& model, model_shape const& shape)
      : first_(model, "encoder/conv1", bands, shape.width, 1),
        second_(model, "encoder/conv2", shape.width, shape.width, 2),
        positions_(read_matrix(model, "encoder/position_encodings/encodings", shape.encoder_tokens, shape.width)),
        norm_(model, "encoder/layer_norm", shape.width) {
    for (Index i = 0; i < shape.encoder_layers; ++i)
      layers_.emplace_back(model, "encoder/layer_" + std::to_string(i), shape);
  }

  /// [1500 tokens, width] of [3000 frames, 80 bands]
  matrix operator()(matrix const& mel, workers& threads) const {
    matrix x = second_(first_(mel, threads), threads) + positions_;
    for (encoder_layer const& layer : layers_) layer(x, threads);
    return norm_(std::move(x));
  }

 private:
  convolution first_, second_;
  matrix positions_;
  layer_norm norm_;
  std::vector<encoder_layer> layers_;
};

}  // namespace whisper
