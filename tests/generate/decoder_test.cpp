// SPDX-License-Identifier: BSD-3-Clause
// The decoder of examples/generate on a small model of random numbers, made here: however a text is cut into calls, and
// whatever keeps it without loss, the same logits; and no damaged file and no text that does not fit is taken.
#include "decoder.hpp"

#include "attentions.hpp"

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

using attend_io::safetensors;
using generate::index_t;
using testing::HasSubstr;
using testing::StartsWith;

constexpr std::int64_t width = 8, queries = 16, keys = 8, inner = 12;  // 4 query heads, 2 key-value heads of 4
constexpr index_t context = 24;

using shape = std::vector<std::int64_t>;

/// A file of float32 with one layer, as train.py writes it.
struct model_file {
  std::map<std::string, std::string> metadata{{"format", "attend character decoder"},
                                              {"characters", "\n abcde"},
                                              {"context", std::to_string(context)},
                                              {"head_dimension", "4"}};
  std::map<std::string, shape> tensors{{"embedding", {7, width}},         {"layers.0.query", {queries, width}},
                                       {"layers.0.key", {keys, width}},   {"layers.0.value", {keys, width}},
                                       {"layers.0.gate", {inner, width}}, {"layers.0.output", {width, queries}},
                                       {"layers.0.up", {inner, width}},   {"layers.0.down", {width, inner}}};
  std::map<std::string, float> first_numbers;  // in place of the random one

  std::string bytes() const {
    std::mt19937 engine(5);
    std::normal_distribution<float> normal(0, .5f);
    nlohmann::json header{{"__metadata__", metadata}};
    std::string data;
    for (auto const& [name, extents] : tensors) {
      std::int64_t count = 1;
      for (std::int64_t const extent : extents) count *= extent;
      std::vector<float> values(static_cast<std::size_t>(count));
      for (float& value : values) value = normal(engine);
      if (auto const found = first_numbers.find(name); found != first_numbers.end()) values.at(0) = found->second;
      std::size_t const begin = data.size();
      data.append(reinterpret_cast<char const*>(values.data()), values.size() * sizeof(float));
      header[name] = {{"dtype", "F32"}, {"shape", extents}, {"data_offsets", {begin, data.size()}}};
    }
    std::string const text = header.dump();
    std::uint64_t const length = text.size();
    std::string result(sizeof length, '\0');
    std::memcpy(result.data(), &length, sizeof length);
    return result + text + data;
  }
};

class GenerateTest : public testing::Test {
 protected:
  GenerateTest()
      : path_(std::filesystem::path(testing::TempDir()) /
              (std::string("attend_generate_") + testing::UnitTest::GetInstance()->current_test_info()->name())) {}
  ~GenerateTest() override { std::filesystem::remove(path_); }

  generate::decoder load(std::string const& bytes) const {
    std::ofstream(path_, std::ios::binary) << bytes;
    return generate::decoder(safetensors(path_));
  }

  /// The message that a model is refused with, which names the file.
  std::string refusal(std::string const& bytes) const {
    try {
      load(bytes);
    } catch (std::runtime_error const& error) {
      EXPECT_THAT(error.what(), StartsWith(path_.string()));
      return error.what();
    }
    return "not refused";
  }
  std::string refusal(model_file const& file) const { return refusal(file.bytes()); }

  std::filesystem::path path_;
};

TEST_F(GenerateTest, GivesTheSameLogitsHoweverATextIsCutAndKept) {
  using namespace attend::systems;
  using store = attend::contiguous_cache<float>;
  generate::decoder const model = load(model_file().bytes());
  EXPECT_EQ(model.shape().layers, 1);
  EXPECT_EQ(model.shape().query_heads, 4);
  EXPECT_EQ(model.shape().key_value_heads, 2);
  attend::caches::cache_shape const kept{1, 2, 4, 4};
  auto const make = [&] { return store(kept, context); };
  std::vector<int> const tokens = model.tokens_of("abc cab\nead bad dead ace", context, "text");

  generate::through_stores<store> whole(model, {1}, make), stepped(model, {2}, make);
  generate::row_vector const at_once = model.forward(tokens, whole);
  // Chosen tokens, as many as there are; a rolling cache whose window is as long as the text.
  auto const quest = [&] { return quest_selector<float>(kept, 4, context, quest_pages({.tokens = context}, 4)); };
  auto const step = [](auto const& query, auto const& cache, auto& selector, auto const& output, auto executor) {
    selector.update(cache);
    attend::selection::selected_attention(query, cache, selector, output, executor);
  };
  generate::with_chosen_tokens<store, decltype(quest()), decltype(step)> chosen(model, {1}, make, quest, step);
  auto const roll = [&] { return attend::rolling_cache<float>(kept, {0, context}, 4); };
  generate::with_cache_positions<attend::rolling_cache<float>> streamed(model, {1}, roll);
  auto const compensate = [&] { return attend::caches::compensated_cache<float>(kept, {0, context}, 4); };
  generate::with_compensation<attend::caches::compensated_cache<float>> compensated(model, {1}, compensate);

  // Sums of some tens of products of numbers up to some tens, each rounded, in one layer.
  float const tolerance = 1e-5f * at_once.cwiseAbs().maxCoeff();
  for (generate::layer_attention* attention :
       {static_cast<generate::layer_attention*>(&stepped), static_cast<generate::layer_attention*>(&chosen),
        static_cast<generate::layer_attention*>(&streamed), static_cast<generate::layer_attention*>(&compensated)}) {
    model.forward(std::span(tokens).first(5), *attention);
    generate::row_vector logits;
    for (std::size_t i = 5; i < tokens.size(); ++i) logits = model.forward(std::span(tokens).subspan(i, 1), *attention);
    EXPECT_LT((logits - at_once).cwiseAbs().maxCoeff(), tolerance);
  }
  EXPECT_EQ(whole.bytes(), make().bytes());
  EXPECT_GT(chosen.bytes(), whole.bytes()) << "a selector's memory counts";

  generate::through_stores<store> other(model, {1}, make);
  auto changed = tokens;
  std::swap(changed[2], changed[9]);
  EXPECT_GT((model.forward(changed, other) - at_once).cwiseAbs().maxCoeff(), 10 * tolerance) << "order is lost";
}

