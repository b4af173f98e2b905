// SPDX-License-Identifier: BSD-3-Clause
// What selectors are held against: attention to all keys, and to those that have the most weight. The latter knows the
// weights of all keys before it chooses: it reads all keys, and no choice of as many has more of the attention mass.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/select/top_k.hpp>

#include "compare_selection_lists.hpp"
#include "visible_pairs.hpp"

namespace attend_bench {
namespace {

std::optional<prepared_selector> prepare_best(selection_problem const& p, attend::tensor_view<float, 4> const& output,
                                              double budget) {
  struct state {
    attend::selection::token_lists lists;
    tensor<float> weights;
    std::vector<std::int32_t> chosen;
  };
  index_t const keys = p.keys(), count = budget_tokens(p, budget);
  auto const kept = std::make_shared<state>(state{attend::selection::token_lists(p.batch(), p.heads(), count),
                                                  tensor<float>({p.batch(), p.heads(), 1, keys}),
                                                  std::vector<std::int32_t>(static_cast<std::size_t>(count))});
  auto const run = [=, &p](index_t step, attend::threads threads) {
    attend::options::attention_weights(p.rows_of_step(p.query.view(), step), p.key.view(), kept->weights.view(),
                                       threads);
    for (index_t b = 0; b < p.batch(); ++b)
      for (index_t h = 0; h < p.heads(); ++h) {
        attend::selection::top_k(&kept->weights.view()(b, h, 0, 0), keys, count, kept->chosen.data());
        kept->lists.assign(b, h, keys, 0, kept->chosen, 1, 0);
      }
    auto const store = store_of(p);
    attend::decode_attention(p.rows_of_step(p.query.view(), step), attend::selection::selected_rows(store, kept->lists),
                             p.rows_of_step(output, step), threads);
  };
  double const all_keys = static_cast<double>(p.batch() * p.key_heads() * keys * p.dimension()) * sizeof(float);
  return prepared_selector{
      run, [=, &p](query_row const& at, std::vector<std::int32_t>& to) { append_list(kept->lists, p, at, to); },
      [=, &p] { return all_keys + list_bytes(kept->lists, p); }};
}

selector dense(phase when, bool causal, std::string const& what) {
  return {causal ? "dense_causal" : "dense",
          what,
          when,
          causal,
          [=](selection_problem const& p, attend::tensor_view<float, 4> const& output,
              double) -> std::optional<prepared_selector> { return dense_attention(p, output, causal); },
          true};
}

}  // namespace

prepared_selector dense_attention(selection_problem const& p, attend::tensor_view<float, 4> const& output,
                                  bool causal) {
  auto const run = [=, &p](index_t step, attend::threads threads) {
    auto const call = [&](auto const&... mask) {
      attend::softmax_attention(p.rows_of_step(p.query.view(), step), p.key.view(), p.value.view(),
                                p.rows_of_step(output, step), mask..., threads);
    };
    causal ? call(attend::causal{}) : call();
  };
  auto const chosen = [=, &p](query_row const& at, std::vector<std::int32_t>& to) {
    index_t const seen = causal ? p.keys() - p.queries() + at.query + 1 : p.keys();
    for (index_t key = 0; key < seen; ++key) to.push_back(static_cast<std::int32_t>(key));
  };
  double const rows = p.when == phase::decode
                          ? static_cast<double>(p.key_heads() * p.keys())
                          : static_cast<double>(p.heads()) * window_pairs(p.queries(), p.keys(), -1, causal ? 0 : -1);
  double const bytes = p.row_bytes() * static_cast<double>(p.batch()) * rows;
  return {run, chosen, [=] { return bytes; }};
}

std::vector<selector> exact_selectors() {
  return {dense(phase::decode, false, "all keys"),
          {"exact_top_k", "the keys of most weight, after reading all", phase::decode, false, prepare_best},
          dense(phase::prefill, true, "all keys, causal"),
          dense(phase::prefill, false, "all keys")};
}

}  // namespace attend_bench
