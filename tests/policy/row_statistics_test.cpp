// SPDX-License-Identifier: BSD-3-Clause
// Statistics of rows: what they are by definition, over caches and packed sequences too, for any number of threads and
// any batch, and what is refused.
#include <attend/attention/cached/cached_attention.hpp>
#include <attend/cache/evicting.hpp>
#include <attend/cache/paged.hpp>
#include <attend/cache/rolling.hpp>
#include <attend/call/kept_plan.hpp>
#include <attend/policy/gain.hpp>
#include <attend/policy/mask/window.hpp>
#include <attend/policy/normalizer/sigmoid.hpp>
#include <attend/policy/normalizer/sinks.hpp>
#include <attend/policy/weight_function.hpp>

#include "support/expect_error.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace caches;
using namespace options;
using namespace extend;

namespace {

/// Statistics of so many rows, and what the options that ask for them are.
template <class A>
struct statistics {
  std::vector<key_range> ranges;
  test::tensor<A, 3> of_entropy;
  test::tensor<A, 4> masses, heaviest, maxima;
  test::tensor<std::int32_t, 4> keys;
  block_extents block;

  statistics(test::sizes const& s, std::vector<key_range> of_keys, index_t kept = 3, block_extents of_block = {16, 32},
             index_t in_row = -1)
      : ranges(std::move(of_keys)),
        of_entropy(test::filled<A, 3>({s.batches, s.query_heads, s.queries}, A(7))),
        masses(test::filled<A, 4>(
            {s.batches, s.query_heads, s.queries, in_row < 0 ? static_cast<index_t>(ranges.size()) : in_row}, A(7))),
        heaviest(test::filled<A, 4>({s.batches, s.query_heads, s.queries, kept}, A(7))),
        maxima(test::filled<A, 4>(
            {s.batches, s.query_heads, divide_up(s.queries, of_block.queries), divide_up(s.keys, of_block.keys)},
            A(7))),
        keys(test::filled<std::int32_t, 4>({s.batches, s.query_heads, s.queries, kept}, 7)),
        block(of_block) {}

