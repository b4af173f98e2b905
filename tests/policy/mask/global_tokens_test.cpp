// SPDX-License-Identifier: BSD-3-Clause
// Global tokens: they see everybody and everybody sees them.
#include <attend/policy/mask/global_tokens.hpp>

#include "support/pattern_masks.hpp"

namespace attend {
using namespace options;

namespace {

using test::expect_error, test::expect_mask, test::lengths, test::shape_of;

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
