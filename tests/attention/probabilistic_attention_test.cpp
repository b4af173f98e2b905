// SPDX-License-Identifier: BSD-3-Clause
// Mixtures of Gaussians as attention, and their updates, against the formulas in double.
#include <attend/attention/softmax/probabilistic_attention.hpp>
#include <attend/policy/mask/causal.hpp>

#include <random>

#include "support/argument_errors.hpp"
#include "support/executors.hpp"

namespace attend::test {
namespace {

using namespace systems;

/// A mixture in double, and what is known of it.
struct plain_mixture {
  index_t batches, heads, key_heads, queries, keys, dimension, columns;
  std::vector<double> query, zeta, mu, alpha, beta, log_prior, value, known;
  bool magnitude = false;

  std::size_t at(index_t b, index_t heads_of, index_t h, index_t tokens, index_t t, index_t width, index_t c) const {
    return static_cast<std::size_t>(((b * heads_of + h) * tokens + t) * width + c);
  }

  /// p_ij of all keys of a row.
  std::vector<double> row(index_t b, index_t h, index_t i) const {
    index_t const k = h / (heads / key_heads);
    std::vector<double> p;
    double most = -1e300, sum = 0;
    double const m = known.empty() ? 0 : known[at(b, heads, h, queries, i, 1, 0)];
    for (index_t j = 0; j < keys; ++j) {
      double distance = 0, value_distance = 0, size = 0, value_size = 0;
      for (index_t c = 0; c < dimension; ++c) {
        double const z = zeta[at(b, key_heads, k, keys, j, dimension, c)];
        double const d = query[at(b, heads, h, queries, i, dimension, c)] - z;
        distance += d * d, size += z * z;
      }
      for (index_t c = 0; c < columns; ++c) {
        double const u = mu[at(b, key_heads, k, keys, j, columns, c)];
        double const d = m == 0 ? 0 : value[at(b, heads, h, queries, i, columns, c)] - u;
        value_distance += d * d, value_size += u * u;
      }
      std::size_t const of_key = at(b, key_heads, k, keys, j, 1, 0);
      double const prior = magnitude            ? alpha[of_key] / 2 * size + beta[of_key] / 2 * value_size
                           : !log_prior.empty() ? log_prior[of_key]
                                                : 0;
      p.push_back(prior - alpha[of_key] / 2 * distance - m * beta[of_key] / 2 * value_distance);
      most = std::max(most, p.back());
    }
    for (double& x : p) sum += x = std::exp(x - most);
    for (double& x : p) x /= sum;
    return p;
  }

  std::vector<double> output() const {
    std::vector<double> o;
    for (index_t b = 0; b < batches; ++b)
      for (index_t h = 0; h < heads; ++h)
        for (index_t i = 0; i < queries; ++i) {
          auto const p = row(b, h, i);
          for (index_t c = 0; c < columns; ++c) {
            double sum = 0;
            for (index_t j = 0; j < keys; ++j)
              sum +=
                  p[static_cast<std::size_t>(j)] * mu[at(b, key_heads, h / (heads / key_heads), keys, j, columns, c)];
            o.push_back(sum);
          }
        }
    return o;
  }

