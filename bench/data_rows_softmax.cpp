// SPDX-License-Identifier: BSD-3-Clause
// Pairs of queries and keys: the tiled engine with each element type and what changes a weight, and the gathered one.
#include <attend/attention/sparse_prefill/moba_attention.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/normalizer/sigmoid.hpp>
#include <attend/policy/score/alibi.hpp>
#include <attend/policy/score/softcap.hpp>

#include "data_rows.hpp"
#include "softmax_call.hpp"
#include "visible_pairs.hpp"

namespace attend_bench {
namespace {

/// call(query, key, value, output, threads) on tensors of each class.
template <class T, class Call>
data_row row_of(char const* family, element_type type, attention_shape const& shape, char const* mask,
                Call const& call) {
  bool const dense = std::string(mask) == "dense";
  double const pairs = window_pairs(shape.queries, shape.keys, -1, dense ? -1 : 0);
  return {{std::string("data/") + family, type, shape, mask, pairs, limit::arithmetic, {}}, [=](data_class data) {
            auto const tensors = std::make_shared<attention_tensors<T>>(shape);
            turn_into<T>(data, tensors->query.view(), tensors->key.view(), tensors->value.view());
            return attention_call{[=](attend::threads threads) {
                                    call(tensors->query.view(), tensors->key.view(), tensors->value.view(),
                                         tensors->output.view(), threads);
                                  },
                                  {}};
          }};
}

template <class T, class... Options>
data_row prefill(char const* family, element_type type, attention_shape const& shape, char const* mask,
                 Options const&... options) {
  return row_of<T>(family, type, shape, mask,
                   [options...](auto const&... all) { attend::softmax_attention(all..., options...); });
}

std::vector<float> const& slopes() {
  static std::vector<float> const all = attend::options::alibi_slopes(16);
  return all;
}

}  // namespace

std::vector<data_row> softmax_data_rows() {
  using attend::causal;
  constexpr attention_shape shape{1, 8, 8, 1024, 1024, 64}, many_heads{1, 16, 16, 512, 512, 64};
  return {
      prefill<float>("prefill", element_type::f32, shape, "dense"),
      prefill<float>("prefill", element_type::f32, shape, "causal", causal{}),
      prefill<double>("prefill", element_type::f64, shape, "dense"),
      prefill<attend::half>("prefill", element_type::f16, shape, "dense"),
      prefill<attend::bfloat16>("prefill", element_type::bf16, shape, "dense"),
      prefill<float>("alibi", element_type::f32, many_heads, "dense", attend::alibi(slopes())),
      prefill<float>("alibi", element_type::f32, many_heads, "causal", causal{}, attend::alibi(slopes())),
      prefill<float>("softcap", element_type::f32, shape, "dense", attend::options::softcap(50.f)),
      prefill<float>("sigmoid", element_type::f32, shape, "dense", attend::options::sigmoid_weights{}),
      row_of<float>("gathered", element_type::f32, shape, "causal",
                    [](auto const& query, auto const& key, auto const& value, auto const& output, auto const& threads) {
                      attend::systems::moba_attention(query, key, value, output, attend::systems::moba_options{64, 3},
                                                      threads);
                    }),
  };
}

}  // namespace attend_bench
