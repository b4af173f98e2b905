// SPDX-License-Identifier: BSD-3-Clause
// Documents in one sequence: tokens see those of their own document, wherever they stand.
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/documents.hpp>

#include <numeric>

#include "support/mask_checks.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

using numbers = std::vector<std::int64_t>;

numbers random_numbers(index_t count, int documents, unsigned seed) {
  std::mt19937 engine(seed);
  numbers list(static_cast<std::size_t>(count));
  for (auto& number : list) number = std::uniform_int_distribution<std::int64_t>(-1, documents - 2)(engine) * 1000000;
  return list;
}

numbers sorted_numbers(index_t count, int documents, unsigned seed) {
  numbers list = random_numbers(count, documents, seed);
  std::sort(list.begin(), list.end());
  return list;
}

// One list for all batches, or one behind the other.
std::int64_t number_of(numbers const& list, index_t tokens, index_t batch, index_t token) {
  return list[static_cast<std::size_t>(static_cast<index_t>(list.size()) == tokens ? token : batch * tokens + token)];
}

reference::visible_function same_document(numbers const& query, numbers const& key) {
  return [=](reference::place const& at) {
    return number_of(query, at.queries, at.batch, at.query) == number_of(key, at.keys, at.batch, at.key);
  };
}

TEST(Documents, AnswerSoundly) {
  index_t const queries = 90, keys = 170, batches = 2;
  problem_shape const shape{batches, 2, 1, 1, queries, keys, 4, 4, batches};
  for (unsigned seed = 1; seed < 4; ++seed)
    for (int many : {1, 3, 20})
      for (index_t lists : {index_t{1}, batches}) {
        for (auto const& make : {random_numbers, sorted_numbers}) {
          numbers const query = make(queries * lists, many, seed), key = make(keys * lists, many, seed + 9);
          EXPECT_TRUE(test::is_sound(documents(query, key), shape, same_document(query, key))) << many;
        }
      }
}

template <class T>
class DocumentsAttention : public testing::Test {};
using Elements = testing::Types<float, double>;
TYPED_TEST_SUITE(DocumentsAttention, Elements);

TYPED_TEST(DocumentsAttention, SeeTheirOwnTokens) {
  index_t const tokens = 150, batches = 2;
  auto const in = test::random_inputs<TypeParam>(
      {.batches = batches, .query_heads = 4, .key_heads = 2, .value_heads = 2, .queries = tokens, .keys = tokens}, 3);
  reference::options with;
  for (index_t lists : {index_t{1}, batches})
    for (auto const& make : {random_numbers, sorted_numbers}) {
      numbers const list = make(tokens * lists, 5, 1);
      with.visible = same_document(list, list);
      EXPECT_TRUE(test::agrees(in, test::attend_to(in, documents(list)), with));
    }
}

TYPED_TEST(DocumentsAttention, MayDifferForQueriesAndKeys) {
  index_t const queries = 61, keys = 140, batches = 2;
  auto const in = test::random_inputs<TypeParam>({.batches = batches, .queries = queries, .keys = keys}, 3);
  reference::options with;
  numbers const query = random_numbers(queries * batches, 4, 1);
  // The keys have a document less: some queries see nothing.
  numbers const key = random_numbers(keys, 3, 2);
  with.visible = same_document(query, key);
  std::vector<std::int32_t> const narrow(key.begin(), key.end());
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, documents(query, narrow)), with));
}

TEST(Documents, CombineWithCausal) {
  index_t const tokens = 200;
  auto const in = test::random_inputs<float>({.query_heads = 2, .queries = tokens, .keys = tokens}, 3);
  numbers const list = sorted_numbers(tokens, 6, 1);
  reference::options with;
  with.visible = [same = same_document(list, list)](reference::place const& at) {
    return same(at) && at.key <= at.query;
  };
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, documents(list) & causal{}), with));
}

TEST(Documents, SkipTheTilesOfOthers) {
  index_t const tokens = 4096, of_one = 256, edge = simd::tile_lanes<float>;
  numbers list(static_cast<std::size_t>(tokens));
  for (std::size_t i = 0; i < list.size(); ++i) list[i] = static_cast<std::int64_t>(i) / of_one;
  test::sizes const s{.queries = tokens, .keys = tokens, .key_dimension = 1, .value_dimension = 1};
  test::work const work = test::count_work(s, documents(list));
  EXPECT_GE(work.pairs, tokens * of_one);
  // A tile of queries may reach into a second document.
  EXPECT_LE(work.pairs, (tokens / of_one) * (of_one + edge) * (of_one + edge));
  EXPECT_GT(work.full, work.masked);
}

TEST(Documents, AreRefusedWhereTheyDoNotFit) {
  numbers const three(3), four(4), wide(4, std::int64_t{1} << 31);
  auto const in = test::random_inputs<float>({.batches = 2, .queries = 4, .keys = 4}, 1);
  EXPECT_THROW(test::attend_to(in, documents(three)), argument_error);
  EXPECT_THROW(test::attend_to(in, documents(four, three)), argument_error);
  EXPECT_THROW(test::attend_to(in, documents(wide)), argument_error);
}

}  // namespace
}  // namespace attend
