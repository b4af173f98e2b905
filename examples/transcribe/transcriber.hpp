// SPDX-License-Identifier: BSD-3-Clause
// Speech to text: of a window of at most 30 seconds the tokens that are likeliest one by one.
//
//   prompt:  <|startoftranscript|> <|notimestamps|>
//   token:   the largest logit of those that config.json does not suppress: suppress_ids never come, suppress_ids_begin
//            not as the first
//   end:     <|endoftext|>, or half of the longest text that the model takes
//   silence: transcript.hpp
#pragma once

#include <attend/cache.hpp>

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "../io/ctranslate2.hpp"
#include "../io/logits.hpp"
#include "../io/workers.hpp"
#include "decoder.hpp"
#include "encoder.hpp"
#include "log_mel.hpp"
#include "model_shape.hpp"
#include "transcript.hpp"
#include "vocabulary.hpp"

namespace whisper {

/// Which tokens never come, and which not as the first, as config.json beside the model says.
struct suppressed_tokens {
  std::vector<int> always, at_first;

  /// Throws std::runtime_error where the file cannot be read, or says something else than tokens.
  suppressed_tokens(std::filesystem::path const& path, Index vocabulary) {
    std::ifstream stream(path);
    if (!stream) throw std::runtime_error(path.string() + ": cannot be read");
    try {
      nlohmann::json const file = nlohmann::json::parse(stream);
      always = file.at("suppress_ids").get<std::vector<int>>();
      at_first = file.at("suppress_ids_begin").get<std::vector<int>>();
    } catch (nlohmann::json::exception const& error) {
      throw std::runtime_error(path.string() + ": expected JSON with the lists suppress_ids and suppress_ids_begin: " +
                               attend_io::detail::excerpt(error.what(), 160));
    }
    for (auto const* list : {&always, &at_first})
      for (int const token : *list)
        if (token < 0 || token >= vocabulary)
          throw std::runtime_error(path.string() + ": expected tokens from 0 to " + std::to_string(vocabulary - 1) +
                                   ", got " + std::to_string(token));
  }
};

/// A model of a folder with model.bin, config.json and vocabulary.txt, as CTranslate2 reads it.
class transcriber {
 public:
  /// Throws std::runtime_error where a file cannot be read or is damaged, or is that of another kind of model.
  transcriber(std::filesystem::path const& folder, workers& threads)
      : transcriber(folder, attend_io::ctranslate2_model(folder / "model.bin"), threads) {}

  vocabulary const& words() const { return words_; }
  model_shape const& shape() const { return decode_.shape(); }

  /// A state in which `write` keeps keys and values, as decoder_state makes it.
  template <class MakeText, class MakeHeard>
  auto make_state(MakeText const& make_text, MakeHeard const& make_heard) const {
    attend::caches::cache_shape const any{};
    using text = decltype(make_text(any, Index{}));
    using heard = decltype(make_heard(any, Index{}));
    return decoder_state<text, heard>(decode_.shape(), make_text, make_heard);
  }

  /// What is heard in a window of at most 480000 samples at 16 kHz: [1500 tokens, width].
  matrix hear(std::span<float const> samples) { return encode_(log_mel_(samples), threads_); }

  /// Writes down what was heard. each(token) is called with each token of speech as it comes, or at the end, where it
  /// first seemed that nobody speaks.
  template <class Text, class Heard, class Each>
  transcript write(matrix const& heard, decoder_state<Text, Heard>& state, Each const& each) {
    decode_.begin(heard, state, threads_);
    int const prompt[] = {words_.command("startoftranscript"), words_.command("notimestamps")};
    int const end = words_.command("endoftext");
    auto const most = static_cast<std::size_t>(decode_.shape().decoder_tokens) / 2;

    transcript result;
    matrix const follows = decode_(prompt, state, threads_);
    result.no_speech_probability = std::exp(attend_io::log_probability(follows.row(0), words_.command("nocaptions")));
    row_vector logits = follows.row(1);
    for (int const token : suppressed_.at_first) logits[token] = -INFINITY;
    double sum = 0;
    while (result.tokens.size() < most) {
      for (int const token : suppressed_.always) logits[token] = -INFINITY;
      int const token = attend_io::likeliest(logits);
      sum += attend_io::log_probability(logits, token);
      if (token == end) break;
      result.tokens.push_back(token);
      if (!result.seems_silent()) each(token);
      if (result.tokens.size() < most) logits = decode_(std::span(&token, 1), state, threads_);
    }
    result.log_probability = sum / static_cast<double>(result.tokens.size() + 1);
    if (result.seems_silent() && result.is_speech())
      for (int const token : result.tokens) each(token);
    return result;
  }

  /// Both, in float. heard() is called once, when the window is encoded.
  template <class Heard, class Each>
  transcript operator()(std::span<float const> samples, Heard const& heard, Each const& each) {
    matrix const sound = hear(samples);
    heard();
    return write(sound, state_, each);
  }

 private:
  using store = attend::contiguous_cache<float>;

  transcriber(std::filesystem::path const& folder, attend_io::ctranslate2_model const& model, workers& threads)
      : threads_(threads),
        words_(folder / "vocabulary.txt"),
        encode_(model, read_shape(model)),
        decode_(model, read_shape(model)),
        suppressed_(folder / "config.json", decode_.shape().vocabulary),
        state_(decode_.shape(), make_store, make_store) {
    if (auto const expected = static_cast<std::size_t>(decode_.shape().vocabulary); words_.size() != expected)
      throw std::runtime_error((folder / "vocabulary.txt").string() + ": expected " + std::to_string(expected) +
                               " tokens (the model's), got " + std::to_string(words_.size()));
  }

  static store make_store(attend::caches::cache_shape const& shape, Index tokens) { return store(shape, tokens); }

  workers& threads_;
  vocabulary words_;
  log_mel log_mel_;
  encoder encode_;
  decoder decode_;
  suppressed_tokens suppressed_;
  decoder_state<store> state_;
};

}  // namespace whisper
