// SPDX-License-Identifier: BSD-3-Clause
// Training on a small text: the loss falls, the weights have the same bits with any number of threads, and
// examples/generate reads what was saved and finds the log-likelihood that the file promises.
#include "trainer.hpp"

#include "../generate/attentions.hpp"
#include "../generate/decoder.hpp"
#include "attention.hpp"
#include "logits.hpp"
#include "model_file.hpp"
#include "text.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using train::Index;

constexpr train::decoder_shape shape{1, 16, 24, 4, 2, 8, 32};

/// A text in which each character is sure after the first of a word, more or less.
std::string words(std::size_t characters) {
  constexpr char const* all[] = {"queries ", "attend ", "to ", "keys ", "and ", "read ", "values\n"};
  std::string result;
  for (std::uint64_t n = 0; result.size() < characters; ++n) result += all[train::random_bits(11, n) % std::size(all)];
  result.resize(characters);
  return result;
}

train::trainer<float> begin(char const* attention, attend_io::workers& threads, std::uint64_t seed = 5) {
  return {shape,
          static_cast<Index>(train::characters().size()),
          [=] { return train::make_attention<float>(attention, shape); },
          train::tokens_of(words(4000)),
          seed,
          threads};
}

class TrainTraining : public testing::TestWithParam<char const*> {
 protected:
  TrainTraining() : folder_(std::filesystem::path(testing::TempDir()) / (std::string("attend_train_") + GetParam())) {
    std::filesystem::create_directories(folder_);
  }
  ~TrainTraining() override { std::filesystem::remove_all(folder_); }

  static std::unique_ptr<generate::layer_attention> keeping(generate::decoder const& model) {
    if (model.linear()) return std::make_unique<generate::with_states>(model, attend::threads{1});
    using store = attend::contiguous_cache<float>;
    auto const make = [] { return store({1, 2, 8, 8}, shape.context); };
    return std::make_unique<generate::through_stores<store>>(model, attend::threads{1}, make);
  }

  std::filesystem::path folder_;
};

INSTANTIATE_TEST_SUITE_P(Attention, TrainTraining, testing::Values("softmax", "linear"));

TEST_P(TrainTraining, LowersTheLossWithTheSameBitsForAnyNumberOfThreads) {
  attend_io::workers one(1), three(3);
  auto alone = begin(GetParam(), one), together = begin(GetParam(), three), other = begin(GetParam(), one, 6);
  EXPECT_NE(other.of().numbers, alone.of().numbers);
  int const steps = 150;
  double first = 0, last = 0;
  for (int step = 0; step < steps; ++step) {
    double const loss = alone.step(train::rate_at(step, steps));
    EXPECT_EQ(loss, together.step(train::rate_at(step, steps))) << step;
    if (step == 0) first = loss;
    last = loss;
  }
  EXPECT_EQ(alone.of().numbers, together.of().numbers);
  auto const unseen = train::tokens_of(words(4500).substr(4000));
  EXPECT_EQ(alone.log_likelihoods(unseen), together.log_likelihoods(unseen));
  // Untrained, it takes all characters to be about as likely; within some steps it learns which there are, and what
  // follows what.
  EXPECT_NEAR(first, std::log(train::characters().size()), .3);
  EXPECT_LT(last, 2);
  EXPECT_LT(alone.loss(alone.log_likelihoods(unseen)), 2);
}

TEST_P(TrainTraining, SavesWhatGenerateReads) {
  attend_io::workers one(1);
  auto trainer = begin(GetParam(), one);
  for (int step = 0; step < 3; ++step) trainer.step(1e-2);
  train::texts const text{words(4000), words(4100).substr(4000)};
  double const loss = train::save_model(folder_, trainer, shape, GetParam(), text);
  EXPECT_EQ(loss, trainer.loss(trainer.log_likelihoods(train::tokens_of(text.held_out))));
  EXPECT_EQ(train::read_text(folder_ / "held_out.txt"), text.held_out);
  std::vector<std::string> names;
  for (auto const& entry : std::filesystem::directory_iterator(folder_))
    names.push_back(entry.path().filename().string());
  EXPECT_THAT(names, testing::UnorderedElementsAre("held_out.txt", "model.safetensors"));

  attend_io::safetensors const weights(folder_ / "model.safetensors");
  generate::decoder const model(weights);
  EXPECT_EQ(model.linear(), GetParam() == std::string("linear"));
  EXPECT_EQ(model.shape().layers, shape.layers);
  EXPECT_EQ(model.shape().feed_forward, shape.feed_forward);
  auto const context = static_cast<std::size_t>(shape.context);
  double sum = 0;
  int count = 0;
  for (std::size_t first = 0; first + context <= text.held_out.size(); first += context) {
    auto const tokens = model.tokens_of(text.held_out.substr(first, context), shape.context, "piece");
    auto const expected = trainer.log_likelihoods(tokens);
    auto const kept = keeping(model);
    for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
      double const likelihood = attend_io::log_probability(model.forward({&tokens[i], 1}, *kept), tokens[i + 1]);
      // Logits below ten, of some sums of tens of products, each rounded.
      EXPECT_NEAR(likelihood, expected[i], 1e-5) << i;
      if (i + 1 >= context / 2) sum += likelihood, ++count;
    }
  }
  EXPECT_NEAR(std::stod(weights.metadata().at("held_out_log_likelihood")), sum / count, 1e-5);

  EXPECT_THROW(train::save_model(folder_ / "none", trainer, shape, GetParam(), text), std::runtime_error);
}

TEST(TrainOptimizer, IsAdamW) {
  // By hand: the gradient (3, -4) becomes (.6, -.8), and after one step m / (1 - beta1) is the gradient again, so both
  // weights move by the rate; the second one decays, too.
  using numbers = Eigen::VectorXd;
  train::adam_w<double> optimizer(2, 1);
  numbers weights(2), gradient(2);
  weights << 1, 2;
  gradient << 3, -4;
  optimizer.step(weights, gradient, .01);
  EXPECT_NEAR(weights[0], 1 - .01, 1e-9);
  EXPECT_NEAR(weights[1], 2 * (1 - .01 * .1) + .01, 1e-9);
  // The second: means of two gradients with weights .1 * .9 and .1 over .19, and of their squares over .0975.
  gradient << 0, .5;
  numbers const before = weights;
  optimizer.step(weights, gradient, .02);
  double const mean0 = .09 * .6 / .19, root0 = std::sqrt(.0475 * .36 / .0975);
  double const mean1 = (.09 * -.8 + .1 * .5) / .19, root1 = std::sqrt((.0475 * .64 + .05 * .25) / .0975);
  EXPECT_NEAR(weights[0], before[0] - .02 * mean0 / root0, 1e-6);
  EXPECT_NEAR(weights[1], before[1] * (1 - .02 * .1) - .02 * mean1 / root1, 1e-6);
}

TEST(TrainOptimizer, HasARateThatRisesAndFalls) {
  EXPECT_DOUBLE_EQ(train::rate_at(0, 1000), 4e-3 / 20);
  EXPECT_DOUBLE_EQ(train::rate_at(19, 1000), 4e-3);
  EXPECT_DOUBLE_EQ(train::rate_at(799, 1000), 4e-3);
  EXPECT_DOUBLE_EQ(train::rate_at(900, 1000), 2e-3);
  EXPECT_DOUBLE_EQ(train::rate_at(999, 1000), 4e-3 / 200);
}

}  // namespace
