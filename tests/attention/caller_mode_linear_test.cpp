// SPDX-License-Identifier: BSD-3-Clause
// States carried through a sequence have the same bits in whatever floating-point mode they are called, on numbers of
// all sizes, states far below one included: each decay and update, features and normalizers, whole prompts and steps.
#include <attend/attention/linear/aaren_attention.hpp>
#include <attend/attention/linear/cosformer_attention.hpp>
#include <attend/attention/linear/infini_attention.hpp>
#include <attend/attention/linear/inline_attention.hpp>
#include <attend/attention/linear/linear_attention.hpp>
#include <attend/attention/linear/log_normal_attention.hpp>
#include <attend/policy/decay/feature_decay.hpp>
#include <attend/policy/decay/head_decay.hpp>
#include <attend/policy/decay/token_decay.hpp>
#include <attend/policy/feature/elu.hpp>
#include <attend/policy/feature/random_features.hpp>
#include <attend/policy/feature/taylor.hpp>
#include <attend/policy/update/update.hpp>

#include "support/caller_mode_names.hpp"
#include "support/linear_problem.hpp"

namespace attend {
using namespace linear;
using namespace systems;

namespace {

template <class T>
struct problem : test::linear_inputs<T> {
  using A = accumulation_t<T>;

  explicit problem(index_t tokens)
      : test::linear_inputs<T>({.query_heads = 2,
                                .key_heads = 2,
                                .value_heads = 2,
                                .queries = tokens,
                                .keys = tokens,
                                .key_dimension = 20,
                                .value_dimension = 18},
                               1, 2) {
    this->query = of_all_sizes<T, 4>(this->query.extents, 2);
    this->value = of_all_sizes<T, 4>(this->value.extents, 3);
    this->state = of_all_sizes<A, 4>(this->state.extents, 4);
    // A tail of zeros, behind which states decay.
    auto const keys = this->key.view(), values = this->value.view();
    for (index_t h = 0; h < 2; ++h)
      for (index_t t = tokens / 2; t < tokens; ++t) {
        std::fill_n(&keys(0, h, t, 0), 20, T(0));
        std::fill_n(&values(0, h, t, 0), 18, T(0));
      }
  }

  template <class... Options>
  bytes attend_to(Options&&... options) const {
    auto output = test::filled<T, 4>({1, 2, this->size.queries, 18}, T(7));
    auto last = this->state;
    linear_attention(this->query.view(), this->key.view(), this->value.view(), output.view(), causal{},
                     initial_state(this->state.view()), final_state(last.view()), options...);
    return bytes() << output << last;
  }
};

template <class T>
class CallerModeOfStates : public testing::Test {};
using Elements = testing::Types<float, double, bfloat16>;
TYPED_TEST_SUITE(CallerModeOfStates, Elements);

TYPED_TEST(CallerModeOfStates, OfPromptsAndSteps) {
  for (index_t tokens : {1, 150}) {
    problem<TypeParam> const p(tokens);
    expect_one_result([&] { return p.attend_to(); });
    expect_one_result([&] { return p.attend_to(head_decay(p.head_decays.view())); });
    expect_one_result([&] { return p.attend_to(token_decay(p.token_decays.view())); });
    expect_one_result([&] { return p.attend_to(feature_decay(p.key_decays.view())); });
    expect_one_result([&] { return p.attend_to(delta_rule(p.rates.view())); });
    expect_one_result([&] { return p.attend_to(delta_rule(p.rates.view()), token_decay(p.token_decays.view())); });
  }
}

TEST(CallerModeOfStates, OnEveryExecutor) {
  problem<float> const p(150);
  expect_one_result_everywhere([&](auto& executor) {
    auto const decays = retention_decays(2);
    return p.attend_to(head_decay(decays), executor);
  });
}

TEST(CallerModeOfStates, OfFeaturesAndNormalizers) {
  problem<float> const p(90);
  auto const call = [&](auto const&... options) {
    auto output = test::filled<float, 4>({1, 2, 90, 18}, 7.f);
    linear_attention(p.query.view(), p.key.view(), p.value.view(), output.view(), causal{}, options...);
    return bytes() << output;
  };
  expect_one_result([&] { return call(elu_features{}, key_sum{}); });
  expect_one_result([&] { return call(taylor_features{}, key_sum{}, scale(0.3)); });
  expect_one_result([&] { return call(random_features<float>(24, 20, 5)); });
  expect_one_result([&] {
    auto output = test::filled<float, 4>({1, 2, 90, 18}, 7.f), sharp = output;
    cosformer_attention(p.query.view(), p.key.view(), p.value.view(), output.view(), {100}, causal{});
    log_normal_attention(p.query.view(), p.key.view(), p.value.view(), sharp.view(),
                         log_normal_features::matching(1, 1, 0.3, 0.1), causal{});
    return bytes() << output << sharp;
  });
}

TEST(CallerModeOfStates, OfScansAndMemories) {
  problem<float> const p(90);
  auto const query = test::normal<float, 2>({2, 20}, 9);
  std::vector<float> const gates{0.3f, -2.f};
  expect_one_result_everywhere([&](auto& executor) {
    auto scanned = test::filled<float, 4>({1, 2, 90, 18}, 7.f), memory = scanned, inlined = scanned;
    aaren_attention(query.view(), p.key.view(), p.value.view(), scanned.view(), executor);
    infini_attention(p.query.view(), p.key.view(), p.value.view(), memory.view(),
                     infini_memory<float>{32, tensor_view<float const, 1>(gates.data(), {2}), memory_update::delta},
                     executor);
    inline_attention(p.query.view(), p.key.view(), p.value.view(), inlined.view(), executor);
    return bytes() << scanned << memory << inlined;
  });
}

}  // namespace
}  // namespace attend
