// SPDX-License-Identifier: BSD-3-Clause
// Softmax attention and what is made of it have the same bits in whatever floating-point mode they are called, on
// numbers of all sizes, and leave the caller's mode and flags as they were.
#include <attend/attention/cached/decode_attention.hpp>
#include <attend/attention/image/factorized_attention.hpp>
#include <attend/attention/image/multi_grained_attention.hpp>
#include <attend/attention/image/neighborhood_attention.hpp>
#include <attend/attention/softmax/context_aware_cross_attention.hpp>
#include <attend/attention/softmax/merge.hpp>
#include <attend/attention/softmax/merge_heads.hpp>
#include <attend/attention/softmax/multi_head_embedding.hpp>
#include <attend/attention/softmax/rotary_embedding.hpp>
#include <attend/attention/softmax/selective_attention.hpp>
#include <attend/policy/gain.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/predicate.hpp>
#include <attend/policy/mask/window.hpp>
#include <attend/policy/normalizer/relu.hpp>
#include <attend/policy/normalizer/sigmoid.hpp>
#include <attend/policy/normalizer/sinks.hpp>
#include <attend/policy/pair_gain.hpp>
#include <attend/policy/position/rotary.hpp>
#include <attend/policy/score/alibi.hpp>
#include <attend/policy/score/softcap.hpp>

#include "support/caller_mode_names.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace caches;
using namespace systems;

namespace {

/// Queries, keys and values of all sizes, [batch, head, token, dimension], and outputs beside them.
template <class T>
struct problem {
  using A = accumulation_t<T>;
  test::tensor<T, 4> query, key, value;

  problem(index_t queries, index_t keys)
      : query(of_all_sizes<T, 4>({1, 4, queries, 24}, 1)),
        key(of_all_sizes<T, 4>({1, 2, keys, 24}, 2)),
        value(of_all_sizes<T, 4>({1, 2, keys, 20}, 3)) {}

