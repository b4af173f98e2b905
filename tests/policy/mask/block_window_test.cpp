// Block windows: the keys of the query's block, and some on either side of it.
#include <attend/policy/mask/block_window.hpp>

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

index_t floor_of(index_t a, index_t b) {
  return static_cast<index_t>(std::floor(static_cast<double>(a) / static_cast<double>(b)));
}

TEST(BlockWindow, AnswersSoundly) {
  for (auto [queries, keys] : lengths)
    for (index_t size : {1, 6, 40, 64, 1000})
      for (index_t left : {-1, 0, 5, 64})
        for (index_t right : {-1, 0, 7})
          for (index_t shift : {index_t{0}, size / 2}) {
            auto const visible = [=](reference::place const& at) {
              index_t const by = at.head >= 2 ? shift : 0, block = floor_of(at.position() + by, size);
              return (left < 0 || at.key >= block * size - by - left) &&
                     (right < 0 || at.key < (block + 1) * size - by + right);
            };
            expect_mask(block_window(size, left, right).shifted(shift, 2), shape_of(queries, keys), visible,
                        testing::Message() << "blocks of " << size << ", " << left << " left, " << right
                                           << " right, shifted by " << shift);
          }
}

TEST(BlockWindow, CutsTilesAtItsBlocks) {
  EXPECT_EQ(block_window(64).grain(shape_of(200, 200)).queries, 64);
  EXPECT_EQ(block_window(64).shifted(32, 2).grain(shape_of(200, 200)).queries, 32);
  EXPECT_EQ(block_window(64).shifted(32, 2).grain(shape_of(200, 200)).heads, 2);
  // Blocks that begin at odd queries leave tiles as they are.
  EXPECT_EQ(block_window(64).grain(shape_of(200, 203)).queries, 0);
}

TEST(BlockWindow, RefusesWhatIsWrong) {
  expect_error("block_window: expected blocks of 1 to 536870911 tokens, got 0", block_window(0), shape_of(8, 8));
  expect_error("block_window: expected left of at least -1, got -2", block_window(4, -2), shape_of(8, 8));
  expect_error("block_window: expected right of at least -1, got -2", block_window(4, 0, -2), shape_of(8, 8));
  expect_error("block_window: expected a shift from 0 to 3, got 4", block_window(4).shifted(4), shape_of(8, 8));
  expect_error("block_window: expected a first shifted head of at least 0, got -1", block_window(4).shifted(2, -1),
               shape_of(8, 8));
}

}  // namespace
}  // namespace attend
