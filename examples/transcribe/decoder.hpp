// SPDX-License-Identifier: BSD-3-Clause
// Whisper's decoder: the tokens of a text so far in, a number for each token that may follow each of them out.
//
//   x = embedding[token] + position
//   in each layer:
//     x += linear(attention(layer_norm(x)))         to the tokens of the text so far, kept in a cache
//     x += linear(attention(layer_norm(x)))         to what was heard, keys and values of the encoder's tokens
//     x += linear(gelu(linear(layer_norm(x))))
//   logits = layer_norm(x) embedding^T
//
// Keys and values are in stores of attend's, one of each kind a layer: `heard` is filled once for a window of audio,
// and `text` grows by a row a token. Which store that is, decides who makes them; any that is appended to will do. One
// that evicts is told who has read it.
//
// Alec Radford et al.: Robust Speech Recognition via Large-Scale Weak Supervision, 2022.
#pragma once

#include <attend/cache.hpp>
#include <attend/softmax.hpp>

#include <functional>
#include <span>

#include "layers.hpp"
#include "model_shape.hpp"

namespace whisper {

/// What is done with a store when queries [1, head, token, dimension] have attended to it, whose log-sum-exps
/// [1, head, token] are told: weights are added up, tokens evicted. May be empty.
template <class Store>
using after_reading =
    std::function<void(Store&, attend::tensor_view<float const, 4> const&, attend::tensor_view<float const, 3> const&)>;

/// The stores of one window: of each layer one for the text and one for what was heard.
template <class Text, class Heard = Text>
struct decoder_state {
  std::vector<Text> text;
  std::vector<Heard> heard;
  after_reading<Text> after_text = {};
  after_reading<Heard> after_heard = {};

  /// make(cache_shape, tokens) gives an empty store of one sequence with room for that many tokens.
  template <class MakeText, class MakeHeard>
  decoder_state(model_shape const& shape, MakeText const& make_text, MakeHeard const& make_heard) {
    Index const dimension = shape.head_dimension();
    attend::caches::cache_shape const kept{1, shape.heads, dimension, dimension};
    for (Index i = 0; i < shape.decoder_layers; ++i) {
      text.push_back(make_text(kept, shape.decoder_tokens));
      heard.push_back(make_heard(kept, shape.encoder_tokens));
    }
  }
};

struct decoder_layer {
  layer_norm text_norm;
  linear<attend::half> text_query_key_value, text_output;
  layer_norm heard_norm;
  linear<attend::half> heard_query, heard_output;
  linear<float> heard_key_value;
  feed_forward<attend::half> feed;

  decoder_layer(ctranslate2_model const& model, std::string const& name, Index width)
      : text_norm(model, name + "/self_attention/layer_norm", width),
        text_query_key_value(model, name + "/self_attention/linear_0", width, 3 * width),
        text_output(model, name + "/self_attention/linear_1", width, width),
        heard_norm(model, name + "/attention/layer_norm", width),
        heard_query(model, name + "/attention/linear_0", width, width),
        heard_output(model, name + "/attention/linear_2", width, width),
        heard_key_value(model, name + "/attention/linear_1", width, 2 * width),
        feed(model, name + "/ffn", width) {}
};

class decoder {
 public:
  decoder(ctranslate2_model const& model, model_shape const& shape)
      : shape_(shape),
        embeddings_(read_matrix<attend::half>(model, "decoder/embeddings/weight", shape.vocabulary, shape.width)),
        positions_(read_matrix(model, "decoder/position_encodings/encodings", shape.decoder_tokens, shape.width)),
        norm_(model, "decoder/layer_norm", shape.width) {
    for (Index i = 0; i < shape.decoder_layers; ++i)
      layers_.emplace_back(model, "decoder/layer_" + std::to_string(i), shape.width);
  }

  model_shape const& shape() const { return shape_; }

  /// Begins a window: no text yet, and the keys and values of [1500 tokens, width] that were heard.
  template <class Text, class Heard>
  void begin(matrix const& heard, decoder_state<Text, Heard>& state, workers& threads) const {
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      matrix const key_value = layers_[i].heard_key_value(heard, threads);
      state.text[i].truncate(0, 0);
      state.heard[i].truncate(0, 0);
      state.heard[i].append(heads(key_value, 0), heads(key_value, 1));
    }
  }

  /// Logits [token, vocabulary] of what follows each of `tokens`, which are appended to the text of `state`: few of
  /// them, as of a prompt. Throws std::invalid_argument where there are none, or some that are none of the
  /// vocabulary's, or more than the longest text has.
  template <class Text, class Heard>
  matrix operator()(std::span<int const> tokens, decoder_state<Text, Heard>& state, workers& threads) const {
    matrix x = look_up(tokens, static_cast<Index>(state.text[0].size(0)));
    matrix seen(x.rows(), shape_.width);
    matrix sums(shape_.heads, x.rows());
    attend::tensor_view<float, 3> const sums_of_rows(sums.data(), {1, sums.rows(), sums.cols()});
    attend::options::log_sum_exp const keep_sums(sums_of_rows);
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      decoder_layer const& layer = layers_[i];
      matrix const qkv = layer.text_query_key_value(layer.text_norm(x), threads);
      attend::cached_attention(state.text[i], heads(qkv, 0), heads(qkv, 1), heads(qkv, 2), heads(seen), keep_sums,
                               threads.pool());
      if (state.after_text) state.after_text(state.text[i], heads(qkv, 0), sums_of_rows);
      x += layer.text_output(seen, threads);

      matrix const query = layer.heard_query(layer.heard_norm(x), threads);
      attend::softmax_attention(heads(query, 0), state.heard[i], heads(seen), keep_sums, threads.pool());
      if (state.after_heard) state.after_heard(state.heard[i], heads(query, 0), sums_of_rows);
      x += layer.heard_output(seen, threads);

      x += layer.feed(x, threads);
    }
    return product(norm_(std::move(x)), embeddings_, threads);
  }

 private:
  /// The heads of rows, and of the query, key or value of rows: those of the columns from which * width on.
  attend::tensor_view<float, 4> heads(matrix& of) const {
    return heads_of(of.data(), of.rows(), of.cols(), shape_.heads, shape_.head_dimension());
  }
  attend::tensor_view<float const, 4> heads(matrix const& of, Index which) const {
    return heads_of(of.data() + which * shape_.width, of.rows(), of.cols(), shape_.heads, shape_.head_dimension());
  }

  matrix look_up(std::span<int const> tokens, Index position) const {
    auto const count = static_cast<Index>(tokens.size());
    if (count == 0 || position + count > shape_.decoder_tokens)
      throw std::invalid_argument("tokens: expected 1 to " + std::to_string(shape_.decoder_tokens - position) +
                                  " behind " + std::to_string(position) + ", got " + std::to_string(count));
    matrix x = positions_.middleRows(position, count);
    for (Index i = 0; i < count; ++i) {
      int const token = tokens[static_cast<std::size_t>(i)];
      if (token < 0 || token >= shape_.vocabulary)
        throw std::invalid_argument("tokens: expected 0 to " + std::to_string(shape_.vocabulary - 1) + ", got " +
                                    std::to_string(token));
      x.row(i) += embeddings_.row(token).cast<float>();
    }
    return x;
  }

  model_shape shape_;
  half_matrix embeddings_;
  matrix positions_;
  layer_norm norm_;
  std::vector<decoder_layer> layers_;
};

}  // namespace whisper
