// SPDX-License-Identifier: BSD-3-Clause
// Gains and biases of segments of keys, and what Found-in-the-middle and parallel context encoding make of them.
#include <attend/attention/softmax/segment_calibration.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/segment_gain.hpp>

#include <random>

#include "support/argument_errors.hpp"

namespace attend::test {
namespace {

using systems::best_segments;
using systems::calibrated_gains;

/// Ascending ranges with gaps and empty ones; the last may end behind the keys.
std::vector<key_range> random_ranges(std::mt19937& engine, index_t count, index_t keys) {
  std::vector<index_t> ends;
  for (index_t i = 0; i < 2 * count; ++i) ends.push_back(std::uniform_int_distribution<index_t>(0, keys + 3)(engine));
  std::sort(ends.begin(), ends.end());
  std::vector<key_range> ranges;
  for (std::size_t i = 0; i < ends.size(); i += 2) ranges.push_back({ends[i], ends[i + 1]});
  return ranges;
}

index_t segment_of(std::vector<key_range> const& ranges, index_t first, index_t count, index_t key) {
  for (index_t s = 0; s < count; ++s)
    if (ranges[static_cast<std::size_t>(first + s)].contains(key)) return s;
  return -1;
}

template <class T>
void expect_segments(unsigned first_seed, int trials) {
  for (unsigned seed = first_seed; seed < first_seed + static_cast<unsigned>(trials); ++seed) {
    std::mt19937 engine(seed);
    auto const from_to = [&](index_t a, index_t b) { return std::uniform_int_distribution<index_t>(a, b)(engine); };
    index_t const queries = seed % 4 == 0 ? from_to(1, 3) : from_to(1, 90), keys = from_to(1, 300);
    sizes const s{from_to(1, 2), 4, 2, 2, queries, keys, 8, 5};
    auto const in = random_inputs<T>(s, seed);
    index_t const segments = from_to(0, 12), lists = from_to(0, 1) == 0 ? 1 : s.batches;
    std::vector<key_range> ranges;
    for (index_t i = 0; i < lists; ++i)
      for (key_range const& range : random_ranges(engine, segments, keys)) ranges.push_back(range);
    auto const shared = [&](index_t extent) { return from_to(0, 2) == 0 ? 1 : extent; };
    auto numbers = normal<T, 4>({shared(s.batches), shared(4), shared(queries), segments}, seed + 1);
    auto const number = [&](reference::place const& at, double outside) {
      index_t const segment = segment_of(ranges, lists == 1 ? 0 : at.batch * segments, segments, at.key);
      if (segment < 0) return outside;
      auto const& extents = numbers.extents;
      return static_cast<double>(numbers.view()(extents[0] == 1 ? 0 : at.batch, extents[1] == 1 ? 0 : at.head,
                                                extents[2] == 1 ? 0 : at.query, segment));
    };
    reference::options with;
    with.visible = reference::causal_bottom_right();
    auto const plain = reference::softmax_attention<T>(in.query.view(), in.key.view(), in.value.view(), with);
    std::vector<double> gained(plain.output.size(), 0.0);
    double largest = 1;
    for (index_t b = 0; b < s.batches; ++b)
      for (index_t h = 0; h < 4; ++h)
        for (index_t i = 0; i < queries; ++i)
          for (index_t j = 0; j < keys; ++j) {
            reference::place const at{b, h, i, j, queries, keys};
            double const gain = number(at, 1);
            largest = std::max(largest, std::abs(gain));
            for (index_t c = 0; c < 5; ++c)
              gained[static_cast<std::size_t>(((b * 4 + h) * queries + i) * 5 + c)] +=
                  plain.weights[static_cast<std::size_t>(((b * 4 + h) * queries + i) * keys + j)] * gain *
                  static_cast<double>(in.value.view()(b, h / 2, j, c));
          }
    auto out = filled<T, 4>({s.batches, 4, queries, 5}, T(7));
    std::span<key_range const> const list(ranges);
    softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), causal{},
                      segment_gain(list, numbers.view()));
    EXPECT_TRUE(near(out.elements, gained, tolerance<T>(largest * largest_magnitude(in.value.elements))))
        << "seed " << seed;

