// SPDX-License-Identifier: BSD-3-Clause
// A small decoder of the Llama family, trained on characters by train.py: a token is a character, and the logits are
// those of the character that follows.
//
//   x = embedding[token]
//   in each layer:
//     x += output attention(query(norm(x)), key(norm(x)), value(norm(x)))     rotary positions, grouped heads
//     x += down (silu(gate(norm(x))) * up(norm(x)))
//   logits = embedding norm(x)            norm(x) = x / sqrt(mean of x^2 + 1e-5)
//
// Where keys and values are kept is somebody else's to know (layer_attention): queries and keys are handed over not
// rotated, with the rotary policy that turns them. Attention is softmax attention, or linear attention with a decay for
// each head, whose heads are normed as x is: a model says which it was trained with. A call of `forward` takes any
// number of tokens: a prompt, a part of one, or the last token.
#pragma once

#include <Eigen/Core>

#include <attend/core/tensor_view.hpp>
#include <attend/policy/position/rotary.hpp>

#include <algorithm>
#include <charconv>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "../io/arrays.hpp"
#include "../io/safetensors.hpp"

namespace generate {

using attend::index_t;
using attend_io::matrix;
using attend_io::row_vector;

/// What stands between the queries of the layers and their outputs: it keeps keys and values, and attends to them.
class layer_attention {
 public:
  using view = attend::tensor_view<float, 4>;  // [1, head, token, dimension]

  virtual ~layer_attention() = default;

  /// Appends the keys and values of a layer, and attends to what the layer keeps. Queries and keys are not rotated yet,
  /// and may be written.
  virtual void attend(std::size_t layer, view const& query, view const& key, view const& value, view const& output) = 0;

  /// What is kept takes so many bytes, in all layers together.
  virtual index_t bytes() const = 0;
};

/// What norms add to a mean square.
inline constexpr float norm_epsilon = 1e-5f;

struct decoder_shape {
  index_t layers, width, feed_forward, query_heads, key_value_heads, head_dimension;
  index_t context;  // the longest text that it was trained for, in characters
};

class decoder {
 public:
  /// Throws std::runtime_error that names the file where it is another model's, or damaged.
  explicit decoder(attend_io::safetensors const& weights)
      : characters_(entry(weights, "characters")),
        shape_(read_shape(weights, characters_)),
        linear_(read_attention(weights) == "linear"),
        position_(attend::options::rotary_frequencies(shape_.head_dimension)),
        embedding_(
            attend_io::read_matrix(weights, "embedding", static_cast<index_t>(characters_.size()), shape_.width)) {
    index_t const width = shape_.width, queries = shape_.query_heads * shape_.head_dimension,
                  keys = shape_.key_value_heads * shape_.head_dimension, inner = shape_.feed_forward;
    for (index_t l = 0; l < shape_.layers; ++l) {
      auto const read = [&](char const* name, index_t outputs, index_t inputs) {
        return attend_io::read_matrix(weights, name_in_layer(l, name), outputs, inputs);
      };
      layers_.push_back({read("query", queries, width), read("key", keys, width), read("value", keys, width),
                         read("output", width, queries), read("gate", inner, width), read("up", inner, width),
                         read("down", width, inner)});
    }
  }

  decoder_shape const& shape() const { return shape_; }
  /// Whether it was trained with linear attention.
  bool linear() const { return linear_; }
  attend::rotary<attend::options::rotary_frequencies> const& position() const { return position_; }

  /// The tokens of a text. Throws std::invalid_argument, which names the text as `what`, where there are none, more
  /// than `most`, or characters that the model does not know.
  std::vector<int> tokens_of(std::string_view text, index_t most, std::string const& what) const {
    if (text.empty() || text.size() > static_cast<std::size_t>(most))
      throw std::invalid_argument(what + ": expected 1 to " + std::to_string(most) + " characters, got " +
                                  std::to_string(text.size()));
    std::vector<int> tokens;
    for (std::size_t i = 0; i < text.size(); ++i) {
      auto const token = characters_.find(text[i]);
      if (token == std::string::npos)
        throw std::invalid_argument(what + ": expected characters that the model knows, got byte " +
                                    std::to_string(static_cast<unsigned char>(text[i])) + " at " + std::to_string(i));
      tokens.push_back(static_cast<int>(token));
    }
    return tokens;
  }
  char character(int token) const { return characters_.at(static_cast<std::size_t>(token)); }

  /// Logits of the character that follows the last of `tokens`, which are those of tokens_of, and at least one.
  row_vector forward(std::span<int const> tokens, layer_attention& attention) const {
    auto const count = static_cast<index_t>(tokens.size());
    matrix stream(count, shape_.width);
    for (index_t t = 0; t < count; ++t) stream.row(t) = embedding_.row(tokens[static_cast<std::size_t>(t)]);
    matrix attended(count, shape_.query_heads * shape_.head_dimension);
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      layer const& weights = layers_[l];
      matrix const normal = normalized(stream);
      matrix query = normal * weights.query.transpose(), key = normal * weights.key.transpose(),
             value = normal * weights.value.transpose();
      attention.attend(l, heads(query), heads(key), heads(value), heads(attended));
      stream += attended * weights.output.transpose();

      matrix const again = normalized(stream);
      matrix const gate = again * weights.gate.transpose(), up = again * weights.up.transpose();
      stream += (gate.array() / (1 + (-gate.array()).exp()) * up.array()).matrix() * weights.down.transpose();
    }
    return normalized(stream.bottomRows(1)) * embedding_.transpose();
  }