  auto all() {
    return std::tuple(range_mass(ranges, masses.view()), heaviest_keys(keys.view(), heaviest.view()),
                      entropy(of_entropy.view()));
  }
};

template <class A>
bool same(statistics<A> const& a, statistics<A> const& b) {
  return test::same_bits(a.of_entropy.elements, b.of_entropy.elements) &&
         test::same_bits(a.masses.elements, b.masses.elements) &&
         test::same_bits(a.heaviest.elements, b.heaviest.elements) &&
         test::same_bits(a.keys.elements, b.keys.elements) && test::same_bits(a.maxima.elements, b.maxima.elements);
}

/// Calls with the options that ask for the statistics, and more.
template <class A, class Call, class... More>
void ask(statistics<A>& to, Call const& call, More const&... more) {
  std::apply([&](auto const&... options) { call(options..., more...); }, to.all());
}

/// Holds statistics against weights in double, [row][key] of all rows.
template <class A>
void expect_statistics(statistics<A> const& got, std::vector<double> const& weights, index_t keys, double bound) {
  index_t const rows = static_cast<index_t>(weights.size()) / keys, kept = got.keys.extents[3],
                ranges = got.masses.extents[3];
  for (index_t row = 0; row < rows; ++row) {
    double const* const p = weights.data() + row * keys;
    double entropy = 0;
    for (index_t j = 0; j < keys; ++j)
      if (p[j] > 0) entropy -= p[j] * std::log(p[j]);
    ASSERT_NEAR(static_cast<double>(got.of_entropy.elements[static_cast<std::size_t>(row)]), entropy, 10 * bound);
    for (index_t r = 0; r < ranges; ++r) {
      key_range const range = intersection(got.ranges[static_cast<std::size_t>(r)], {0, keys});
      double const mass = range.empty() ? 0 : std::accumulate(p + range.first, p + range.last, 0.0);
      ASSERT_NEAR(static_cast<double>(got.masses.elements[static_cast<std::size_t>(row * ranges + r)]), mass, bound);
    }
    std::vector<double> sorted(p, p + keys);
    std::sort(sorted.rbegin(), sorted.rend());
    for (index_t n = 0; n < std::min(kept, keys); ++n) {
      auto const at = static_cast<std::size_t>(row * kept + n);
      ASSERT_NEAR(static_cast<double>(got.heaviest.elements[at]), sorted[static_cast<std::size_t>(n)], bound);
      index_t const key = got.keys.elements[at];
      ASSERT_NEAR(key < 0 ? 0 : p[key], sorted[static_cast<std::size_t>(n)], bound);
    }
  }
}

test::sizes const grouped{.batches = 2,
                          .query_heads = 6,
                          .key_heads = 3,
                          .value_heads = 1,
                          .queries = 37,
                          .keys = 141,
                          .key_dimension = 12,
                          .value_dimension = 20};
std::vector<key_range> const parts{{0, 20}, {20, 20}, {31, 100}, {100, 150}, {150, 160}};

template <class T>
class Statistics : public testing::Test {};
using Elements = testing::Types<float, half>;
TYPED_TEST_SUITE(Statistics, Elements);

// By the tiled engine, and a few queries by the split one.
TYPED_TEST(Statistics, AreThoseOfTheDefinition) {
  using A = accumulation_t<TypeParam>;
  for (index_t queries : {1, 37}) {
    test::sizes s = grouped;
    s.queries = queries;
    auto const in = test::random_inputs<TypeParam>(s, 1, 2);
    auto out = test::filled<TypeParam, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, TypeParam(7));
    statistics<A> got(s, parts);
    ask(
        got,
        [&](auto const&... options) {
          softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), causal{}, options...);
        },
        block_maxima(got.maxima.view(), got.block));
    reference::options with;
    with.visible = reference::causal_with_offset(s.keys - s.queries);
    auto const expected =
        reference::softmax_attention<TypeParam>(in.query.view(), in.key.view(), in.value.view(), with);
    // A weight has the error of its logit, whose terms are products of numbers of deviation 2.
    double const bound = test::tolerance<A>(20);
    expect_statistics(got, expected.weights, s.keys, bound);
    auto maxima = std::vector<double>(got.maxima.elements.size());
    for (index_t row = 0; row < s.batches * s.query_heads; ++row)
      for (index_t i = 0; i < queries; ++i)
        for (index_t j = 0; j < s.keys; ++j) {
          double& most = maxima[static_cast<std::size_t>(
              (row * got.maxima.extents[2] + i / got.block.queries) * got.maxima.extents[3] + j / got.block.keys)];
          most = std::max(most, expected.weights[static_cast<std::size_t>((row * queries + i) * s.keys + j)]);
        }
    EXPECT_TRUE(test::near(got.maxima.elements, maxima, bound));
  }
}

TEST(Statistics, OfOneVisibleKeyAndOfNone) {
  test::sizes const s{.queries = 3, .keys = 2};
  auto const in = test::random_inputs<float>(s, 1, 100);
  auto out = test::filled<float, 4>({1, 1, 3, 8}, 7);
  statistics<float> got(s, {{0, 1}, {1, 5}}, 2);
  // The first query sees nothing, the second key 0, the third both.
  ask(got, [&](auto const&... options) {
    softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), causal{}, options...);
  });
  EXPECT_EQ(got.of_entropy.elements[0], 0);
  EXPECT_EQ(got.of_entropy.elements[1], 0);
  EXPECT_EQ(got.keys.elements[0], -1);
  EXPECT_EQ(got.keys.elements[1], -1);
  EXPECT_EQ(got.keys.elements[2], 0);
  EXPECT_EQ(got.keys.elements[3], -1);
  EXPECT_EQ(got.heaviest.elements[1], 0);
  EXPECT_EQ(got.heaviest.elements[2], 1);
  EXPECT_EQ(got.masses.elements[0], 0);
  EXPECT_EQ(got.masses.elements[1], 0);
  EXPECT_EQ(got.masses.elements[2], 1);
  EXPECT_EQ(got.masses.elements[3], 0);
}

