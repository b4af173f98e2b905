// SPDX-License-Identifier: BSD-3-Clause
// Retrieval heads: scores against sums of the weights themselves, the choice against a model written apart, windows
// against their formulas.
#include <attend/attention/cached/retrieval_heads.hpp>

#include "support/expect_error.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace extend;
using namespace systems;

namespace {

using test::expect_error;
using test::sizes;

/// The mean over the tokens that have earlier copies of the sum of the weights of these copies, moved by `shift`.
double mean_of_copies(reference::result& result, sizes const& s, index_t head, repeated_prompt const& prompt,
                      index_t shift) {
  double sum = 0;
  index_t count = 0;
  for (index_t b = 0; b < s.batches; ++b)
    for (index_t i = prompt.first + prompt.period; i < s.keys; ++i, ++count)
      for (index_t j = i - prompt.period; j >= prompt.first; j -= prompt.period)
        sum += result.weight(b, head, i, j + shift);
  return sum / static_cast<double>(count);
}

template <class T>
void expect_definition(sizes const& s, repeated_prompt const& prompt) {
  auto const in = test::random_inputs<T>(s, 1, 2);
  reference::options with;
  with.visible = reference::causal_bottom_right();
  auto result = reference::softmax_attention<T>(in.query.view(), in.key.view(), in.value.view(), with);
  std::vector<double> echo(static_cast<std::size_t>(s.query_heads), 7), induction(echo);
  copy_scores(in.query.view(), in.key.view(), prompt, echo, induction, threads{2});
  // A log-sum-exp errs by some roundings of its magnitude and of its logits, which are below 64 here.
  double const allowed = 64 * 8 * test::unit_roundoff<accumulation_t<T>>();
  for (index_t head = 0; head < s.query_heads; ++head) {
    double const copies = mean_of_copies(result, s, head, prompt, 0), next = mean_of_copies(result, s, head, prompt, 1);
    EXPECT_NEAR(echo[static_cast<std::size_t>(head)], copies, allowed * copies);
    EXPECT_NEAR(induction[static_cast<std::size_t>(head)], next, allowed * next);
  }
}

sizes const odd{2, 6, 2, 2, 77, 77, 20, 3};

TEST(CopyScores, AreMeansOfWeights) {
  expect_definition<float>(odd, {.period = 9, .first = 1});
  expect_definition<float>(odd, {.period = 70, .first = 0});
  expect_definition<float>(odd, {.period = 1, .first = 5});
  expect_definition<double>(odd, {.period = 25, .first = 2});
}

TEST(CopyScores, HaveNoMeanWithoutBatches) {
  sizes s = odd;
  s.batches = 0;
  auto const in = test::random_inputs<float>(s, 1);
  std::vector<double> echo(6, 7), induction(6, 7);
  copy_scores(in.query.view(), in.key.view(), {.period = 9, .first = 1}, echo, induction);
  EXPECT_EQ(echo, std::vector<double>(6, 0));
  EXPECT_EQ(induction, std::vector<double>(6, 0));
}

TEST(CopyScores, SayWhatIsWrong) {
  auto const in = test::random_inputs<float>(odd, 2);
  std::vector<double> echo(6, 7), induction(6, 7), few(5, 7);
  auto const call = [&](auto const& q, auto const& k, repeated_prompt const& prompt, auto& a, auto& b) {
    copy_scores(q, k, prompt, a, b);
  };
  auto const q = in.query.view(), k = in.key.view();
  expect_error("key: expected tokens 77 (as query), got 70",
               [&] { call(q, detail::part(k, 2, 0, 70), {9, 1}, echo, induction); });
  expect_error("echo: expected heads 6 (as query), got 5", [&] { call(q, k, {9, 1}, few, induction); });
  expect_error("induction: expected heads 6 (as query), got 5", [&] { call(q, k, {9, 1}, echo, few); });
  expect_error("echo: expected memory of its own, got memory that overlaps induction",
               [&] { call(q, k, {9, 1}, echo, echo); });
  expect_error("repeated_prompt: expected a period of 1 to 536870911 tokens, got 0",
               [&] { call(q, k, {0, 1}, echo, induction); });
  expect_error("repeated_prompt: expected more than one period of 60 tokens from token 17 on, got 77 tokens in all",
               [&] { call(q, k, {60, 17}, echo, induction); });
  expect_error("repeated_prompt: expected more than one period of 9 tokens from token -1 on, got 77 tokens in all",
               [&] { call(q, k, {9, -1}, echo, induction); });
  test::expect_scale_error([&](scale const& factor) { copy_scores(q, k, {9, 1}, echo, induction, factor); });
  EXPECT_EQ(echo, std::vector<double>(6, 7));
  EXPECT_EQ(induction, std::vector<double>(6, 7));
}

TEST(RetrievalHeads, AreThoseOfTheHighestScores) {
  // Three layers of four query heads, which share two key-value heads.
  std::vector<double> echo{0.1, 0.2, 0.0, 0.3, 0.9, 0.0, 0.0, 0.0, 0.0, 0.1, 0.3, 0.3};
  std::vector<double> induction{0.0, 0.5, 0.1, 0.1, 0.2, 0.2, 0.0, 0.6, 0.6, 0.0, std::nan(""), 0.0};
  std::vector<std::int32_t> kinds(6, 7);
  auto const choose = [&](retrieval_share const& share) {
    choose_retrieval_heads({echo.data(), {3, 4}}, {induction.data(), {3, 4}}, share, {kinds.data(), {3, 2}});
    return kinds;
  };
  using list = std::vector<std::int32_t>;
  EXPECT_EQ(choose({.echo = 0, .induction = 0}), list({1, 1, 1, 1, 1, 1}));
  EXPECT_EQ(choose({.echo = 1.0 / 6, .induction = 0}), list({1, 1, 0, 1, 1, 1}));
  EXPECT_EQ(choose({.echo = 2.0 / 6, .induction = 0}), list({1, 0, 0, 1, 1, 1}));  // 0.3 twice: the first
  EXPECT_EQ(choose({.echo = 0, .induction = 0.5}), list({0, 1, 1, 0, 0, 1}));
  EXPECT_EQ(choose({.echo = 1.0 / 6, .induction = 1.0 / 6}), list({1, 1, 0, 0, 1, 1}));
  EXPECT_EQ(choose({.echo = 0, .induction = 1}), list({0, 0, 0, 0, 0, 0}));
}

TEST(RetrievalHeads, SayWhatIsWrong) {
  std::vector<double> numbers(12);
  std::vector<std::int32_t> kinds(12, 7);
  auto const choose = [&](std::array<index_t, 2> echo, std::array<index_t, 2> induction, std::array<index_t, 2> streams,
                          retrieval_share const& share = {}) {
    choose_retrieval_heads({numbers.data(), echo}, {numbers.data(), induction}, share, {kinds.data(), streams});
  };
  expect_error("induction: expected layers 3 (as echo), got 2", [&] { choose({3, 4}, {2, 4}, {3, 2}); });
  expect_error("induction: expected heads 4 (as echo), got 3", [&] { choose({3, 4}, {3, 3}, {3, 2}); });
  expect_error("streams: expected layers 3 (as echo), got 2", [&] { choose({3, 4}, {3, 4}, {2, 2}); });
  expect_error("streams: expected a divisor of 4 heads (as echo), got 3", [&] { choose({3, 4}, {3, 4}, {3, 3}); });
  expect_error("streams: expected a divisor of 4 heads (as echo), got 0", [&] { choose({3, 4}, {3, 4}, {3, 0}); });
  expect_error("retrieval_share: expected shares from 0 to 1, got 1.5",
               [&] { choose({3, 4}, {3, 4}, {3, 2}, {.echo = 1.5}); });
  expect_error("retrieval_share: expected shares from 0 to 1, got nan",
               [&] { choose({3, 4}, {3, 4}, {3, 2}, {.induction = std::nan("")}); });
  EXPECT_EQ(kinds, std::vector<std::int32_t>(12, 7));
}

TEST(RazorWindow, IsAShareOrTheLeast) {
  EXPECT_EQ(razor_window(0), 4000);
  EXPECT_EQ(razor_window(20000), 4000);
  EXPECT_EQ(razor_window(100000), 20000);
  EXPECT_EQ(razor_window(1000, 16, 8), 125);
  expect_error("tokens: expected at least 0, got -1", [&] { razor_window(-1); });
  expect_error("least: expected a window of at least 1 token, got 0", [&] { razor_window(10, 0); });
  expect_error("parts: expected at least 1, got 0", [&] { razor_window(10, 1, 0); });
}

TEST(AlibiWindow, LeavesLessThanEpsilon) {
  // (2 * 1.5 * (4 + 0.25) + ln 1000) / 0.25 = (12.75 + 6.9078) / 0.25 = 78.63
  EXPECT_EQ(alibi_window(0.25, 1.5, 2, 0.5), 79);
  EXPECT_EQ(alibi_window(1e-300, 1, 1, 1), token_limit - 1);
  expect_error("slope: expected a number above 0, got 0", [&] { alibi_window(0, 1, 1, 1); });
  expect_error("product_norm: expected a norm of at least 0, got -1", [&] { alibi_window(1, -1, 1, 1); });
  expect_error("gain: expected a norm of at least 0, got inf", [&] { alibi_window(1, 1, infinity<double>, 1); });
  expect_error("bias: expected a norm of at least 0, got nan", [&] { alibi_window(1, 1, 1, std::nan("")); });
  expect_error("epsilon: expected a number between 0 and 1, got 1", [&] { alibi_window(1, 1, 1, 1, 1); });
}

}  // namespace
}  // namespace attend
