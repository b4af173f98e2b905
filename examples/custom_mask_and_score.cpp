// SPDX-License-Identifier: BSD-3-Clause
// Masks and scores of one's own: two lambdas, a mask that is a type and so jumps over what it hides, and a score that
// is one and checks its numbers.
//
//   a mask lambda    sees the last 16 tokens, and every eighth one of the last 128
//   a score lambda   adds T5's relative bias, which a table for each head has by distance
//   a mask type      sees its own chunk of tokens and the one before, up to itself
//   a score type     takes off a slope of the head times the distance
//
// The same rules as plain functions of two numbers, in a plain loop in double, give the same outputs.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/functions.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/predicate.hpp>
#include <attend/policy/output.hpp>
#include <attend/policy/score/score.hpp>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <random>
#include <vector>

namespace {

using attend::index_t;

constexpr index_t heads = 4, tokens = 400, dimension = 32;

/// A query sees the keys of its own chunk and of the one before, up to its own position.
struct recent_chunks {
  using option_kind = attend::option::mask;
  index_t chunk;

  void check(attend::extend::problem_shape const&) const {
    if (chunk < 1) attend::extend::fail("recent_chunks", "expected at least 1 token, got ", chunk);
  }
  // The first key that the query at a position sees.
  index_t first_key(index_t position) const { return std::max<index_t>(position / chunk - 1, 0) * chunk; }

  // Nobody in the tile sees a key outside of these.
  template <class T>
  attend::extend::key_range bounds(attend::extend::tile_rows<T> const& rows) const {
    return {first_key(rows.first_position), rows.last_position + 1};
  }
  // `none` and `all` must be true; `some` costs the masking code.
  template <class T>
  attend::extend::visibility classify(attend::extend::tile_rows<T> const& rows, attend::extend::key_range range) const {
    if (attend::extend::intersection(bounds(rows), range).empty()) return attend::extend::visibility::none;
    bool const all = range.first >= first_key(rows.last_position) && range.last <= rows.first_position + 1;
    return all ? attend::extend::visibility::all : attend::extend::visibility::some;
  }
  // A truth for each lane: queries side by side.
  template <class T>
  auto visible(attend::extend::mask_place<T> const& at) const {
    return at.key_position / chunk >= at.query_position / chunk - 1 && at.key_position <= at.query_position;
  }
};

/// Takes a slope of the query's head, times the distance in tokens, off each logit.
struct falling {
  using option_kind = attend::option::score;
  static constexpr bool may_hide = false;  // finite logits stay finite
  std::vector<float> slopes;

  // Once for each call, before anything is written.
  void check(attend::extend::problem_shape const& shape) const {
    auto const given = static_cast<index_t>(slopes.size());
    if (given != shape.query_heads)
      attend::extend::fail("falling", "expected ", shape.query_heads, " slopes (as query heads), got ", given);
  }
  // Once for a tile of queries and a block of keys: a number for each lane, which holds for all of these keys.
  template <class T>
  auto bind(attend::extend::tile_rows<T> const& rows, attend::extend::key_range) const {
    auto const of_lane = [&](int lane) { return slopes[static_cast<std::size_t>(rows.head[lane])]; };
    return [slope = attend::extend::lane_values<T>(of_lane)](auto const& s, attend::extend::score_place<T> const& at) {
      return s - slope.at(at.lane) * attend::extend::abs(at.query_position - at.key_position);
    };
  }
};

constexpr index_t numbers = heads * tokens * dimension;
std::vector<float> q(numbers), k(numbers), v(numbers), o(numbers);

attend::tensor_view<float, 3> tensor(std::vector<float>& buffer) { return {buffer.data(), {heads, tokens, dimension}}; }

/// The largest difference of the output from what sees(query, key) and bias(head, query, key) say.
template <class Sees, class Bias>
double difference(Sees const& sees, Bias const& bias) {
  auto const query = tensor(q), key = tensor(k), value = tensor(v), output = tensor(o);
  double largest = 0;
  for (index_t h = 0; h < heads; ++h)
    for (index_t i = 0; i < tokens; ++i) {
      double sum = 0, sums[dimension] = {};
      for (index_t j = 0; j < tokens; ++j) {
        if (!sees(i, j)) continue;
        double logit = 0;
        for (index_t c = 0; c < dimension; ++c) logit += double{query(h, i, c)} * double{key(h, j, c)};
        double const weight = std::exp(logit / std::sqrt(double{dimension}) + bias(h, i, j));
        sum += weight;
        for (index_t c = 0; c < dimension; ++c) sums[c] += weight * double{value(h, j, c)};
      }
      for (index_t c = 0; c < dimension; ++c)
        largest = std::max(largest, std::abs(sums[c] / sum - double{output(h, i, c)}));
    }
  return largest;
}

/// T5's bucket of a distance to the past, of 32: one each below 16, logarithmic up to 128.
index_t bucket(index_t distance) {
  if (distance < 16) return distance;
  double const beyond = std::log(static_cast<double>(distance) / 16) / std::log(128. / 16) * 16;
  return std::min<index_t>(16 + static_cast<index_t>(beyond), 31);
}

}  // namespace

