// SPDX-License-Identifier: BSD-3-Clause
// The examples of docs/writing_masks_and_scores.md: each stands here as it stands there, runs, and gives what the rule
// gives that the page tells of.
#include <attend/attend.hpp>

#include <fstream>
#include <sstream>

#include "support/problem.hpp"

namespace {

using attend::index_t;

/// Without the spaces at the beginning of lines.
std::string without_indents(std::istream& text) {
  std::string result, line;
  while (std::getline(text, line)) result += line.substr(std::min(line.find_first_not_of(' '), line.size())) + '\n';
  return result;
}

TEST(WritingMasksAndScores, ShowsWhatIsTestedHere) {
  std::string const tests = std::string(ATTEND_TEST_DATA) + "/../";
  std::ifstream page(tests + "../docs/writing_masks_and_scores.md"), here(tests + "writing_masks_and_scores_test.cpp");
  ASSERT_TRUE(page && here);
  std::string const text = without_indents(page), tested = without_indents(here), open = "```cpp\n", close = "```\n";
  int examples = 0;
  for (std::size_t at = text.find(open); at != std::string::npos; at = text.find(open, at), ++examples) {
    std::size_t const first = at + open.size(), last = text.find(close, first);
    EXPECT_NE(tested.find(text.substr(first, last - first)), std::string::npos) << text.substr(first, last - first);
    at = last + close.size();
  }
  EXPECT_EQ(examples, 11);
}

class WrittenMasksAndScores : public testing::Test {
 protected:
  static constexpr int batches = 2, tokens = 150;
  attend::test::inputs<float> const in = attend::test::random_inputs<float>(
      {.batches = batches, .query_heads = 4, .key_heads = 2, .value_heads = 2, .queries = tokens, .keys = tokens}, 1);
  attend::test::tensor<float, 4> output =
      attend::test::filled<float, 4>({batches, 4, tokens, in.size.value_dimension}, 7);
  attend::tensor_view<float const, 4> const q = in.query.view(), k = in.key.view(), v = in.value.view();
  attend::tensor_view<float, 4> const o = output.view();

  void expect(attend::reference::options const& with) {
    auto const expected = attend::reference::softmax_attention<float>(q, k, v, with);
    EXPECT_TRUE(attend::test::near(output.elements, expected.output, attend::test::tolerance<float>(8)));
  }
  void expect_mask(attend::reference::visible_function const& visible) {
    attend::reference::options with;
    with.visible = visible;
    expect(with);
  }
  void expect_score(bool causal, attend::reference::score_function const& score) {
    attend::reference::options with;
    with.scores = {score};
    if (causal) with.visible = [](auto const& at) { return at.key <= at.query; };
    expect(with);
  }
};
using place = attend::reference::place;

TEST_F(WrittenMasksAndScores, Masks) {
  auto const blocks = attend::mask([](auto query, auto key) { return query / 64 == key / 64; });
  attend::softmax_attention(q, k, v, o, blocks);
  expect_mask([](place const& at) { return at.query / 64 == at.key / 64; });

  auto const dilated = attend::mask([](auto query, auto key) {
    auto const distance = attend::abs(query - key);
    return distance < 16 || (distance % 8 == 0 && distance < 128);
  });
  attend::softmax_attention(q, k, v, o, dilated & attend::causal{});
  expect_mask([](place const& at) {
    index_t const distance = at.query - at.key;
    return distance >= 0 && (distance < 16 || (distance % 8 == 0 && distance < 128));
  });

  auto const of_heads = attend::mask([](auto const& at) { return at.head() % 2 == 0 || at.key >= at.query - 32; });
  attend::softmax_attention(q, k, v, o, of_heads & attend::causal{});
  expect_mask([](place const& at) { return at.key <= at.query && (at.head % 2 == 0 || at.key >= at.query - 32); });
}

TEST_F(WrittenMasksAndScores, MasksOfLists) {
  std::vector<int> id, level;
  for (int token = 0; token < tokens; ++token) id.push_back(token / 37), level.push_back(token * token % 7);
  attend::softmax_attention(q, k, v, o, attend::documents{id} & attend::causal{});
  expect_mask([](place const& at) { return at.key <= at.query && at.key / 37 == at.query / 37; });

  auto const levels =
      attend::mask([&](auto query, auto key) { return attend::lookup(level, key) <= attend::lookup(level, query); });
  attend::softmax_attention(q, k, v, o, levels);
  expect_mask([&](place const& at) { return level[std::size_t(at.key)] <= level[std::size_t(at.query)]; });

  std::vector<int> ids;
  for (int batch = 0; batch < batches; ++batch)
    for (int token = 0; token < tokens; ++token) ids.push_back(token / (batch + 50));
  attend::softmax_attention(q, k, v, o, attend::documents{ids});
  expect_mask([](place const& at) { return at.query / (at.batch + 50) == at.key / (at.batch + 50); });

  index_t const W = 20;
  attend::softmax_attention(q, k, v, o, attend::window{W - 1, 0});
  expect_mask([](place const& at) { return at.key <= at.query && at.key > at.query - 20; });
}

TEST_F(WrittenMasksAndScores, Scores) {
  auto const falling = attend::score([](auto s, auto const& at) { return s - 0.1f * (at.query - at.key); });
  attend::softmax_attention(q, k, v, o, attend::causal{}, falling);
  expect_score(true, [](double s, place const& at) { return s - double(0.1f) * double(at.query - at.key); });

  auto const near_and_far = attend::score([](auto s, auto const& at) {
    using number = decltype(s);
    number const distance = attend::abs(at.query - at.key);
    return attend::select(distance < number(8), s, number(20) * attend::tanh(s / number(20)) - attend::exp(-distance));
  });
  attend::softmax_attention(q, k, v, o, near_and_far);
  expect_score(false, [](double s, place const& at) {
    double const distance = std::abs(double(at.query - at.key));
    return distance < 8 ? s : 20 * std::tanh(s / 20) - std::exp(-distance);
  });

  auto const table = attend::test::normal<float, 2>({4, 30}, 9);
  auto const by_distance = table.view();
  auto const relative = attend::score(
      [&](auto s, auto const& at) { return s + attend::lookup(by_distance, at.head(), at.query - at.key); });
  attend::softmax_attention(q, k, v, o, attend::causal{}, relative);
  expect_score(true, [&](double s, place const& at) {
    return s + double(by_distance(at.head, std::min<index_t>(at.query - at.key, 29)));
  });
}

TEST_F(WrittenMasksAndScores, Weights) {
  auto const sharpened = attend::weight_function([](auto p, auto const&) { return p * p; });
  attend::softmax_attention(q, k, v, o, attend::causal{}, sharpened);
  // The first query has one weight, which is 1.
  for (index_t c = 0; c < in.size.value_dimension; ++c) EXPECT_NEAR(o(1, 3, 0, c), v(1, 1, 0, c), 1e-5);
}

// A visible logit that overflows makes its row NaN; one that becomes -inf is as good as hidden.
TEST_F(WrittenMasksAndScores, LogitsThatOverflow) {
  for (float sign : {1.f, -1.f}) {
    attend::softmax_attention(q, k, v, o, attend::score([=](auto s, auto const& at) {
                                using number = decltype(s);
                                return attend::select(at.key == number(3), number(sign * 1e38f) * number(10), s);
                              }));
    if (sign > 0)
      for (float x : output.elements) ASSERT_TRUE(std::isnan(x));
    else
      expect_mask([](place const& at) { return at.key != 3; });
  }
}

}  // namespace
