// SPDX-License-Identifier: BSD-3-Clause
// Masks, scores and normalizers with bad numbers or shapes: every error has its own message, and nothing is written
// before it is found.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/mask/boolean_mask.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/documents.hpp>
#include <attend/policy/mask/prefix_lm.hpp>
#include <attend/policy/mask/window.hpp>
#include <attend/policy/normalizer/relu.hpp>
#include <attend/policy/normalizer/sigmoid.hpp>
#include <attend/policy/normalizer/sinks.hpp>
#include <attend/policy/score/alibi.hpp>
#include <attend/policy/score/bias.hpp>
#include <attend/policy/score/logit_scale.hpp>
#include <attend/policy/score/softcap.hpp>

#include "support/any_policy.hpp"
#include "support/argument_errors.hpp"
#include "support/boolean_tensor.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

using test::index_numbers;

constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();
constexpr double infinite = std::numeric_limits<double>::infinity();

class PolicyErrors : public test::argument_errors {
 protected:
  void expect_mask_error(std::string const& message, test::any_mask const& mask) { expect_option_error(message, mask); }
  void expect_score_error(std::string const& message, test::any_score const& score) {
    expect_option_error(message, score);
  }
};

TEST_F(PolicyErrors, OfScales) {
  expect_option_error("scale: expected a finite number, got nan", scale(nan_value));
  expect_option_error("scale: expected a finite number, got inf", scale(infinite));
  // Finite in double, and not in the type of accumulation.
  expect_option_error("scale: expected a finite number, got inf", scale(1e300));
}

TEST_F(PolicyErrors, OfAlignments) {
  expect_mask_error("causal: expected an offset below 536870912 in magnitude, got 536870912",
                    causal{offset(token_limit)});
  expect_mask_error("causal: expected an offset below 536870912 in magnitude, got -536870912",
                    causal{offset(-token_limit)});
  expect_mask_error("window: expected an offset below 536870912 in magnitude, got 536870912",
                    window{1, 1, offset(token_limit)});
  expect_mask_error("window: expected left of at least -1, got -2", window{-2, 0});
  expect_mask_error("window: expected right of at least -1, got -7", window{0, -7});
}

TEST_F(PolicyErrors, OfLengthsInMasks) {
  index_numbers const one{3}, negative{3, -1}, long_one{10, 3};
  expect_mask_error("key_lengths: expected one length for each of 2 sequences, got 1", key_lengths(one));
  expect_mask_error("key_lengths: expected lengths from 0 to 9 (the keys), got -1 at 1", key_lengths(negative));
  expect_mask_error("key_lengths: expected lengths from 0 to 9 (the keys), got 10 at 0", key_lengths(long_one));
  expect_mask_error("key_lengths: expected lengths from 0 to 9 (the keys), got 10 at 0", key_lengths(10));
  expect_mask_error("prefix_lm: expected one length for each of 2 sequences, got 1", prefix_lm(one));
  expect_mask_error("prefix_lm: expected lengths from 0 to 9 (the keys), got -3 at 0", prefix_lm(-3));
  expect_mask_error("causal: expected an offset below 536870912 in magnitude, got 536870912",
                    prefix_lm(3, offset(token_limit)));
}

TEST_F(PolicyErrors, OfDocuments) {
  index_numbers const five(5, 1), nine(9, 1), ten(10, 1), eighteen(18, 1);
  index_numbers wide(9, 1);
  wide[4] = std::int64_t{1} << 31;
  expect_mask_error("documents (queries): expected 5 or 10 document numbers, got 9", documents(nine));
  expect_mask_error("documents (keys): expected 9 or 18 document numbers, got 5", documents(five));
  expect_mask_error("documents (keys): expected 9 or 18 document numbers, got 10", documents(ten, ten));
  expect_mask_error("documents (queries): expected 5 or 10 document numbers, got 18", documents(eighteen, eighteen));
  expect_mask_error("documents (keys): expected document numbers of 32 bits, got 2147483648 at 4",
                    documents(five, wide));
}

