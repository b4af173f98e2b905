// Global tokens: they see everybody and everybody sees them.
#include <attend/policy/mask/global_tokens.hpp>

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

TEST(GlobalTokens, AnswerSoundly) {
  for (auto [queries, keys] : lengths) {
    for (index_t count : {index_t{0}, index_t{1}, std::min<index_t>(keys, 20), keys})
      expect_mask(
          global_tokens(count), shape_of(queries, keys),
          [=](auto const& at) { return at.key < count || (at.position() >= 0 && at.position() < count); },
          testing::Message() << "the first " << count);
    for (auto const& wanted : {std::vector<index_t>{}, {0}, {3, 4, 5, 64, 65, 150}, {29, 199}}) {
      std::vector<index_t> listed;
      for (index_t position : wanted)
        if (position < keys) listed.push_back(position);
      auto const in = [&](index_t x) { return std::find(listed.begin(), listed.end(), x) != listed.end(); };
      expect_mask(
          global_tokens(listed), shape_of(queries, keys),
          [=](auto const& at) { return in(at.key) || in(at.position()); },
          testing::Message() << listed.size() << " listed");
    }
  }
}

TEST(GlobalTokens, RefuseWhatIsWrong) {
  expect_error("global_tokens: expected 0 to 8 tokens, got 9", global_tokens(9), shape_of(8, 8));
  expect_error("global_tokens: expected 0 to 8 tokens, got -1", global_tokens(-1), shape_of(8, 8));
  std::vector<index_t> const falling{3, 3}, far{1, 8};
  expect_error("global_tokens: expected ascending positions below 8, got 3 at 1", global_tokens(falling),
               shape_of(8, 8));
  expect_error("global_tokens: expected ascending positions below 8, got 8 at 1", global_tokens(far), shape_of(8, 8));
}

}  // namespace
}  // namespace attend
