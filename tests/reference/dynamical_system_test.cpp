// SPDX-License-Identifier: BSD-3-Clause
// Systems that differ in everything but their recurrence, each against the one recurrence; and the virtual node of a
// graph against full linear attention.
#include <attend/attention/linear/aaren_attention.hpp>
#include <attend/attention/linear/latte_attention.hpp>
#include <attend/core/eigen_tensor.hpp>
#include <attend/policy/decay/feature_decay.hpp>
#include <attend/policy/decay/token_decay.hpp>
#include <attend/policy/feature/elu.hpp>
#include <attend/reference/dynamical_system.hpp>

#include "support/sequence_problem.hpp"

namespace attend {
using namespace linear;
using namespace systems;

namespace {

using reference::dynamical_system;
using reference::row;
using test::sequence_inputs;

constexpr index_t tokens = 90, dimension = 10, columns = 7;

class DynamicalSystem : public testing::Test {
 protected:
  sequence_inputs<float> const in{{1, 1, 1, 1, tokens, tokens, dimension, columns}, 1};

  row query(index_t i) const { return reference::row_of<float>(in.query.view(), 0, 0, i); }
  row key(index_t i) const { return reference::row_of<float>(in.key.view(), 0, 0, i); }
  row value(index_t i) const { return reference::row_of<float>(in.value.view(), 0, 0, i); }

