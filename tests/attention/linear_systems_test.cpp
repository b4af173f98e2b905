// SPDX-License-Identifier: BSD-3-Clause
// Published systems that are linear attention with some options, each against its own paper's formula: parallel,
// chunked or recurrent, written here from the paper and not from the engine.
#include <attend/policy/feature/elu.hpp>

#include "support/expect_error.hpp"
#include "support/linear_problem.hpp"

namespace attend {
using namespace options;
using namespace linear;
using namespace systems;

namespace {

using test::linear_inputs;
using test::linear_sizes;

constexpr index_t n = 70, d = 12, dv = 20, heads = 3;

/// One head of a tensor as a matrix of doubles.
struct matrix {
  index_t rows, columns;
  std::vector<double> elements;

  matrix(index_t rows, index_t columns)
      : rows(rows), columns(columns), elements(static_cast<std::size_t>(rows * columns)) {}
  matrix(test::tensor<float, 4> const& t, index_t head) : matrix(t.extents[2], t.extents[3]) {
    for (index_t i = 0; i < rows; ++i)
      for (index_t c = 0; c < columns; ++c) (*this)(i, c) = t.view()(0, head, i, c);
  }
  double& operator()(index_t i, index_t c) { return elements[static_cast<std::size_t>(i * columns + c)]; }
  double operator()(index_t i, index_t c) const { return elements[static_cast<std::size_t>(i * columns + c)]; }
};

double dot(matrix const& a, index_t i, matrix const& b, index_t j) {
  double sum = 0;
  for (index_t c = 0; c < a.columns; ++c) sum += a(i, c) * b(j, c);
  return sum;
}

/// o_i = sum_j weight(i, j) v_j
template <class Weight>
matrix weighted(matrix const& v, index_t queries, Weight&& weight) {
  matrix o(queries, v.columns);
  for (index_t i = 0; i < queries; ++i)
    for (index_t j = 0; j < v.rows; ++j) {
      double const w = weight(i, j);
      for (index_t c = 0; c < v.columns; ++c) o(i, c) += w * v(j, c);
    }
  return o;
}

/// Calls the kernel, and expects of each head what formula(head, q, k, v) gives.
template <class Formula, class... Options>
void expect_formula(linear_inputs<float> const& in, Formula&& formula, Options const&... options) {
  auto output = test::filled<float, 4>({1, heads, n, dv}, 7);
  linear_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), options...);
  for (index_t h = 0; h < heads; ++h) {
    matrix const expected = formula(h, matrix(in.query, h), matrix(in.key, h), matrix(in.value, h)), got(output, h);
    EXPECT_TRUE(
        test::near(got.elements, expected.elements, test::tolerance<float>(test::largest_of(expected.elements))))
        << "head " << h;
  }
}

linear_inputs<float> inputs() { return linear_inputs<float>({1, heads, heads, heads, n, n, d, dv}, 1); }

double elu_and_one(double x) { return x > 0 ? x + 1 : std::exp(x); }

// Equations 4 and 9 of the paper: similarities phi(q_i) . phi(k_j), divided by their sum.
TEST(LinearSystems, KatharopoulosLinearAttention) {
  auto const formula = [](bool masked) {
    return [masked](index_t, matrix q, matrix k, matrix const& v) {
      for (double& x : q.elements) x = elu_and_one(x);
      for (double& x : k.elements) x = elu_and_one(x);
      return weighted(v, n, [&](index_t i, index_t j) {
        if (masked && j > i) return 0.0;
        double sum = 0;
        for (index_t l = 0; l < (masked ? i + 1 : n); ++l) sum += dot(q, i, k, l);
        return dot(q, i, k, j) / sum;
      });
    };
  };
  expect_formula(inputs(), formula(false), elu_features{}, key_sum{});
  expect_formula(inputs(), formula(true), elu_features{}, key_sum{}, causal{});
}

