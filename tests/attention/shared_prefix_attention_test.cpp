// SPDX-License-Identifier: BSD-3-Clause
// A shared prefix, attended to once for the batch, and merged with each sequence's own tokens: the same as attention of
// each sequence to both together.
#include <attend/attention/cached/shared_prefix_attention.hpp>

#include "support/expect_error.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace caches;

namespace {

template <class T>
void expect_whole(index_t sequences, index_t query_heads, index_t heads, index_t queries, index_t prefix,
                  std::vector<index_t> const& suffixes, unsigned seed) {
  SCOPED_TRACE(testing::Message() << sequences << ' ' << query_heads << ' ' << heads << ' ' << queries << ' '
                                  << prefix);
  index_t const key_dimension = 24, value_dimension = 20;
  auto const prefix_key = test::normal<T, 3>({heads, prefix, key_dimension}, seed);
  auto const prefix_value = test::normal<T, 3>({heads, prefix, value_dimension}, seed + 1);
  auto const query = test::normal<T, 4>({sequences, query_heads, queries, key_dimension}, seed + 2);
  contiguous_cache<T> suffix({sequences, heads, key_dimension, value_dimension}, 100);
  auto output = test::filled<T, 4>({sequences, query_heads, queries, value_dimension}, T(7));
  auto rows = test::filled<accumulation_t<T>, 3>({sequences, query_heads, queries}, 7);
  std::vector<test::tensor<T, 3>> keys, values;
  for (index_t s = 0; s < sequences; ++s) {
    index_t const own = suffixes[static_cast<std::size_t>(s)];
    keys.push_back(test::normal<T, 3>({heads, own, key_dimension}, seed + 10 + static_cast<unsigned>(s)));
    values.push_back(test::normal<T, 3>({heads, own, value_dimension}, seed + 30 + static_cast<unsigned>(s)));
    suffix.append(s, keys.back().view(), values.back().view());
  }
  shared_prefix_attention(query.view(), prefix_key.view(), prefix_value.view(), suffix, output.view(),
                          log_sum_exp(rows.view()), causal{}, softcap(20), scale(0.3), threads{2});

  for (index_t s = 0; s < sequences; ++s) {
    index_t const all = prefix + suffixes[static_cast<std::size_t>(s)];
    test::inputs<T> in =
        test::random_inputs<T>({1, query_heads, heads, heads, queries, all, key_dimension, value_dimension}, seed);
    auto const join = [&](test::tensor<T, 4>& to, test::tensor<T, 3> const& first, test::tensor<T, 3> const& second) {
      for (index_t head = 0; head < heads; ++head)
        for (index_t j = 0; j < all; ++j)
          for (index_t c = 0; c < to.extents[3]; ++c)
            to.view()(0, head, j, c) = j < prefix ? first.view()(head, j, c) : second.view()(head, j - prefix, c);
    };
    join(in.key, prefix_key, keys[static_cast<std::size_t>(s)]);
    join(in.value, prefix_value, values[static_cast<std::size_t>(s)]);
    auto const part = [&](auto const& tensor, index_t size) {
      return std::vector(tensor.elements.begin() + s * size, tensor.elements.begin() + (s + 1) * size);
    };
    in.query.elements = part(query, query_heads * queries * key_dimension);
    test::outputs<T> out{
        {{1, query_heads, queries, value_dimension}, part(output, query_heads * queries * value_dimension)},
        {{1, query_heads, queries}, part(rows, query_heads * queries)},
        {}};
    reference::options with;
    with.scale = 0.3;
    with.visible = reference::causal_bottom_right();
    with.scores = {[](double x, reference::place const&) { return 20 * std::tanh(x / 20); }};
    // Both parts are rounded to T, hence the 2.
    EXPECT_TRUE(test::agrees(in, out, with, 2)) << "sequence " << s;
  }
}

TEST(SharedPrefix, IsAttentionToBoth) {
  expect_whole<float>(3, 4, 2, 1, 70, {5, 1, 99}, 1);
  expect_whole<float>(3, 6, 1, 4, 33, {5, 4, 60}, 2);
  expect_whole<float>(2, 2, 2, 3, 0, {3, 40}, 3);
  expect_whole<float>(2, 2, 2, 1, 30, {0, 1}, 4);
  expect_whole<bfloat16>(4, 8, 2, 2, 130, {2, 3, 50, 64}, 5);
}

TEST(SharedPrefix, SaysWhatIsWrong) {
  auto const query = test::normal<float, 4>({2, 4, 1, 8}, 1);
  auto const prefix = test::normal<float, 3>({2, 5, 8}, 1), narrow = test::normal<float, 3>({2, 5, 7}, 1),
             fewer = test::normal<float, 3>({2, 4, 8}, 1), one_head = test::normal<float, 3>({1, 5, 8}, 1);
  contiguous_cache<float> suffix({2, 2, 8, 8}, 3);
  auto output = test::filled<float, 4>({2, 4, 1, 8}, 7);
  auto const expect_error = [&](std::string const& message, auto const& key, auto const& value, auto const&... rows) {
    test::expect_error(message, [&] {
      shared_prefix_attention(query.view(), key.view(), value.view(), suffix, output.view(), rows...);
    });
    EXPECT_EQ(output.elements, std::vector<float>(64, 7));
  };
  expect_error("prefix_key: expected heads 2 (as the suffix), got 1", one_head, prefix);
  expect_error("prefix_key: expected head dimension 8 (as the suffix), got 7", narrow, prefix);
  expect_error("prefix_value: expected head dimension 8 (as the suffix), got 7", prefix, narrow);
  expect_error("prefix_value: expected tokens 5 (as prefix_key), got 4", prefix, fewer);
  expect_error("scale: expected a finite number, got inf", prefix, prefix, scale(1e300));
  std::vector<float> rows(24);
  auto const wanted = [](float* data, std::array<index_t, 3> const& extents) {
    return log_sum_exp(tensor_view<float, 3>(data, extents));
  };
  expect_error("log_sum_exp: expected tokens 1 (as query), got 3", prefix, prefix, wanted(rows.data(), {2, 4, 3}));
  expect_error("log_sum_exp: expected memory of its own, got memory that overlaps query", prefix, prefix,
               wanted(const_cast<float*>(query.elements.data()), {2, 4, 1}));
  expect_error("log_sum_exp: expected memory of its own, got memory that overlaps prefix_key", prefix, prefix,
               wanted(const_cast<float*>(prefix.elements.data()), {2, 4, 1}));
  expect_error("log_sum_exp: expected memory of its own, got memory that overlaps output", prefix, prefix,
               wanted(output.elements.data(), {2, 4, 1}));
}

}  // namespace
}  // namespace attend
