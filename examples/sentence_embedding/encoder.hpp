// SPDX-License-Identifier: BSD-3-Clause
// The sentence encoder all-MiniLM-L6-v2, a small BERT: token ids in, a unit vector of 384 numbers out.
//
//   x = layer_norm(word[id] + position[place] + token_type[0])
//   six times:
//     x = layer_norm(x + linear(attention(x)))        12 heads of 32
//     x = layer_norm(x + linear(gelu(linear(x))))     384 -> 1536 -> 384
//   embedding = the mean of x over the tokens, divided by its length
//
// Eigen multiplies the matrices, attend does the attention. One sentence is one call, so nothing is padded and no
// mask is needed: every token sees every token.
#pragma once

#include <Eigen/Core>

#include <attend/softmax.hpp>

#include <cmath>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "arrays.hpp"
#include "safetensors.hpp"

namespace minilm {

using attend_io::matrix;  // one token a row
using attend_io::read_matrix;
using attend_io::read_vector;
using attend_io::row_vector;
using Eigen::Index;

inline constexpr Index vocabulary = 30522;
inline constexpr Index maximal_tokens = 512;
inline constexpr Index width = 384;
inline constexpr Index heads = 12;
inline constexpr Index head_dimension = width / heads;
inline constexpr Index inner_width = 4 * width;
inline constexpr int layers = 6;

/// y = x W^T + b
struct linear {
  matrix weight;
  row_vector bias;

  linear(attend_io::safetensors const& weights, std::string const& name, Index inputs, Index outputs)
      : weight(read_matrix(weights, name + ".weight", outputs, inputs)),
        bias(read_vector(weights, name + ".bias", outputs)) {}

  matrix operator()(matrix const& x) const { return (x * weight.transpose()).rowwise() + bias; }
};

/// Every row with mean 0 and variance 1, then scaled and shifted column by column.
struct layer_norm {
  row_vector weight;
  row_vector bias;

  layer_norm(attend_io::safetensors const& weights, std::string const& name)
      : weight(read_vector(weights, name + ".weight", width)), bias(read_vector(weights, name + ".bias", width)) {}

  matrix operator()(matrix x) const {
    float const epsilon = 1e-12f;
    for (auto row : x.rowwise()) {
      row.array() -= row.mean();
      float const variance = row.squaredNorm() / static_cast<float>(width);
      row = (row.array() / std::sqrt(variance + epsilon) * weight.array() + bias.array()).matrix();
    }
    return x;
  }
};

/// Query, key and value of all heads come out of one product and stay where they are: the packed matrix
///
///   token 0:  query head 0 .. query head 11 | key head 0 .. key head 11 | value head 0 .. value head 11
///   token 1:  ...
///
/// is looked at through three strided views, and the output is written straight to where the next product reads it.
struct self_attention {
  matrix weight;
  row_vector bias;

  self_attention(attend_io::safetensors const& weights, std::string const& name)
      : weight(3 * width, width), bias(3 * width) {
    linear const query(weights, name + ".query", width, width);
    linear const key(weights, name + ".key", width, width);
    linear const value(weights, name + ".value", width, width);
    weight << query.weight, key.weight, value.weight;
    bias << query.bias, key.bias, value.bias;
  }

  matrix operator()(matrix const& x) const {
    matrix const qkv = (x * weight.transpose()).rowwise() + bias;
    matrix result(x.rows(), width);

    // [batch, head, token, dimension]: extents, then the step from one to the next of each.
    using input = attend::tensor_view<float const, 4>;
    using output = attend::tensor_view<float, 4>;
    Index const tokens = x.rows();
    input const query(qkv.data(), {1, heads, tokens, head_dimension}, {0, head_dimension, 3 * width, 1});
    input const key(qkv.data() + width, {1, heads, tokens, head_dimension}, {0, head_dimension, 3 * width, 1});
    input const value(qkv.data() + 2 * width, {1, heads, tokens, head_dimension}, {0, head_dimension, 3 * width, 1});
    output const out(result.data(), {1, heads, tokens, head_dimension}, {0, head_dimension, width, 1});
    attend::softmax_attention(query, key, value, out);
    return result;
  }
};

/// x Phi(x), with the normal distribution itself and not its approximation by tanh.
inline matrix gelu(matrix const& x) {
  float const inverse_sqrt_2 = 0.70710678f;
  return x.unaryExpr([=](float element) { return 0.5f * element * (1.f + std::erf(element * inverse_sqrt_2)); });
}

struct encoder_layer {
  self_attention attention;
  linear attention_output;
  layer_norm attention_norm;
  linear inner;
  linear output;
  layer_norm output_norm;

  encoder_layer(attend_io::safetensors const& weights, std::string const& name)
      : attention(weights, name + ".attention.self"),
        attention_output(weights, name + ".attention.output.dense", width, width),
        attention_norm(weights, name + ".attention.output.LayerNorm"),
        inner(weights, name + ".intermediate.dense", width, inner_width),
        output(weights, name + ".output.dense", inner_width, width),
        output_norm(weights, name + ".output.LayerNorm") {}

  matrix operator()(matrix const& x) const {
    matrix const seen = attention_norm(x + attention_output(attention(x)));
    return output_norm(seen + output(gelu(inner(seen))));
  }
};

inline void check_token_ids(std::span<std::int64_t const> token_ids) {
  if (token_ids.empty() || token_ids.size() > static_cast<std::size_t>(maximal_tokens))
    throw std::invalid_argument("tokens: expected 1 to " + std::to_string(maximal_tokens) + ", got " +
                                std::to_string(token_ids.size()));
  for (std::int64_t const id : token_ids)
    if (id < 0 || id >= vocabulary)
      throw std::invalid_argument("tokens: expected ids from 0 to " + std::to_string(vocabulary - 1) + ", got " +
                                  std::to_string(id));
}

class encoder {
 public:
  explicit encoder(attend_io::safetensors const& weights)
      : words_(read_matrix(weights, "embeddings.word_embeddings.weight", vocabulary, width)),
        positions_(read_matrix(weights, "embeddings.position_embeddings.weight", maximal_tokens, width)),
        token_types_(read_matrix(weights, "embeddings.token_type_embeddings.weight", 2, width)),
        embedding_norm_(weights, "embeddings.LayerNorm") {
    for (int layer = 0; layer < layers; ++layer)
      layers_.emplace_back(weights, "encoder.layer." + std::to_string(layer));
  }

  /// The embedding of one sentence, its tokens [CLS] and [SEP] included.
  row_vector operator()(std::span<std::int64_t const> token_ids) const {
    matrix x = embedding_norm_(look_up(token_ids));
    for (encoder_layer const& layer : layers_) x = layer(x);
    return x.colwise().mean().normalized();
  }

 private:
  matrix look_up(std::span<std::int64_t const> token_ids) const {
    check_token_ids(token_ids);
    matrix x(static_cast<Index>(token_ids.size()), width);
    for (Index place = 0; place < x.rows(); ++place)
      x.row(place) =
          words_.row(token_ids[static_cast<std::size_t>(place)]) + positions_.row(place) + token_types_.row(0);
    return x;
  }

  matrix words_;
  matrix positions_;
  matrix token_types_;
  layer_norm embedding_norm_;
  std::vector<encoder_layer> layers_;
};

}  // namespace minilm