int main() {
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  for (auto* buffer : {&q, &k, &v})
    for (float& number : *buffer) number = normal(engine);
  auto const no_bias = [](index_t, index_t, index_t) { return 0.; };
  bool good = true;
  auto const report = [&](char const* what, double error) {
    std::cout << what << ": differs from a plain loop by at most " << error << '\n';
    good = good && error < 1e-5;
  };

  // One lambda for the kernel, which calls it with vectors of positions, and for the loop, which calls it with numbers.
  auto const dilated = [](auto query, auto key) {
    auto const distance = query - key;
    return distance >= 0 && (distance < 16 || (distance % 8 == 0 && distance < 128));
  };
  attend::softmax_attention(tensor(q), tensor(k), tensor(v), tensor(o), attend::mask(dilated));
  report("mask lambda", difference(dilated, no_bias));

  // The table is filled once; distances past its end take its last entry.
  index_t const distances = 129;
  std::vector<float> learned(heads * 32), table(heads * distances);
  for (float& number : learned) number = normal(engine);
  attend::tensor_view const by_distance(table.data(), {heads, distances});
  for (index_t h = 0; h < heads; ++h)
    for (index_t d = 0; d < distances; ++d) by_distance(h, d) = learned[static_cast<std::size_t>(h * 32 + bucket(d))];
  auto const relative = attend::score([&](auto s, auto const& at) {
    return s + attend::extend::lookup(by_distance, at.head(), at.query_position - at.key_position);
  });
  attend::softmax_attention(tensor(q), tensor(k), tensor(v), tensor(o), attend::causal{}, relative);
  report("score lambda", difference([](index_t i, index_t j) { return j <= i; },
                                    [&](index_t h, index_t i, index_t j) {
                                      return double{learned[static_cast<std::size_t>(h * 32 + bucket(i - j))]};
                                    }));

  attend::options::tile_counts counts;
  attend::softmax_attention(tensor(q), tensor(k), tensor(v), tensor(o), recent_chunks{32},
                            attend::options::count_tiles{counts});
  report("mask type", difference([](index_t i, index_t j) { return j / 32 >= i / 32 - 1 && j <= i; }, no_bias));

  falling const slopes{{0.5f, 0.25f, 0.125f, 0.0625f}};
  attend::softmax_attention(tensor(q), tensor(k), tensor(v), tensor(o), slopes);
  report("score type", difference([](index_t, index_t) { return true; },
                                  [&](index_t h, index_t i, index_t j) {
                                    return -double{slopes.slopes[static_cast<std::size_t>(h)]} *
                                           std::abs(static_cast<double>(i - j));
                                  }));

  index_t const pairs = heads * tokens * tokens;
  std::cout << "pairs computed: " << counts.pairs << " of " << pairs << '\n';
  return good && counts.pairs < pairs / 4 ? 0 : 1;
}
