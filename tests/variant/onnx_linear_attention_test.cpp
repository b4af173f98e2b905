// The published node tests of ONNX's LinearAttention operator, through the public call.
#include <attend/policy/decay/key_decay.hpp>
#include <attend/policy/decay/token_decay.hpp>
#include <attend/variant/linear_attention.hpp>

#include "support/outside_vectors.hpp"
#include "support/random_tensor.hpp"

namespace attend {
namespace {

template <class T>
test::tensor<T, 4> read(attend_io::safetensors const& file, std::string const& name) {
  test::tensor<T, 4> result;
  auto const& shape = file.at(name).shape;
  result.extents.fill(1);
  for (std::size_t axis = 0; axis < shape.size(); ++axis) result.extents[axis] = shape.at(axis);
  auto const values = file.values<T>(name);
  result.elements.assign(values.begin(), values.end());
  return result;
}

template <class T>
tensor_view<T const, 3> of_tokens(test::tensor<T, 4> const& t) {
  return {t.elements.data(), {t.extents[0], t.extents[1], t.extents[2]}};
}

/// The case's decay, and then its update, are handed on to `call` as options.
template <class T, class Call>
void with_options(attend_io::safetensors const& file, nlohmann::json const& about, Call&& call) {
  std::string const name = about.at("name"), update = about.at("update");
  auto const with_decay = [&](auto const&... written) {
    if (about.at("decay").is_null()) return call(written...);
    auto const decay = read<T>(file, name + "/decay");
    if (about.at("decay") == "token")
      call(written..., token_decay(of_tokens(decay)));
    else
      call(written..., key_decay(decay.view()));
  };
  if (update == "linear" || update == "gated") return with_decay();
  auto const beta = read<T>(file, name + "/beta");
  with_decay(delta_rule(of_tokens(beta)));
}

template <class T>
void expect_linear_case(attend_io::safetensors const& file, nlohmann::json const& about) {
  std::string const name = about.at("name");
  SCOPED_TRACE(name);
  auto const query = read<T>(file, name + "/query"), key = read<T>(file, name + "/key"),
             value = read<T>(file, name + "/value");
  auto output = read<T>(file, name + "/output");
  auto state = read<float>(file, name + "/present_state");
  auto const expected_output = output.elements;
  auto const expected_state = state.elements;
  std::fill(output.elements.begin(), output.elements.end(), T(7));
  std::fill(state.elements.begin(), state.elements.end(), 0.f);
  if (about.at("past_state").get<bool>()) state = read<float>(file, name + "/past_state");

  with_options<T>(file, about, [&](auto const&... options) {
    linear_attention(query.view(), key.view(), value.view(), output.view(), causal{},
                     scale(about.at("scale").get<double>()), options..., initial_state(state.view()),
                     final_state(state.view()));
  });
  // What the other side says of its own distance from the exact result comes on top of ours.
  EXPECT_TRUE(
      test::near(output.elements, expected_output, test::tolerance<T>(1) + about.at("output_error").get<double>()));
  EXPECT_TRUE(
      test::near(state.elements, expected_state, test::tolerance<T>(1) + about.at("state_error").get<double>()));
}

TEST(OnnxLinearAttention, PublishedNodeTestsPass) {
  test::outside_cases const cases("onnx_linear_attention.safetensors");
  int float_cases = 0, half_cases = 0;
  for (auto const& about : cases.manifest.at("cases")) {
    if (about.at("dtype") == "float32") {
      expect_linear_case<float>(cases.file, about), ++float_cases;
    } else {
      expect_linear_case<half>(cases.file, about), ++half_cases;
    }
  }
  EXPECT_EQ(float_cases, 13);
  EXPECT_EQ(half_cases, 1);
}

}  // namespace
}  // namespace attend
