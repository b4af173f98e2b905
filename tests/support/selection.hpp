// SPDX-License-Identifier: BSD-3-Clause
// What tests of selectors share: a cache with random tokens, the definition over the tokens that a reference says are
// seen, and needles.
#pragma once

#include <attend/cache/contiguous.hpp>
#include <attend/reference/page_selection.hpp>
#include <attend/select/token_lists.hpp>
#include <functional>

#include "cached_tokens.hpp"

namespace attend::test {
using namespace selection;
using namespace extend;

/// The shape of a cache for a problem.
using seen_tokens = std::vector<std::vector<std::vector<bool>>>;

/// Whether the lists have just the tokens that are seen, [batch][query head][token].
inline testing::AssertionResult lists_are(token_lists const& lists, seen_tokens const& seen) {
  for (std::size_t b = 0; b < seen.size(); ++b)
    for (std::size_t h = 0; h < seen[b].size(); ++h) {
      std::vector<std::int32_t> expected;
      for (std::size_t t = 0; t < seen[b][h].size(); ++t)
        if (seen[b][h][t]) expected.push_back(static_cast<std::int32_t>(t));
      auto const list = lists(static_cast<index_t>(b),
                              static_cast<index_t>(h) * lists.heads() / static_cast<index_t>(seen[b].size()));
      if (!std::equal(list.begin(), list.end(), expected.begin(), expected.end()))
        return testing::AssertionFailure()
               << "sequence " << b << ", head " << h << ": expected " << testing::PrintToString(expected) << ", got "
               << testing::PrintToString(std::vector<std::int32_t>(list.begin(), list.end()));
    }
  return testing::AssertionSuccess();
}

/// Attention to the tokens that are seen.
inline reference::result attention_to(inputs<double> const& in, seen_tokens const& seen) {
  reference::options with;
  with.visible = [&](reference::place const& at) {
    return seen[static_cast<std::size_t>(at.batch)][static_cast<std::size_t>(at.head)]
               [static_cast<std::size_t>(at.key)];
  };
  return reference::softmax_attention<double>(in.query.view(), in.key.view(), in.value.view(), with);
}

/// A cache of all keys and values.
template <class S, class T>
contiguous_cache<S> filled_cache(inputs<T> const& in) {
  sizes const& s = in.size;
  contiguous_cache<S> cache(shape_of(s), s.keys);
  cache.append(in.key.view(), in.value.view());
  return cache;
}

/// Attention through a selector, against the definition over what the reference sees; and the lists themselves.
template <class T, class Selector, class Cache>
void expect_selection(inputs<T> const& in, Cache const& cache, Selector& selector, seen_tokens const& seen) {
  sizes const& s = in.size;
  auto const stored = as_stored(cache, in);
  auto output = filled<T, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, T(7));
  selected_attention(in.query.view(), cache, selector, output.view());
  EXPECT_TRUE(lists_are(selector.lists(), seen));
  EXPECT_TRUE(
      near(output.elements, attention_to(stored, seen).output, tolerance<T>(largest_magnitude(stored.value.elements))));
  auto threaded = filled<T, 4>(output.extents, T(9));
  selected_attention(in.query.view(), cache, selector, threaded.view(), threads{3});
  EXPECT_TRUE(lists_are(selector.lists(), seen)) << "with threads";
  EXPECT_TRUE(same_bits(output.elements, threaded.elements));
}

/// At a budget of everything the output is that of the whole cache.
template <class T, class Selector, class Cache>
void expect_dense(inputs<T> const& in, Cache const& cache, Selector& selector) {
  sizes const& s = in.size;
  auto output = filled<T, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, T(7)), all = output;
  selected_attention(in.query.view(), cache, selector, output.view());
  decode_attention(in.query.view(), cache, all.view());
  for (index_t b = 0; b < s.batches; ++b)
    for (index_t list = 0; list < selector.lists().heads(); ++list)
      EXPECT_EQ(selector.lists().size(b, list), cache.size(b));
  EXPECT_TRUE(near(output.elements, all.elements, tolerance<T>(largest_magnitude(in.value.elements))));
}

/// One key among random ones becomes a multiple of the query, as long as it must be to have 99% of the dense attention:
/// its logit is ln(keys) + 1/2 (what the others sum up to) + ln(99). The heads that share keys look for the same
/// needle, each with a little of its own. place(token) moves it.
template <class Place = std::identity>
index_t plant_needle(inputs<float>& in, unsigned seed, Place const& place = {}) {
  sizes const& s = in.size;
  index_t const group = s.query_heads / s.key_heads;
  index_t const needle = place(static_cast<index_t>(std::mt19937(seed)() % static_cast<unsigned>(s.keys)));
  for (index_t h = 0; h < s.query_heads; ++h) {
    float* const query = &in.query.view()(0, h, 0, 0);
    float const* const shared = &in.query.view()(0, h / group * group, 0, 0);
    if (h % group == 0) {
      double const square = std::inner_product(query, query + s.key_dimension, query, 0.0);
      double const logit = std::log(static_cast<double>(s.keys)) + 0.5 + std::log(99.0);
      auto const times = static_cast<float>(logit * std::sqrt(static_cast<double>(s.key_dimension)) / square);
      for (index_t c = 0; c < s.key_dimension; ++c) in.key.view()(0, h / group, needle, c) = times * query[c];
      continue;
    }
    for (index_t c = 0; c < s.key_dimension; ++c) query[c] = shared[c] + 0.3f * query[c];
  }
  return needle;
}

/// Whether all lists of the first sequence have a token.
inline bool lists_have(token_lists const& lists, index_t token) {
  bool all = true;
  for (index_t list = 0; list < lists.heads(); ++list) {
    auto const tokens = lists(0, list);
    all = all && std::binary_search(tokens.begin(), tokens.end(), static_cast<std::int32_t>(token));
  }
  return all;
}

/// The share of trials in which a planted needle is in all lists of the selector that make() or make(inputs) gives.
template <class Make, class Place = std::identity>
double needles_found(sizes const& s, int trials, Make const& make, Place const& place = {}) {
  int found = 0;
  for (int trial = 0; trial < trials; ++trial) {
    auto in = random_inputs<float>(s, static_cast<unsigned>(trial));
    index_t const needle = plant_needle(in, static_cast<unsigned>(trial), place);
    auto const cache = filled_cache<float>(in);
    auto selector = [&] {
      if constexpr (std::is_invocable_v<Make const&, inputs<float> const&>)
        return make(in);
      else
        return make();
    }();
    if constexpr (requires { selector.update(cache); }) selector.update(cache);
    serial alone;
    selector.select(std::as_const(in.query).view(), cache, alone);
    found += lists_have(selector.lists(), needle);
  }
  return static_cast<double>(found) / trials;
}

}  // namespace attend::test
