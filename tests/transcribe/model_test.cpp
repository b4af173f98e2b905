// SPDX-License-Identifier: BSD-3-Clause
// Whisper's encoder and decoder on a small model of random numbers, made here: however a text is cut into calls, and
// with any number of threads, the same logits; what is told of who has read a store; and a model of other shapes is
// refused.
#include <attend/cache.hpp>

#include "decoder.hpp"
#include "encoder.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

using attend_io::ctranslate2_model;
using testing::HasSubstr;
using whisper::Index;

using shape = std::vector<std::uint32_t>;

constexpr std::uint32_t width = 16, tokens_of_text = 12, words = 20;
constexpr std::int16_t heads = 2;

/// The arrays of a model with one layer on each side, by name.
std::map<std::string, shape> small_model() {
  std::map<std::string, shape> result{{"encoder/conv1/weight", {width, 80, 3}},
                                      {"encoder/conv1/bias", {width}},
                                      {"encoder/conv2/weight", {width, width, 3}},
                                      {"encoder/conv2/bias", {width}},
                                      {"encoder/position_encodings/encodings", {1500, width}},
                                      {"decoder/position_encodings/encodings", {tokens_of_text, width}},
                                      {"decoder/embeddings/weight", {words, width}}};
  auto const norm = [&](std::string const& name) { result[name + "/gamma"] = result[name + "/beta"] = {width}; };
  auto const linear = [&](std::string const& name, std::uint32_t inputs, std::uint32_t outputs) {
    result[name + "/weight"] = {outputs, inputs};
    result[name + "/bias"] = {outputs};
  };
  for (std::string const side : {"encoder", "decoder"}) {
    norm(side + "/layer_norm");
    norm(side + "/layer_0/self_attention/layer_norm");
    linear(side + "/layer_0/self_attention/linear_0", width, 3 * width);
    linear(side + "/layer_0/self_attention/linear_1", width, width);
    norm(side + "/layer_0/ffn/layer_norm");
    linear(side + "/layer_0/ffn/linear_0", width, 4 * width);
    linear(side + "/layer_0/ffn/linear_1", 4 * width, width);
  }
  norm("decoder/layer_0/attention/layer_norm");
  linear("decoder/layer_0/attention/linear_0", width, width);
  linear("decoder/layer_0/attention/linear_1", width, 2 * width);
  linear("decoder/layer_0/attention/linear_2", width, width);
  return result;
}

template <class T>
std::string bytes_of(std::vector<T> const& values) {
  std::string result(values.size() * sizeof(T), '\0');
  std::memcpy(result.data(), values.data(), result.size());
  return result;
}

std::string text(std::string const& characters) {
  return bytes_of<std::uint16_t>({static_cast<std::uint16_t>(characters.size() + 1)}) + characters + '\0';
}

std::string file(std::map<std::string, shape> const& arrays, std::string const& specification = "WhisperSpec") {
  std::mt19937 engine(7);
  std::normal_distribution<float> normal(0, .3f);
  std::string result = bytes_of<std::uint32_t>({6}) + text(specification) +
                       bytes_of<std::uint32_t>({3, static_cast<std::uint32_t>(arrays.size() + 2)});
  for (auto const& [name, extents] : arrays) {
    std::size_t size = 1;
    for (std::uint32_t const extent : extents) size *= extent;
    std::vector<float> values(size);
    for (float& value : values) value = normal(engine);
    result += text(name) + static_cast<char>(extents.size()) + bytes_of(extents) + '\0' +
              bytes_of<std::uint32_t>({static_cast<std::uint32_t>(4 * size)}) + bytes_of(values);
  }
  for (char const* side : {"encoder", "decoder"})
    result += text(std::string(side) + "/num_heads") + '\0' + '\2' + bytes_of<std::uint32_t>({2}) +
              bytes_of<std::int16_t>({heads});
  return result + bytes_of<std::uint32_t>({0});
}

class ModelTest : public testing::Test {
 protected:
  ModelTest()
      : path_(std::filesystem::path(testing::TempDir()) /
              (std::string("attend_whisper_") + testing::UnitTest::GetInstance()->current_test_info()->name())) {}
  ~ModelTest() override { std::filesystem::remove(path_); }

  ctranslate2_model load(std::string const& bytes) const {
    std::ofstream(path_, std::ios::binary) << bytes;
    return ctranslate2_model(path_);
  }

  /// The message that a model is refused with.
  std::string refusal(std::string const& bytes) const {
    ctranslate2_model const model = load(bytes);
    try {
      whisper::model_shape const of = whisper::read_shape(model);
      whisper::encoder const encode(model, of);
      whisper::decoder const decode(model, of);
    } catch (std::runtime_error const& error) {
      EXPECT_THAT(error.what(), testing::StartsWith(path_.string()));
      return error.what();
    }
    return "not refused";
  }

  std::filesystem::path path_;
};

whisper::matrix some_mel() {
  whisper::matrix mel(3000, 80);
  for (Index i = 0; i < mel.size(); ++i) mel.data()[i] = std::sin(static_cast<float>(i % 977));
  return mel;
}

template <class Store = attend::contiguous_cache<float>>
auto empty_state(whisper::model_shape const& of) {
  auto const make = [](attend::caches::cache_shape const& rows, Index tokens) {
    if constexpr (requires { Store(rows, tokens); })
      return Store(rows, tokens);
    else
      return Store(rows, {.pages = (tokens + 15) / 16, .page_tokens = 16});
  };
  return whisper::decoder_state<Store>(of, make, make);
}