// The parallel form: (Q K^T * D) V with D_ij = gamma^(i - j), gamma_h = 1 - 2^(-5 - h).
TEST(LinearSystems, Retention) {
  auto const formula = [](index_t h, matrix const& q, matrix const& k, matrix const& v) {
    double const gamma = 1 - std::pow(2.0, -5.0 - static_cast<double>(h));
    return weighted(v, n, [&](index_t i, index_t j) {
      return j > i ? 0.0 : std::pow(gamma, static_cast<double>(i - j)) * dot(q, i, k, j);
    });
  };
  expect_formula(inputs(), formula, causal{}, head_decay(retention_decays(heads)));
}

// Blocks of B tokens: diag(lambda^r) Q S within, S <- lambda^B S + (diag(lambda^(B - r)) K)^T V across, r = 1, ..., B.
TEST(LinearSystems, LightningAttention) {
  auto const slopes = alibi_slopes(heads);
  auto const formula = [&](index_t h, matrix const& q, matrix const& k, matrix const& v) {
    double const slope = slopes[static_cast<std::size_t>(h)] * (1 - 2.0 / 5 + 1e-5);
    auto const power = [&](index_t r) { return std::exp(-slope * static_cast<double>(r)); };
    constexpr index_t block = 16;
    matrix o(n, dv), state(d, dv);
    for (index_t first = 0; first < n; first += block) {
      index_t const rows = std::min(block, n - first);
      for (index_t r = 0; r < rows; ++r)
        for (index_t c = 0; c < dv; ++c) {
          for (index_t f = 0; f < d; ++f) o(first + r, c) += power(r + 1) * q(first + r, f) * state(f, c);
          for (index_t s = 0; s <= r; ++s)
            o(first + r, c) += power(r - s) * dot(q, first + r, k, first + s) * v(first + s, c);
        }
      for (index_t f = 0; f < d; ++f)
        for (index_t c = 0; c < dv; ++c) {
          state(f, c) *= power(rows);
          for (index_t s = 0; s < rows; ++s) state(f, c) += power(rows - 1 - s) * k(first + s, f) * v(first + s, c);
        }
    }
    return o;
  };
  expect_formula(inputs(), formula, causal{}, head_decay(lightning_decays(heads, 2, 6)));
}

TEST(LinearSystems, DecaysAreForAtLeastNoHeads) {
  EXPECT_TRUE(retention_decays(0).empty());
  std::string const refusal = "heads: expected at least 0, got -4";
  test::expect_error(refusal, [] { (void)retention_decays(-4); });
  test::expect_error(refusal, [] { (void)lightning_decays(-4, 0, 4); });
  test::expect_error(refusal, [] { (void)transnormer_decays(-4, 0, 4); });
  test::expect_error(refusal, [] { (void)alibi_slopes(-4); });
}

// (Q K^T * M) V with M_ij = exp(-(8 h / H) (1 - l / L) (i - j)), and behind each head a root mean square of its own.
// TransNormerLLM's, over all heads joined, is in kernel_systems_test.cpp.
TEST(LinearSystems, DecaysOfTransNormerWithANormOfEachHead) {
  auto const formula = [](index_t h, matrix const& q, matrix const& k, matrix const& v) {
    double const rate = 8.0 * static_cast<double>(h + 1) / heads * (1 - 1.0 / 4);
    matrix o = weighted(v, n, [&](index_t i, index_t j) {
      return j > i ? 0.0 : std::exp(-rate * static_cast<double>(i - j)) * dot(q, i, k, j);
    });
    for (index_t i = 0; i < n; ++i) {
      double const size = std::sqrt(dot(o, i, o, i) / dv);
      for (index_t c = 0; c < dv; ++c) o(i, c) /= size;
    }
    return o;
  };
  expect_formula(inputs(), formula, causal{}, head_decay(transnormer_decays(heads, 1, 4)), rms_norm{0});
}