TEST_F(GenerateTest, RefusesTextsThatDoNotFit) {
  generate::decoder const model = load(model_file().bytes());
  auto const message = [&](std::string const& text) -> std::string {
    try {
      model.tokens_of(text, 4, "prompt");
    } catch (std::invalid_argument const& error) {
      return error.what();
    }
    return "not refused";
  };
  EXPECT_EQ(message("ab e"), "not refused");
  EXPECT_EQ(message(""), "prompt: expected 1 to 4 characters, got 0");
  EXPECT_EQ(message("abcde"), "prompt: expected 1 to 4 characters, got 5");
  EXPECT_EQ(message("ab\xC3\xA4"), "prompt: expected characters that the model knows, got byte 195 at 2");
  EXPECT_EQ(model.character(model.tokens_of("d", 1, "text")[0]), 'd');
}

TEST_F(GenerateTest, RefusesDamagedFilesAndOtherModels) {
  EXPECT_EQ(refusal(model_file()), "not refused");
  std::string const whole = model_file().bytes();
  EXPECT_THAT(refusal(whole.substr(0, whole.size() - 1)), HasSubstr("expected data_offsets in order and within"));
  EXPECT_THAT(refusal(whole.substr(0, 5)), HasSubstr("truncated"));
  EXPECT_THAT(refusal("no model at all"), HasSubstr("header"));

  for (auto const& [name, extents] : model_file().tensors) {
    for (float const number : {NAN, INFINITY}) {
      model_file broken;
      broken.first_numbers[name] = number;
      EXPECT_THAT(refusal(broken), HasSubstr(name + ": expected finite numbers, got")) << name;
    }
    model_file missing;
    missing.tensors.erase(name);
    EXPECT_NE(refusal(missing), "not refused") << name;
    for (std::size_t const axis : {0u, 1u}) {
      model_file larger;
      larger.tensors[name][axis] += 1;
      EXPECT_NE(refusal(larger), "not refused") << name;
    }
    model_file flat;
    flat.tensors[name] = {extents[0] * extents[1]};
    EXPECT_NE(refusal(flat), "not refused") << name;
  }
  model_file more;
  more.tensors["layers.2.query"] = {queries, width};
  EXPECT_THAT(refusal(more), HasSubstr("expected 8 tensors (of 1 layers), got 9"));
}

TEST_F(GenerateTest, RefusesMetadataThatDoesNotFit) {
  auto const with = [&](std::string const& name, std::string const& value) {
    model_file changed;
    changed.metadata[name] = value;
    return refusal(changed);
  };
  EXPECT_THAT(with("format", "another"), HasSubstr("expected format 'attend character decoder'"));
  EXPECT_THAT(with("characters", "\n abcda"), HasSubstr("characters: expected each character once"));
  EXPECT_THAT(with("characters", ""), HasSubstr("characters: expected each character once"));
  EXPECT_THAT(with("characters", "\n abcdef"), HasSubstr("embedding: expected shape [8, 8], got [7, 8]"));
  EXPECT_THAT(with("attention", "linear"), "not refused");
  EXPECT_THAT(with("attention", "sparse"), HasSubstr("attention: expected softmax or linear, got 'sparse'"));
  for (char const* const value : {"", "0", "-4", "4.0", "four", "99999999999"})
    EXPECT_THAT(with("head_dimension", value), HasSubstr("head_dimension: expected a number from 1 to")) << value;
  EXPECT_THAT(with("head_dimension", "5"), HasSubstr("expected an even number, got 5"));
  EXPECT_THAT(with("head_dimension", "6"), HasSubstr("expected rows for heads of 6, got 16"));
  for (auto const& [name, value] : model_file().metadata) {
    model_file missing;
    missing.metadata.erase(name);
    EXPECT_THAT(refusal(missing), HasSubstr("__metadata__: expected " + name)) << name;
  }
}

}  // namespace
