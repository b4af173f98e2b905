// Strides: keys a multiple of a stride away, and the same columns of every period.
#include <attend/policy/mask/residues.hpp>

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

TEST(SameResidue, AnswersSoundly) {
  for (auto [queries, keys] : lengths)
    for (index_t stride : {1, 2, 7, 48, 60, 128, 1000})
      expect_mask(
          same_residue{stride}, shape_of(queries, keys),
          [=](auto const& at) { return (at.position() - at.key) % stride == 0; }, testing::Message() << stride);
}

TEST(KeyColumns, AnswerSoundly) {
  for (auto [queries, keys] : lengths)
    for (auto [period, first, count, step] : {std::array<index_t, 4>{1, 0, 1, 0},
                                              {8, 0, 1, 1},
                                              {64, 56, 8, 0},
                                              {10, 8, 5, 3},
                                              {16, 0, 4, 4},
                                              {200, 100, 40, 0},
                                              {7, 2, 0, 1},
                                              {12, 5, 12, 1}}) {
      auto const visible = [=](reference::place const& at) {
        return ((at.key - first - at.head * step) % period + period) % period < count;
      };
      expect_mask(key_columns{period, first, count, step}, shape_of(queries, keys), visible,
                  testing::Message() << "period " << period << ", " << count << " from " << first << ", step " << step);
    }
}

TEST(Residues, RefuseWhatIsWrong) {
  expect_error("same_residue: expected a stride of 1 to 536870911, got 0", same_residue{0}, shape_of(8, 8));
  expect_error("key_columns: expected a period of 1 to 536870911, got 0", key_columns{0, 0, 0, 0}, shape_of(8, 8));
  expect_error("key_columns: expected a first column from 0 to 3, got 4", key_columns{4, 4, 1, 0}, shape_of(8, 8));
  expect_error("key_columns: expected 0 to 4 columns, got 5", key_columns{4, 0, 5, 0}, shape_of(8, 8));
  expect_error("key_columns: expected a step of at least 0 that fits, got -1", key_columns{4, 0, 1, -1},
               shape_of(8, 8));
}

}  // namespace
}  // namespace attend
