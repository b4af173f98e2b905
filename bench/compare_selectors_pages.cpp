// SPDX-License-Identifier: BSD-3-Clause
// Selectors of pages in decoding: by a summary of the keys of each.
#include <attend/attention/sparse_decode/hip_selector.hpp>
#include <attend/attention/sparse_decode/landmark_attention.hpp>
#include <attend/attention/sparse_decode/long_heads_selector.hpp>
#include <attend/attention/sparse_decode/mean_page_selector.hpp>
#include <attend/attention/sparse_decode/quest_selector.hpp>
#include <attend/attention/sparse_decode/seer_attention.hpp>

#include "compare_selection_lists.hpp"

namespace attend_bench {
namespace {

attend::selection::selection_budget share(double budget) { return {.fraction = budget}; }

/// Pages of a size that the problem has at least 64 of, if they are to be that large.
index_t page_of(selection_problem const& p, index_t largest) {
  return std::clamp<index_t>(p.keys() / 64 / 16 * 16, 16, largest);
}

/// A page_selector of this kind of summary.
template <class Chooser, class Choice>
auto pages(Choice const& choice) {
  return [=](selection_problem const& p, double budget) {
    return Chooser(cache_shape_of(p), p.heads(), p.keys(), choice(p, share(budget)));
  };
}

attend::systems::landmark_selector<float> make_landmark(selection_problem const& p, double budget) {
  index_t const block = page_of(p, 64);
  return {cache_shape_of(p), p.heads(), p.keys(), attend::extend::divide_up(budget_tokens(p, budget), block), block};
}

/// Nobody has trained a gate for these keys: in place of learned weights, the mean of a block's bounds and its mean
/// key.
struct untrained_gate {
  std::vector<float> query_weight, key_weight;
  attend::systems::seer_selector<float> chooser;

  untrained_gate(selection_problem const& p, double budget)
      : query_weight(static_cast<std::size_t>(p.dimension() * p.dimension())),
        key_weight(static_cast<std::size_t>(p.key_heads() * 3 * p.dimension() * p.dimension())),
        chooser(cache_shape_of(p), p.heads(), p.keys(),
                attend::systems::seer_blocks(share(budget), block(p), attend::selection::list_of::key_value_head),
                gate(p)) {}

  attend::selection::token_lists const& lists() const { return chooser.lists(); }
  index_t bytes_scored() const { return chooser.bytes_scored(); }
  void update(attend::caches::key_value_tensors<float> const& store) { chooser.update(store); }

 private:
  static index_t block(selection_problem const& p) { return page_of(p, 64); }

