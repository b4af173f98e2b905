// SPDX-License-Identifier: BSD-3-Clause
// Key lengths: keys from a length on are seen by nobody; positions stay those of the whole tensors.
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/key_lengths.hpp>

#include "support/mask_checks.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

TEST(KeyLengths, AnswerSoundly) {
  std::vector<std::int64_t> const lengths{0, 1, 64, 199, 200};
  problem_shape const shape{5, 2, 1, 1, 30, 200, 4, 4, 5};
  EXPECT_TRUE(test::is_sound(key_lengths(lengths), shape, [&](reference::place const& at) {
    return at.key < lengths[static_cast<std::size_t>(at.batch)];
  }));
  for (index_t length : lengths)
    EXPECT_TRUE(
        test::is_sound(key_lengths(length), shape, [&](reference::place const& at) { return at.key < length; }));
}

template <class T>
class KeyLengthsAttention : public testing::Test {};
using Elements = testing::Types<float, double>;
TYPED_TEST_SUITE(KeyLengthsAttention, Elements);

TYPED_TEST(KeyLengthsAttention, HidesWhatLiesPastTheLength) {
  std::vector<std::int32_t> const lengths{130, 0, 1, 77, 200};
  auto const in =
      test::random_inputs<TypeParam>({.batches = 5, .query_heads = 2, .key_heads = 2, .queries = 53, .keys = 200}, 2);
  reference::options with;
  with.visible = [&](reference::place const& at) { return at.key < lengths[static_cast<std::size_t>(at.batch)]; };
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, key_lengths(lengths)), with));
  for (index_t length : {0, 1, 130, 200}) {
    with.visible = [&](reference::place const& at) { return at.key < length; };
    EXPECT_TRUE(test::agrees(in, test::attend_to(in, key_lengths(length)), with)) << length;
  }
}

TEST(KeyLengths, LeavePositionsAlone) {
  std::vector<std::int64_t> const lengths{20, 61};
  auto const in = test::random_inputs<float>({.batches = 2, .queries = 50, .keys = 61}, 2);
  reference::options with;
  with.visible = [&](reference::place const& at) {
    return at.key < lengths[static_cast<std::size_t>(at.batch)] && at.key <= at.query + 11;
  };
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, causal{} & key_lengths(lengths)), with));
}

TEST(KeyLengths, ComputeWhatIsVisibleAndNoMore) {
  std::vector<std::int64_t> const lengths{0, 10, 1000};
  test::work const work = test::count_work({.batches = 3, .queries = 200, .keys = 1000}, key_lengths(lengths));
  EXPECT_EQ(work.pairs, 200 * (0 + 10 + 1000));
  EXPECT_EQ(work.masked, 0);
}

}  // namespace
}  // namespace attend