TEST(Statistics, OfEqualKeysNameTheFirst) {
  test::sizes const s{.queries = 5, .keys = 300};
  auto in = test::random_inputs<float>(s, 1);
  for (index_t j = 1; j < s.keys; ++j) std::copy_n(in.key.elements.data(), 8, in.key.elements.data() + j * 8);
  auto out = test::filled<float, 4>({1, 1, 5, 8}, 7);
  for (index_t kept : {1, 3}) {
    statistics<float> got(s, {{0, 75}, {75, 300}}, kept);
    ask(got, [&](auto const&... options) {
      softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), options...);
    });
    for (std::size_t i = 0; i < got.keys.elements.size(); ++i)
      EXPECT_EQ(got.keys.elements[i], static_cast<std::int32_t>(i) % kept);
    for (float const h : got.of_entropy.elements) EXPECT_NEAR(h, std::log(300.), 1e-4);
    EXPECT_NEAR(got.masses.elements[0], 0.25, 1e-5);
  }
}

// Logits that rise from key to key raise the maximum in each block, and large ones leave no digits to a logarithm of
// the sum; a list of heaviest keys is pushed down by each of them.
TEST(Statistics, OfLogitsThatRise) {
  test::sizes const s{.query_heads = 2, .queries = 50, .keys = 700, .key_dimension = 1, .value_dimension = 1};
  auto in = test::random_inputs<double>(s, 1);
  std::fill(in.query.elements.begin(), in.query.elements.end(), 1.0);
  for (index_t j = 0; j < s.keys; ++j)
    in.key.elements[static_cast<std::size_t>(j)] = 1000 + 0.05 * static_cast<double>(j);
  auto out = test::filled<double, 4>({1, 2, 50, 1}, 7);
  std::vector<key_range> tens;
  for (index_t i = 0; i < 700; i += 10) tens.push_back({i, i + 10});
  statistics<double> got(s, tens, 5);
  ask(got, [&](auto const&... options) {
    softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), causal{}, options...);
  });
  reference::options with;
  with.visible = reference::causal_with_offset(650);
  auto const expected = reference::softmax_attention<double>(in.query.view(), in.key.view(), in.value.view(), with);
  expect_statistics(got, expected.weights, s.keys, test::tolerance<double>(1100));
}

// In parts of the keys, of one task or of several, and by queries of several calls.
TEST(Statistics, DoNotDependOnThreadsOrBatch) {
  for (index_t queries : {2, 70})
    for (index_t keys : {500, 5000}) {
      test::sizes s{.batches = 3, .query_heads = 4, .key_heads = 2, .value_heads = 2, .queries = queries, .keys = keys};
      auto const in = test::random_inputs<float>(s, 5);
      auto const run = [&](test::inputs<float> const& of, auto const&... more) {
        statistics<float> got(of.size, {{0, 100}, {130, 131}, {131, 4000}});
        auto out = test::filled<float, 4>({of.size.batches, 4, queries, 8}, 7);
        ask(
            got,
            [&](auto const&... options) {
              softmax_attention(of.query.view(), of.key.view(), of.value.view(), out.view(), options...);
            },
            block_maxima(got.maxima.view(), got.block), causal{}, more...);
        return got;
      };
      auto const one = run(in, threads{1});
      for (int workers : {2, 5}) EXPECT_TRUE(same(one, run(in, threads{workers})));
      test::inputs<float> last = in;
      last.size.batches = 1;
      for (auto* rows : {&last.query, &last.key, &last.value}) {
        auto& elements = rows->elements;
        elements.erase(elements.begin(), elements.begin() + static_cast<std::ptrdiff_t>(elements.size() / 3 * 2));
        rows->extents[0] = 1;
      }
      auto const alone = run(last, threads{3});
      EXPECT_TRUE(
          std::equal(alone.masses.elements.rbegin(), alone.masses.elements.rend(), one.masses.elements.rbegin()));
      EXPECT_TRUE(std::equal(alone.keys.elements.rbegin(), alone.keys.elements.rend(), one.keys.elements.rbegin()));
      EXPECT_TRUE(
          std::equal(alone.maxima.elements.rbegin(), alone.maxima.elements.rend(), one.maxima.elements.rbegin()));
      EXPECT_TRUE(std::equal(alone.of_entropy.elements.rbegin(), alone.of_entropy.elements.rend(),
                             one.of_entropy.elements.rbegin()));
      auto const pairs = test::filled<float, 4>({3, 4, queries, keys}, 7);
      auto stored = pairs;
      attention_weights(in.query.view(), in.key.view(), stored.view(), causal{});
      expect_statistics(one, {stored.elements.begin(), stored.elements.end()}, keys, test::tolerance<float>(4));
    }
}

