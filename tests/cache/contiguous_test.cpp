// SPDX-License-Identifier: BSD-3-Clause
// The contiguous cache: what is appended is what is read, where it says; memory is counted; wrong input is refused.
#include <attend/cache/contiguous.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/stores.hpp"

namespace attend {
using namespace caches;
using namespace extend;

namespace {

using test::expect_error;
using testing::ElementsAreArray;

static_assert(KeyValueSource<contiguous_cache<float>>);
static_assert(KeyValueSource<key_value_tensors<std::int8_t>>);
static_assert(KeyValueSource<key_value_tensors<int4_pair, bfloat16>>);

std::vector<float> row(float const* from, index_t count) { return {from, from + count}; }

TEST(ContiguousCache, GivesBackWhatWasAppended) {
  auto const key = test::normal<float, 4>({2, 3, 7, 5}, 1), value = test::normal<float, 4>({2, 3, 7, 4}, 2);
  contiguous_cache<float> cache({2, 3, 5, 4}, 10);
  // Four tokens of both sequences at once, then the rest one sequence after the other.
  tensor_view<float const, 4> const k = key.view(), v = value.view();
  cache.append(tensor_view<float const, 4>(k.data(), {2, 3, 4, 5}, k.strides()),
               tensor_view<float const, 4>(v.data(), {2, 3, 4, 4}, v.strides()));
  for (index_t s = 0; s < 2; ++s)
    cache.append(s, tensor_view<float const, 3>(&k(s, 0, 4, 0), {3, 3, 5}, {k.stride(1), k.stride(2), 1}),
                 tensor_view<float const, 3>(&v(s, 0, 4, 0), {3, 3, 4}, {v.stride(1), v.stride(2), 1}));
  for (index_t s = 0; s < 2; ++s) {
    EXPECT_EQ(cache.size(s), 7);
    for (index_t head = 0; head < 3; ++head) {
      EXPECT_EQ(cache.stored(s, head), 7);
      auto const run = cache.rows(s, head, 2);
      EXPECT_EQ(run.count, 5);
      EXPECT_EQ(run.position, 2);
      for (index_t i = 0; i < run.count; ++i) {
        EXPECT_THAT(row(run.key + i * run.key_stride, 5), ElementsAreArray(row(&k(s, head, 2 + i, 0), 5)));
        EXPECT_THAT(row(run.value + i * run.value_stride, 4), ElementsAreArray(row(&v(s, head, 2 + i, 0), 4)));
      }
    }
  }
}

TEST(ContiguousCache, ForgetsWhatIsTruncated) {
  auto const key = test::normal<half, 3>({1, 4, 2}, 1), value = test::normal<half, 3>({1, 4, 2}, 2);
  contiguous_cache<half> cache({1, 1, 2, 2}, 4);
  cache.append(0, key.view(), value.view());
  cache.truncate(0, 1);
  EXPECT_EQ(cache.size(0), 1);
  cache.append(0, tensor_view<half const, 3>(key.elements.data() + 6, {1, 1, 2}),
               tensor_view<half const, 3>(value.elements.data(), {1, 1, 2}));
  auto const run = cache.rows(0, 0, 0);
  EXPECT_EQ(run.count, 2);
  EXPECT_EQ(run.key[0], key.elements[0]);
  EXPECT_EQ(run.key[run.key_stride], key.elements[6]);
  EXPECT_EQ(run.value[run.value_stride], value.elements[0]);
}

TEST(ContiguousCache, CountsItsBytes) {
  index_t const rows = 2 * 3 * 10, lengths = 2 * sizeof(index_t);
  EXPECT_EQ(contiguous_cache<bfloat16>({2, 3, 5, 4}, 10).bytes(), rows * (5 + 4) * 2 + lengths);
  EXPECT_EQ((contiguous_cache<std::int8_t, int4_pair>({2, 3, 5, 4}, 10).bytes()), rows * (5 + 2 + 2 * 4) + lengths);
  EXPECT_EQ(contiguous_cache<double>({0, 3, 5, 4}, 10).bytes(), 0);
}

TEST(ContiguousCache, SaysWhatIsWrong) {
  contiguous_cache<float> cache({2, 3, 5, 6}, 4);
  auto const tokens = [](index_t heads, index_t count, index_t dimension) {
    return test::normal<float, 3>({heads, count, dimension}, 1);
  };
  auto const key = tokens(3, 3, 5), value = tokens(3, 3, 6);
  cache.append(1, key.view(), value.view());
  expect_error("key: expected at most 1 more tokens (sequence 1 has 3 of 4), got 3",
               [&] { cache.append(1, key.view(), value.view()); });
  auto const all_keys = test::normal<float, 4>({2, 3, 2, 5}, 1), all_values = test::normal<float, 4>({2, 3, 2, 6}, 1);
  expect_error("key: expected at most 1 more tokens (sequence 1 has 3 of 4), got 2",
               [&] { cache.append(all_keys.view(), all_values.view()); });
  EXPECT_EQ(cache.size(0), 0);
  expect_error("sequence: expected from 0 to 1, got 2", [&] { cache.append(2, key.view(), value.view()); });
  expect_error("sequence: expected from 0 to 1, got -1", [&] { cache.truncate(-1, 0); });
  expect_error("size: expected from 0 to 3 (the tokens), got 4", [&] { cache.truncate(1, 4); });
  auto const two_heads = tokens(2, 3, 5), wide = tokens(3, 3, 6), fewer = tokens(3, 2, 6);
  expect_error("key: expected heads 3 (as the cache), got 2", [&] { cache.append(0, two_heads.view(), value.view()); });
  expect_error("key: expected head dimension 5 (as the cache), got 6",
               [&] { cache.append(0, wide.view(), value.view()); });
  expect_error("value: expected head dimension 6 (as the cache), got 5",
               [&] { cache.append(0, key.view(), key.view()); });
  expect_error("value: expected tokens 3 (as key), got 2", [&] { cache.append(0, key.view(), fewer.view()); });
  EXPECT_EQ(cache.size(0), 0);
  // The two steps of appending.
  expect_error("sequence: expected from 0 to 1, got 50", [&] { cache.make_room(50, 1); });
  expect_error("key: expected at least 0 more tokens, got -5", [&] { cache.make_room(1, -5); });
  expect_error("latent: expected at most 1 more tokens (sequence 1 has 3 of 4), got 2",
               [&] { cache.make_room(1, 2, "latent"); });
  EXPECT_EQ(cache.size(1), 3);
  tensor_view<float const, 2> const one_key(key.elements.data(), {1, 5}), one_value(value.elements.data(), {1, 6});
  cache.write(1, 2, 2, one_key, one_value);
  expect_error("position: expected 1 tokens within the 3 of sequence 1, got 3",
               [&] { cache.write(1, 2, 3, one_key, one_value); });
  expect_error("position: expected 1 tokens within the 3 of sequence 1, got -1",
               [&] { cache.write(1, 2, -1, one_key, one_value); });
  expect_error("sequence: expected from 0 to 1, got 2", [&] { cache.write(2, 0, 0, one_key, one_value); });
  expect_error("head: expected from 0 to 2, got 3", [&] { cache.write(1, 3, 0, one_key, one_value); });
  expect_error("key: expected head dimension 5 (as the cache), got 6",
               [&] { cache.write(1, 0, 0, one_value, one_value); });
  expect_error("contiguous_cache: expected extents of at least 0, got [1, -1, 5, 5]",
               [] { contiguous_cache<float>({1, -1, 5, 5}, 4); });
  expect_error("contiguous_cache: expected extents of at least 0, got [1, 1, -4, 5]",
               [] { contiguous_cache<float>({1, 1, 5, 5}, -4); });
  expect_error("contiguous_cache: expected extents whose product fits in memory, got [4611686018427387904, 4, 4, 5]",
               [] { contiguous_cache<float>({index_t{1} << 62, 4, 5, 5}, 4); });
}

TEST(KeyValueTensors, ReadInPlaceWithLengthsAndScales) {
  auto const key = test::filled<std::int8_t, 4>({2, 2, 6, 8}, 3);
  auto const value = test::filled<int4_pair, 4>({2, 2, 6, 5}, int4_pair{0x88});
  auto const scales = test::normal<float, 3>({2, 2, 6}, 1);
  auto const channels = test::normal<float, 2>({2, 8}, 1);
  std::vector<std::int32_t> const lengths{6, 2};
  auto const source = key_value_tensors<std::int8_t, int4_pair>(key.view(), value.view(), lengths)
                          .with_scales(scales.view(), scales.view())
                          .with_channel_scales(channels.view());
  EXPECT_EQ(source.sequences(), 2);
  EXPECT_EQ(source.key_dimension(), 8);
  EXPECT_EQ(source.value_dimension(), 10);
  EXPECT_EQ(source.size(0), 6);
  EXPECT_EQ(source.stored(1, 0), 2);
  auto const run = source.rows(1, 1, 1);
  EXPECT_EQ(run.count, 1);
  EXPECT_EQ(run.position, 1);
  EXPECT_EQ(run.key, key.elements.data() + (3 * 6 + 1) * 8);
  EXPECT_EQ(run.value, value.elements.data() + (3 * 6 + 1) * 5);
  EXPECT_EQ(run.key_scale, scales.elements.data() + 3 * 6 + 1);
  EXPECT_EQ(run.channel_scale, channels.elements.data() + 8);
}

TEST(KeyValueTensors, SayWhatIsWrong) {
  auto const key = test::filled<float, 4>({2, 3, 6, 8}, 1), other = test::filled<float, 4>({2, 3, 5, 8}, 1);
  expect_error("value: expected tokens 6 (as key), got 5", [&] { key_value_tensors<float>(key.view(), other.view()); });
  std::vector<std::int32_t> const few{6}, long_one{6, 7};
  expect_error("lengths: expected one for each of 2 sequences, got 1",
               [&] { key_value_tensors<float>(key.view(), key.view(), few); });
  expect_error("lengths: expected lengths from 0 to 6 (the tokens), got 7 at 1",
               [&] { key_value_tensors<float>(key.view(), key.view(), long_one); });
  expect_error("lengths: expected data for extents [2], got null", [&] {
    key_value_tensors<float>(key.view(), key.view(), tensor_view<std::int32_t const, 1>(nullptr, {2}));
  });
  auto const bytes = test::filled<std::int8_t, 4>({2, 3, 6, 8}, 1);
  key_value_tensors<std::int8_t, float> const good(bytes.view(), key.view());
  auto const scales = test::filled<float, 3>({2, 3, 5}, 1);
  auto const channels = test::filled<float, 2>({3, 7}, 1);
  expect_error("key_scale: expected tokens 6 (as key), got 5", [&] { good.with_scales(scales.view(), {}); });
  expect_error("channel_scale: expected dimension 8 (as key), got 7",
               [&] { good.with_channel_scales(channels.view()); });
  // Scales are for elements that need them.
  auto const six = test::filled<float, 3>({2, 3, 6}, 1);
  good.with_scales(six.view(), {}).check_readable();
  expect_error("key_scale: expected scales of quantized keys, got none", [&] { good.check_readable(); });
  expect_error("value_scale: expected none, as values are not quantized",
               [&] { good.with_scales(six.view(), six.view()); });
  expect_error("channel_scale: expected none, as keys are not quantized",
               [&] { key_value_tensors<float>(key.view(), key.view()).with_channel_scales(channels.view()); });
  expect_error("value_scale: expected scales of quantized values, got none",
               [&] { key_value_tensors<float, std::int8_t>(key.view(), bytes.view()).check_readable(); });
}

}  // namespace
}  // namespace attend
