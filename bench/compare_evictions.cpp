// SPDX-License-Identifier: BSD-3-Clause
// What a cache keeps, in the comparison: policies of eviction, which drop tokens before it is known who will look for
// them, and stores of fewer bits. A policy that goes by weights has seen those of the queries that came before the
// steps; all evict once, behind them.
#include <attend/attention/cached/accumulate_weights.hpp>
#include <attend/attention/cached/decode_attention.hpp>
#include <attend/cache/contiguous.hpp>
#include <attend/select/cascade_pruning.hpp>
#include <attend/select/eviction_policies.hpp>
#include <attend/select/fastgen_eviction.hpp>

#include <cmath>
#include <numeric>

#include "compare_selection_lists.hpp"

namespace attend_bench {
namespace {

using namespace attend::caches;
using kept_cache = evicting_cache<float>;

/// What attention sinks to: the first tokens, that windows keep as well.
constexpr index_t sinks = 4;

template <class Store>
void attend_to(selection_problem const& p, attend::tensor_view<float const, 4> const& query, Store const& store,
               attend::tensor_view<float, 4> const& output, tensor<float>& sums, attend::threads threads) {
  attend::tensor_view<float, 3> const rows(sums.elements.data(), {p.batch(), p.heads(), 1});
  attend::decode_attention(query, store, output, attend::options::log_sum_exp(rows), threads);
}

/// Adds up the weights of the queries that came before, as decoding them one by one does.
void observe(selection_problem const& p, kept_cache& store) {
  tensor<float> output({p.batch(), p.heads(), 1, p.value_dimension()}), sums({1, p.batch(), p.heads(), 1});
  attend::tensor_view<float const, 3> const rows(sums.elements.data(), {p.batch(), p.heads(), 1});
  for (index_t i = 0; i < p.observed.extents[2]; ++i) {
    auto const query = p.rows_of_step(p.observed.view(), i);
    attend_to(p, query, store, output.view(), sums, attend::threads{1});
    accumulate_weights(query, rows, store);
  }
}

/// evict(store, problem, tokens) leaves about so many tokens of each head.
template <class Evict>
selector policy(std::string const& name, std::string const& what, bool weighed, Evict const& evict) {
  auto const prepare = [=](selection_problem const& p, attend::tensor_view<float, 4> const& output,
                           double budget) -> std::optional<prepared_selector> {
    constexpr index_t page_tokens = 16;
    index_t const pages = p.batch() * p.key_heads() * attend::extend::divide_up(p.keys(), page_tokens);
    auto const store =
        std::make_shared<kept_cache>(cache_shape_of(p), paging{.pages = pages, .page_tokens = page_tokens});
    store->append(p.key.view(), p.value.view());
    if (weighed) observe(p, *store);
    evict(*store, p, budget_tokens(p, budget));
    auto const sums = std::make_shared<tensor<float>>(std::array<index_t, 4>{1, p.batch(), p.heads(), 1});
    return prepared_selector{[=, &p](index_t step, attend::threads threads) {
                               attend_to(p, p.rows_of_step(p.query.view(), step), *store, p.rows_of_step(output, step),
                                         *sums, threads);
                             },
                             [=, &p](query_row const& at, std::vector<std::int32_t>& to) {
                               index_t const head = at.head * p.key_heads() / p.heads();
                               store->with_tokens(at.batch, head, [&](auto const& tokens) {
                                 to.insert(to.end(), tokens.position.begin(), tokens.position.end());
                               });
                             },
                             [=, &p] {
                               double rows = 0;
                               for (index_t b = 0; b < p.batch(); ++b)
                                 for (index_t head = 0; head < p.key_heads(); ++head)
                                   rows += static_cast<double>(store->stored(b, head));
                               return rows * p.row_bytes();
                             }};
  };
  return {name, what, phase::decode, false, prepare};
}

void keep_first_and_last(kept_cache& store, selection_problem const&, index_t tokens) {
  store.evict(keep_window{sinks, std::max<index_t>(tokens - sinks, 1)}, 1);
}

/// From short to long, with the budget as their mean.
void keep_unequal_windows(kept_cache& store, selection_problem const& p, index_t tokens) {
  std::vector<index_t> windows;
  for (index_t head = 0; head < p.key_heads(); ++head)
    windows.push_back(std::clamp<index_t>(2 * tokens * (head + 1) / (p.key_heads() + 1) - sinks, 1, p.keys()));
  store.evict(keep_window{.sinks = sinks, .windows = windows}, 1);
}

/// Half of the budget are heads that keep all: those with most weight outside of the others' windows.
void keep_whole_heads(kept_cache& store, selection_problem const& p, index_t tokens) {
  index_t const heads = p.key_heads(), whole = tokens * heads / (2 * p.keys());
  index_t const window = std::max<index_t>((tokens * heads - whole * p.keys()) / (heads - whole) - sinks, 1);
  std::vector<double> outside(static_cast<std::size_t>(heads), 0.0);
  for (index_t b = 0; b < p.batch(); ++b)
    for (index_t head = 0; head < heads; ++head)
      store.with_tokens(b, head, [&](auto const& kept) {
        for (index_t row = sinks; row < p.keys() - window; ++row)
          outside[static_cast<std::size_t>(head)] += static_cast<double>(kept.score[static_cast<std::size_t>(row)]);
      });
  std::vector<index_t> order(outside.size()), windows(outside.size(), window);
  std::iota(order.begin(), order.end(), index_t{0});
  std::stable_sort(order.begin(), order.end(), [&](index_t a, index_t b) {
    return outside[static_cast<std::size_t>(a)] > outside[static_cast<std::size_t>(b)];
  });
  for (index_t i = 0; i < whole; ++i) windows[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])] = -1;
  store.evict(keep_window{.sinks = sinks, .windows = windows}, 1);
}