  attend::systems::seer_gate gate(selection_problem const& p) {
    index_t const d = p.dimension();
    attend::tensor_view<float, 3> const q(query_weight.data(), {1, d, d}),
        k(key_weight.data(), {p.key_heads(), 3 * d, d});
    for (index_t c = 0; c < d; ++c) {
      q(0, c, c) = 1;
      for (index_t head = 0; head < p.key_heads(); ++head)
        for (index_t part = 0; part < 3; ++part) k(head, part * d + c, c) = 1.0f / 3;
    }
    attend::options::rotary_frequencies const unturned(std::vector<double>(static_cast<std::size_t>(d / 2), 0.0));
    return {attend::tensor_view<float const, 3>(q), attend::tensor_view<float const, 3>(k), attend::rotary(unturned),
            block(p)};
  }
};

/// In place of a chunk's queries, which decoding no longer has, its keys.
attend::systems::long_heads_selector<float> make_long_heads(selection_problem const& p, double budget) {
  index_t const chunk = page_of(p, 256), group = p.heads() / p.key_heads();
  attend::systems::long_heads_selector<float> made(
      cache_shape_of(p), p.heads(), p.keys(),
      std::max<index_t>(attend::extend::divide_up(budget_tokens(p, budget), chunk), 3), chunk);
  auto const key = p.key.view(), value = p.value.view();
  tensor<float> query({1, p.heads(), chunk, p.dimension()});
  for (index_t b = 0; b < p.batch(); ++b)
    for (index_t first = 0; first + chunk <= p.keys(); first += chunk) {
      auto const part = [&](auto const& all) {
        return attend::tensor_view<float const, 4>(&all(b, 0, first, 0), {1, all.extent(1), chunk, all.extent(3)},
                                                   {all.stride(0), all.stride(1), all.stride(2), 1});
      };
      for (index_t head = 0; head < p.heads(); ++head)
        for (index_t t = 0; t < chunk; ++t)
          std::copy_n(&key(b, head / group, first + t, 0), p.dimension(), &query.view()(0, head, t, 0));
      made.represent(b, query.view(), part(key), part(value));
    }
  return made;
}

selector long_heads() {
  selector made = list_selector("long_heads",
                                "chunks of up to 256 by what attention within them finds, a list for "
                                "each query head",
                                make_long_heads);
  made.prepare = [prepare = made.prepare](selection_problem const& p, attend::tensor_view<float, 4> const& output,
                                          double budget) -> std::optional<prepared_selector> {
    if (p.dimension() != p.value_dimension()) return std::nullopt;
    return prepare(p, output, budget);
  };
  return made;
}

/// A search in each step.
auto tree_search(selection_problem const& p, double budget, attend::systems::hip_form form) {
  constexpr index_t block = 16;
  return attend::systems::hip_selector<float>(
      cache_shape_of(p), p.heads(), p.keys(),
      {.block_tokens = block, .blocks = std::max<index_t>(budget_tokens(p, budget) / block - 3, 1), .form = form});
}

}  // namespace

std::vector<selector> page_selectors() {
  using attend::selection::list_of;
  using attend::systems::mean_page_selector;
  using attend::systems::quest_selector;
  return {
      list_selector(
          "quest", "pages of 16, by bounds of their channels; a list for the heads that share keys",
          pages<quest_selector<float>>([](auto const&, auto const& b) { return attend::systems::quest_pages(b); })),
      list_selector("quest_of_head", "the same, a list for each query head",
                    pages<quest_selector<float>>([](auto const&, auto const& b) {
                      return attend::systems::quest_pages(b, 16, list_of::query_head);
                    })),
      list_selector("moba", "blocks of up to 512, by their mean key; a list for the heads that share keys",
                    pages<mean_page_selector<float>>([](auto const& p, auto const& b) {
                      return attend::systems::moba_blocks(b, page_of(p, 512), list_of::key_value_head);
                    })),
      list_selector("kinetics", "blocks of 16, by the mean of their logits over the heads that share keys",
                    pages<mean_page_selector<float>>(
                        [](auto const&, auto const& b) { return attend::systems::kinetics_blocks(b); })),
      list_selector("hip_decode", "blocks of 16 by a tree search, the nearest, the one before and the first",
                    [](selection_problem const& p, double budget) {
                      return tree_search(p, budget, attend::systems::hip_form::middle_token);
                    }),
      list_selector("hip_released", "the same, by the keys of an interval's first block",
                    [](selection_problem const& p, double budget) {
                      return tree_search(p, budget, attend::systems::hip_form::first_block);
                    }),
      list_selector("landmark", "blocks of up to 64, by their last key, which hands its weight to them", make_landmark,
                    [](auto const& query, auto const& store, auto& chooser, auto&& output, attend::threads threads) {
                      attend::systems::landmark_attention(query, store, chooser, output, threads);
                    }),
      long_heads(),
      list_selector(
          "seer", "blocks of up to 64, by a gate without training; a list for the heads that share keys",
          [](auto const& p, double budget) { return untrained_gate(p, budget); },
          [](auto const& query, auto const& store, auto& gate, auto&& output, attend::threads threads) {
            attend::systems::seer_attention(query, query, store, gate.chooser, output, threads);
          })};
}

}  // namespace attend_bench
