// SPDX-License-Identifier: BSD-3-Clause
// Masks combined with & | !: random expressions against the same expressions of plain functions.
#include <attend/policy/mask/boolean_mask.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/documents.hpp>
#include <attend/policy/mask/predicate.hpp>
#include <attend/policy/mask/prefix_lm.hpp>
#include <attend/policy/mask/window.hpp>

#include "support/any_policy.hpp"
#include "support/boolean_tensor.hpp"
#include "support/mask_checks.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

// A mask, and what it means.
struct expression {
  test::any_mask mask;
  reference::visible_function visible;
  std::string text;
};

// Makes expressions for one shape. Lists and tensors that masks refer to live here.
class expressions {
 public:
  expressions(problem_shape const& shape, unsigned seed)
      : engine_(seed),
        booleans_(test::random_booleans<4>({shape.batches, shape.query_heads, shape.queries, shape.keys}, seed, 0.6)),
        // Blocks of truth, so that some tiles are full and some hidden.
        blocks_({1, 1, shape.queries, shape.keys}) {
    for (index_t i = 0; i < shape.queries; ++i)
      for (index_t j = 0; j < shape.keys; ++j) blocks_.view()(0, 0, i, j) = (i / 60 + j / 90) % 2 == 0;
    for (index_t i = 0; i < shape.queries; ++i) query_documents_.push_back(i * 3 / shape.queries);
    for (index_t j = 0; j < shape.keys; ++j) key_documents_.push_back(j * 4 / shape.keys);
    for (index_t b = 0; b < shape.batches; ++b) lengths_.push_back(from_to(0, shape.keys));
  }

  expression any(int depth) {
    if (depth == 0) return leaf();
    switch (from_to(0, 3)) {
      case 0: {
        expression const a = any(depth - 1), b = any(depth - 1);
        return {a.mask & b.mask, [=](auto const& at) { return a.visible(at) && b.visible(at); },
                "(" + a.text + " & " + b.text + ")"};
      }
      case 1: {
        expression const a = any(depth - 1), b = any(depth - 1);
        return {a.mask | b.mask, [=](auto const& at) { return a.visible(at) || b.visible(at); },
                "(" + a.text + " | " + b.text + ")"};
      }
      case 2: {
        expression const a = any(depth - 1);
        return {!a.mask, [=](auto const& at) { return !a.visible(at); }, "!" + a.text};
      }
      default:
        return leaf();
    }
  }

 private:
  index_t from_to(index_t least, index_t most) { return std::uniform_int_distribution<index_t>(least, most)(engine_); }

  expression leaf() {
    switch (from_to(0, 8)) {
      case 0:
        return {full{}, reference::everything(), "full"};
      case 1:
        return {causal{}, reference::causal_bottom_right(), "causal"};
      case 2: {
        index_t const n = from_to(-60, 120);
        return {causal{offset(n)}, reference::causal_with_offset(n), "causal + " + std::to_string(n)};
      }
      case 3: {
        index_t const left = from_to(-1, 90), right = from_to(-1, 90);
        return {window{left, right}, reference::sliding_window(left, right),
                "window " + std::to_string(left) + ' ' + std::to_string(right)};
      }
      case 4:
        return {documents(query_documents_, key_documents_),
                [this](reference::place const& at) {
                  return query_documents_[static_cast<std::size_t>(at.query)] ==
                         key_documents_[static_cast<std::size_t>(at.key)];
                },
                "documents"};
      case 5:
        return {key_lengths(lengths_),
                [this](reference::place const& at) { return at.key < lengths_[static_cast<std::size_t>(at.batch)]; },
                "key_lengths"};
      case 6:
        return {boolean_mask(booleans_.view()),
                [this](reference::place const& at) { return booleans_.view()(at.batch, at.head, at.query, at.key); },
                "booleans"};
      case 7:
        return {boolean_mask(blocks_.view()),
                [this](reference::place const& at) { return blocks_.view()(0, 0, at.query, at.key); }, "blocks"};
      default: {
        index_t const step = from_to(1, 5);
        return {attend::mask([=](auto const& at) { return (at.key_position + at.head()) % step == 0; }),
                [=](reference::place const& at) { return (at.key + at.head) % step == 0; },
                "every " + std::to_string(step)};
      }
    }
  }

