// SPDX-License-Identifier: BSD-3-Clause
// What a call of decode_attention promises besides its numbers: the same bits with any threads, no allocation after the
// first call, hidden rows without influence, strides, and errors before anything is written. This program counts all
// allocations.
#include <attend/attention/cached/decode_attention.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/window.hpp>
#include <attend/policy/score/bias.hpp>
#include <attend/policy/score/softcap.hpp>

#include "support/argument_errors.hpp"
#include "support/count_allocations.hpp"

namespace attend {
using namespace options;
using namespace runtime;
using namespace extend;

namespace {

using tensor4 = test::tensor<float, 4>;

tensor4 output_of(test::sizes const& s) {
  return test::filled<float, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, 7);
}

template <class... Options>
tensor4 decode(test::inputs<float> const& in, Options const&... options) {
  tensor4 out = output_of(in.size);
  decode_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), options...);
  return out;
}

constexpr test::sizes split_in_parts{.query_heads = 6,
                                     .key_heads = 2,
                                     .value_heads = 2,
                                     .queries = 2,
                                     .keys = 9000,
                                     .key_dimension = 40,
                                     .value_dimension = 50};

TEST(DecodeCalls, GiveTheSameBitsWithAnyThreads) {
  auto const in = test::random_inputs<float>(split_in_parts, 1);
  tensor4 const alone = decode(in, causal{});
  for (int run = 0; run < 5; ++run)
    for (int count : {0, 2, 3})
      EXPECT_TRUE(test::same_bits(decode(in, causal{}, threads{count}).elements, alone.elements)) << count;
}

TEST(DecodeCalls, AllocateInTheFirstCallOnly) {
  auto const in = test::random_inputs<float>(split_in_parts, 2);
  tensor4 out = output_of(in.size);
  auto rows = test::filled<float, 3>({1, 6, 2}, 7);
  auto const call = [&] {
    decode_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), causal{}, softcap(20),
                     log_sum_exp(rows.view()));
  };
  release_scratch();
  long const before = test::allocations;
  call();
  long const between = test::allocations;
  call();
  EXPECT_GT(between, before);
  EXPECT_EQ(test::allocations, between);
}

// Fewer keys than what is dropped, in the middle, and at the end of a block are hidden; NaN and infinity stay there.
TEST(DecodeCalls, TakeNothingFromHiddenKeys) {
  test::sizes const s{.query_heads = 4,
                      .key_heads = 2,
                      .value_heads = 2,
                      .queries = 3,
                      .keys = 200,
                      .key_dimension = 16,
                      .value_dimension = 24};
  auto in = test::random_inputs<float>(s, 3);
  auto added = test::filled<float, 2>({1, 200}, 0);
  for (std::size_t j : {0, 5, 63, 64, 100, 199}) added.elements[j] = -infinity<float>;
  tensor4 const clean = decode(in, window{150, 0}, bias(added.view()));
  float const nan = std::numeric_limits<float>::quiet_NaN();
  for (index_t head = 0; head < 2; ++head)
    for (index_t j : {0, 5, 63, 64, 100, 199})
      for (index_t c = 0; c < 16; ++c) {
        in.key.view()(0, head, j, c) = c % 2 ? nan : infinity<float>;
        in.value.view()(0, head, j, c) = j % 2 ? nan : -infinity<float>;
      }
  for (index_t head = 0; head < 2; ++head)
    for (index_t j = 1; j < 40; ++j) in.value.view()(0, head, j, 3) = nan;  // out of the window
  tensor4 const dirty = decode(in, window{150, 0}, bias(added.view()));
  EXPECT_TRUE(test::near(dirty.elements, clean.elements, test::tolerance<float>(4)));
  // A value that is seen has influence.
  in.value.view()(0, 0, 150, 7) = nan;
  EXPECT_TRUE(std::isnan(decode(in, window{150, 0}, bias(added.view())).view()(0, 0, 0, 7)));
}

// [batch, token, head, dimension], and the columns of one packed buffer.
TEST(DecodeCalls, ReadAnyStrides) {
  test::sizes const s{.batches = 2,
                      .query_heads = 4,
                      .key_heads = 2,
                      .value_heads = 2,
                      .queries = 2,
                      .keys = 70,
                      .key_dimension = 20,
                      .value_dimension = 20};
  auto const in = test::random_inputs<float>(s, 4);
  std::vector<float> packed(2 * 70 * 2 * 45);
  auto const column = [&](index_t first) {
    return tensor_view<float, 4>(packed.data() + first, {2, 2, 70, 20}, {70 * 90, 45, 90, 1});
  };
  for (index_t b = 0; b < 2; ++b)
    for (index_t head = 0; head < 2; ++head)
      for (index_t j = 0; j < 70; ++j)
        for (index_t c = 0; c < 20; ++c) {
          column(3)(b, head, j, c) = in.key.view()(b, head, j, c);
          column(24)(b, head, j, c) = in.value.view()(b, head, j, c);
        }
  tensor4 out = output_of(s);
  decode_attention(in.query.view(), column(3), column(24), out.view(), causal{});
  EXPECT_TRUE(test::same_bits(out.elements, decode(in, causal{}).elements));
}

class DecodeErrors : public test::argument_errors {};

TEST_F(DecodeErrors, NameTheArgument) {
  auto const expect = [&](std::string const& message, test::read_view query, test::read_view key, test::read_view value,
                          auto const&... options) {
    expect_error(message, [&] { decode_attention(query, key, value, o(), log_sum_exp(rows.view()), options...); });
  };
  test::tensor<float, 4> const wide = test::filled<float, 4>({2, 3, 9, 7}, 1),
                               few = test::filled<float, 4>({2, 3, 8, 4}, 1);
  expect("key: expected head dimension 8 (as query), got 7", q(), wide.view(), v());
  expect("value: expected tokens 9 (as key), got 8", q(), k(), few.view());
  expect("query: expected data for extents [2, 6, 5, 8], got null", test::read_view(nullptr, {2, 6, 5, 8}), k(), v());
  expect("threads: expected a count of at least 0, got -1", q(), k(), v(), threads{-1});
  expect("scale: expected a finite number, got nan", q(), k(), v(), scale(std::nan("")));
  expect("scale: expected a finite number, got inf", q(), k(), v(), scale(1e300));
  expect("window: expected left of at least -1, got -2", q(), k(), v(), window{-2, 0});
  std::vector<std::int64_t> const lengths{9, 10};
  expect("padded (keys): expected lengths from 0 to 9, got 10 at 1", q(), k(), v(), padded_keys(lengths));
}

}  // namespace
}  // namespace attend