    for (T& x : numbers.elements)
      if (from_to(0, 3) == 0) x = -infinity<T>;
    with.scores = {[&](double x, reference::place const& at) { return x + number(at, 0); }};
    auto const biased = reference::softmax_attention<T>(in.query.view(), in.key.view(), in.value.view(), with);
    softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), causal{},
                      segment_bias(list, numbers.view()));
    EXPECT_TRUE(near(out.elements, biased.output, tolerance<T>(largest_magnitude(in.value.elements))))
        << "seed " << seed;
  }
}

TEST(Segments, HaveGainsAndBiases) {
  expect_segments<float>(1, 60);
  expect_segments<double>(1000, 30);
}

/// The masses of segments by definition.
tensor<float, 4> masses_of(reference::result const& r, std::vector<key_range> const& ranges) {
  auto masses = filled<float, 4>({r.batches, r.heads, r.queries, std::ssize(ranges)}, 0);
  for (index_t b = 0; b < r.batches; ++b)
    for (index_t h = 0; h < r.heads; ++h)
      for (index_t i = 0; i < r.queries; ++i)
        for (index_t s = 0; s < std::ssize(ranges); ++s) {
          double sum = 0;
          for (index_t j = ranges[static_cast<std::size_t>(s)].first; j < ranges[static_cast<std::size_t>(s)].last; ++j)
            sum += r.weights[static_cast<std::size_t>(((b * r.heads + h) * r.queries + i) * r.keys + j)];
          masses.view()(b, h, i, s) = static_cast<float>(sum);
        }
  return masses;
}

// w <- w * softmax_k((mass - dummy) / t)_k * (sum of masses) / mass_k.
TEST(FoundInTheMiddle, RescalesDocumentsAndKeepsTheirWeight) {
  auto const in = random_inputs<float>({2, 4, 2, 2, 20, 60, 8, 5}, 1);
  std::vector<key_range> const documents{{5, 20}, {20, 33}, {35, 50}, {50, 50}};
  auto const r = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view());
  auto const mass = masses_of(r, documents);
  auto told = mass;
  auto out = filled<float, 4>({2, 4, 20, 5}, 7);
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(),
                    range_mass(std::span<key_range const>(documents), told.view()));
  EXPECT_TRUE(near(told.elements, mass.elements, tolerance<float>(1)));
  auto dummy = normal<float, 4>(mass.extents, 3, 0.2), gains = mass;
  double const t = 0.3;
  calibrated_gains(mass.view(), dummy.view(), t, gains.view());
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(),
                    segment_gain(std::span<key_range const>(documents), gains.view()));
  std::vector<double> expected;
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 4; ++h)
      for (index_t i = 0; i < 20; ++i) {
        double share[3], sum = 0, all = 0, kept = 0;
        for (int s = 0; s < 3; ++s) {
          share[s] = std::exp(
              (static_cast<double>(mass.view()(b, h, i, s)) - static_cast<double>(dummy.view()(b, h, i, s))) / t);
          sum += share[s];
          all += static_cast<double>(mass.view()(b, h, i, s));
        }
        std::vector<double> row(5, 0.0);
        for (index_t j = 0; j < 60; ++j) {
          index_t const s = segment_of(documents, 0, 4, j);
          double p = r.weights[static_cast<std::size_t>(((b * 4 + h) * 20 + i) * 60 + j)];
          if (s >= 0) p *= share[s] / sum * all / static_cast<double>(mass.view()(b, h, i, s)), kept += p;
          for (index_t c = 0; c < 5; ++c)
            row[static_cast<std::size_t>(c)] += p * static_cast<double>(in.value.view()(b, h / 2, j, c));
        }
        EXPECT_NEAR(kept, all, 1e-5);
        EXPECT_EQ(gains.view()(b, h, i, 3), 1);
        expected.insert(expected.end(), row.begin(), row.end());
      }
  EXPECT_TRUE(near(out.elements, expected, 4 * tolerance<float>(largest_magnitude(in.value.elements))));
}