TEST_F(ModelTest, GivesTheSameLogitsHoweverATextIsCut) {
  ctranslate2_model const model = load(file(small_model()));
  whisper::model_shape const of = whisper::read_shape(model);
  EXPECT_EQ(of.width, Index{width});
  EXPECT_EQ(of.head_dimension(), 8);
  whisper::encoder const encode(model, of);
  whisper::decoder const decode(model, of);
  whisper::workers one(1), three(3);
  whisper::matrix const heard = encode(some_mel(), one);
  EXPECT_EQ(heard.rows(), 1500);
  EXPECT_TRUE(heard == encode(some_mel(), three)) << "other bits with threads";

  std::vector<int> const tokens{3, 1, 4, 1, 5, 19, 2, 6};
  auto state = empty_state(of);
  decode.begin(heard, state, one);
  whisper::matrix const at_once = decode(tokens, state, one);
  ASSERT_EQ(at_once.rows(), 8);
  // Again in the same stores, token by token, with threads; and over pages.
  auto paged = empty_state<attend::paged_cache<float>>(of);
  decode.begin(heard, state, three);
  decode.begin(heard, paged, three);
  // Sums of some hundred products of numbers of about 1, each rounded, in a few layers.
  float const tolerance = 1e-4f * at_once.cwiseAbs().maxCoeff();
  for (Index i = 0; i < at_once.rows(); ++i) {
    std::span const token = std::span(tokens).subspan(static_cast<std::size_t>(i), 1);
    EXPECT_LT((decode(token, state, three) - at_once.row(i)).cwiseAbs().maxCoeff(), tolerance) << i;
    EXPECT_LT((decode(token, paged, three) - at_once.row(i)).cwiseAbs().maxCoeff(), tolerance) << i;
  }
  decode.begin(-heard, state, one);
  EXPECT_GT((decode(tokens, state, one) - at_once).cwiseAbs().maxCoeff(), 10 * tolerance) << "what is heard is lost";
}

TEST_F(ModelTest, TellsWhoHasReadAStore) {
  ctranslate2_model const model = load(file(small_model()));
  whisper::model_shape const of = whisper::read_shape(model);
  whisper::decoder const decode(model, of);
  whisper::workers one(1);
  auto state = empty_state(of);
  int texts = 0, heards = 0;
  // In double: what the queries' weights sum up to, of the keys that the store has and a query sees.
  auto const check = [&](auto const& store, auto const& query, auto const& sums, bool causal) {
    Index const size = store.size(0), rows = query.extent(2);
    for (Index head = 0; head < of.heads; ++head)
      for (Index i = 0; i < rows; ++i) {
        double sum = 0;
        for (Index j = 0; j < (causal ? size - rows + i + 1 : size); ++j) {
          auto const run = store.rows(0, head, j);
          double logit = 0;
          for (Index c = 0; c < of.head_dimension(); ++c)
            logit += static_cast<double>(query(0, head, i, c)) * static_cast<double>(run.key[c]);
          sum += std::exp(logit / std::sqrt(static_cast<double>(of.head_dimension())));
        }
        EXPECT_NEAR(static_cast<double>(sums(0, head, i)), std::log(sum), 1e-4);
      }
  };
  state.after_text = [&](auto& store, auto const& query, auto const& sums) {
    ++texts;
    check(store, query, sums, true);
  };
  state.after_heard = [&](auto& store, auto const& query, auto const& sums) {
    ++heards;
    check(store, query, sums, false);
  };
  decode.begin(whisper::matrix::Ones(1500, width), state, one);
  decode(std::vector<int>{3, 1}, state, one);
  decode(std::vector<int>{4}, state, one);
  EXPECT_EQ(texts, 2);
  EXPECT_EQ(heards, 2);
}

TEST_F(ModelTest, RefusesTokensThatItDoesNotHave) {
  ctranslate2_model const model = load(file(small_model()));
  whisper::model_shape const of = whisper::read_shape(model);
  whisper::decoder const decode(model, of);
  whisper::workers one(1);
  auto state = empty_state(of);
  decode.begin(whisper::matrix::Ones(1500, width), state, one);
  for (std::vector<int> const& tokens :
       {std::vector<int>{}, std::vector<int>(tokens_of_text + 1, 1), std::vector<int>{0, -1}, std::vector<int>{words}})
    EXPECT_THROW(decode(tokens, state, one), std::invalid_argument);
  decode(std::vector<int>(tokens_of_text, 1), state, one);
  EXPECT_THROW(decode(std::vector<int>{1}, state, one), std::invalid_argument);
}

TEST_F(ModelTest, RefusesOtherModels) {
  EXPECT_EQ(refusal(file(small_model())), "not refused");
  EXPECT_THAT(refusal(file(small_model(), "TransformerSpec")), HasSubstr("expected a model of WhisperSpec"));
  for (auto const& [name, extents] : small_model()) {
    auto arrays = small_model();
    arrays.erase(name);
    EXPECT_NE(refusal(file(arrays)), "not refused") << name;
    // The file says how long texts and vocabularies are.
    if (name == "decoder/embeddings/weight" || name == "decoder/position_encodings/encodings") continue;
    arrays[name] = extents;
    arrays[name][0] += 1;
    EXPECT_NE(refusal(file(arrays)), "not refused") << name;
  }
  auto arrays = small_model();
  arrays["encoder/conv1/weight"] = {width, 128, 3};
  EXPECT_THAT(refusal(file(arrays)), HasSubstr("expected a model that hears 80 bands, got 128"));
  arrays = small_model();
  arrays["decoder/layer_0/ffn/linear_0/bias"] = {1};
  EXPECT_THAT(refusal(file(arrays)), HasSubstr("decoder/layer_0/ffn/linear_0/bias: expected shape [64], got [1]"));
}

}  // namespace
