// SPDX-License-Identifier: BSD-3-Clause
// The systems over the state engine, one after the other on one shape: 8 heads of 4096 tokens, value dimension 64.
//
// With F features, D value columns and the engine's chunks of C tokens, the work that a token needs is counted as
//
//   causal    2 (2 F D + (C + 1) / 2 (P + D))   P = F, or the head dimension where a chunk's products are a polynomial
//   full      4 F D
//
// and 4 F d for a map that multiplies query and key by a matrix. Exponentials and sums of single rows are not counted.
#include <attend/attention/linear/aaren_attention.hpp>
#include <attend/attention/linear/based_attention.hpp>
#include <attend/attention/linear/cosformer_attention.hpp>
#include <attend/attention/linear/fastmax_attention.hpp>
#include <attend/attention/linear/flow_attention.hpp>
#include <attend/attention/linear/hedgehog_attention.hpp>
#include <attend/attention/linear/infini_attention.hpp>
#include <attend/attention/linear/inline_attention.hpp>
#include <attend/attention/linear/latte_attention.hpp>
#include <attend/attention/linear/lightnet_attention.hpp>
#include <attend/attention/linear/log_normal_attention.hpp>
#include <attend/attention/linear/performer_attention.hpp>
#include <attend/attention/linear/transnormer_attention.hpp>
#include <attend/policy/mask/causal.hpp>

#include <memory>

#include "benchmarks.hpp"
#include "softmax_call.hpp"

