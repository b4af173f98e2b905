// SPDX-License-Identifier: BSD-3-Clause
// A sequence has the same bits alone, in any batch at any place, padded among longer ones or packed between others, for
// any executor: it is cut by its own shape alone.
#include <attend/policy/mask/block_window.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/window.hpp>
#include <attend/policy/normalizer/sinks.hpp>

#include "support/executors.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

constexpr index_t query_heads = 8, key_heads = 2, dimension = 32;

struct length {
  index_t queries, keys;
};

/// A sequence's own tensors, [head, token, dimension].
template <class T>
struct one_sequence {
  length size;
  test::tensor<T, 3> query, key, value;

  one_sequence(length const& s, unsigned seed)
      : size(s),
        query(test::normal<T, 3>({query_heads, s.queries, dimension}, seed)),
        key(test::normal<T, 3>({key_heads, s.keys, dimension}, seed + 1, 3)),
        value(test::normal<T, 3>({key_heads, s.keys, dimension}, seed + 2)) {}
};

/// Copies [head, token, dimension] to a batch's tokens from `first` on.
template <class T>
void put(test::tensor<T, 3> const& from, tensor_view<T, 4> const& to, index_t batch, index_t first) {
  auto const view = from.view();
  for (index_t head = 0; head < view.extent(0); ++head)
    for (index_t token = 0; token < view.extent(1); ++token)
      std::copy_n(&view(head, token, 0), dimension, &to(batch, head, first + token, 0));
}

/// Output and log-sum-exp of one sequence among those of a call.
template <class T>
struct rows {
  std::vector<T> output;
  std::vector<accumulation_t<T>> log_sum_exp;

  friend bool operator==(rows const& a, rows const& b) {
    return test::same_bits(a.output, b.output) && test::same_bits(a.log_sum_exp, b.log_sum_exp);
  }
};

/// A call on several sequences: in a batch of tensors of these extents, or packed one after the other.
template <class T, class... Options>
std::vector<rows<T>> attend_to(std::vector<one_sequence<T>> const& all, length extents, bool packed,
                               Options const&... options) {
  auto const count = static_cast<index_t>(all.size());
  std::vector<std::int64_t> queries, keys, first_query{0}, first_key{0};
  for (auto const& one : all) {
    queries.push_back(one.size.queries);
    keys.push_back(one.size.keys);
    first_query.push_back(first_query.back() + one.size.queries);
    first_key.push_back(first_key.back() + one.size.keys);
  }
  index_t const batches = packed ? 1 : count;
  if (packed) extents = {first_query.back(), first_key.back()};
  auto query = test::filled<T, 4>({batches, query_heads, extents.queries, dimension}, T(0.5f)), output = query;
  auto key = test::filled<T, 4>({batches, key_heads, extents.keys, dimension}, T(0.5f)), value = key;
  auto lse = test::filled<accumulation_t<T>, 3>({batches, query_heads, extents.queries}, 7);
  auto const batch = [&](index_t s) { return packed ? 0 : s; };
  auto const start = [&](std::vector<std::int64_t> const& of, index_t s) {
    return packed ? of[static_cast<std::size_t>(s)] : 0;
  };
  for (index_t s = 0; s < count; ++s) {
    auto const& one = all[static_cast<std::size_t>(s)];
    put(one.query, query.view(), batch(s), start(first_query, s));
    put(one.key, key.view(), batch(s), start(first_key, s));
    put(one.value, value.view(), batch(s), start(first_key, s));
  }
  auto const call = [&](auto const&... lengths) {
    softmax_attention(query.view(), key.view(), value.view(), output.view(), log_sum_exp(lse.view()), options...,
                      lengths...);
  };
  if (packed)
    call(ragged(first_query, first_key));
  else if (std::all_of(all.begin(), all.end(), [&](auto const& one) {
             return one.size.queries == extents.queries && one.size.keys == extents.keys;
           }))
    call();
  else
    call(padded(queries, keys));

  std::vector<rows<T>> result;
  for (index_t s = 0; s < count; ++s) {
    rows<T> of;
    for (index_t head = 0; head < query_heads; ++head)
      for (index_t i = 0; i < queries[static_cast<std::size_t>(s)]; ++i) {
        index_t const token = start(first_query, s) + i;
        of.log_sum_exp.push_back(lse.view()(batch(s), head, token));
        T const* const row = &output.view()(batch(s), head, token, 0);
        of.output.insert(of.output.end(), row, row + dimension);
      }
    result.push_back(std::move(of));
  }
  return result;
}

/// The sequence alone, and at each place among others: as long as it is, then shorter and longer ones.
template <class T, class... Options>
void expect_same_bits(length const& size, Options const&... options) {
  SCOPED_TRACE(testing::Message() << size.queries << " queries, " << size.keys << " keys");
  one_sequence<T> const own(size, 1);
  auto const alone = attend_to<T>({own}, size, false, options...)[0];
  length const longer{size.queries + 30, 2 * size.keys + 100}, shorter{divide_up(size.queries, 3), size.keys / 3};
  for (std::size_t place : {0, 1, 4}) {
    std::vector<one_sequence<T>> alike, unlike;
    for (unsigned s = 0; s < 5; ++s) {
      alike.push_back(s == place ? own : one_sequence<T>(size, 10 * s + 20));
      unlike.push_back(s == place ? own : one_sequence<T>(s % 2 ? longer : shorter, 10 * s + 20));
    }
    test::for_executors([&](auto const& executor, std::string const& name) {
      EXPECT_EQ(attend_to(alike, size, false, executor, options...)[place], alone) << name << ", batch, " << place;
      EXPECT_EQ(attend_to(unlike, longer, false, executor, options...)[place], alone) << name << ", padded, " << place;
      EXPECT_EQ(attend_to(unlike, longer, true, executor, options...)[place], alone) << name << ", packed, " << place;
    });
  }
}

TEST(SameBits, OfManyQueries) {
  expect_same_bits<float>({150, 300});
  expect_same_bits<float>({150, 300}, causal{});
  expect_same_bits<bfloat16>({70, 200}, causal{});
}

TEST(SameBits, OfManyQueriesInAWindow) { expect_same_bits<float>({400, 400}, window{60, 0}); }

TEST(SameBits, OfBlocksThatBeginAtOddPlaces) { expect_same_bits<float>({130, 190}, block_window(48, 0, 0)); }

TEST(SameBits, OfFewQueries) {
  // Of so many keys that a batch's bytes would make other parts than a sequence's own.
  for (length const& size : {length{1, 16000}, {1, 80}, {2, 700}}) expect_same_bits<float>(size, causal{});
  expect_same_bits<bfloat16>({4, 2500}, causal{});
}

TEST(SameBits, OfQueriesWhoseKeysAreSplitIntoTasks) {
  expect_same_bits<float>({6, 4000}, causal{});
  expect_same_bits<float>({9, 2600}, sinks{0.5});
}

}  // namespace
}  // namespace attend