  /// The bytes of the output and, where there are some, of the log-sum-exps.
  template <class... Options>
  bytes attend_to(bool wants_rows, Options&&... options) const {
    index_t const queries = query.extents[2];
    auto output = test::filled<T, 4>({1, 4, queries, 20}, T(7));
    auto rows = test::filled<A, 3>({1, 4, queries}, A(7));
    if (wants_rows) {
      if constexpr (!(test::detail::is_not_softmax<std::remove_cvref_t<Options>> || ...))
        softmax_attention(query.view(), key.view(), value.view(), output.view(), log_sum_exp(rows.view()), options...);
    } else {
      softmax_attention(query.view(), key.view(), value.view(), output.view(), options...);
    }
    return bytes() << output << rows;
  }
};

template <class T>
class CallerMode : public testing::Test {};
using Elements = testing::Types<float, double, half, bfloat16>;
TYPED_TEST_SUITE(CallerMode, Elements);

TYPED_TEST(CallerMode, OfManyQueries) {
  problem<TypeParam> const p(70, 150);
  expect_one_result_everywhere([&](auto& executor) { return p.attend_to(true, causal{}, executor); });
}

TYPED_TEST(CallerMode, OfAFewQueries) {
  problem<TypeParam> const p(1, 700);
  expect_one_result_everywhere([&](auto& executor) { return p.attend_to(true, causal{}, executor); });
}

TEST(CallerMode, OfScores) {
  problem<float> const p(40, 90);
  expect_one_result([&] {
    auto const slopes = alibi_slopes(4);
    return p.attend_to(true, alibi(slopes), softcap(3.f), scale(0.3));
  });
  expect_one_result([&] { return p.attend_to(true, rotary(rotary_frequencies(24, 500, yarn_scaling{4, 32}))); });
  expect_one_result([&] {
    return p.attend_to(
        true, score([](auto s, auto const& at) { return s * 0.7f - 0.1f * (at.query_position - at.key_position); }),
        mask([](auto query, auto key) { return (query + key) % 3 != 0; }));
  });
}

TEST(CallerMode, OfNormalizersAndGains) {
  problem<float> const p(40, 90);
  std::vector<float> const logits{0.1f, -3, 2, 1e-39f}, gains(90, 1e-20f);
  auto const centres = test::normal<float, 3>({1, 4, 40}, 5, 20);
  expect_one_result([&] { return p.attend_to(false, sigmoid_weights{}); });
  expect_one_result([&] { return p.attend_to(false, relu_weights{}); });
  expect_one_result([&] { return p.attend_to(true, sinks{logits}); });
  expect_one_result([&] { return p.attend_to(true, gaussian_gain(centres.view(), 3.0)); });
  expect_one_result(
      [&] { return p.attend_to(false, value_gain(tensor_view<float const, 3>(gains.data(), {1, 1, 90}))); });
}

// Users' functions run in attend's mode, and what they throw leaves the caller's as it was.
TEST(CallerMode, OfAFunctionThatThrows) {
  problem<float> const p(40, 90);
  struct refusal {};
  for (test::caller_mode const& mode : test::caller_modes()) {
    bool thrown = false, own = false;
    test::mode_bits after = 0;
    {
      test::in_mode const there(mode.bits);
      try {
        p.attend_to(false, score([&](auto s, auto const&) {
                      own = (detail::floating_point::read() & ~detail::floating_point::flags) ==
                            detail::floating_point::own;
                      throw refusal();
                      return s;
                    }));
      } catch (refusal const&) {
        thrown = true;
      }
      after = detail::floating_point::read();
    }
    EXPECT_TRUE(thrown && own) << mode.name;
    EXPECT_EQ(after, mode.bits) << mode.name;
  }
}

TEST(CallerMode, OfWrongArguments) {
  problem<float> const p(40, 90);
  for (test::caller_mode const& mode : test::caller_modes()) {
    bool thrown = false;
    test::mode_bits after = 0;
    {
      test::in_mode const there(mode.bits);
      try {
        p.attend_to(false, window{-5, 0});
      } catch (argument_error const&) {
        thrown = true;
      }
      after = detail::floating_point::read();
    }
    EXPECT_TRUE(thrown) << mode.name;
    EXPECT_EQ(after, mode.bits) << mode.name;
  }
}

TEST(CallerMode, OfPartsAndTheirSum) {
  problem<float> const p(40, 90);
  expect_one_result_everywhere([&](auto& executor) {
    auto const first = test::filled<float, 4>({1, 4, 40, 20}, 7.f);
    auto outputs = std::vector{first, first, first};
    auto const row = test::filled<float, 3>({1, 4, 40}, 7.f);
    auto rows = std::vector{row, row, row};
    for (int part = 0; part < 2; ++part) {
      auto const of = [&](auto const& all) { return detail::part(all.view(), 2, part * 45, 45); };
      decode_attention(p.query.view(), of(p.key), of(p.value), outputs[std::size_t(part)].view(),
                       log_sum_exp(rows[std::size_t(part)].view()), executor);
    }
    std::vector<partial_attention<float>> const parts{{outputs[0].view(), rows[0].view()},
                                                      {outputs[1].view(), rows[1].view()}};
    merge(parts, outputs[2].view(), log_sum_exp(rows[2].view()), executor);
    return bytes() << outputs[0] << outputs[1] << outputs[2] << rows[2];
  });
}

TEST(CallerMode, OfRotatedAndMergedHeads) {
  auto const x = of_all_sizes<float, 4>({1, 4, 33, 24}, 1);
  auto const weights = of_all_sizes<float, 3>({4, 33, 24}, 2);
  expect_one_result([&] {
    auto y = test::filled<float, 4>(x.extents, 7.f), z = y;
    auto merged = test::filled<float, 4>({1, 2, 33, 24}, 7.f), mean = merged;
    rotary const settings(rotary_frequencies(24, 10000, llama3_scaling{}));
    rotary_embedding(x.view(), settings, y.view());
    std::vector<index_t> const by(33, 5);
    rotate_further(y.view(), settings, z.view(), token_positions(by));
    merge_heads(x.view(), weights.view(), merged.view());
    merge_heads(x.view(), mean.view());
    return bytes() << y << z << merged << mean;
  });
}

TEST(CallerMode, OfImages) {
  auto const x = of_all_sizes<float, 4>({1, 2, 10 * 12, 16}, 1);
  std::array<index_t, 2> const extents{10, 12};
  expect_one_result([&] {
    auto near = test::filled<float, 4>(x.extents, 7.f), means = near, grains = near;
    neighborhood_attention<2>(x.view(), x.view(), x.view(), near.view(), extents, {{{5}, {3, 1, 2}}});
    factorized_attention(x.view(), x.view(), x.view(), means.view(), extents, 3, 2);
    multi_grained_attention(x.view(), x.view(), x.view(), grains.view(), extents, 4);
    return bytes() << near << means << grains;
  });
}

TEST(CallerMode, OfMixturesAndTemperatures) {
  auto const q = of_all_sizes<float, 4>({1, 2, 40, 16}, 1), k = of_all_sizes<float, 4>({1, 2, 40, 16}, 2);
  auto const gates = test::normal<float, 3>({1, 2, 40}, 3), centres = test::normal<float, 3>({1, 2, 40}, 4, 20);
  auto const slopes = test::normal<float, 1>({2}, 5);
  auto const one = of_all_sizes<float, 3>({1, 40, 16}, 6);
  auto const embeddings = test::normal<float, 2>({2, 16}, 7);
  expect_one_result([&] {
    auto mixed = test::filled<float, 4>(q.extents, 7.f), selective = mixed, embedded = mixed;
    context_aware_cross_attention(q.view(), k.view(), k.view(), mixed.view(), gates.view(), centres.view(), 7.5);
    selective_temperature<float> const of_queries{gates.view(), slopes.view()}, of_values{centres.view(), {}};
    selective_attention(q.view(), k.view(), k.view(), selective.view(), of_queries, of_values);
    multi_head_embedding_attention(
        one.view(), one.view(), one.view(),
        head_embeddings<float>{head_combination::multiply, embeddings.view(), embeddings.view(), embeddings.view()},
        embedded.view());
    return bytes() << mixed << selective << embedded;
  });
}

}  // namespace
}  // namespace attend