 private:
  struct layer {
    matrix query, key, value, output, gate, up, down;  // [outputs, inputs]
  };
  static constexpr index_t tensors_of_layer = 7;

  static std::string name_in_layer(index_t layer, char const* name) {
    return "layers." + std::to_string(layer) + "." + name;
  }

  [[noreturn]] static void fail(attend_io::safetensors const& weights, std::string const& message) {
    throw std::runtime_error(weights.file() + ": " + message);
  }

  static std::string const& entry(attend_io::safetensors const& weights, std::string const& name) {
    auto const& metadata = weights.metadata();
    if (auto const format = metadata.find("format");
        format == metadata.end() || format->second != "attend character decoder")
      fail(weights, "__metadata__: expected format 'attend character decoder'");
    auto const found = metadata.find(name);
    if (found == metadata.end()) fail(weights, "__metadata__: expected " + name + ", got none");
    return found->second;
  }

  /// The first models had softmax attention, and did not say so.
  static std::string read_attention(attend_io::safetensors const& weights) {
    if (!weights.metadata().contains("attention")) return "softmax";
    std::string const& name = entry(weights, "attention");
    if (name != "softmax" && name != "linear")
      fail(weights,
           "__metadata__: attention: expected softmax or linear, got " + attend_io::detail::excerpt(name, 160));
    return name;
  }

  /// A number of tokens or channels.
  static index_t number(attend_io::safetensors const& weights, std::string const& name) {
    std::string const& text = entry(weights, name);
    int value = 0;
    auto const [after, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    int const most = 1 << 20;  // far beyond any model, and no product of two overflows
    if (error != std::errc{} || after != text.data() + text.size() || value < 1 || value > most)
      fail(weights, "__metadata__: " + name + ": expected a number from 1 to " + std::to_string(most) + ", got " +
                        attend_io::detail::excerpt(text, 160));
    return value;
  }

  static decoder_shape read_shape(attend_io::safetensors const& weights, std::string const& characters) {
    std::string sorted = characters;
    std::sort(sorted.begin(), sorted.end());
    if (sorted.empty() || std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end())
      fail(weights, "__metadata__: characters: expected each character once, got " +
                        attend_io::detail::excerpt(characters, 160));
    auto const extent = [&](std::string const& name, std::size_t axis) -> index_t {
      std::vector<std::int64_t> const& shape = weights.at(name).shape;
      if (shape.size() != 2) fail(weights, name + ": expected 2 axes, got " + std::to_string(shape.size()));
      if (shape[axis] == 0) fail(weights, name + ": expected numbers, got none");
      return shape[axis];
    };
    decoder_shape result{};
    result.context = number(weights, "context");
    result.head_dimension = number(weights, "head_dimension");
    if (result.head_dimension % 2 != 0)
      fail(weights,
           "__metadata__: head_dimension: expected an even number, got " + std::to_string(result.head_dimension));
    auto const heads = [&](char const* name) {
      index_t const rows = extent(name_in_layer(0, name), 0);
      if (rows % result.head_dimension != 0)
        fail(weights, name_in_layer(0, name) + ": expected rows for heads of " + std::to_string(result.head_dimension) +
                          ", got " + std::to_string(rows));
      return rows / result.head_dimension;
    };
    result.width = extent("embedding", 1);
    result.feed_forward = extent(name_in_layer(0, "gate"), 0);
    result.query_heads = heads("query");
    result.key_value_heads = heads("key");
    if (result.query_heads % result.key_value_heads != 0)
      fail(weights, "expected query heads that are a multiple of " + std::to_string(result.key_value_heads) +
                        " (the key-value heads), got " + std::to_string(result.query_heads));
    while (weights.contains(name_in_layer(result.layers, "query"))) ++result.layers;
    if (auto const expected = static_cast<std::size_t>(1 + tensors_of_layer * result.layers);
        weights.tensors().size() != expected)
      fail(weights, "expected " + std::to_string(expected) + " tensors (of " + std::to_string(result.layers) +
                        " layers), got " + std::to_string(weights.tensors().size()));
    return result;
  }

  /// [token, head * dimension] as [1, head, token, dimension], with no copy.
  layer_attention::view heads(matrix& rows) const {
    index_t const dimension = shape_.head_dimension, columns = rows.cols();
    return {rows.data(), {1, columns / dimension, rows.rows(), dimension}, {0, dimension, columns, 1}};
  }

  static matrix normalized(matrix const& rows) {
    return rows.array().colwise() /
           ((rows.rowwise().squaredNorm() / static_cast<float>(rows.cols())).array() + norm_epsilon).sqrt();
  }

  std::string characters_;
  decoder_shape shape_;
  bool linear_;
  attend::rotary<attend::options::rotary_frequencies> position_;
  matrix embedding_;
  std::vector<layer> layers_;
};

}  // namespace generate