  /// The recurrence on the values, as one list.
  std::vector<double> run(dynamical_system const& system) const {
    std::vector<row> values;
    for (index_t i = 0; i < tokens; ++i) values.push_back(value(i));
    std::vector<double> output;
    for (row const& y : reference::run(system, values)) output.insert(output.end(), y.begin(), y.end());
    return output;
  }
  template <class Call>
  void expect(dynamical_system const& system, double largest, Call&& call) const {
    EXPECT_TRUE(test::near(in.output(call).elements, run(system), test::tolerance<float>(largest)));
  }
};

row ones(index_t) { return row(std::size_t(dimension), 1.0); }

row elu_and_one(row x) {
  for (double& e : x) e = e > 0 ? e + 1 : std::exp(e);
  return x;
}

row times(row x, double factor) {
  for (double& e : x) e *= factor;
  return x;
}

TEST_F(DynamicalSystem, IsLinearAttention) {
  expect({ones, [&](index_t i) { return key(i); }, [&](index_t i) { return query(i); }, {}}, 200,
         [](auto const&... t) { linear_attention(t..., causal{}); });
}

TEST_F(DynamicalSystem, IsNormalisedLinearAttention) {
  // The state is divided as it goes: eta is no property of the tokens, but of each query; so it stands in the readout.
  row sum(std::size_t(dimension), 0.0);
  std::vector<row> sums;
  for (index_t i = 0; i < tokens; ++i) {
    row const phi = elu_and_one(key(i));
    for (std::size_t c = 0; c < phi.size(); ++c) sum[c] += phi[c];
    sums.push_back(sum);
  }
  expect({ones,
          [&](index_t i) { return elu_and_one(key(i)); },
          [&](index_t i) {
            row const phi = elu_and_one(query(i));
            return times(phi, 1 / (reference::dot(phi, sums[std::size_t(i)]) + 1e-6));
          },
          {}},
         4, [](auto const&... t) { linear_attention(t..., causal{}, elu_features{}, key_sum{}); });
}

TEST_F(DynamicalSystem, IsGatedLinearAttention) {
  auto logs = test::normal<float, 2>({tokens, dimension}, 2);
  for (float& x : logs.elements) x = -std::abs(x);
  expect({[&](index_t i) {
            row alpha;
            for (index_t c = 0; c < dimension; ++c) alpha.push_back(std::exp(double(logs.view()(i, c))));
            return alpha;
          },
          [&](index_t i) { return key(i); },
          [&](index_t i) { return query(i); },
          {}},
         40, [&](auto const&... t) { linear_attention(t..., causal{}, feature_decay(logs.view())); });
}

TEST_F(DynamicalSystem, IsAStateSpaceModel) {
  // Lambda = exp(-Delta a), B = Delta b: Delta steps the state and scales what is written.
  std::vector<float> delta, logs;
  for (float x : test::normal<float, 1>({tokens}, 3).elements)
    delta.push_back(std::abs(x)), logs.push_back(-0.7f * std::abs(x));
  expect({[&](index_t i) { return row(std::size_t(dimension), std::exp(double(logs[std::size_t(i)]))); },
          [&](index_t i) { return times(key(i), delta[std::size_t(i)]); },
          [&](index_t i) { return query(i); },
          {}},
         40, [&](auto const&... t) { linear_attention(t..., causal{}, token_decay(logs), input_gates(delta)); });
}

TEST_F(DynamicalSystem, IsASoftmaxOverTime) {
  auto const z = [&](index_t i, index_t c) {
    double sum = 0;
    for (index_t j = 0; j <= i; ++j) sum += std::exp(key(j)[std::size_t(c)]);
    return std::log(sum);
  };
  expect({[&](index_t i) {
            row l;
            for (index_t c = 0; c < dimension; ++c) l.push_back(i == 0 ? 0.0 : std::exp(z(i - 1, c) - z(i, c)));
            return l;
          },
          [&](index_t i) {
            row b = key(i);
            for (index_t c = 0; c < dimension; ++c) b[std::size_t(c)] = std::exp(b[std::size_t(c)] - z(i, c));
            return b;
          },
          [&](index_t i) { return test::softmax_of(query(i)); },
          {}},
         4, [](auto const&... t) { latte_attention(t..., causal{}); });
}

TEST_F(DynamicalSystem, IsAaren) {
  double sum = 0;
  std::vector<double> weight, sums;
  for (index_t i = 0; i < tokens; ++i) {
    weight.push_back(std::exp(reference::dot(query(0), key(i)) / std::sqrt(double(dimension))));
    sums.push_back(sum += weight.back());
  }
  expect({[&](index_t i) { return row{i == 0 ? 0.0 : sums[std::size_t(i - 1)] / sums[std::size_t(i)]}; },
          [&](index_t i) { return row{weight[std::size_t(i)] / sums[std::size_t(i)]}; },
          [](index_t) { return row{1}; },
          {}},
         4, [&](auto const& q, auto const& k, auto const& v, auto const& o) {
           aaren_attention(tensor_view<float const, 2>(q.data(), {1, dimension}), k, v, o);
         });
}

TEST_F(DynamicalSystem, PassesInputsThrough) {
  auto const y =
      run({ones, [](index_t) { return row(std::size_t(dimension)); }, ones, [](index_t i) { return double(i); }});
  EXPECT_DOUBLE_EQ(y[std::size_t(5 * columns + 2)], 5 * value(5)[2]);
}

TEST_F(DynamicalSystem, AVirtualNodeIsFullLinearAttention) {
  // Message passing with a virtual node, which every node writes to and reads from: it gathers sum phi(k) v^T and sum
  // phi(k) in one round, and each node reads them in the next. Chen Cai, Truong Son Hy, Rose Yu, Yusu Wang: On the
  // Connection Between MPNN and Graph Transformer, 2023.
  struct {
    std::vector<row> values = std::vector<row>(std::size_t(dimension), row(std::size_t(columns)));
    row sum = row(std::size_t(dimension));
  } node;
  for (index_t j = 0; j < tokens; ++j) {
    row const message = elu_and_one(key(j)), v = value(j);
    for (std::size_t f = 0; f < message.size(); ++f) {
      node.sum[f] += message[f];
      for (std::size_t c = 0; c < v.size(); ++c) node.values[f][c] += message[f] * v[c];
    }
  }
  std::vector<double> expected;
  for (index_t i = 0; i < tokens; ++i) {
    row const phi = elu_and_one(query(i));
    for (std::size_t c = 0; c < std::size_t(columns); ++c) {
      double x = 0;
      for (std::size_t f = 0; f < phi.size(); ++f) x += phi[f] * node.values[f][c];
      expected.push_back(x / (reference::dot(phi, node.sum) + 1e-6));
    }
  }
  auto const got = in.output([](auto const&... t) { linear_attention(t..., elu_features{}, key_sum{}); });
  EXPECT_TRUE(test::near(got.elements, expected, test::tolerance<float>(4)));
}

}  // namespace
}  // namespace attend
