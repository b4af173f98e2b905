// SPDX-License-Identifier: BSD-3-Clause
// ONNX's published node tests of RotaryEmbedding, and the rotary positions of Hugging Face transformers.
#include <attend/attention/softmax/rotary_embedding.hpp>

#include "support/compare.hpp"
#include "support/outside_vectors.hpp"

namespace attend {
using namespace options;

namespace {

template <class T>
tensor_view<T const, 3> view_of_three(attend_io::safetensors const& file, std::string const& name,
                                      std::vector<T> const& values) {
  std::array<index_t, 3> extents{1, 1, 1};
  auto const& shape = file.at(name).shape;
  std::copy(shape.begin(), shape.end(), extents.end() - static_cast<std::ptrdiff_t>(shape.size()));
  return {values.data(), extents};
}

TEST(RotaryVectors, OnnxNodeTestsPass) {
  test::outside_cases const cases("rotary.safetensors");
  int count = 0;
  for (auto const& about : cases.manifest.at("onnx")) {
    std::string const name = about.at("name");
    SCOPED_TRACE(name);
    auto const& file = cases.file;
    test::outside_tensor<float> const x(file, name + "/x");
    auto const cosine = file.values<float>(name + "/cosine"), sine = file.values<float>(name + "/sine");
    bool const has_positions = file.tensors().contains(name + "/positions");
    auto const ids = has_positions ? file.values<std::int64_t>(name + "/positions") : std::vector<std::int64_t>{};
    rotary const settings(
        rotary_table(view_of_three(file, name + "/cosine", cosine), view_of_three(file, name + "/sine", sine)),
        about.at("interleaved").get<bool>() ? rotary_layout::interleaved : rotary_layout::half_split);
    std::vector<float> y(file.values<float>(name + "/y").size());
    tensor_view<float, 4> const to(y.data(), x.extents);
    tensor_view<float const, 4> const from(x.elements.get(), x.extents);
    if (has_positions)
      rotary_embedding(from, settings, to, view_of_three(file, name + "/positions", ids));
    else
      rotary_embedding(from, settings, to);
    // Numbers from 0 to 1: two products and their sum.
    EXPECT_TRUE(test::near(y, file.values<double>(name + "/y"), 4 * 2 * test::unit_roundoff<float>()));
    ++count;
  }
  EXPECT_EQ(count, 8);
}

rotary_frequencies frequencies_of(nlohmann::json const& about) {
  auto const& scaling = about.at("scaling");
  index_t const dimension = about.at("dimension");
  double const base = about.at("base");
  std::string const kind = scaling.at("kind");
  if (kind == "linear") return rotary_frequencies(dimension, base, linear_scaling{scaling.at("factor")});
  if (kind == "dynamic")
    return rotary_frequencies(dimension, base,
                              dynamic_ntk_scaling{scaling.at("factor"), scaling.at("longest"), scaling.at("length")});
  if (kind == "llama3")
    return rotary_frequencies(
        dimension, base,
        llama3_scaling{scaling.at("factor"), scaling.at("low_freq_factor"), scaling.at("high_freq_factor"),
                       scaling.at("original_max_position_embeddings")});
  if (kind == "yarn") {
    yarn_scaling yarn{.factor = scaling.at("factor"),
                      .original_length = scaling.at("original_max_position_embeddings")};
    yarn.beta_fast = scaling.value("beta_fast", 32.0);
    yarn.beta_slow = scaling.value("beta_slow", 1.0);
    yarn.factor_of_attention = scaling.value("attention_factor", 0.0);
    yarn.whole_pairs = scaling.value("truncate", true);
    if (scaling.contains("mscale"))
      yarn.factor_of_attention =
          yarn_magnitude(yarn.factor, scaling.at("mscale")) / yarn_magnitude(yarn.factor, scaling.at("mscale_all_dim"));
    return rotary_frequencies(dimension, base, yarn);
  }
  rotary_frequencies const plain(dimension, base);
  auto const sections = about.at("sections").get<std::vector<index_t>>();
  if (sections.empty()) return plain;
  return about.at("name") == "qwen3_vl" ? plain.interleaved_sections(sections) : plain.sections(sections);
}

TEST(RotaryVectors, FrequenciesAndRotationsAreThoseOfTransformers) {
  test::outside_cases const cases("rotary.safetensors");
  int count = 0;
  for (auto const& about : cases.manifest.at("transformers")) {
    std::string const name = about.at("name");
    SCOPED_TRACE(name);
    auto const& file = cases.file;
    rotary_frequencies const frequencies = frequencies_of(about);
    // Logarithms, products and quotients in double, there as here.
    double const factor = about.at("attention_factor");
    EXPECT_NEAR(frequencies.attention_factor(), factor, 8 * test::unit_roundoff<double>() * factor);

    // Theirs are powers and quotients in single precision, and interpolations between them: 16 roundings are plenty.
    double const relative = 16 * test::unit_roundoff<float>();
    auto const theirs = file.values<double>(name + "/frequencies");
    ASSERT_EQ(theirs.size(), static_cast<std::size_t>(frequencies.pairs()));
    for (std::size_t i = 0; i < theirs.size(); ++i)
      EXPECT_NEAR(frequencies.radians(static_cast<index_t>(i)), theirs[i], relative * theirs[i]) << i;

    test::outside_tensor<float> const x(file, name + "/x");
    auto const positions = file.values<std::int64_t>(name + "/positions");
    std::vector<float> y(file.values<float>(name + "/y").size());
    rotary_embedding(tensor_view<float const, 4>(x.elements.get(), x.extents), rotary(frequencies),
                     tensor_view<float, 4>(y.data(), x.extents), view_of_three(file, name + "/positions", positions));
    // Their angles have the relative error of their frequencies, and positions are up to 500: an error of as many
    // radians.
    double const angle = 500 * (relative + test::unit_roundoff<float>());
    EXPECT_TRUE(test::near(y, file.values<double>(name + "/y"), (angle + 16 * test::unit_roundoff<float>()) * 6));
    ++count;
  }
  EXPECT_EQ(count, 13);
}

}  // namespace
}  // namespace attend
