// Parts of a call: certain heads, queries or keys.
#include <attend/policy/mask/parts.hpp>

#include "support/mask_checks.hpp"

namespace attend {
namespace {

std::vector<std::pair<index_t, index_t>> const lengths{{1, 1},    {1, 200},  {200, 1},  {65, 65},
                                                       {30, 170}, {170, 30}, {257, 257}};

problem_shape shape_of(index_t queries, index_t keys, index_t heads = 4) {
  return {1, heads, 1, 1, queries, keys, 4, 4, 1};
}

template <class M>
void expect_mask(M const& mask, problem_shape const& shape, reference::visible_function const& visible,
                 testing::Message const& what) {
  EXPECT_TRUE(test::is_sound(mask, shape, visible))
      << what << ", " << shape.queries << " queries, " << shape.keys << " keys";
  EXPECT_TRUE(test::is_exact(mask, shape, visible))
      << what << ", " << shape.queries << " queries, " << shape.keys << " keys";
}

template <class M>
void expect_error(std::string const& message, M const& mask, problem_shape const& shape) {
  try {
    mask.check(shape);
    ADD_FAILURE() << "expected the error: " << message;
  } catch (argument_error const& error) {
    EXPECT_EQ(error.what(), message);
  }
}

TEST(Parts, AnswerSoundly) {
  for (auto [queries, keys] : lengths) {
    problem_shape const shape = shape_of(queries, keys);
    for (auto [first, last] : {std::pair<index_t, index_t>{0, 2}, {2, 2}, {1, 4}, {0, 0}})
      expect_mask(
          heads_in(first, last), shape, [=](auto const& at) { return at.head >= first && at.head < last; },
          testing::Message() << "heads " << first << " to " << last);
    for (auto [first, last] : {std::pair<index_t, index_t>{0, 5}, {60, 100}, {-10, 3}, {7, 7}, {100, token_limit}}) {
      auto const text = testing::Message() << first << " to " << last;
      expect_mask(
          queries_in(first, last), shape,
          [=](auto const& at) { return at.position() >= first && at.position() < last; }, text);
      expect_mask(
          keys_in(first, last), shape, [=](auto const& at) { return at.key >= first && at.key < last; }, text);
    }
  }
}

TEST(Parts, RefuseHeadsThatDoNotExist) {
  expect_error("heads_in: expected heads from 0 to 4, got 3 to 5", heads_in(3, 5), shape_of(8, 8));
  expect_error("heads_in: expected heads from 0 to 4, got -1 to 2", heads_in(-1, 2), shape_of(8, 8));
  expect_error("heads_in: expected heads from 0 to 4, got 2 to 1", heads_in(2, 1), shape_of(8, 8));
}

}  // namespace
}  // namespace attend