// A dummy that gets what the document gets says nothing: all documents then have the same weight.
TEST(FoundInTheMiddle, WithoutDifferencesGivesEqualShares) {
  auto const mass = filled<float, 4>({1, 1, 1, 4}, 0.125f);
  auto gains = mass;
  calibrated_gains(mass.view(), mass.view(), 1., gains.view());
  EXPECT_EQ(gains.elements, std::vector<float>(4, 1.f));
}

TEST(BestSegments, AreTheOnlyOnesSeen) {
  auto const in = random_inputs<float>({1, 4, 2, 2, 30, 64, 8, 5}, 2);
  std::vector<key_range> const pieces{{4, 20}, {20, 34}, {34, 44}, {44, 58}};
  auto const r = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view());
  auto const mass = masses_of(r, pieces);
  auto biases = mass;
  best_segments(mass.view(), 2, biases.view());
  reference::options with;
  with.visible = [&](reference::place const& at) {
    index_t const s = segment_of(pieces, 0, 4, at.key);
    if (s < 0) return true;  // sinks before the pieces, and own tokens behind them
    int larger = 0;
    for (index_t other = 0; other < 4; ++other)
      larger += mass.view()(at.batch, at.head, at.query, other) > mass.view()(at.batch, at.head, at.query, s);
    return larger < 2;
  };
  auto const expected = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), with);
  auto out = filled<float, 4>({1, 4, 30, 5}, 7);
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(),
                    segment_bias(std::span<key_range const>(pieces), biases.view()));
  EXPECT_TRUE(near(out.elements, expected.output, tolerance<float>(largest_magnitude(in.value.elements))));

  // Equal scores: the first; none where nothing is to be chosen.
  tensor<float, 4> scores{{1, 1, 1, 4}, {1, 2, 2, -infinity<float>}}, chosen = scores;
  float const no = -infinity<float>;
  best_segments(scores.view(), 1, chosen.view());
  EXPECT_EQ(chosen.elements, (std::vector<float>{no, 0, no, no}));
  best_segments(scores.view(), 9, chosen.view());
  EXPECT_EQ(chosen.elements, (std::vector<float>{0, 0, 0, no}));
  best_segments(scores.view(), 0, chosen.view());
  EXPECT_EQ(chosen.elements, (std::vector<float>{no, no, no, no}));
}

using SegmentErrors = argument_errors;

TEST_F(SegmentErrors, AreFound) {
  std::vector<key_range> const two{{0, 4}, {4, 9}}, crossing{{0, 5}, {4, 9}};
  std::span<key_range const> const good(two);
  auto const numbers = filled<float, 4>({2, 6, 5, 2}, 1), three = filled<float, 4>({1, 1, 1, 3}, 1);
  auto const short_rows = filled<float, 4>({2, 6, 4, 2}, 1);
  expect_option_error("segment_gain: expected 3 or 6 ranges of keys, got 2", segment_gain(good, three.view()));
  expect_option_error("segment_bias: expected 3 or 6 ranges of keys, got 2", segment_bias(good, three.view()));
  expect_option_error(
      "segment_gain: expected shape [2, 6, 5] (batch, query head, query) with 1 for an axis that is shared, then "
      "segments, got [2, 6, 4, 2]",
      segment_gain(good, short_rows.view()));
  expect_option_error("segment_gain: expected ascending ranges of keys that do not overlap, got 4 to 9 at 1",
                      segment_gain(std::span<key_range const>(crossing), numbers.view()));
  auto gains = filled<float, 4>({2, 6, 5, 2}, 7);
  expect_error("temperature: expected above 0, got 0",
               [&] { calibrated_gains(numbers.view(), numbers.view(), 0, gains.view()); });
  expect_error("baseline: expected tokens 5 (as mass), got 4",
               [&] { calibrated_gains(numbers.view(), short_rows.view(), 1, gains.view()); });
  expect_error("count: expected at least 0 segments, got -1", [&] { best_segments(numbers.view(), -1, gains.view()); });
  EXPECT_EQ(gains.elements, std::vector<float>(120, 7.f));
}

}  // namespace
}  // namespace attend::test