TEST(Statistics, OfPackedSequencesAreThoseOfEach) {
  std::vector<std::int64_t> const offsets{0, 40, 40, 97}, key_offsets{0, 90, 131, 200};
  test::sizes s{.query_heads = 2, .queries = 97, .keys = 200};
  auto const in = test::random_inputs<float>(s, 3);
  // Ranges for each of the three sequences.
  std::vector<key_range> const ranges{{0, 50}, {50, 90}, {0, 1}, {1, 2}, {10, 11}, {20, 60}};
  statistics<float> got(s, ranges, 3, {16, 32}, 2);
  auto out = test::filled<float, 4>({1, 2, 97, 8}, 7);
  ask(got, [&](auto const&... options) {
    softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), causal{},
                      ragged(offsets, key_offsets), options...);
  });
  for (std::size_t n : {std::size_t{0}, std::size_t{2}}) {
    index_t const queries = offsets[n + 1] - offsets[n], keys = key_offsets[n + 1] - key_offsets[n];
    auto const part = [](auto const& rows, index_t first, index_t count) {
      return detail::part(rows.view(), 2, first, count);
    };
    statistics<float> alone({.query_heads = 2, .queries = queries, .keys = keys}, {ranges[2 * n], ranges[2 * n + 1]});
    auto own = test::filled<float, 4>({1, 2, queries, 8}, 7);
    ask(alone, [&](auto const&... options) {
      softmax_attention(part(in.query, offsets[n], queries), part(in.key, key_offsets[n], keys),
                        part(in.value, key_offsets[n], keys), own.view(), causal{}, options...);
    });
    for (index_t h = 0; h < 2; ++h)
      for (index_t i = 0; i < queries; ++i) {
        EXPECT_EQ(alone.of_entropy.view()(0, h, i), got.of_entropy.view()(0, h, offsets[n] + i));
        for (index_t r = 0; r < 2; ++r)
          EXPECT_EQ(alone.masses.view()(0, h, i, r), got.masses.view()(0, h, offsets[n] + i, r));
        for (index_t r = 0; r < 3; ++r)
          EXPECT_EQ(alone.keys.view()(0, h, i, r), got.keys.view()(0, h, offsets[n] + i, r));
      }
  }
}

// A weight_function changes no weight that statistics tell of, and a head whose gate is 0 has none.
TEST(Statistics, OfTwoPassesAndClosedGates) {
  auto const in = test::random_inputs<float>(grouped, 1);
  auto out = test::filled<float, 4>({2, 6, 37, 20}, 7);
  statistics<float> plain(grouped, parts), twice(grouped, parts), gated(grouped, parts), scored(grouped, parts);
  auto const call = [&](auto const&... options) {
    softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), options...);
  };
  ask(plain, call, block_maxima(plain.maxima.view(), plain.block));
  ask(twice, call, block_maxima(twice.maxima.view(), twice.block),
      weight_function([](auto p, auto const&) { return p * p; }));
  EXPECT_TRUE(same(plain, twice));
  std::vector<float> const gates{1, 0, 1, 1, 1, 1};
  ask(gated, call, block_maxima(gated.maxima.view(), gated.block), head_gates(gates));
  for (index_t i = 0; i < 37; ++i) {
    EXPECT_EQ(gated.of_entropy.view()(1, 1, i), 0);
    EXPECT_EQ(gated.keys.view()(1, 1, i, 0), -1);
    EXPECT_EQ(gated.masses.view()(1, 1, i, 2), 0);
    EXPECT_EQ(gated.maxima.view()(1, 1, i / 16, 1), 0);
    EXPECT_EQ(gated.keys.view()(1, 2, i, 0), plain.keys.view()(1, 2, i, 0));
  }
}

