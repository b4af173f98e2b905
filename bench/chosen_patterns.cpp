// SPDX-License-Identifier: BSD-3-Clause
// Systems whose pairs a rule tells: the bound is what the definition's pairs allow.
#include "chosen_patterns.hpp"

#include <attend/attention/softmax/focus_icl_attention.hpp>
#include <attend/attention/sparse_prefill/combiner_attention.hpp>
#include <attend/attention/sparse_prefill/lsg_attention.hpp>
#include <attend/attention/sparse_prefill/routing_attention.hpp>
#include <attend/attention/sparse_prefill/sparse_transformer_attention.hpp>

#include <cmath>
#include <string>

namespace attend_bench {
namespace {

using attend::index_t;

/// report(problem) at both lengths.
template <class Report>
void at_lengths(Report const& report) {
  for (index_t tokens : {8192, 32768}) {
    chosen_problem p(quick ? tokens / 16 : tokens);
    report(p);
  }
}

/// The sum over queries of the keys that each sees.
template <class Seen>
double pairs_of(chosen_problem const& p, Seen const& seen) {
  double pairs = 0;
  for (index_t i = 0; i < p.tokens; ++i) pairs += static_cast<double>(seen(i));
  return pairs;
}

std::string named(chosen_problem const& p, std::string const& name) {
  return name + ", " + std::to_string(p.tokens) + " tokens";
}

}  // namespace

void strided() {
  at_lengths([](chosen_problem& p) {
    for (index_t stride : {90, 128, 181}) {
      double const pairs =
          pairs_of(p, [&](index_t i) { return std::min(stride + 1, i + 1) + std::max<index_t>(i / stride - 1, 0); });
      report_bound(p, named(p, "Sparse Transformer, strided " + std::to_string(stride)).c_str(), pairs,
                   [&](auto const&... tensors) { attend::systems::strided_sparse_attention(tensors..., stride); });
    }
  });
}

void fixed() {
  at_lengths([](chosen_problem& p) {
    for (attend::systems::fixed_sets const& sets : {attend::systems::fixed_sets{128, 8}, {128, 32}}) {
      double const pairs = pairs_of(p, [&](index_t i) { return i % sets.stride + 1 + i / sets.stride * sets.columns; });
      report_bound(p, named(p, "Sparse Transformer, fixed 128, " + std::to_string(sets.columns)).c_str(), pairs,
                   [&](auto const&... tensors) { attend::systems::fixed_sparse_attention(tensors..., sets); });
    }
  });
}

void lsg() {
  constexpr char const* names[] = {"stride", "block_stride", "norm", "pooling", "bos_pooling", "lsh"};
  index_t const block = 128, factor = 8;
  random_tensor<float> directions({1, 1, block / factor / 2, 128}, 5);
  at_lengths([&](chosen_problem& p) {
    for (bool const is_causal : {false, true})
      for (int selection = 0; selection < 6; ++selection) {
        attend::systems::lsg_options settings{block, factor, static_cast<attend::systems::lsg_selection>(selection), 1};
        settings.directions = {directions.view().data(), {1, block / factor / 2, 128}};
        double const pairs = pairs_of(p, [&](index_t i) {
          index_t const before = i / block, behind = p.tokens / block - before - 1, rows = block / factor;
          auto const beyond = [&](index_t blocks) { return rows * std::clamp<index_t>(blocks - 1, 0, factor); };
          index_t const left = 1 + (before > 0 ? block : 0) + beyond(before);
          return is_causal ? left + i % block + 1 : left + block + (behind > 0 ? block : 0) + beyond(behind);
        });
        std::string const name = std::string("LSG ") + names[selection] + (is_causal ? ", causal" : "");
        report_bound(p, named(p, name).c_str(), pairs, [&](auto const&... tensors) {
          if (is_causal)
            attend::systems::lsg_attention(tensors..., settings, attend::causal{});
          else
            attend::systems::lsg_attention(tensors..., settings);
        });
      }
  });
}

void focus() {
  at_lengths([](chosen_problem& p) {
    // A question of an eighth of the tokens. Each of its logits is formed, so that dense attention is the bound.
    index_t const queries = p.tokens / 8;
    auto const of_question = [&](auto const& call) {
      return [&, call](auto const& q, auto const& k, auto const& v, auto const& o) {
        call(attend::detail::part(q, 2, 0, queries), k, v, attend::detail::part(o, 2, 0, queries));
      };
    };
    report_bound(p, named(p, "FocusICL, 40% trivial").c_str(), 1, of_question([&](auto const&... tensors) {
                   attend::systems::focus_icl_attention(tensors..., {p.tokens - queries, 8, 0.4});
                 }),
                 of_question([](auto const&... tensors) { attend::softmax_attention(tensors..., attend::causal{}); }),
                 1);
  });
}

void axial() {
  at_lengths([](chosen_problem& p) {
    for (index_t columns : {64, 128}) {
      // The pairs of the summaries are those of their tokens with what is above them.
      double const pairs = pairs_of(p, [&](index_t i) { return i % columns + 1 + columns + i / columns; });
      report_bound(p, named(p, "Combiner, axial, " + std::to_string(columns) + " columns").c_str(), pairs,
                   [&](auto const&... tensors) { attend::systems::combiner_axial_attention(tensors..., columns); });
    }
  });
}

void routing() {
  at_lengths([](chosen_problem& p) {
    auto const clusters = static_cast<index_t>(std::sqrt(static_cast<double>(p.tokens)));
    index_t const most = attend::extend::divide_up(p.tokens, clusters);
    random_tensor<float> centroids({1, 1, clusters, 128}, 6);
    attend::tensor_view<float const, 3> const view(centroids.view().data(), {1, clusters, 128});
    // Half of them visible under the causal order; a product of each token, as a query and as a key, with each centroid
    // is half a pair.
    double const pairs = static_cast<double>(clusters * most) * static_cast<double>(most) / 2 +
                         static_cast<double>(p.tokens) * static_cast<double>(clusters);
    report_bound(p, named(p, "Routing Transformer").c_str(), pairs, [&](auto const&... tensors) {
      attend::systems::routing_attention(tensors..., view, most, attend::causal{});
    });
  });
}

}  // namespace attend_bench
