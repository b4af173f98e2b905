// SPDX-License-Identifier: BSD-3-Clause
// Tensor-parallel latent attention: against its formula, equal to latent attention with one shard, and how far it is
// from it with more.
#include <attend/attention/cached/principal_slicing.hpp>
#include <attend/attention/cached/sliced_latent_attention.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/reference/latent_attention.hpp>

#include "support/compare.hpp"
#include "support/expect_error.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace caches;
using namespace systems;

namespace {

constexpr index_t heads = 6, tokens = 2, plain = 24, rotary_channels = 8, latent = 64, values = 20, keys = 150;
constexpr double epsilon = 1e-6;

/// A vector of a token: the rest of the formula is written in these.
using row = std::vector<double>;

struct inputs {
  test::tensor<float, 4> query = test::normal<float, 4>({1, heads, tokens, plain + rotary_channels}, 1);
  test::tensor<float, 3> key = test::normal<float, 3>({heads, plain, latent}, 2, 1 / std::sqrt(double(latent)));
  test::tensor<float, 3> value = test::normal<float, 3>({heads, values, latent}, 3, 1 / std::sqrt(double(latent)));
  test::tensor<float, 2> rotary_key = test::normal<float, 2>({keys, rotary_channels}, 5);
  test::tensor<float, 2> latents = test::normal<float, 2>({keys, latent}, 4);

