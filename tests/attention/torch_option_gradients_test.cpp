// SPDX-License-Identifier: BSD-3-Clause
// What PyTorch's autograd says of softmax attention with options: forward and backward in double.
#include <attend/attention/softmax/softmax_attention_backward.hpp>
#include <attend/policy/normalizer/relu.hpp>
#include <attend/policy/pair_gain.hpp>
#include <attend/policy/score/softcap.hpp>

#include "support/outside_vectors.hpp"

namespace attend::test {
namespace {

using numbers = std::vector<double>;

struct option_case {
  outside_cases const& cases;
  std::string name;

  numbers read(std::string const& of) const { return cases.file.values<double>(name + "/" + of); }
  void expect(std::string const& of, numbers const& got) const {
    // Gradients of magnitudes up to some tens were rounded to float.
    EXPECT_TRUE(near(got, read("of_" + of), 4e-6)) << of;
  }
};

void expect_options(outside_cases const& cases, nlohmann::json const& about) {
  constexpr index_t batches = 2, heads = 4, key_heads = 2, queries = 9, keys = 13;
  option_case const c{cases, about.at("name")};
  SCOPED_TRACE(c.name);
  numbers const query = c.read("query"), key = c.read("key"), value = c.read("value"), of_output = c.read("of_output");
  numbers const pairs = c.read("bias"), factors = c.read("temperature"), gains = c.read("value_gain");
  numbers const numbers_of_heads = c.read("gates"), centres = c.read("centres");
  auto const view = [](auto& elements, std::array<index_t, 4> const& extents) {
    using element = std::remove_reference_t<decltype(elements[0])>;
    return tensor_view<element, 4>(elements.data(), extents);
  };
  std::array<index_t, 4> const q{batches, heads, queries, 8}, k{batches, key_heads, keys, 8},
      v{batches, key_heads, keys, 5}, o{batches, heads, queries, 5}, b{1, key_heads, queries, keys};
  numbers output(of_output.size()), of_query(query.size()), of_key(key.size()), of_value(value.size());
  numbers of_bias(pairs.size()), of_factors(heads), of_gains(gains.size()), of_gates(numbers_of_heads.size());
  tensor_view<double const, 3> const gains_of_tokens(gains.data(), {batches, 1, keys});
  tensor_view<double const, 2> const gates(numbers_of_heads.data(), {batches, heads});
  auto const run = [&](auto const& call, auto const& normalizer, auto const&... more) {
    call(causal{}, rotary(rotary_frequencies(8)), softcap{5.}, head_logit_scale(factors), bias(view(pairs, b)),
         value_gain(gains_of_tokens), head_gates(gates), gaussian_gain(centres, 6.), normalizer, more...);
  };
  auto const forward = [&](auto const&... options) {
    softmax_attention(view(query, q), view(key, k), view(value, v), view(output, o), options...);
  };
  auto const backward = [&](tensor_view<double const, 3> const& lse) {
    return [&, lse](auto const&... options) {
      softmax_attention_backward(view(query, q), view(key, k), view(value, v), view(output, o), lse, view(of_output, o),
                                 view(of_query, q), view(of_key, k), view(of_value, v), options...,
                                 gradient_of_bias(view(of_bias, b)), gradient_of_logit_scale(of_factors),
                                 gradient_of_value_gain(tensor_view<double, 3>(of_gains.data(), {batches, 1, keys})),
                                 gradient_of_head_gates(tensor_view<double, 2>(of_gates.data(), {batches, heads})));
    };
  };
  if (std::string const normalizer = about.at("normalizer"); normalizer == "softmax") {
    numbers const logits = c.read("sinks"), of_lse = c.read("of_lse");
    numbers sums(of_lse.size()), of_sinks(heads);
    std::array<index_t, 3> const rows{batches, heads, queries};
    tensor_view<double, 3> const lse(sums.data(), rows);
    run(forward, sinks(logits), log_sum_exp(lse));
    run(backward(lse), sinks(logits), of_log_sum_exp(tensor_view<double const, 3>(of_lse.data(), rows)),
        gradient_of_sinks(of_sinks));
    c.expect("sinks", of_sinks);
  } else {
    relu_weights const weights{normalizer == "count" ? relu_scaling::count : relu_scaling::sum};
    run(forward, weights);
    run(backward({}), weights);
  }
  c.expect("query", of_query);
  c.expect("key", of_key);
  c.expect("value", of_value);
  c.expect("bias", of_bias);
  c.expect("temperature", of_factors);
  c.expect("value_gain", of_gains);
  c.expect("gates", of_gates);
}

TEST(TorchOptionGradients, GradientsAgree) {
  outside_cases const cases("torch_option_gradients.safetensors");
  int count = 0;
  for (auto const& about : cases.manifest.at("cases")) expect_options(cases, about), ++count;
  EXPECT_EQ(count, 3);
}

}  // namespace
}  // namespace attend::test
