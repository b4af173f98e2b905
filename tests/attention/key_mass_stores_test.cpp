// SPDX-License-Identifier: BSD-3-Clause
// Weights added up for the keys of stores: in pages, in fewer bits, and where some were dropped.
#include <attend/cache/evicting.hpp>
#include <attend/cache/paged.hpp>
#include <attend/cache/rolling.hpp>

#include "support/cached_tokens.hpp"
#include "support/executors.hpp"
#include "support/stores.hpp"

namespace attend::test {
namespace {

sizes const size{.batches = 2,
                 .query_heads = 6,
                 .key_heads = 2,
                 .value_heads = 2,
                 .queries = 150,
                 .keys = 400,
                 .key_dimension = 12,
                 .value_dimension = 5};

/// The masses of a store's keys are those of softmax attention to the rows that it has.
template <class Cache>
void expect_masses(Cache const& cache, inputs<float> const& in, char const* what) {
  auto output = filled<float, 4>({2, 6, 150, 5}, 7);
  for (index_t heads : {6, 2, 1}) {
    auto mass = filled<float, 3>({2, heads, 400}, 7), again = mass;
    softmax_attention(in.query.view(), cache, output.view(), causal{}, key_mass(mass.view(), query_range{20, 130}));
    softmax_attention(in.query.view(), cache, output.view(), causal{}, key_mass(again.view(), query_range{20, 130}),
                      threads{3});
    EXPECT_TRUE(same_bits(mass.elements, again.elements)) << what;
    std::vector<double> expected(mass.elements.size(), 0.0);
    for (index_t b = 0; b < 2; ++b)
      for (index_t h = 0; h < 6; ++h) {
        auto const rows = stored_rows(cache, b, h / 3);
        for (index_t i = 20; i < 130; ++i) {
          std::vector<double> p;
          double sum = 0;
          for (auto const& row : rows) {
            double s = 0;
            for (index_t c = 0; c < 12; ++c)
              s += static_cast<double>(in.query.view()(b, h, i, c)) * row.key[static_cast<std::size_t>(c)];
            p.push_back(row.position <= i + 250 ? std::exp(s / std::sqrt(12.)) : 0);
            sum += p.back();
          }
          for (std::size_t r = 0; r < rows.size(); ++r)
            expected[static_cast<std::size_t>((b * heads + h * heads / 6) * 400 + rows[r].position)] += p[r] / sum;
        }
      }
    EXPECT_TRUE(near(mass.elements, expected, tolerance<float>(largest_magnitude(expected)))) << what << ' ' << heads;
  }
}

TEST(KeyMassOfStores, IsThatOfTheirRows) {
  auto const in = random_inputs<float>(size, 1);
  cache_shape const shape = shape_of(size);
  paged_cache<float> pages(shape, {.pages = 60, .page_tokens = 16});
  contiguous_cache<std::int8_t> rounded(shape, 400);
  rolling_cache<float> window(shape, {4, 300}, 200);
  evicting_cache<float> chosen(shape, {.pages = 200, .page_tokens = 16});
  auto const append = [&](auto& cache) {
    for (index_t first = 0; first < 400; first += 200)
      cache.append(tokens_of(in.key, first, 200), tokens_of(in.value, first, 200));
  };
  append(pages), append(rounded), append(window), append(chosen);
  expect_masses(pages, in, "pages");
  expect_masses(rounded, in, "eight bits");
  expect_masses(window, in, "a window");
  expect_masses(chosen, in, "chosen rows");
}

}  // namespace
}  // namespace attend::test