  /// Latents of trained models have a few strong directions: a spectrum that falls, in axes of its own.
  inputs() {
    auto const any = test::normal<float, 2>({latent, latent}, 6);
    Eigen::MatrixXf const axes =
        Eigen::Map<Eigen::MatrixXf const>(any.elements.data(), latent, latent).householderQr().householderQ();
    for (index_t j = 0; j < keys; ++j) {
      Eigen::Map<Eigen::RowVectorXf> row(&latents.view()(j, 0), latent);
      for (index_t c = 0; c < latent; ++c) row[c] *= 3 / std::sqrt(1.0f + static_cast<float>(c));
      row = (row * axes).eval();
    }
  }
};

std::vector<float> sliced(inputs const& in, latent_slicing<float> const& slicing, index_t cache_shards,
                          auto const&... options) {
  test::tensor<float, 3> key = in.key, value = in.value;
  transform_projection(in.key.view(), slicing, key.view());
  transform_projection(in.value.view(), slicing, value.view());
  latent_cache<float> cache(
      {.sequences = 1, .latent_dimension = latent, .rotary_dimension = rotary_channels, .shards = cache_shards}, keys);
  append_sliced(cache, 0, in.latents.view(), in.rotary_key.view(), slicing, epsilon);
  auto output = test::filled<float, 4>({1, heads, tokens, values}, 7);
  latent_projections const up(key.view(), value.view());
  if (cache_shards == slicing.shards())
    sliced_latent_attention(in.query.view(), cache, up, slicing, output.view(), options...);
  else
    latent_attention(in.query.view(), cache, up, output.view(), absorbed{}, options...);
  return output.elements;
}

/// The formula, in double: with one softmax of summed logits, or one for each shard.
std::vector<double> definition(inputs const& in, latent_slicing<float> const& slicing, bool summed_logits) {
  index_t const shards = slicing.shards(), width = latent / shards;
  auto const transformed = [&](auto const& element) {
    row result(latent, 0.0);
    for (index_t c = 0; c < latent; ++c)
      for (index_t k = 0; k < latent; ++k)
        result[std::size_t(c)] += double(element(k)) * double(slicing.transform(k, c));
    return result;
  };
  std::vector<row> x;
  for (index_t j = 0; j < keys; ++j) {
    row c = transformed([&](index_t k) { return in.latents.view()(j, k); });
    for (index_t a = 0; a < shards; ++a) {
      double square = 0;
      for (index_t k = a * width; k < (a + 1) * width; ++k) square += c[std::size_t(k)] * c[std::size_t(k)];
      double const norm = std::sqrt(square / (latent * double(slicing.proportion[std::size_t(a)])) + epsilon);
      for (index_t k = a * width; k < (a + 1) * width; ++k) c[std::size_t(k)] /= norm;
    }
    x.push_back(c);
  }
  double const scale = 1 / std::sqrt(double(plain + rotary_channels));
  std::vector<double> output;
  for (index_t h = 0; h < heads; ++h)
    for (index_t i = 0; i < tokens; ++i) {
      row absorbed_query(latent, 0.0);
      for (index_t c = 0; c < plain; ++c) {
        row const w = transformed([&](index_t k) { return in.key.view()(h, c, k); });
        for (index_t k = 0; k < latent; ++k)
          absorbed_query[std::size_t(k)] += double(in.query.view()(0, h, i, c)) * w[std::size_t(k)];
      }
      row o(values, 0.0);
      for (index_t a = 0; a < shards; ++a) {
        row weight;
        double sum = 0;
        for (index_t j = 0; j < keys; ++j) {
          double s = 0;
          for (index_t k = summed_logits ? 0 : a * width; k < (summed_logits ? latent : (a + 1) * width); ++k)
            s += absorbed_query[std::size_t(k)] * x[std::size_t(j)][std::size_t(k)];
          if (!summed_logits) s /= double(slicing.proportion[std::size_t(a)]);
          for (index_t c = 0; c < rotary_channels; ++c)
            s += double(in.query.view()(0, h, i, plain + c)) * double(in.rotary_key.view()(j, c));
          bool const visible = j <= i + keys - tokens;
          weight.push_back(visible ? std::exp(scale * s) : 0);
          sum += weight.back();
        }
        for (index_t c = 0; c < values; ++c) {
          row const w = transformed([&](index_t k) { return in.value.view()(h, c, k); });
          for (index_t j = 0; j < keys; ++j)
            for (index_t k = a * width; k < (a + 1) * width; ++k)
              o[std::size_t(c)] += weight[std::size_t(j)] / sum * w[std::size_t(k)] * x[std::size_t(j)][std::size_t(k)];
        }
      }
      output.insert(output.end(), o.begin(), o.end());
    }
  return output;
}

std::vector<latent_slicing<float>> slicings(inputs const& in, index_t shards) {
  return {hadamard_slicing<float>(latent, shards), principal_slicing(in.latents.view(), shards)};
}

double const allowed = 3 * test::tolerance<float>(10);

TEST(LatentSlicing, TransformsAreOrthogonal) {
  inputs const in;
  for (index_t shards : {1, 2, 4, 8})
    for (auto const& slicing : slicings(in, shards)) {
      auto const product = (slicing.transform * slicing.transform.transpose()).eval();
      // Products of rows of length 1, and parts of 1.
      double const of_one = test::tolerance<float>(1);
      EXPECT_LE((product - decltype(product)::Identity(latent, latent)).cwiseAbs().maxCoeff(), of_one);
      EXPECT_NEAR(std::accumulate(slicing.proportion.begin(), slicing.proportion.end(), 0.0), 1, of_one);
    }
}

TEST(LatentSlicing, ProportionsArePartsOfTheEnergy) {
  inputs const in;
  for (index_t shards : {2, 4, 8}) {
    auto const slicing = principal_slicing(in.latents.view(), shards);
    Eigen::VectorXd energy = Eigen::VectorXd::Zero(shards);
    for (index_t j = 0; j < keys; ++j) {
      auto const c =
          (Eigen::Map<Eigen::RowVectorXf const>(&in.latents.view()(j, 0), latent) * slicing.transform).eval();
      for (index_t a = 0; a < shards; ++a) energy[a] += c.segment(a * latent / shards, latent / shards).squaredNorm();
    }
    for (index_t a = 0; a < shards; ++a)
      EXPECT_NEAR(slicing.proportion[std::size_t(a)], energy[a] / energy.sum(), test::tolerance<float>(1));
    // Dealt out, the largest first.
    EXPECT_TRUE(std::is_sorted(slicing.proportion.rbegin(), slicing.proportion.rend()));
  }
}

TEST(SlicedLatentAttention, FollowsItsFormula) {
  inputs const in;
  for (index_t shards : {1, 2, 4})
    for (auto const& slicing : slicings(in, shards)) {
      EXPECT_TRUE(test::near(sliced(in, slicing, shards, causal{}), definition(in, slicing, false), allowed)) << shards;
      EXPECT_TRUE(test::near(sliced(in, slicing, 1, causal{}), definition(in, slicing, true), allowed)) << shards;
    }
}

TEST(SlicedLatentAttention, OneShardIsLatentAttention) {
  inputs const in;
  auto normalized = in.latents;
  for (index_t j = 0; j < keys; ++j) {
    Eigen::Map<Eigen::RowVectorXf> c(&normalized.view()(j, 0), latent);
    c /= std::sqrt(c.squaredNorm() / float(latent) + float(epsilon));
  }
  latent_cache<float> cache({.sequences = 1, .latent_dimension = latent, .rotary_dimension = rotary_channels}, keys);
  cache.append(0, normalized.view(), in.rotary_key.view());
  auto expected = test::filled<float, 4>({1, heads, tokens, values}, 7);
  latent_attention(in.query.view(), cache, latent_projections(in.key.view(), in.value.view()), expected.view(),
                   causal{});
  for (auto const& slicing : slicings(in, 1))
    EXPECT_TRUE(test::near(sliced(in, slicing, 1, causal{}), expected.elements, allowed));
}

TEST(SlicedLatentAttention, GivesTheSameBitsForAnyThreads) {
  inputs const in;
  auto const slicing = hadamard_slicing<float>(latent, 4);
  EXPECT_TRUE(test::same_bits(sliced(in, slicing, 4), sliced(in, slicing, 4, threads{3})));
}

/// The root of the mean squared difference from latent attention, over that of its output.
double error_of(std::vector<float> const& got, std::vector<float> const& exact) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    difference += (double(got[i]) - exact[i]) * (double(got[i]) - exact[i]);
    size += double(exact[i]) * exact[i];
  }
  return std::sqrt(difference / size);
}