/// Attention to a cache, in pieces, tells what attention over the whole sequence does.
template <class Cache>
void expect_cached(Cache& cache, auto const& mask, index_t piece) {
  test::sizes const s{.batches = 2, .query_heads = 4, .key_heads = 2, .value_heads = 2, .queries = 90, .keys = 90};
  auto const in = test::random_inputs<float>(s, 11);
  auto out = test::filled<float, 4>({2, 4, 90, 8}, 7);
  std::vector<key_range> const ranges{{0, 10}, {10, 47}, {60, 100}};
  statistics<float> whole(s, ranges), pieces(s, ranges);
  ask(whole, [&](auto const&... options) {
    softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), mask, options...);
  });
  for (index_t first = 0; first < 90; first += piece) {
    index_t const count = std::min<index_t>(piece, 90 - first);
    auto const part = [&](auto&& rows) { return detail::part(rows, 2, first, count); };
    cached_attention(cache, part(in.query.view()), part(in.key.view()), part(in.value.view()), part(out.view()),
                     range_mass(ranges, part(pieces.masses.view())), entropy(part(pieces.of_entropy.view())),
                     heaviest_keys(part(pieces.keys.view()), part(pieces.heaviest.view())));
  }
  EXPECT_TRUE(test::near(pieces.masses.elements, whole.masses.elements, test::tolerance<float>(4)));
  EXPECT_TRUE(test::near(pieces.of_entropy.elements, whole.of_entropy.elements, test::tolerance<float>(30)));
  EXPECT_TRUE(test::near(pieces.heaviest.elements, whole.heaviest.elements, test::tolerance<float>(4)));
  EXPECT_EQ(pieces.keys.elements, whole.keys.elements);
}

TEST(Statistics, OfCachesCountKeysByTheirPositions) {
  cache_shape const shape{.sequences = 2, .key_value_heads = 2, .key_dimension = 8, .value_dimension = 8};
  for (index_t piece : {1, 7, 90}) {
    contiguous_cache<float> contiguous(shape, 90);
    expect_cached(contiguous, causal{}, piece);
    paged_cache<float> paged(shape, {.pages = 40, .page_tokens = 8});
    expect_cached(paged, causal{}, piece);
    rolling_cache<float> rolling(shape, streaming{3, 20}, 16);
    expect_cached(rolling, streaming{3, 20}, piece);
  }
}

// A call whose queries come in chunks joins the maxima of a block of queries that two chunks share.
TEST(Statistics, OfBlocksThatChunksCut) {
  cache_shape const shape{.sequences = 1, .key_value_heads = 1, .key_dimension = 8, .value_dimension = 8};
  test::sizes const s{.queries = 90, .keys = 90};
  auto const in = test::random_inputs<float>(s, 2);
  auto out = test::filled<float, 4>({1, 1, 90, 8}, 7);
  statistics<float> whole(s, {}, 1, {40, 16}), chunks(s, {}, 1, {40, 16});
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), streaming{3, 20},
                    block_maxima(whole.maxima.view(), whole.block));
  rolling_cache<float> cache(shape, streaming{3, 20}, 16);
  cached_attention(cache, in.query.view(), in.key.view(), in.value.view(), out.view(),
                   block_maxima(chunks.maxima.view(), chunks.block));
  EXPECT_TRUE(test::near(chunks.maxima.elements, whole.maxima.elements, test::tolerance<float>(4)));
}