  void update(mixture_update const& with, bool of_values) {
    std::vector<double>& centres = of_values ? mu : zeta;
    std::vector<double> const given = centres;
    index_t const width = of_values ? columns : dimension;
    for (index_t step = 0; step < with.steps; ++step) {
      std::vector<double> sums(centres.size(), 0.0), masses(alpha.size(), 0.0);
      for (index_t b = 0; b < batches; ++b)
        for (index_t h = 0; h < heads; ++h)
          for (index_t i = 0; i < queries; ++i) {
            auto const p = row(b, h, i);
            index_t const k = h / (heads / key_heads);
            double const m = of_values ? known[at(b, heads, h, queries, i, 1, 0)] : 1;
            for (index_t j = 0; m != 0 && j < keys; ++j) {
              std::size_t const of_key = at(b, key_heads, k, keys, j, 1, 0);
              double const w = m * (of_values ? beta : alpha)[of_key] * p[static_cast<std::size_t>(j)];
              masses[of_key] += w;
              for (index_t c = 0; c < width; ++c)
                sums[of_key * static_cast<std::size_t>(width) + static_cast<std::size_t>(c)] +=
                    w * (of_values ? value : query)[at(b, heads, h, queries, i, width, c)];
            }
          }
      for (std::size_t n = 0; n < centres.size(); ++n) {
        double const total = with.prior_precision + masses[n / static_cast<std::size_t>(width)];
        double const prior = with.fixed_prior ? given[n] : centres[n];
        if (total > 0) centres[n] = (with.prior_precision * prior + sums[n]) / total;
      }
    }
  }
};

template <class T, int Rank>
std::vector<double> exact(tensor<T, Rank> const& t) {
  return std::vector<double>(t.elements.begin(), t.elements.end());
}

template <class T>
void expect_mixtures(unsigned first, int trials) {
  using A = accumulation_t<T>;
  for (unsigned seed = first; seed < first + static_cast<unsigned>(trials); ++seed) {
    std::mt19937 engine(seed);
    auto const from_to = [&](index_t a, index_t b) { return std::uniform_int_distribution<index_t>(a, b)(engine); };
    auto const chance = [&] { return from_to(0, 1) == 1; };
    index_t const key_heads = from_to(1, 2), heads = key_heads * from_to(1, 3);
    sizes const s{from_to(1, 2),  heads,          key_heads,     key_heads,
                  from_to(1, 40), from_to(1, 50), from_to(1, 9), from_to(1, 6)};
    auto in = random_inputs<T>(s, seed);
    auto precisions = normal<A, 3>({s.batches, key_heads, s.keys}, seed + 1);
    for (A& x : precisions.elements) x = std::abs(x) / 2 + A(0.05);
    auto const priors = normal<A, 3>({s.batches, key_heads, s.keys}, seed + 2);
    auto values = normal<T, 4>({s.batches, heads, s.queries, s.value_dimension}, seed + 3);
    auto known = filled<A, 3>({s.batches, heads, s.queries}, 0);
    for (A& x : known.elements) x = chance() ? A(1) : A(0);
    auto value_precisions = precisions;
    std::reverse(value_precisions.elements.begin(), value_precisions.elements.end());
    bool const values_vary = chance(), varies = chance(), has_priors = chance(), knows = chance();
    mixture<T> with{.key_precision = 0.3, .magnitude_priors = !has_priors && chance(), .value_precision = 0.4};
    if (varies) with.key_precisions = std::as_const(precisions).view();
    if (values_vary) with.value_precisions = std::as_const(value_precisions).view();
    if (has_priors) with.log_priors = priors.view();
    if (knows) with.known_values = std::as_const(values).view(), with.known = std::as_const(known).view();
    plain_mixture plain{s.batches,
                        heads,
                        key_heads,
                        s.queries,
                        s.keys,
                        s.key_dimension,
                        s.value_dimension,
                        exact(in.query),
                        exact(in.key),
                        exact(in.value),
                        exact(precisions),
                        exact(value_precisions),
                        {},
                        {},
                        {},
                        with.magnitude_priors};
    if (!varies) std::fill(plain.alpha.begin(), plain.alpha.end(), 0.3);
    if (!values_vary) std::fill(plain.beta.begin(), plain.beta.end(), 0.4);
    if (has_priors) plain.log_prior = exact(priors);
    if (knows) plain.value = exact(values), plain.known = exact(known);
    // What is not known may be NaN.
    for (std::size_t i = 0; knows && i < values.elements.size(); ++i)
      if (known.elements[i / static_cast<std::size_t>(s.value_dimension)] == 0)
        values.elements[i] = std::numeric_limits<T>::quiet_NaN();

    // Logits of some tens, whose error is that of weights; values of about 3.
    double const allowed = 4 * tolerance<T>(4);
    auto out = filled<T, 4>({s.batches, heads, s.queries, s.value_dimension}, T(7));
    probabilistic_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), with);
    EXPECT_TRUE(near(out.elements, plain.output(), allowed)) << "seed " << seed;