// P_ij = sum_c q_ic k_jc exp(g_ic - g_jc) with g the running sum of log alpha: equation 4 of the paper, here in double.
TEST(LinearSystems, GatedLinearAttention) {
  auto const in = inputs();
  auto const formula = [&](index_t h, matrix const& q, matrix const& k, matrix const& v) {
    matrix sum(n, d);
    for (index_t i = 0; i < n; ++i)
      for (index_t c = 0; c < d; ++c) sum(i, c) = (i > 0 ? sum(i - 1, c) : 0) + in.key_decays.view()(0, h, i, c);
    return weighted(v, n, [&](index_t i, index_t j) {
      double weight = 0;
      for (index_t c = 0; j <= i && c < d; ++c) weight += q(i, c) * k(j, c) * std::exp(sum(i, c) - sum(j, c));
      return weight / std::sqrt(static_cast<double>(d));
    });
  };
  expect_formula(in, formula, causal{}, feature_decay(in.key_decays.view()),
                 scale(1 / std::sqrt(static_cast<double>(d))));
}

// RWKV-6: S_t = diag(w_t) S_{t-1} + k_t v_t^T, o_t = r_t^T (S_{t-1} + diag(u) k_t v_t^T). The state is read before it
// is written, and the token's own pair has a weight of its own. With a token of zeros in front, keys, values and decays
// one token behind their queries, and the diagonal added afterwards, it is gated linear attention.
TEST(LinearSystems, ReadingBeforeWritingWithABonus) {
  auto in = inputs();
  auto const u = test::normal<float, 2>({heads, d}, 11);
  auto delayed = linear_inputs<float>({1, heads, heads, heads, n, n, d, dv}, 12);
  for (index_t h = 0; h < heads; ++h)
    for (index_t t = 0; t < n; ++t) {
      for (index_t c = 0; c < d; ++c) {
        delayed.key.view()(0, h, t, c) = t > 0 ? in.key.view()(0, h, t - 1, c) : 0;
        delayed.key_decays.view()(0, h, t, c) = t > 0 ? in.key_decays.view()(0, h, t - 1, c) : 0;
      }
      for (index_t c = 0; c < dv; ++c) delayed.value.view()(0, h, t, c) = t > 0 ? in.value.view()(0, h, t - 1, c) : 0;
    }
  auto output = test::filled<float, 4>({1, heads, n, dv}, 7);
  linear_attention(in.query.view(), delayed.key.view(), delayed.value.view(), output.view(), causal{},
                   feature_decay(delayed.key_decays.view()));
  for (index_t h = 0; h < heads; ++h) {
    matrix const q(in.query, h), k(in.key, h), v(in.value, h);
    matrix expected(n, dv), state(d, dv), got(output, h);
    for (index_t t = 0; t < n; ++t) {
      double bonus = 0;
      for (index_t f = 0; f < d; ++f) bonus += q(t, f) * double(u.view()(h, f)) * k(t, f);
      for (index_t c = 0; c < dv; ++c) {
        got(t, c) += bonus * v(t, c);
        for (index_t f = 0; f < d; ++f) {
          expected(t, c) += q(t, f) * (state(f, c) + double(u.view()(h, f)) * k(t, f) * v(t, c));
          state(f, c) = std::exp(double(in.key_decays.view()(0, h, t, f))) * state(f, c) + k(t, f) * v(t, c);
        }
      }
    }
    EXPECT_TRUE(
        test::near(got.elements, expected.elements, test::tolerance<float>(test::largest_of(expected.elements))));
  }
}

