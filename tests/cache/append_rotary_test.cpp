// SPDX-License-Identifier: BSD-3-Clause
// Keys that are rotated as a store takes them: what is stored is what rotating them beforehand stores, in every store
// and element type, at the positions of the text or at given ones; wrong input.
#include <attend/attention/softmax/rotary_embedding.hpp>
#include <attend/cache/contiguous.hpp>
#include <attend/cache/head_policy.hpp>
#include <attend/cache/paged.hpp>

#include "support/stores.hpp"

namespace attend {
using namespace options;
using namespace linear;
using namespace caches;

namespace {

using test::expect_error;
using test::stored_rows;

constexpr index_t sequences = 2, heads = 3, tokens = 50, dimension = 24, values = 7;
cache_shape const shape{sequences, heads, dimension, values};

template <class T>
struct tensors {
  test::tensor<T, 4> key = test::normal<T, 4>({sequences, heads, tokens, dimension}, 1);
  test::tensor<T, 4> value = test::normal<T, 4>({sequences, heads, tokens, values}, 2);
};

template <class T>
tensor_view<T const, 4> part(test::tensor<T, 4> const& all, index_t first, index_t count) {
  tensor_view<T const, 4> const view = all.view();
  return {&view(0, 0, first, 0), {view.extent(0), view.extent(1), count, view.extent(3)}, view.strides()};
}
template <class T>
tensor_view<T const, 3> of_sequence(tensor_view<T const, 4> const& all, index_t sequence) {
  return {&all(sequence, 0, 0, 0),
          {all.extent(1), all.extent(2), all.extent(3)},
          {all.stride(1), all.stride(2), all.stride(3)}};
}

/// In pieces of several sizes, to all sequences or to one after the other.
template <class T, class Make>
void expect_as_rotated_beforehand(Make const& make, rotary_layout layout) {
  rotary const settings(rotary_frequencies(16, 500), layout);
  tensors<T> const in;
  auto rotated = in.key;
  rotary_embedding(in.key.view(), settings, rotated.view());
  auto beforehand = make(), fused = make();
  bool to_all = true;
  index_t first = 0;
  for (index_t count : {1, 4, 18, 27}) {
    beforehand.append(part(rotated, first, count), part(in.value, first, count));
    if (to_all) {
      fused.append(part(in.key, first, count), part(in.value, first, count), settings);
    } else {
      for (index_t s = 0; s < sequences; ++s)
        fused.append(s, of_sequence(part(in.key, first, count), s), of_sequence(part(in.value, first, count), s),
                     settings);
    }
    to_all = !to_all;
    first += count;
  }
  for (index_t s = 0; s < sequences; ++s)
    for (index_t head = 0; head < heads; ++head)
      EXPECT_EQ(stored_rows(fused, s, head), stored_rows(beforehand, s, head)) << s << ' ' << head;
}

TEST(AppendRotary, IsRotatingBeforehand) {
  for (rotary_layout const layout : {rotary_layout::half_split, rotary_layout::interleaved}) {
    expect_as_rotated_beforehand<float>([] { return contiguous_cache<float>(shape, tokens); }, layout);
    expect_as_rotated_beforehand<float>([] { return contiguous_cache<std::int8_t>(shape, tokens); }, layout);
    expect_as_rotated_beforehand<float>([] { return paged_cache<float>(shape, {.pages = 40, .page_tokens = 3}); },
                                        layout);
    expect_as_rotated_beforehand<float>([] { return rolling_cache<float>(shape, {2, 9}, 8); }, layout);
    expect_as_rotated_beforehand<bfloat16>([] { return contiguous_cache<bfloat16>(shape, tokens); }, layout);
  }
}

TEST(AppendRotary, ReachesTheStoresOfEachHead) {
  std::vector<std::int32_t> const kinds{1, 0, 1};
  expect_as_rotated_beforehand<float>(
      [&] {
        return head_policy_cache(contiguous_cache<int4_pair>({sequences, 1, dimension, values}, tokens),
                                 rolling_cache<int4_pair>({sequences, 2, dimension, values}, {2, 9}, 8), kinds);
      },
      rotary_layout::half_split);
}

TEST(AppendRotary, TakesGivenPositions) {
  rotary const settings(rotary_frequencies(dimension).sections({4, 8}), rotary_layout::half_split);
  std::vector<std::int64_t> positions(2 * sequences * tokens);
  for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<std::int64_t>(i * 37 % 101);
  tensor_view<std::int64_t const, 3> const at(positions.data(), {2, sequences, tokens});
  tensors<float> const in;
  auto rotated = in.key;
  rotary_embedding(in.key.view(), settings, rotated.view(), at);
  contiguous_cache<float> beforehand(shape, tokens), fused(shape, tokens);
  beforehand.append(rotated.view(), in.value.view());
  fused.append(in.key.view(), in.value.view(), settings.at(at));
  for (index_t s = 0; s < sequences; ++s)
    for (index_t head = 0; head < heads; ++head)
      EXPECT_EQ(stored_rows(fused, s, head), stored_rows(beforehand, s, head));
}

TEST(AppendRotary, SaysWhatIsWrong) {
  tensors<float> const in;
  contiguous_cache<float> cache(shape, tokens);
  cache.append(part(in.key, 0, 3), part(in.value, 0, 3));
  auto const append = [&](auto const& settings) { cache.append(part(in.key, 3, 5), part(in.value, 3, 5), settings); };
  auto const append_one = [&](auto const& settings) {
    cache.append(1, of_sequence(part(in.key, 3, 5), 1), of_sequence(part(in.value, 3, 5), 1), settings);
  };
  rotary const wide(rotary_frequencies(26)), fits(rotary_frequencies(24));
  expect_error("rotary: expected at most 24 channels (the head dimension), got 26", [&] { append(wide); });
  expect_error("rotary: expected at most 24 channels (the head dimension), got 26", [&] { append_one(wide); });
  std::vector<std::int32_t> const four(4);
  expect_error("rotary (keys): expected tokens 5 (as the tensor), got 4", [&] { append(fits.at(four)); });
  auto const table = test::normal<float, 2>({7, 12}, 1);
  rotary const short_table(rotary_table(table.view(), table.view()));
  expect_error("rotary_table (cosine): expected positions from 0 to 6, got 7", [&] { append(short_table); });
  expect_error("rotary_table (cosine): expected positions from 0 to 6, got 7", [&] { append_one(short_table); });
  for (index_t s = 0; s < sequences; ++s) EXPECT_EQ(cache.size(s), 3);
}

}  // namespace
}  // namespace attend