/// Holds statistics of decoding, call(options...), against the weights and logits that the same call stores.
void expect_decoded(test::sizes const& s, std::vector<key_range> const& ranges, auto const& call) {
  statistics<float> got(s, ranges, 4, {1, 24});
  auto pairs = test::filled<float, 4>({s.batches, s.query_heads, s.queries, s.keys}, 7), logit = pairs;
  call(weights(pairs.view()), logits(logit.view()));
  ask(got, call, block_maxima(got.maxima.view(), got.block));
  expect_statistics(got, {pairs.elements.begin(), pairs.elements.end()}, s.keys, test::tolerance<float>(1));
  for (index_t row = 0; row < s.batches * s.query_heads * s.queries; ++row) {
    float const *const p = pairs.elements.data() + row * s.keys, *const of_row = logit.elements.data() + row * s.keys;
    std::vector<std::int32_t> order(static_cast<std::size_t>(s.keys));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) { return of_row[a] > of_row[b]; });
    for (index_t n = 0; n < 4; ++n) {
      std::int32_t const key = order[static_cast<std::size_t>(n)];
      EXPECT_EQ(got.keys.elements[static_cast<std::size_t>(row * 4 + n)], of_row[key] == -infinity<float> ? -1 : key);
    }
    for (index_t block = 0; block < got.maxima.extents[3]; ++block)
      EXPECT_EQ(got.maxima.elements[static_cast<std::size_t>(row * got.maxima.extents[3] + block)],
                *std::max_element(p + block * 24, p + std::min(block * 24 + 24, s.keys)));
  }
}

// Parts of the keys that threads decode side by side, some of which have many ranges and others none.
TEST(Statistics, OfPartsOfManyKeys) {
  test::sizes const s{.query_heads = 6,
                      .key_heads = 2,
                      .value_heads = 1,
                      .queries = 2,
                      .keys = 12000,
                      .key_dimension = 64,
                      .value_dimension = 64};
  auto const in = test::random_inputs<float>(s, 21);
  auto out = test::filled<float, 4>({1, 6, 2, 64}, 7);
  std::vector<key_range> ranges;
  for (index_t i = 2000; i < 2600; i += 2) ranges.push_back({i, i + 1});
  ranges.push_back({3000, 11000});
  ranges.push_back({11000, 11000});
  ranges.push_back({11999, 12010});
  expect_decoded(s, ranges, [&](auto const&... options) {
    decode_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), causal{} & window{11500, 0},
                     threads{2}, options...);
  });
}

TEST(Statistics, OfStoresThatDropOrRoundKeys) {
  test::sizes const s{.query_heads = 4, .key_heads = 2, .value_heads = 2, .queries = 1, .keys = 300};
  cache_shape const shape{.sequences = 1, .key_value_heads = 2, .key_dimension = 8, .value_dimension = 8};
  auto const in = test::random_inputs<float>(s, 22);
  auto out = test::filled<float, 4>({1, 4, 1, 8}, 7);
  std::vector<key_range> const ranges{{0, 4}, {50, 51}, {60, 270}, {270, 300}};
  evicting_cache<float> evicting(shape, {.pages = 40, .page_tokens = 16});
  evicting.append(in.key.view(), in.value.view());
  std::vector<index_t> rows;
  for (index_t row = 5; row < 250; row += 1 + row % 3) rows.push_back(row);
  for (index_t head = 0; head < 2; ++head) evicting.evict(0, head, rows);
  expect_decoded(s, ranges,
                 [&](auto const&... options) { decode_attention(in.query.view(), evicting, out.view(), options...); });
  contiguous_cache<std::int8_t> bytes(shape, 300);
  bytes.append(in.key.view(), in.value.view());
  expect_decoded(s, ranges,
                 [&](auto const&... options) { decode_attention(in.query.view(), bytes, out.view(), options...); });
}

TEST(Statistics, OfPlansAreWrittenByEachRun) {
  auto const in = test::random_inputs<float>(grouped, 1);
  auto out = test::filled<float, 4>({2, 6, 37, 20}, 7);
  statistics<float> got(grouped, parts);
  auto planned = plan(in.query.view(), in.key.view(), in.value.view(), out.view(), entropy(got.of_entropy.view()),
                      block_maxima(got.maxima.view(), got.block));
  planned.run();
  auto const first = got;
  std::fill(got.maxima.elements.begin(), got.maxima.elements.end(), 2.f);
  std::fill(got.of_entropy.elements.begin(), got.of_entropy.elements.end(), 2.f);
  planned.run();
  EXPECT_TRUE(same(first, got));
}