TEST_F(PolicyErrors, OfBooleanMasks) {
  std::string const expected =
      "expected shape [2, 6, 5, 9], or 3 heads (the key's), with 1 for an axis that is shared, got ";
  for (std::array<index_t, 4> const& extents :
       std::vector<std::array<index_t, 4>>{{3, 6, 5, 9}, {2, 2, 5, 9}, {2, 6, 4, 9}, {2, 6, 5, 8}, {0, 6, 5, 9}})
    expect_mask_error("boolean_mask: " + expected + attend::detail::shape_text<4>(extents),
                      boolean_mask(test::boolean_tensor<4>(extents).view()));
  expect_mask_error("boolean_mask: expected data for extents [2, 6, 5, 9], got null",
                    boolean_mask(tensor_view<bool const, 4>(nullptr, {2, 6, 5, 9})));
  auto const truths = test::boolean_tensor<4>({2, 6, 5, 18});
  expect_mask_error("boolean_mask: expected a last stride of 1, got 2",
                    boolean_mask(tensor_view<bool const, 4>(truths.view().data(), {2, 6, 5, 9}, {540, 90, 18, 2})));
  // Errors come out of combinations too.
  expect_mask_error("window: expected left of at least -1, got -2", !(causal{} | (full{} & window{-2, 0})));
}

TEST_F(PolicyErrors, OfScores) {
  expect_score_error("softcap: expected a finite number, got nan", softcap(nan_value));
  expect_score_error("softcap: expected a finite number, got inf", softcap(infinite));
  expect_score_error("softcap: expected a cap from 1e-30 to 1e30, got 0", softcap(0));
  expect_score_error("softcap: expected a cap from 1e-30 to 1e30, got -2", softcap(-2));
  auto const added = test::filled<float, 4>({2, 6, 5, 8}, 1);
  expect_score_error(
      "bias: expected shape [2, 6, 5, 9], or 3 heads (the key's), with 1 for an axis that is shared, got [2, 6, 5, 8]",
      bias(added.view()));
  expect_score_error(
      "bias: expected shape [2, 6, 5, 9], or 3 heads (the key's), with 1 for an axis that is shared, got [1, 1, 9, 5]",
      bias(tensor_view<float const, 2>(added.elements.data(), {9, 5})));
  expect_score_error("bias: expected data for extents [1, 1, 5, 9], got null",
                     bias(tensor_view<float const, 2>(nullptr, {5, 9})));
  std::string const of_rows =
      "expected shape [2, 6, 5] (batch, query head, query) with 1 for an axis that is shared, got ";
  std::string const of_heads = "expected 1 or 6 numbers (for all or for each query head), got ";
  expect_score_error("alibi: " + of_heads + "3", alibi(test::several<float>(3)));
  expect_score_error("head_logit_scale: " + of_heads + "5", head_logit_scale(test::several<float>(5)));
  expect_score_error("query_logit_scale: " + of_rows + "[1, 1, 6]", query_logit_scale(test::several<float>(6)));
  auto const factors = test::filled<float, 3>({3, 6, 5}, 1);
  expect_score_error("query_logit_scale: " + of_rows + "[3, 6, 5]", query_logit_scale(factors.view()));
}

TEST_F(PolicyErrors, OfNormalizers) {
  expect_error("sinks: expected 1 or 6 numbers (for all or for each query head), got 3",
               [&] { softmax_attention(q(), k(), v(), o(), sinks(test::several<float>(3))); });
  expect_error("sigmoid_weights: expected a finite number, got nan",
               [&] { softmax_attention(q(), k(), v(), o(), sigmoid_weights(nan_value)); });
  expect_error("sigmoid_weights: expected a finite number, got -inf",
               [&] { softmax_attention(q(), k(), v(), o(), sigmoid_weights(-infinite)); });
  expect_error("relu_weights (epsilon): expected a finite number, got inf",
               [&] { softmax_attention(q(), k(), v(), o(), relu_weights{relu_scaling::sum, infinite}); });
  expect_error("relu_weights (epsilon): expected at least 0, got -1",
               [&] { softmax_attention(q(), k(), v(), o(), relu_weights{relu_scaling::sum, -1}); });
}

}  // namespace
}  // namespace attend
