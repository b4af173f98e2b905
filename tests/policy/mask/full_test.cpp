// SPDX-License-Identifier: BSD-3-Clause
// No mask at all: everybody sees everybody, with and without saying so.
#include <attend/policy/mask/mask.hpp>

#include "support/mask_checks.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;

namespace {

TEST(Full, HidesNothing) {
  for (auto [queries, keys] : {std::pair<index_t, index_t>{1, 1}, {70, 130}, {130, 70}})
    EXPECT_TRUE(test::is_sound(full{}, {2, 3, 1, 1, queries, keys, 4, 4, 2}, [](auto const&) { return true; }));
}

TEST(Full, IsTheDefault) {
  auto const in = test::random_inputs<float>(
      {.batches = 2, .query_heads = 4, .key_heads = 2, .value_heads = 1, .queries = 61, .keys = 150}, 3);
  auto const said = test::attend_to(in, full{});
  EXPECT_TRUE(test::agrees(in, said, {}));
  EXPECT_TRUE(test::same_bits(said.output.elements, test::attend_to(in).output.elements));
}

TEST(Full, NeedsNoMaskingCode) {
  test::sizes const s{.query_heads = 2, .queries = 100, .keys = 300};
  test::work const work = test::count_work(s, full{});
  EXPECT_EQ(work.masked, 0);
  EXPECT_GT(work.full, 0);
  EXPECT_EQ(work.pairs, s.query_heads * s.queries * s.keys);
}

}  // namespace
}  // namespace attend
