// SPDX-License-Identifier: BSD-3-Clause
// How large a Whisper is, as its file says: tiny.en has 4 layers of 384 numbers in 6 heads, medium.en 24 of 1024 in 16.
#pragma once

#include <Eigen/Core>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "../io/ctranslate2.hpp"
#include "log_mel.hpp"

namespace whisper {

struct model_shape {
  Index width, heads, encoder_layers, decoder_layers, vocabulary;
  Index encoder_tokens;  // 50 a second
  Index decoder_tokens;  // the longest text, with what stands ahead of it

  Index head_dimension() const { return width / heads; }
};

/// The sizes of an English-only Whisper. Throws std::runtime_error where the file is of another model.
inline model_shape read_shape(attend_io::ctranslate2_model const& model) {
  auto const fail = [&](std::string const& message) { throw std::runtime_error(model.file() + ": " + message); };
  if (model.specification() != "WhisperSpec")
    fail("expected a model of WhisperSpec, got " + attend_io::detail::excerpt(model.specification(), 160));
  auto const extent = [&](std::string const& name, std::size_t axes, std::size_t axis) -> Index {
    std::vector<std::int64_t> const& shape = model.at(name).shape;
    if (shape.size() != axes)
      fail(name + ": expected " + std::to_string(axes) + " axes, got " + std::to_string(shape.size()));
    return shape[axis];
  };
  auto const layers_of = [&](std::string const& part) {
    Index count = 0;
    while (model.arrays().contains(part + "/layer_" + std::to_string(count) + "/ffn/linear_0/weight")) ++count;
    if (count == 0) fail(part + ": expected layers, got none");
    return count;
  };

  model_shape result{};
  result.width = extent("encoder/conv1/weight", 3, 0);
  result.encoder_layers = layers_of("encoder");
  result.decoder_layers = layers_of("decoder");
  result.vocabulary = extent("decoder/embeddings/weight", 2, 0);
  result.encoder_tokens = extent("encoder/position_encodings/encodings", 2, 0);
  result.decoder_tokens = extent("decoder/position_encodings/encodings", 2, 0);
  for (std::string const part : {"encoder", "decoder"}) {
    std::vector<Index> const heads = model.values<Index>(part + "/num_heads");
    if (heads.size() != 1 || heads[0] < 1 || result.width % heads[0] != 0)
      fail(part + "/num_heads: expected one number that divides the width " + std::to_string(result.width));
    if (result.heads != 0 && heads[0] != result.heads)
      fail("expected encoder and decoder to have as many heads, got " + std::to_string(result.heads) + " and " +
           std::to_string(heads[0]));
    result.heads = heads[0];
  }
  if (Index const bands_of_model = extent("encoder/conv1/weight", 3, 1); bands_of_model != bands)
    fail("expected a model that hears " + std::to_string(bands) + " bands, got " + std::to_string(bands_of_model));
  if (result.encoder_tokens != window_frames / 2)
    fail("expected positions of " + std::to_string(window_frames / 2) + " tokens in the encoder, got " +
         std::to_string(result.encoder_tokens));
  return result;
}

}  // namespace whisper
