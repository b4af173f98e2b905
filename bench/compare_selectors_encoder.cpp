// SPDX-License-Identifier: BSD-3-Clause
// Selectors for encoders, whose queries see all tokens: regions of an image, residue classes, and keys that are chosen
// once for all queries. Tokens stand for those of an image of about as many rows as columns, row-major.
#include <attend/attention/image/a2k_attention.hpp>
#include <attend/attention/image/bi_level_routing_attention.hpp>
#include <attend/attention/softmax/hepos_attention.hpp>
#include <attend/attention/sparse_prefill/sparse_k_attention.hpp>

#include "compare_selection_calls.hpp"

namespace attend_bench {
namespace {

/// Rows and columns.
std::array<index_t, 2> image_of(index_t tokens) {
  index_t rows = 1;
  for (index_t i = 1; i * i <= tokens; ++i)
    if (tokens % i == 0) rows = i;
  return {rows, tokens / rows};
}

/// The largest divisor that is not larger.
index_t divisor_of(index_t number, double largest) {
  index_t divisor = 1;
  for (index_t i = 1; i <= number && static_cast<double>(i) <= largest; ++i)
    if (number % i == 0) divisor = i;
  return divisor;
}

attend::grids::image_regions regions_of(selection_problem const& p, double area) {
  auto const image = image_of(p.keys());
  index_t const height = divisor_of(image[0], std::sqrt(area));
  return {image, {height, divisor_of(image[1], area / static_cast<double>(height))}};
}

attend::scale usual_scale(selection_problem const& p) {
  return attend::scale{1 / std::sqrt(static_cast<double>(p.dimension()))};
}

std::optional<prepared_selector> prepare_bi_level(selection_problem const& p, output_view const& output,
                                                  double budget) {
  if (p.heads() != p.key_heads() || p.queries() != p.keys()) return std::nullopt;
  attend::grids::image_regions const regions = regions_of(p, static_cast<double>(p.keys()) / 64);
  index_t const top = std::max<index_t>(std::lround(budget * static_cast<double>(regions.count())), 1);
  double const scored = static_cast<double>(p.batch() * p.heads() * regions.count() * regions.count() * p.dimension());
  auto const table = std::make_shared<attend::options::block_table>();
  return counted_call(
      p, output, scored * sizeof(float),
      [=, scale = usual_scale(p)](auto const& q, auto const& k, auto const& v, auto const& o, auto const&... options) {
        attend::systems::bi_level_routing_attention(q, k, v, o, *table, regions, top, scale, options...);
      });
}

/// One region, of the budget's size.
std::optional<prepared_selector> prepare_progressive(selection_problem const& p, output_view const& output,
                                                     double budget) {
  if (p.queries() != p.keys()) return std::nullopt;
  attend::grids::image_regions const regions = regions_of(p, budget * static_cast<double>(p.keys()));
  double const scored = static_cast<double>(p.batch() * p.heads() * regions.count() * p.queries() * p.dimension());
  auto const table = std::make_shared<attend::options::block_table>();
  return counted_call(
      p, output, scored * sizeof(float),
      [=, scale = usual_scale(p)](auto const& q, auto const& k, auto const& v, auto const& o, auto const&... options) {
        attend::systems::a2k_progressive_attention(q, k, v, o, *table, regions, regions, scale, options...);
      });
}

std::optional<prepared_selector> prepare_hepos(selection_problem const& p, output_view const& output, double budget) {
  if (p.heads() != p.key_heads()) return std::nullopt;
  auto const stride = static_cast<index_t>(std::lround(1 / budget));
  return summed_call(p, output, static_cast<double>(p.keys()) / static_cast<double>(stride), 0,
                     [=](auto const& q, auto const& k, auto const& v, auto const& o, auto const&... options) {
                       attend::systems::hepos_attention(q, k, v, o, stride, options...);
                     });
}

/// In place of the learned row, the mean query of the heads that share keys scores them.
std::optional<prepared_selector> prepare_sparse_k(selection_problem const& p, output_view const& output,
                                                  double budget) {
  index_t const count = std::max<index_t>(std::lround(budget * static_cast<double>(p.keys())), 1);
  index_t const group = p.heads() / p.key_heads();
  auto const scores = std::make_shared<tensor<float>>(std::array<index_t, 4>{1, p.batch(), p.key_heads(), p.keys()});
  auto const query = p.query.view(), key = p.key.view();
  std::vector<float> mean(static_cast<std::size_t>(p.dimension()));
  for (index_t b = 0; b < p.batch(); ++b)
    for (index_t h = 0; h < p.key_heads(); ++h) {
      std::fill(mean.begin(), mean.end(), 0.0f);
      for (index_t i = 0; i < group * p.queries(); ++i)
        for (index_t c = 0; c < p.dimension(); ++c)
          mean[static_cast<std::size_t>(c)] +=
              query(b, h * group + i / p.queries(), i % p.queries(), c) / static_cast<float>(group * p.queries());
      for (index_t j = 0; j < p.keys(); ++j)
        for (index_t c = 0; c < p.dimension(); ++c)
          scores->view()(0, b, h, j) += mean[static_cast<std::size_t>(c)] * key(b, h, j, c);
    }
  double const scored = static_cast<double>(p.batch() * p.key_heads() * p.keys()) * sizeof(float);
  return summed_call(p, output, static_cast<double>(count), scored,
                     [=](auto const& q, auto const& k, auto const& v, auto const& o, auto const&... options) {
                       attend::tensor_view<float const, 3> const of_keys(scores->elements.data(),
                                                                         {k.extent(0), k.extent(1), k.extent(2)});
                       attend::systems::sparse_k_attention(q, k, v, o, of_keys, count, options...);
                     });
}

}  // namespace

std::vector<selector> encoder_selectors() {
  constexpr phase prefill = phase::prefill;
  return {{"bi_level_routing", "regions of an image for each region, by their means over all heads", prefill, false,
           prepare_bi_level},
          {"progressive", "one region of an image for each region", prefill, false, prepare_progressive},
          {"hepos", "every so-manieth key, other ones for each head", prefill, false, prepare_hepos},
          {"sparse_k", "the same keys for all queries, with values times their soft choice", prefill, false,
           prepare_sparse_k}};
}

}  // namespace attend_bench