namespace attend_bench {
namespace {

using attend::causal;

constexpr index_t heads = 8, tokens = 4096, columns = 64;

/// Features that follow the sequence are cut as those with decays of their own.
double causal_flops(index_t features, index_t product_depth,
                    attend::extend::decay_kind kind = attend::extend::decay_kind::none) {
  double const f = static_cast<double>(features), p = static_cast<double>(product_depth),
               chunk =
                   static_cast<double>(attend::engine::chunk_cut::chunk_for(features, product_depth, columns, kind));
  return static_cast<double>(heads * tokens) * 2 * (2 * f * columns + (chunk + 1) / 2.0 * (p + columns));
}
double full_flops(index_t features) {
  return static_cast<double>(heads * tokens) * 4 * static_cast<double>(features) * columns;
}
double projection_flops(index_t features, index_t dimension) {
  return static_cast<double>(heads * tokens) * 4 * static_cast<double>(features * dimension);
}

struct system {
  std::string name, mask;
  index_t dimension;
  double flops;
};

/// call(query, key, value, output, executor) for tensors of the system's head dimension.
template <class Call>
void add(system const& what, Call const& call) {
  attention_shape const shape{1, heads, heads, tokens, tokens, what.dimension};
  auto const prepare = [=] {
    auto const query =
        std::make_shared<random_tensor<float>>(std::array<index_t, 4>{1, heads, tokens, what.dimension}, 1);
    auto const key =
        std::make_shared<random_tensor<float>>(std::array<index_t, 4>{1, heads, tokens, what.dimension}, 2);
    auto const value = std::make_shared<random_tensor<float>>(std::array<index_t, 4>{1, heads, tokens, columns}, 3);
    auto const output = std::make_shared<random_tensor<float>>(std::array<index_t, 4>{1, heads, tokens, columns}, 4);
    return attention_call{
        [=](attend::threads threads) { call(query->view(), key->view(), value->view(), output->view(), threads); },
        nullptr};
  };
  attention_benchmark measured{
      "linear/" + what.name, element_type::f32, shape, what.mask, 0, limit::arithmetic, prepare};
  measured.flops = what.flops;
  register_attention(measured, {1, 2});
}

void add_aaren() {
  constexpr index_t many = 65536;
  attention_shape const shape{1, heads, heads, many, many, columns};
  auto const prepare = [shape] {
    auto const tensors = std::make_shared<attention_tensors<float>>(shape);
    return attention_call{[tensors](attend::threads threads) {
                            auto const q = tensors->query.view();
                            attend::systems::aaren_attention(
                                attend::tensor_view<float const, 2>(q.data(), {heads, columns}, {q.stride(1), 1}),
                                tensors->key.view(), tensors->value.view(), tensors->output.view(), threads);
                          },
                          nullptr};
  };
  double const elements = static_cast<double>(heads * many * columns);
  attention_benchmark measured{"linear/aaren", element_type::f32, shape, "causal", 0, limit::bandwidth, prepare};
  measured.bytes = 3 * sizeof(float) * elements;
  measured.flops = 7 * elements;
  register_attention(measured, {1, 2});
}

}  // namespace

void register_linear_systems() {
  constexpr auto following = attend::extend::decay_kind::vector;
  constexpr index_t d = 64, taylor = 1 + 16 + 16 * 17 / 2, random = 256;
  add({"lightnet", "causal", d, causal_flops(d, d, following)},
      [](auto const&... t) { attend::systems::lightnet_attention(t..., causal{}); });
  add({"lightnet", "full", d, full_flops(d)}, [](auto const&... t) { attend::systems::lightnet_attention(t...); });
  add({"latte", "causal", d, causal_flops(d, d, following)},
      [](auto const&... t) { attend::systems::latte_attention(t..., causal{}); });
  add({"log_normal", "causal", d, causal_flops(d, d, following)},
      [](auto const&... t) { attend::systems::log_normal_attention(t..., causal{}); });
  attend::linear::random_features<float> const directions(random, d, 1);
  add({"performer", "causal", d, causal_flops(random, random) + projection_flops(random, d)},
      [=](auto const&... t) { attend::systems::performer_attention(t..., directions, causal{}); });
  add({"performer", "full", d, full_flops(random) + projection_flops(random, d)},
      [=](auto const&... t) { attend::systems::performer_attention(t..., directions); });
  std::vector<float> const weights(d * d, 0.01f);
  attend::tensor_view<float const, 2> const matrix(weights.data(), {d, d});
  attend::linear::hedgehog_features<float> const hedgehog(matrix, matrix);
  add({"hedgehog", "causal", d, causal_flops(2 * d, 2 * d) + projection_flops(d, d)},
      [=](auto const&... t) { attend::systems::hedgehog_attention(t..., hedgehog, causal{}); });
  add({"cosformer", "causal", d, causal_flops(2 * d, 2 * d)},
      [](auto const& q, auto const& k, auto const& v, auto const& o, auto const& threads) {
        attend::systems::cosformer_attention(q, k, v, o, attend::systems::cosine_horizon{tokens}, causal{}, threads);
      });
  auto const logs = std::make_shared<std::vector<float>>(attend::systems::lightning_decays(heads, 0, 12));
  auto const angles = std::make_shared<std::vector<float>>(attend::systems::transnormer_angles(heads, d));
  add({"transnormer", "causal", d, causal_flops(2 * d, 2 * d)}, [=](auto const&... t) {
    attend::systems::transnormer_attention(
        t..., attend::linear::head_decay(*logs),
        attend::systems::transnormer_rotation(attend::tensor_view<float const, 2>(angles->data(), {heads, d})));
  });
  auto const gate = std::make_shared<random_tensor<float>>(std::array<index_t, 4>{1, heads, tokens, columns}, 5);
  add({"transnormer_gated", "causal", d, causal_flops(d, d)}, [=](auto const&... t) {
    attend::systems::transnormer_attention(t..., attend::linear::head_decay(*logs),
                                           attend::linear::output_gate(gate->view()));
  });
  add({"based", "causal", 16, causal_flops(taylor, 16)},
      [](auto const&... t) { attend::systems::based_attention(t...); });
  add({"fastmax", "causal", 32, causal_flops(1 + 32 + 32 * 33 / 2, 32)},
      [](auto const& q, auto const& k, auto const& v, auto const& o, auto const& threads) {
        attend::systems::fastmax_attention(q, k, v, o, attend::systems::fastmax_order::second, causal{}, threads);
      });
  add({"flow", "causal", d, causal_flops(d, d, following)},
      [](auto const&... t) { attend::systems::flow_attention(t..., causal{}); });
  add({"flow", "full", d, full_flops(d)}, [](auto const&... t) { attend::systems::flow_attention(t...); });
  add({"inline", "full", d, full_flops(d)}, [](auto const&... t) { attend::systems::inline_attention(t...); });
  constexpr index_t segment = 1024;
  auto const gates = std::make_shared<std::vector<float>>(heads, 0.0f);
  double const local = static_cast<double>(heads * tokens) * 4 * d * (segment + 1) / 2;
  add({"infini", "segment1024", d, local + full_flops(d)},
      [=](auto const& q, auto const& k, auto const& v, auto const& o, auto const& threads) {
        attend::systems::infini_memory<float> const memory(segment, *gates);
        attend::systems::infini_attention(q, k, v, o, memory, threads);
      });
  add_aaren();
}

}  // namespace attend_bench