// Y = (L * C B^T) (Delta X) with L_ij = exp(A (Delta_{j+1} + ... + Delta_i)): one B and C for all heads.
TEST(LinearSystems, StateSpaceDuality) {
  linear_inputs<float> in({1, 1, 1, heads, n, n, d, dv}, 2);
  std::vector<double> const a{-0.5, -1, -2};
  for (index_t h = 0; h < heads; ++h)
    for (index_t i = 0; i < n; ++i)
      in.token_decays.view()(0, h, i) = static_cast<float>(a[static_cast<std::size_t>(h)]) * in.rates.view()(0, h, i);
  auto output = test::filled<float, 4>({1, heads, n, dv}, 7);
  linear_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), causal{},
                   input_gates(in.rates.view()), token_decay(in.token_decays.view()));
  for (index_t h = 0; h < heads; ++h) {
    matrix const c(in.query, 0), b(in.key, 0), x(in.value, h), got(output, h);
    matrix const expected = weighted(x, n, [&](index_t i, index_t j) {
      double steps = 0;
      for (index_t t = j + 1; t <= i; ++t) steps += in.rates.view()(0, h, t);
      return j > i ? 0.0
                   : std::exp(a[static_cast<std::size_t>(h)] * steps) * dot(c, i, b, j) * in.rates.view()(0, h, j);
    });
    EXPECT_TRUE(
        test::near(got.elements, expected.elements, test::tolerance<float>(test::largest_of(expected.elements))));
  }
}

/// S_t = alpha_t S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T with S [dv][d], o_t = S_t q_t: the papers' own form.
matrix householder_recurrence(matrix const& q, matrix const& k, matrix const& v, std::function<double(index_t)> alpha,
                              std::function<double(index_t)> beta) {
  matrix o(n, dv), state(dv, d);
  for (index_t t = 0; t < n; ++t) {
    matrix next(dv, d);
    for (index_t r = 0; r < dv; ++r)
      for (index_t c = 0; c < d; ++c) {
        for (index_t e = 0; e < d; ++e)
          next(r, c) += alpha(t) * state(r, e) * ((e == c ? 1 : 0) - beta(t) * k(t, e) * k(t, c));
        next(r, c) += beta(t) * v(t, r) * k(t, c);
      }
    state = next;
    for (index_t r = 0; r < dv; ++r)
      for (index_t c = 0; c < d; ++c) o(t, r) += state(r, c) * q(t, c);
  }
  return o;
}

TEST(LinearSystems, DeltaNetAndGatedDeltaNet) {
  auto const in = inputs();
  auto const beta = [&](index_t h) { return [&in, h](index_t t) { return double(in.rates.view()(0, h, t)); }; };
  auto const formula = [&](bool gated) {
    return [&in, beta, gated](index_t h, matrix const& q, matrix const& k, matrix const& v) {
      auto const alpha = [&](index_t t) { return gated ? std::exp(double(in.token_decays.view()(0, h, t))) : 1.0; };
      return householder_recurrence(q, k, v, alpha, beta(h));
    };
  };
  expect_formula(in, formula(false), causal{}, delta_rule(in.rates.view()));
  expect_formula(in, formula(true), causal{}, delta_rule(in.rates.view()), token_decay(in.token_decays.view()));
}

// A delta rule at rate 1 stores exactly: keys that are unit vectors of their own give back the last value written.
TEST(LinearSystems, ADeltaRuleOverwrites) {
  linear_inputs<float> in({1, 1, 1, 1, 40, 40, 8, 5}, 3);
  std::fill(in.key.elements.begin(), in.key.elements.end(), 0.f);
  for (index_t t = 0; t < 40; ++t) in.key.view()(0, 0, t, t * 3 % 8) = 1;
  in.query = in.key;
  std::fill(in.rates.elements.begin(), in.rates.elements.end(), 1.f);
  auto output = test::filled<float, 4>({1, 1, 40, 5}, 7);
  linear_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), causal{},
                   delta_rule(in.rates.view()));
  std::vector<double> const values(in.value.elements.begin(), in.value.elements.end());
  EXPECT_TRUE(test::near(output.elements, values, test::tolerance<float>(test::largest_of(values))));
}

}  // namespace
}  // namespace attend