    mixture_update const update{from_to(0, 3), chance() ? 0. : 0.7, chance()};
    if (knows) {
      auto moved = plain;
      moved.update(update, true);
      auto value = in.value;
      propagate_values(in.query.view(), in.key.view(), value.view(), with, update);
      EXPECT_TRUE(near(value.elements, moved.mu, 10 * allowed)) << "seed " << seed;
    }
    plain.update(update, false);
    adapt_keys(in.query.view(), in.key.view(), in.value.view(), with, update);
    // Each step goes on with the error of the one before.
    EXPECT_TRUE(near(in.key.elements, plain.zeta, 10 * allowed)) << "seed " << seed;
  }
}

TEST(ProbabilisticAttention, IsAMixtureOfGaussians) {
  expect_mixtures<float>(1, 60);
  expect_mixtures<double>(1000, 40);
}

TEST(ProbabilisticAttention, WithMagnitudePriorsIsPlain) {
  auto const in = random_inputs<float>({1, 4, 2, 2, 33, 70, 12, 5}, 1);
  auto out = filled<float, 4>({1, 4, 33, 5}, 7), plain = out;
  probabilistic_attention(in.query.view(), in.key.view(), in.value.view(), out.view(),
                          {.key_precision = 0.25, .magnitude_priors = true, .value_precision = 0}, causal{});
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), plain.view(), causal{}, scale{0.25});
  EXPECT_TRUE(near(out.elements, plain.elements, tolerance<float>(largest_magnitude(in.value.elements))));
}

TEST(ProbabilisticAttention, UpdatesWithTheSameBitsOnAnyThreads) {
  auto const in = random_inputs<float>({2, 4, 2, 2, 250, 300, 8, 5}, 1);
  auto key = in.key;
  mixture<float> const with{.key_precision = 0.25};
  adapt_keys(in.query.view(), key.view(), in.value.view(), with, {.steps = 2, .prior_precision = 1});
  for_executors([&](auto executor, std::string const& name) {
    auto again = in.key;
    adapt_keys(in.query.view(), again.view(), in.value.view(), with, {.steps = 2, .prior_precision = 1}, executor);
    EXPECT_TRUE(same_bits(key.elements, again.elements)) << name;
  });
}

TEST(ProbabilisticAttention, RefusesWhatDoesNotFit) {
  auto in = random_inputs<float>({1, 4, 2, 2, 5, 9, 8, 4}, 1);
  auto const before = in.key.elements;
  auto const numbers = filled<float, 3>({1, 2, 8}, 1);
  auto const adapt = [&](mixture<float> const& with, mixture_update const& update) {
    adapt_keys(in.query.view(), in.key.view(), in.value.view(), with, update);
  };
  expect_error("mixture (key_precision): expected a finite number of at least 0, got -1",
               [&] { adapt({.key_precision = -1}, {}); });
  expect_error("mixture (key_precisions): expected tokens 9 (as key), got 8",
               [&] { adapt({.key_precisions = numbers.view()}, {}); });
  expect_error("mixture: expected known_values and known, got one of them alone",
               [&] { adapt({.known_values = std::as_const(in.query).view()}, {}); });
  expect_error("mixture_update: expected at least 0 steps, got -1", [&] { adapt({}, {.steps = -1}); });
  auto const wide = random_inputs<float>({1, 4, 2, 1, 5, 9, 8, 4}, 1);
  expect_error("value: expected heads 2 (as key), got 1",
               [&] { adapt_keys(in.query.view(), in.key.view(), wide.value.view(), {}, {}); });
  expect_error("mixture: expected known_values and known, got none",
               [&] { propagate_values(in.query.view(), in.key.view(), in.value.view(), {}, {}); });
  EXPECT_EQ(in.key.elements, before);
}

}  // namespace
}  // namespace attend::test
