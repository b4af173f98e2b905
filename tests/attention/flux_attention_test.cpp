// SPDX-License-Identifier: BSD-3-Clause
// Flux Attention: the router against its formula in double, and what its choice shows a prompt and its decoding.
#include <attend/attention/sparse_prefill/flux_attention.hpp>

#include "support/argument_errors.hpp"
#include "support/cached_tokens.hpp"
#include "support/mask_checks.hpp"

namespace attend {
using namespace options;
using namespace extend;
using namespace systems;
using namespace caches;

namespace {

using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// A network of layers of the given widths, and its definition.
struct network {
  std::vector<matrix> weight;
  std::vector<Eigen::VectorXf> bias;

  network(std::vector<index_t> const& widths, unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> number;
    for (std::size_t i = 1; i < widths.size(); ++i) {
      float const size = std::sqrt(static_cast<float>(widths[i - 1]));
      weight.push_back(matrix::NullaryExpr(widths[i], widths[i - 1], [&] { return 2 * number(engine) / size; }));
      bias.push_back(Eigen::VectorXf::NullaryExpr(widths[i], [&] { return number(engine) / 2; }));
    }
  }
  std::vector<flux_layer> layers() const {
    std::vector<flux_layer> all;
    for (std::size_t i = 0; i < weight.size(); ++i) all.push_back({view_of(weight[i]), view_of(bias[i])});
    return all;
  }
  Eigen::VectorXd operator()(Eigen::VectorXd x) const {
    for (std::size_t i = 0; i < weight.size(); ++i) {
      x = weight[i].cast<double>() * x + bias[i].cast<double>();
      if (i + 1 < weight.size())
        for (double& one : x) one = one / (1 + std::exp(-one));
    }
    return x;
  }
};

template <class T>
std::vector<std::int32_t> routes(test::tensor<T, 4> const& query, network const& features, network const& decision,
                                 index_t pool) {
  auto const q = query.view();
  std::vector<std::int32_t> full;
  for (index_t b = 0; b < q.extent(0); ++b) {
    Eigen::VectorXd x = Eigen::VectorXd::Zero(q.extent(3));
    index_t const tokens = q.extent(2);
    double count = 0;
    auto const add = [&](index_t t) {
      for (index_t h = 0; h < q.extent(1); ++h, ++count)
        for (index_t c = 0; c < q.extent(3); ++c) x[c] += static_cast<double>(q(b, h, t, c));
    };
    for (index_t t = 0; t < (pool == 0 ? tokens : std::min(pool, tokens)); ++t) add(t);
    for (index_t t = std::max<index_t>(tokens - pool, 0); pool > 0 && t < tokens; ++t) add(t);
    Eigen::VectorXd const logits = decision(features(x / count));
    full.push_back(logits[1] > logits[0]);
  }
  return full;
}

TEST(FluxAttention, RoutesAsItsNetworksSay) {
  index_t const d = 12;
  int found[2] = {};
  for (unsigned seed = 0; seed < 8; ++seed) {
    network const features({d, 8 * d, 2 * d}, 10 * seed), decision({2 * d, 4 * d, d, 2}, 10 * seed + 1);
    auto const of_features = features.layers(), of_decision = decision.layers();
    auto const query = test::normal<float, 4>({6, 3, 30, d}, 10 * seed + 2);
    auto const half_query = test::normal<half, 4>({6, 3, 30, d}, 10 * seed + 3);
    for (index_t pool : {0, 4, 20, 100}) {
      std::vector<std::int32_t> full(6, 7);
      flux_router const router{of_features, of_decision, pool};
      router.route(query.view(), full);
      EXPECT_EQ(full, routes(query, features, decision, pool));
      for (std::int32_t one : full) ++found[one];
      router.route(half_query.view(), full);
      EXPECT_EQ(full, routes(half_query, features, decision, pool));
    }
  }
  EXPECT_GT(std::min(found[0], found[1]), 20) << "both ways are taken";
}

reference::visible_function shown(std::vector<std::int32_t> const& full, index_t sinks, index_t window) {
  return [=](reference::place const& at) {
    index_t const back = at.position() - at.key;
    return back >= 0 && (full[static_cast<std::size_t>(at.batch)] != 0 || at.key < sinks || back < window);
  };
}

TEST(FluxAttention, AnswersSoundly) {
  std::vector<std::int32_t> const full{0, 1};
  for (auto [queries, keys] : {std::pair<index_t, index_t>{200, 200}, {1, 300}, {70, 20}, {30, 257}})
    EXPECT_TRUE(test::is_sound(flux_mask{.sinks = 5, .window = 40, .full = full},
                               problem_shape{2, 6, 2, 2, queries, keys, 4, 4, 2}, shown(full, 5, 40), 1));
}

TEST(FluxAttention, KeepsToItsChoiceWhileDecoding) {
  test::sizes const s{.batches = 2, .query_heads = 4, .key_heads = 2, .value_heads = 2, .queries = 120, .keys = 120};
  auto const in = test::random_inputs<float>(s, 3);
  std::vector<std::int32_t> const full{1, 0};
  flux_mask const mask{.sinks = 4, .window = 24, .full = full};
  reference::options with;
  with.visible = shown(full, 4, 24);
  auto const expected = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), with);
  contiguous_cache<float> cache(test::shape_of(s), 120);
  index_t steps = 0;
  auto const output = test::in_pieces(cache, in, [&] { return steps++ == 0 ? 90 : 1; }, mask);
  EXPECT_TRUE(test::near(output.elements, expected.output, test::tolerance<float>(5)));
}