template <bool ByValues>
void keep_heavy(kept_cache& store, selection_problem const&, index_t tokens) {
  store.evict(keep_heaviest{.recent = tokens / 2, .heaviest = tokens - tokens / 2, .by_values = ByValues}, 1);
}

void keep_cascade(kept_cache& store, selection_problem const& p, index_t tokens) {
  attend::systems::cascade_pruning pruning(p.batch(), p.keys());
  pruning.add_weights(store);
  pruning.prune(store, 1, {.heaviest = tokens - tokens / 2, .first = 0, .recent = tokens / 2}, 1);
}

void keep_short_keys(kept_cache& store, selection_problem const&, index_t tokens) {
  store.evict(keep_smallest_keys{.recent = tokens / 2, .smallest = tokens - tokens / 2}, 1);
}

/// Half of the budget are the last blocks, the other half every so-manieth one.
void keep_shards(kept_cache& store, selection_problem const& p, index_t tokens) {
  constexpr index_t block = 16;
  store.evict(keep_shard{.settings = {.local = std::max<index_t>(tokens / 2 / block, 1),
                                      .stride = std::max<index_t>(2 * p.keys() / tokens, 2)},
                         .block = block},
              1);
}

/// Tokens stand for text in which every so-manieth is a sentinel.
void keep_sentinels(kept_cache& store, selection_problem const& p, index_t tokens) {
  index_t const span = std::max<index_t>(p.keys() / tokens, 2);
  std::vector<index_t> open, close;
  for (index_t first = 0; first + span < p.keys(); first += span) {
    open.push_back(first);
    close.push_back(first + span - 1);
  }
  store.evict(drop_closed_spans(open, close), 1);
}

/// Nobody has said which tokens are special or punctuation.
void keep_by_fastgen(kept_cache& store, selection_problem const& p, index_t tokens) {
  std::vector<std::uint8_t> const kinds(static_cast<std::size_t>(p.batch() * p.keys()), 0);
  double const half = static_cast<double>(tokens) / static_cast<double>(2 * p.keys());
  fastgen_eviction chosen(store.shape(),
                          attend::tensor_view<std::uint8_t const, 2>(kinds.data(), {p.batch(), p.keys()}),
                          {.frequent = half, .local = half});
  chosen.choose(store);
  store.evict(chosen, 1);
}

template <class Stored>
selector stored_as(std::string const& name, std::string const& what) {
  auto const prepare = [](selection_problem const& p, attend::tensor_view<float, 4> const& output,
                          double) -> std::optional<prepared_selector> {
    auto const store = std::make_shared<attend::contiguous_cache<Stored>>(cache_shape_of(p), p.keys());
    store->append(p.key.view(), p.value.view());
    auto const sums = std::make_shared<tensor<float>>(std::array<index_t, 4>{1, p.batch(), p.heads(), 1});
    return prepared_selector{[=, &p](index_t step, attend::threads threads) {
                               attend_to(p, p.rows_of_step(p.query.view(), step), *store, p.rows_of_step(output, step),
                                         *sums, threads);
                             },
                             [&p](query_row const&, std::vector<std::int32_t>& to) {
                               to.resize(static_cast<std::size_t>(p.keys()));
                               std::iota(to.begin(), to.end(), 0);
                             },
                             [=] { return static_cast<double>(store->bytes()); }};
  };
  return {name, what, phase::decode, false, prepare, true};
}

}  // namespace

std::vector<selector> kept_selectors() {
  return {
      policy("window", "the first 4 tokens and the last ones", false, keep_first_and_last),
      policy("head_windows", "the same with windows from short to long over the heads", false, keep_unequal_windows),
      policy("whole_heads", "half in heads that keep all, by the weights so far; windows in the others", true,
             keep_whole_heads),
      policy("heaviest", "half the last, half those of most weight so far (H2O)", true, keep_heavy<false>),
      policy("heaviest_values", "the same with weights times the size of values (VATP)", true, keep_heavy<true>),
      policy("cascade", "the same tokens in all heads: half the last, half those of most weight so far (SpAtten)", true,
             keep_cascade),
      policy("short_keys", "half the last, half those of the shortest keys", false, keep_short_keys),
      policy("shards", "half the last blocks of 16, half every so-manieth, other ones in each head", false,
             keep_shards),
      policy("sentinels", "the last token of each of many spans", false, keep_sentinels),
      policy("fastgen", "by head, the cheapest that keeps 95% of the weights so far", true, keep_by_fastgen),
      stored_as<attend::bfloat16>("stored_bfloat16", "all tokens in 16 bits"),
      stored_as<std::int8_t>("stored_int8", "all tokens in 8 bits, with a scale for each token and head"),
      stored_as<int4_pair>("stored_int4", "all tokens in 4 bits, with a scale for each token and head")};
}

}  // namespace attend_bench