  std::mt19937 engine_;
  test::boolean_tensor<4> booleans_, blocks_;
  std::vector<std::int64_t> query_documents_, key_documents_, lengths_;
};

std::vector<test::sizes> const all_sizes{
    {.batches = 2, .query_heads = 2, .queries = 70, .keys = 190},
    {.batches = 1, .query_heads = 4, .key_heads = 2, .value_heads = 2, .queries = 190, .keys = 70},
    {.batches = 2, .query_heads = 1, .queries = 130, .keys = 130}};

TEST(MaskExpressions, AnswerSoundly) {
  unsigned seed = 0;
  for (test::sizes const& s : all_sizes)
    for (int trial = 0; trial < 60; ++trial) {
      expressions make(s.shape(), ++seed);
      expression const e = make.any(4);
      EXPECT_TRUE(test::is_sound(e.mask, s.shape(), e.visible, seed)) << e.text;
    }
}

TEST(MaskExpressions, SeeWhatTheFunctionsAllow) {
  unsigned seed = 100;
  for (test::sizes const& s : all_sizes)
    for (int trial = 0; trial < 15; ++trial) {
      expressions make(s.shape(), ++seed);
      expression const e = make.any(4);
      auto const in = test::random_inputs<float>(s, seed);
      reference::options with;
      with.visible = e.visible;
      EXPECT_TRUE(test::agrees(in, test::attend_to(in, e.mask), with)) << e.text;
    }
}

// As users write them: types of their own, all the way down.
TEST(MaskExpressions, CombineWithoutErasure) {
  auto const in = test::random_inputs<float>({.batches = 2, .query_heads = 2, .queries = 70, .keys = 190}, 3);
  reference::options with;
  with.visible = [](reference::place const& at) {
    bool const past = at.key <= at.position(), near = at.key >= at.position() - 30, first = at.key < 4;
    return (past && near) || (first && !(at.head == 1));
  };
  auto const mask_of_head = mask([](auto const& at) { return at.head() == 1; });
  EXPECT_TRUE(
      test::agrees(in, test::attend_to(in, (causal{} & window{30, -1}) | (key_lengths(4) & !mask_of_head)), with));
}

TEST(MaskExpressions, FollowTheLawsOfLogic) {
  auto const in = test::random_inputs<float>({.query_heads = 2, .queries = 70, .keys = 190}, 3);
  auto const bits = [&](test::any_mask const& mask) { return test::attend_to(in, mask).output.elements; };
  test::any_mask const a = causal{}, b = window{20, 20}, c = key_lengths(100);
  EXPECT_EQ(bits(!!a), bits(a));
  EXPECT_EQ(bits(a & a), bits(a));
  auto const allowed = test::tolerance<float>(test::largest_magnitude(in.value.elements));
  EXPECT_TRUE(test::near(bits(!(a & b)), bits((!a) | (!b)), allowed));
  EXPECT_TRUE(test::near(bits(!(a | b)), bits((!a) & (!b)), allowed));
  EXPECT_TRUE(test::near(bits(a & (b | c)), bits((a & b) | (a & c)), allowed));
}

TEST(MaskExpressions, SkipWhatEitherSkips) {
  test::sizes const s{.queries = 2000, .keys = 2000, .key_dimension = 1, .value_dimension = 1};
  index_t const edge = 2000 * simd::tile_lanes<float>;
  EXPECT_LE(test::count_work(s, test::any_mask(causal{} & window{100, -1})).pairs, 2000 * 101 + edge);
  EXPECT_LE(test::count_work(s, test::any_mask(!causal{})).pairs, 2000 * 1999 / 2 + edge + 2000 * 128);
  EXPECT_EQ(test::count_work(s, test::any_mask(causal{} & !causal{})).full, 0);
  EXPECT_EQ(test::count_work(s, test::any_mask(full{} & !full{})).pairs, 0);
  EXPECT_EQ(test::count_work(s, test::any_mask(full{} | causal{})).masked, 0);
}

}  // namespace
}  // namespace attend
