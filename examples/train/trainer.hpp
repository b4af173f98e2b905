// SPDX-License-Identifier: BSD-3-Clause
// A decoder that learns a text: each step takes some pieces of it, each as long as the context and at a random place.
//
// Every piece of a step is read by one thread, and has a gradient of its own; these are added up in the order of the
// pieces. So the weights have the same bits with any number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "../io/workers.hpp"
#include "attention.hpp"
#include "decoder.hpp"
#include "optimizer.hpp"
#include "weights.hpp"

namespace train {

/// So many pieces make a step.
inline constexpr Index pieces_of_step = 4;

template <class T>
class trainer {
 public:
  using attention_maker = typename decoder_pass<T>::attention_maker;

  /// `text` are tokens below `known`, more of them than the shape's context. The seed says with which weights training
  /// begins, and which pieces it takes.
  trainer(decoder_shape const& shape, Index known, attention_maker const& make, std::vector<int> text,
          std::uint64_t seed, attend_io::workers& threads)
      : shape_(shape),
        text_(std::move(text)),
        seed_(seed),
        threads_(threads),
        weights_(shape, known),
        optimizer_(weights_.numbers.size(), weights_.embedding().size()) {
    weights_.draw(seed, shape.layers);
    for (Index i = 0; i < pieces_of_step; ++i) {
      passes_.emplace_back(shape, make);
      gradients_.emplace_back(shape, known);
    }
  }

  weights<T>& of() { return weights_; }

  /// Takes one step, and gives the loss in nats a token before it.
  double step(double rate) {
    auto const length = static_cast<std::size_t>(shape_.context);
    T const factor = T(1) / static_cast<T>(pieces_of_step * shape_.context);
    std::vector<double> losses(pieces_of_step);
    threads_.for_parts(pieces_of_step, 1, [&](Index first, Index) {
      auto const i = static_cast<std::size_t>(first);
      auto const piece = std::span<int const>(text_).subspan(place_of(i), length + 1);
      losses[i] = loss(passes_[i].forward(weights_, piece));
      passes_[i].backward(weights_, factor, gradients_[i]);
    });
    double sum = losses[0];
    for (std::size_t i = 1; i < losses.size(); ++i) {
      sum += losses[i];
      gradients_[0].numbers += gradients_[i].numbers;
    }
    optimizer_.step(weights_.numbers, gradients_[0].numbers, rate);
    ++steps_;
    return sum / static_cast<double>(losses.size());
  }

  /// ln of the probability of each token of a text but the first of each piece, given those before it in the piece. A
  /// piece is as long as the context, and what is left behind the last one does not count.
  std::vector<double> log_likelihoods(std::span<int const> tokens) {
    auto const length = static_cast<std::size_t>(shape_.context), pieces = tokens.size() / length;
    std::vector<double> result(pieces * (length - 1));
    auto const size = static_cast<Index>(pieces), share = (size + pieces_of_step - 1) / pieces_of_step;
    threads_.for_parts(size, share, [&](Index first, Index count) {
      decoder_pass<T>& pass = passes_[static_cast<std::size_t>(first / share)];
      for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(first + count); ++i) {
        auto const& of_piece = pass.forward(weights_, tokens.subspan(i * length, length));
        std::copy(of_piece.begin(), of_piece.end(), result.begin() + static_cast<std::ptrdiff_t>(i * (length - 1)));
      }
    });
    return result;
  }

  /// Nats a token.
  static double loss(std::span<double const> log_likelihoods) {
    double sum = 0;
    for (double const one : log_likelihoods) sum -= one;
    return sum / static_cast<double>(log_likelihoods.size());
  }

 private:
  /// Where a piece of this step begins.
  std::size_t place_of(std::size_t piece) const {
    std::uint64_t const behind_the_weights = std::uint64_t{1} << 40;
    auto const number = static_cast<std::uint64_t>(steps_) * pieces_of_step + piece;
    return random_bits(seed_, behind_the_weights + number) % (text_.size() - static_cast<std::size_t>(shape_.context));
  }

  decoder_shape shape_;
  std::vector<int> text_;
  std::uint64_t seed_;
  attend_io::workers& threads_;
  weights<T> weights_;
  adam_w<T> optimizer_;
  std::vector<decoder_pass<T>> passes_;
  std::vector<weights<T>> gradients_;
  int steps_ = 0;
};

}  // namespace train