TEST(Statistics, RefuseWhatDoesNotFit) {
  auto const in = test::random_inputs<float>(grouped, 1);
  auto out = test::filled<float, 4>({2, 6, 37, 20}, 7);
  auto const call = [&](auto const&... options) {
    softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), options...);
  };
  auto const refuses = [](auto const& refused, std::string const& message) { test::expect_error(message, refused); };
  auto masses = test::filled<float, 4>({2, 6, 37, 2}, 7), weights = masses;
  auto keys = test::filled<std::int32_t, 4>({2, 6, 37, 2}, 7);
  auto rows = test::filled<float, 3>({2, 6, 37}, 7);
  std::vector<key_range> const two{{0, 4}, {4, 9}}, overlapping{{0, 4}, {3, 9}}, falling{{0, 4}, {9, 8}}, three(3),
      before{{-1, 4}, {4, 9}};
  refuses([&] { call(range_mass(three, masses.view())); },
          "range_mass (ranges): expected 2 ranges (as the tensor), or as many for each of 2 sequences, got 3");
  refuses([&] { call(range_mass(overlapping, masses.view())); },
          "range_mass (ranges): expected ascending ranges that do not overlap, got [3, 9] behind 4 at 1");
  refuses([&] { call(range_mass(falling, masses.view())); },
          "range_mass (ranges): expected ascending ranges that do not overlap, got [9, 8] behind 4 at 1");
  refuses([&] { call(range_mass(before, masses.view())); },
          "range_mass (ranges): expected ascending ranges that do not overlap, got [-1, 4] behind 0 at 0");
  auto wrong = test::filled<float, 4>({2, 6, 36, 2}, 7);
  refuses([&] { call(range_mass(two, wrong.view())); }, "range_mass: expected queries 37 (as query), got 36");
  refuses([&] { call(heaviest_keys(keys.view(), wrong.view())); },
          "heaviest_keys (weights): expected queries 37 (as query), got 36");
  auto one = test::filled<float, 4>({2, 6, 37, 1}, 7);
  refuses([&] { call(heaviest_keys(keys.view(), one.view())); },
          "heaviest_keys (weights): expected numbers of a row 2 (as keys), got 1");
  auto heads = test::filled<float, 3>({2, 5, 37}, 7);
  refuses([&] { call(entropy(heads.view())); }, "entropy: expected heads 6 (as query), got 5");
  auto maxima = test::filled<float, 4>({2, 6, 3, 5}, 7);
  refuses([&] { call(block_maxima(maxima.view(), {.queries = 16, .keys = 16})); },
          "block_maxima: expected blocks of keys 9 (as key), got 5");
  refuses([&] { call(block_maxima(maxima.view(), {.queries = 10, .keys = 32})); },
          "block_maxima: expected blocks of queries 4 (as query), got 3");
  refuses([&] { call(block_maxima(maxima.view(), {.queries = 0, .keys = 32})); },
          "block_maxima: expected blocks of at least 1 query and 1 key, got 0 and 32");
  refuses([&] { call(range_mass(two, masses.view()), heaviest_keys(keys.view(), masses.view())); },
          "heaviest_keys (weights): expected memory of its own, got memory that overlaps range_mass");
  refuses([&] { call(entropy(tensor_view<float, 3>(out.elements.data(), {2, 6, 37}))); },
          "entropy: expected memory of its own, got memory that overlaps output");
  std::vector<std::int64_t> const offsets{0, 30, 37}, key_offsets{0, 30, 141};
  auto const single = test::random_inputs<float>({.queries = 37, .keys = 141}, 1);
  auto single_out = test::filled<float, 4>({1, 1, 37, 8}, 7), single_maxima = test::filled<float, 4>({1, 1, 3, 5}, 7);
  refuses(
      [&] {
        softmax_attention(single.query.view(), single.key.view(), single.value.view(), single_out.view(),
                          ragged(offsets, key_offsets), block_maxima(single_maxima.view(), {16, 32}));
      },
      "block_maxima: expected sequences that are not packed, got ragged");
  for (float const x : out.elements) ASSERT_EQ(x, 7);
  for (float const x : masses.elements) ASSERT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
