// SPDX-License-Identifier: BSD-3-Clause
// Selectors of tokens in decoding: each key has a score of its own.
#include <attend/attention/cached/principal_slicing.hpp>
#include <attend/attention/softmax/decoupled_embedding_attention.hpp>
#include <attend/attention/sparse_decode/loki_selector.hpp>
#include <attend/attention/sparse_decode/recycled_attention.hpp>
#include <attend/attention/sparse_decode/span_selector.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/select/vote_selector.hpp>

#include "compare_selection_retrieval.hpp"

namespace attend_bench {
namespace {

using attend::threads;

/// Loki attends to keys on their principal axes, which are found beforehand; queries are turned in each step.
std::optional<prepared_selector> prepare_loki(selection_problem const& p, attend::tensor_view<float, 4> const& output,
                                              double budget) {
  struct state {
    std::vector<float> axes;
    tensor<float> query, key;
    attend::systems::loki_selector<float> chooser;
  };
  index_t const d = p.dimension(), rank = std::max<index_t>(d / 4, 1);
  std::shared_ptr<state> const kept(
      new state{{},
                tensor<float>({p.batch(), p.heads(), 1, d}),
                tensor<float>(p.key.extents),
                {cache_shape_of(p), p.heads(), p.keys(), attend::systems::loki_tokens({.fraction = budget}), {rank}}});
  auto const keys = p.key.view();
  for (index_t head = 0; head < p.key_heads(); ++head) {
    auto const slicing = attend::systems::principal_slicing(
        attend::tensor_view<float const, 2>(&keys(0, head, 0, 0), {p.keys(), d}, {keys.stride(2), 1}), 1);
    for (index_t row = 0; row < d; ++row)
      for (index_t column = 0; column < d; ++column) kept->axes.push_back(slicing.transform(row, column));
  }
  auto const axes = [=] {
    return attend::tensor_view<float const, 3>(kept->axes.data(),
                                               {static_cast<index_t>(kept->axes.size()) / d / d, d, d});
  };
  attend::systems::to_principal_axes(keys, axes(), kept->key.view());
  attend::caches::key_value_tensors<float> const store(std::as_const(kept->key).view(), p.value.view());
  kept->chooser.update(store);
  return prepared_selector{
      [=, &p](index_t step, threads threads) {
        attend::systems::to_principal_axes(p.rows_of_step(p.query.view(), step), axes(), kept->query.view());
        attend::selection::selected_attention(kept->query.view(), store, kept->chooser, p.rows_of_step(output, step),
                                              threads);
      },
      [=, &p](query_row const& at, std::vector<std::int32_t>& to) { append_list(kept->chooser.lists(), p, at, to); },
      [=, &p] { return static_cast<double>(kept->chooser.bytes_scored()) + list_bytes(kept->chooser.lists(), p); }};
}

/// A step that chooses anew reads all keys.
selector token_select() {
  return list_selector("token_select", "by votes of all heads, for steps whose queries are alike",
                       [](selection_problem const& p, double budget) {
                         return attend::selection::vote_selector<float>(cache_shape_of(p), p.heads(), p.keys(),
                                                                        {.budget = {.fraction = budget}});
                       });
}

/// In place of the weights of a stream, whose queries the comparison does not have, those of a block's keys to each
/// other.
attend::systems::span_selector<float> make_spans(selection_problem const& p, double budget) {
  attend::systems::span_selector_options const choice{.budget = {.fraction = budget, .first = 4}};
  attend::systems::span_selector<float> made(cache_shape_of(p), p.heads(), p.keys(), choice);
  auto const store = store_of(p);
  index_t const block = choice.block_tokens;
  tensor<float> weights({1, p.key_heads(), block, block});
  tensor<float> mean({1, 1, block, block});
  for (index_t b = 0; b < p.batch(); ++b)
    for (index_t first = 0; first + block <= p.keys(); first += block) {
      auto const key = p.key.view();
      attend::tensor_view<float const, 4> const part(&key(b, 0, first, 0), {1, p.key_heads(), block, p.dimension()},
                                                     {key.stride(0), key.stride(1), key.stride(2), 1});
      attend::options::attention_weights(part, part, weights.view(), attend::causal{});
      std::fill(mean.elements.begin(), mean.elements.end(), 0.0f);
      for (std::size_t i = 0; i < weights.elements.size(); ++i)
        mean.elements[i % mean.elements.size()] += weights.elements[i] / static_cast<float>(p.key_heads());
      made.add_block(b, attend::tensor_view<float const, 2>(mean.elements.data(), {block, block}), store);
    }
  return made;
}

/// What one step has chosen serves the others: make(weight_selector_options) gives a chooser, and
/// call(query, store, chooser, is_first, output, threads) is a step, of which all passes over the steps begin with the
/// first.
template <class Make, class Call>
std::optional<prepared_selector> prepare_reuse(selection_problem const& p, attend::tensor_view<float, 4> const& output,
                                               double budget, Make const& make, Call const& call) {
  using choosing = decltype(make(attend::selection::weight_selector_options{}));
  struct state {
    choosing chooser;
    bool full;
  };
  auto const store = store_of(p);
  std::shared_ptr<state> const kept(
      new state{make(attend::selection::weight_selector_options{.budget = {.fraction = budget}}), false});
  return prepared_selector{[=, &p](index_t step, threads threads) {
                             kept->full = step == 0;
                             call(p.rows_of_step(p.query.view(), step), store, kept->chooser, kept->full,
                                  p.rows_of_step(output, step), threads);
                           },
                           [=, &p](query_row const& at, std::vector<std::int32_t>& to) {
                             if (!kept->full) return append_list(kept->chooser.lists(), p, at, to);
                             for (index_t key = 0; key < p.keys(); ++key) to.push_back(static_cast<std::int32_t>(key));
                           },
                           [=, &p] {
                             double const all =
                                 p.row_bytes() * static_cast<double>(p.batch() * p.key_heads() * p.keys());
                             return kept->full ? all : list_bytes(kept->chooser.lists(), p);
                           }};
}

std::optional<prepared_selector> prepare_recycled(selection_problem const& p,
                                                  attend::tensor_view<float, 4> const& output, double budget) {
  return prepare_reuse(
      p, output, budget,
      [&](attend::selection::weight_selector_options const& choice) {
        return attend::systems::recycled_selector<float>(cache_shape_of(p), p.heads(), p.keys(), choice,
                                                         {.every = p.steps()});
      },
      [](auto const& query, auto const& store, auto& chooser, bool, auto const& to, threads threads) {
        attend::systems::recycled_attention(query, store, chooser, to, threads);
      });
}

/// Steps stand for the layers of a model.
std::optional<prepared_selector> prepare_layer_reuse(selection_problem const& p,
                                                     attend::tensor_view<float, 4> const& output, double budget) {
  return prepare_reuse(
      p, output, budget,
      [&](attend::selection::weight_selector_options const& choice) {
        return attend::selection::weight_selector<float>(cache_shape_of(p), p.heads(), p.keys(), choice);
      },
      [](auto const& query, auto const& store, auto& chooser, bool is_first, auto const& to, threads threads) {
        attend::systems::hylra_attention(query, store, chooser, is_first, to, threads);
      });
}

/// The heads that share keys are the targets of one history. Targets' representations are ones.
std::optional<prepared_selector> prepare_decoupled(selection_problem const& p,
                                                   attend::tensor_view<float, 4> const& output, double budget) {
  index_t const count = budget_tokens(p, budget), histories = p.batch() * p.key_heads(),
                group = p.heads() / p.key_heads();
  struct state {
    std::vector<float> target, ones, output;
  };
  auto const kept = std::make_shared<state>();
  kept->target.resize(static_cast<std::size_t>(histories * group * p.dimension()));
  kept->ones.assign(static_cast<std::size_t>(histories * group * p.value_dimension()), 1);
  kept->output = kept->ones;
  auto const run = [=, &p](index_t step, threads threads) {
    using rows = attend::tensor_view<float const, 3>;
    auto const query = p.rows_of_step(p.query.view(), step);
    auto const result = p.rows_of_step(output, step);
    for (index_t row = 0; row < histories * group; ++row)
      std::copy_n(&query(row / p.heads(), row % p.heads(), 0, 0), p.dimension(),
                  &kept->target[static_cast<std::size_t>(row * p.dimension())]);
    attend::systems::decoupled_embedding_attention(
        rows(kept->target.data(), {histories, group, p.dimension()}),
        rows(p.key.elements.data(), {histories, p.keys(), p.dimension()}),
        rows(kept->ones.data(), {histories, group, p.value_dimension()}),
        rows(p.value.elements.data(), {histories, p.keys(), p.value_dimension()}),
        attend::tensor_view<float, 3>(kept->output.data(), {histories, group, p.value_dimension()}), count, threads);
    for (index_t row = 0; row < histories * group; ++row)
      std::copy_n(&kept->output[static_cast<std::size_t>(row * p.value_dimension())], p.value_dimension(),
                  &result(row / p.heads(), row % p.heads(), 0, 0));
  };
  double const value_bytes = static_cast<double>(histories * group * count * p.value_dimension()) * sizeof(float);
  return prepared_selector{
      run, {}, [=, &p] { return key_bytes(p) + value_bytes; }, {}, [=] { return static_cast<double>(count); }};
}

}  // namespace

std::vector<selector> token_selectors() {
  return {{"loki", "by a quarter of the principal channels; a list for the heads that share keys", phase::decode, false,
           prepare_loki},
          token_select(),
          list_selector("ltri", "spans that keys mark off, by votes of all heads; and the first 4", make_spans),
          {"recycled", "the keys of most weight in the first of the steps", phase::decode, false, prepare_recycled},
          {"layer_reuse", "the keys of most weight in the first of the steps, which stand for layers", phase::decode,
           false, prepare_layer_reuse},
          {"retrieval", "half are the first and the last keys, half found by a flat index of all", phase::decode, false,
           [](selection_problem const& p, attend::tensor_view<float, 4> const& output, double budget) {
             return prepare_retrieval(p, output, budget, attend::selection::flat_index(),
                                      [&p](index_t) { return key_bytes(p); });
           }},
          {"decoupled", "the keys of most weight, in one call that reads the chosen values alone", phase::decode, false,
           prepare_decoupled}};
}

}  // namespace attend_bench