TEST(FluxAttention, ReadsNothingButSinksAndWindow) {
  test::sizes const s{.query_heads = 1, .queries = 1, .keys = 4096, .key_dimension = 1, .value_dimension = 1};
  std::vector<std::int32_t> const full{0};
  EXPECT_LT(test::count_work(s, flux_mask{.sinks = 64, .window = 256, .full = full}).pairs, 1024);
}

class FluxErrors : public test::argument_errors {};

TEST_F(FluxErrors, NameWhatDoesNotFit) {
  std::vector<std::int32_t> const two(2), three(3);
  expect_option_error("flux_mask: expected one number for each of 2 sequences, got 3", flux_mask{.full = three});
  expect_option_error("flux_mask: expected from 0 to 536870911 sinks, got -1", flux_mask{.sinks = -1, .full = two});
  expect_option_error("flux_mask: expected a window from 1 to 536870911, got 0", flux_mask{.window = 0, .full = two});

  network const features({12, 16, 8}, 1), decision({8, 2}, 2), wide({9, 2}, 3), other({8, 3}, 4);
  auto const f = features.layers(), d = decision.layers(), w = wide.layers(), o = other.layers();
  auto const query = test::normal<float, 4>({2, 3, 30, 12}, 5), none = test::normal<float, 4>({2, 3, 0, 12}, 5);
  std::vector<std::int32_t> full(2, 7), one(1, 7);
  using test::expect_error;
  expect_error("weight: expected inputs 8 (as what comes before it), got 9",
               [&] { flux_router{f, w}.route(query.view(), full); });
  expect_error("decision: expected 2 outputs, got 3", [&] { flux_router{f, o}.route(query.view(), full); });
  expect_error("weight: expected inputs 12 (as what comes before it), got 8",
               [&] { flux_router{{}, d}.route(query.view(), full); });
  expect_error("full: expected numbers 2 (as the sequences), got 1",
               [&] { flux_router{f, d}.route(query.view(), one); });
  expect_error("flux_router: expected a pool of 0 to 536870911, got -1",
               [&] { flux_router{f, d, -1}.route(query.view(), full); });
  expect_error("query: expected at least 1 head and 1 token, got none",
               [&] { flux_router{f, d}.route(none.view(), full); });
  auto short_bias = f;
  short_bias[0].bias = view_of(features.bias[1]);
  expect_error("bias: expected numbers 16 (as weight), got 8",
               [&] { flux_router{short_bias, d}.route(query.view(), full); });
  EXPECT_EQ(full, std::vector<std::int32_t>(2, 7));
}

}  // namespace
}  // namespace attend