TEST(SlicedLatentAttention, ReportsItsError) {
  inputs const in;
  auto const exact = sliced(in, hadamard_slicing<float>(latent, 1), 1);
  for (index_t shards : {2, 4}) {
    char const* names[] = {"hadamard", "principal"};
    auto const both = slicings(in, shards);
    for (std::size_t i = 0; i < 2; ++i) {
      double const own_softmax = error_of(sliced(in, both[i], shards), exact),
                   summed = error_of(sliced(in, both[i], 1), exact);
      std::string const name = std::string(names[i]) + "_" + std::to_string(shards);
      RecordProperty(name + "_own_softmax", std::to_string(own_softmax));
      RecordProperty(name + "_summed_logits", std::to_string(summed));
      std::cout << name << ": relative error " << own_softmax << " with a softmax for each shard, " << summed
                << " with summed logits\n";
      // Summed logits leave the norms alone as an approximation: nearer, always, but by more than rounding from exact.
      EXPECT_LT(summed, own_softmax);
      EXPECT_GT(summed, allowed);
    }
  }
}

TEST(SlicedLatentAttention, RefusesWhatDoesNotFit) {
  inputs const in;
  using test::expect_error;
  expect_error("hadamard_slicing: expected a latent dimension that is a power of two, got 12",
               [] { hadamard_slicing<float>(12, 2); });
  expect_error("hadamard_slicing: expected shards that divide the latent dimension (8), got 3",
               [] { hadamard_slicing<float>(8, 3); });
  expect_error("principal_slicing: expected shards that divide the latent dimension (64), got 0",
               [&] { principal_slicing(in.latents.view(), 0); });
  std::vector<float> one_axis(64);
  for (std::size_t token = 0; token < 8; ++token) one_axis[token * 8] = static_cast<float>(token + 1);
  expect_error("latents: expected energy in each of 4 slices, got one of 0",
               [&] { principal_slicing(tensor_view<float const, 2>(one_axis.data(), {8, 8}), 4); });
  EXPECT_EQ(principal_slicing(tensor_view<float const, 2>(one_axis.data(), {8, 8}), 1).proportion.at(0), 1);
  expect_error("latents: expected at least one token, got 0",
               [&] { principal_slicing(tensor_view<float const, 2>(in.latents.elements.data(), {0, latent}), 2); });
  auto const slicing = hadamard_slicing<float>(latent, 2), small = hadamard_slicing<float>(32, 2);
  latent_cache<float> cache(
      {.sequences = 1, .latent_dimension = latent, .rotary_dimension = rotary_channels, .shards = 4}, keys - 1);
  auto const append = [&](latent_slicing<float> const& with, double small_number) {
    return [&, small_number] { append_sliced(cache, 0, in.latents.view(), in.rotary_key.view(), with, small_number); };
  };
  expect_error("slicing: expected shards 4 (as the cache), got 2", append(slicing, epsilon));
  expect_error("slicing: expected dimension 64 (as the cache), got 32", append(small, epsilon));
  auto const four = hadamard_slicing<float>(latent, 4);
  expect_error("epsilon: expected a finite number of at least 0, got -1", append(four, -1));
  expect_error("latent: expected at most 149 more tokens (sequence 0 has 0 of 149), got 150", append(four, epsilon));
  EXPECT_EQ(cache.size(0), 0);
  auto output = test::filled<float, 4>({1, heads, tokens, values}, 7);
  expect_error("slicing: expected shards 4 (as the cache), got 2", [&] {
    sliced_latent_attention(in.query.view(), cache, latent_projections(in.key.view(), in.value.view()), slicing,
                            output.view());
  });
  test::expect_scale_error([&](scale const& factor) {
    sliced_latent_attention(in.query.view(), cache, latent_projections(in.key.view(), in.value.view()), four,
                            output.view(), factor);
  });
  for (float x : output.elements) EXPECT_EQ(x, 7);
  expect_error("projection: expected latent dimension 32 (as the slicing), got 64", [&] {
    auto key = in.key;
    transform_projection(in.key.view(), small, key.view());
  });
}

}  // namespace
}  // namespace attend
