// SPDX-License-Identifier: BSD-3-Clause
// What ../generate reads of a decoder that was trained here: model.safetensors, with weights in half precision, and
// held_out.txt, the beginning of the text that it is scored by. Both are as ../generate/train.py writes them.
//
// model.safetensors holds, beside the tensors, what the reader needs, on how much text it was trained, its loss, and
// the log-likelihood that `generate` must find.
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "../io/save_safetensors.hpp"
#include "../io/table.hpp"
#include "../io/whole_file.hpp"
#include "text.hpp"
#include "trainer.hpp"

namespace train {

/// Of a text that is held out, `generate` scores the beginning of so many characters.
inline constexpr std::size_t scored_characters = 4096;

/// Rounds the weights to half precision, writes both files, and gives the loss on all that is held out, in nats a
/// character. Neither file is ever seen half-written. Throws std::runtime_error that names the file that cannot be
/// written.
inline double save_model(std::filesystem::path const& folder, trainer<float>& trained, decoder_shape const& shape,
                         std::string const& attention, texts const& of) {
  auto& numbers = trained.of().numbers;
  Eigen::Matrix<Eigen::half, Eigen::Dynamic, 1> const rounded = numbers.cast<Eigen::half>();
  numbers = rounded.cast<float>();
  std::vector<int> const held_out = tokens_of(of.held_out);
  double const loss = trained.loss(trained.log_likelihoods(held_out));

  // As in `generate`, the first half of a piece is a prompt, and the characters of the second half are scored.
  std::size_t const scored = std::min(scored_characters, held_out.size());
  auto const likelihoods = trained.log_likelihoods(std::span(held_out).first(scored));
  auto const context = static_cast<std::size_t>(shape.context), half = context / 2;
  std::vector<double> halves;
  for (std::size_t i = 0; i < likelihoods.size(); ++i)
    if (i % (context - 1) >= half - 1) halves.push_back(likelihoods[i]);

  std::map<std::string, attend_io::array_to_save<Eigen::half>> arrays;
  for (auto const& at : trained.of().places())
    arrays[at.name] = {{at.rows, at.columns},
                       {rounded.data() + at.first, static_cast<std::size_t>(at.rows * at.columns)}};
  std::map<std::string, std::string> const metadata{
      {"format", "attend character decoder"},
      {"attention", attention},
      {"characters", characters()},
      {"context", std::to_string(shape.context)},
      {"head_dimension", std::to_string(shape.head_dimension)},
      {"trained_on", std::to_string(of.trained.size()) + " characters"},
      {"loss", attend_io::fixed(loss, 3) + " nats a held-out character"},
      {"held_out_log_likelihood", attend_io::fixed(-trained.loss(halves), 5)},
  };
  attend_io::write_whole(folder / "held_out.txt", of.held_out.substr(0, scored));
  attend_io::save_safetensors(folder / "model.safetensors", arrays, metadata);
  return loss;
}

}  // namespace train
