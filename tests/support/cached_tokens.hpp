// SPDX-License-Identifier: BSD-3-Clause
// Sequences that go through a cache in pieces, for tests: however they are cut, each token must see the same rows.
#pragma once

#include <attend/attention/cached/cached_attention.hpp>
#include <attend/cache/contiguous.hpp>

#include "problem.hpp"
#include "stores.hpp"

namespace attend::test {
using namespace caches;

inline cache_shape shape_of(sizes const& s) { return {s.batches, s.key_heads, s.key_dimension, s.value_dimension}; }

template <class T, int Rank>
tensor_view<T, Rank> tokens_of(tensor<T, Rank>& all, index_t first, index_t count) {
  return attend::detail::part(all.view(), 2, first, count);
}
template <class T>
tensor_view<T const, 4> tokens_of(tensor<T, 4> const& all, index_t first, index_t count) {
  return attend::detail::part(all.view(), 2, first, count);
}

/// The inputs as a cache that took all of them stores them, in double.
template <class Cache, class T>
inputs<double> as_stored(Cache const& all, inputs<T> const& in) {
  sizes const& s = in.size;
  inputs<double> stored{s, {in.query.extents, {}}, {in.key.extents, {}}, {in.value.extents, {}}};
  for (T x : in.query.elements) stored.query.elements.push_back(static_cast<double>(x));
  for (index_t b = 0; b < s.batches; ++b)
    for (index_t head = 0; head < s.key_heads; ++head)
      for (auto const& row : stored_rows(all, b, head)) {
        stored.key.elements.insert(stored.key.elements.end(), row.key.begin(), row.key.end());
        stored.value.elements.insert(stored.value.elements.end(), row.value.begin(), row.value.end());
      }
  return stored;
}
template <class Key, class Value, class T>
inputs<double> as_stored(inputs<T> const& in) {
  sizes const& s = in.size;
  contiguous_cache<Key, Value> all(shape_of(s), s.keys);
  all.append(in.key.view(), in.value.view());
  return as_stored(all, in);
}

/// The outputs of all tokens, in pieces of the sizes that `next` gives.
template <class Cache, class T, class... Options>
tensor<T, 4> in_pieces(Cache& cache, inputs<T> const& in, std::function<index_t()> const& next,
                       Options const&... options) {
  sizes const& s = in.size;
  auto output = filled<T, 4>({s.batches, s.query_heads, s.keys, s.value_dimension}, T(7));
  for (index_t first = 0, count; first < s.keys; first += count) {
    count = std::min(next(), s.keys - first);
    cached_attention(cache, tokens_of(in.query, first, count), tokens_of(in.key, first, count),
                     tokens_of(in.value, first, count), tokens_of(output, first, count), options...);
  }
  return output;
}

/// Token by token, all at once, and in random pieces: always the definition on what the cache stores.
template <class T, class Make, class... Options>
void expect_any_cut(Make const& make, sizes const& s, unsigned seed, reference::options const& with,
                    Options const&... options) {
  using Cache = decltype(make());
  auto const in = random_inputs<T>(s, seed);
  auto const stored = as_stored<typename Cache::key_element, typename Cache::value_element>(in);
  auto const expected = reference::softmax_attention<double>(
      std::as_const(stored.query).view(), std::as_const(stored.key).view(), std::as_const(stored.value).view(), with);
  double const allowed = tolerance<T>(largest_magnitude(stored.value.elements));
  std::mt19937 engine(seed);
  auto const expect_pieces = [&](char const* settings, std::function<index_t()> const& next) {
    Cache cache = make();
    EXPECT_TRUE(near(in_pieces(cache, in, next, options...).elements, expected.output, allowed)) << settings;
    for (index_t b = 0; b < s.batches; ++b) EXPECT_EQ(cache.size(b), s.keys);
  };
  expect_pieces("token by token", [] { return 1; });
  expect_pieces("at once", [&] { return s.keys; });
  for (int trial = 0; trial < 3; ++trial)
    expect_pieces("in random pieces",
                  [&] { return std::uniform_int_distribution<index_t>(1, 1 + s.keys / 3)(engine); });
}

}  // namespace attend::test
