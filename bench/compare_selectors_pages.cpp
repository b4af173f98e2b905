// Selectors of pages in decoding: by a summary of the keys of each.
#include <attend/variant/landmark_attention.hpp>
#include <attend/variant/mean_page_attention.hpp>
#include <attend/variant/quest_attention.hpp>

#include "compare_selection_lists.hpp"

namespace attend_bench {
namespace {

attend::selection_budget share(double budget) { return {.fraction = budget}; }

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

attend::landmark_selector<float> make_landmark(selection_problem const& p, double budget) {
  index_t const block = page_of(p, 64);
  return {cache_shape_of(p), p.heads(), p.keys(), attend::divide_up(budget_tokens(p, budget), block), block};
}

}  // namespace

std::vector<selector> page_selectors() {
  using attend::list_of;
  using attend::mean_page_selector;
  using attend::quest_selector;
  return {
      list_selector("quest", "pages of 16, by bounds of their channels; a list for the heads that share keys",
                    pages<quest_selector<float>>([](auto const&, auto const& b) { return attend::quest_pages(b); })),
      list_selector("quest_of_head", "the same, a list for each query head",
                    pages<quest_selector<float>>(
                        [](auto const&, auto const& b) { return attend::quest_pages(b, 16, list_of::query_head); })),
      list_selector("moba", "blocks of up to 512, by their mean key; a list for the heads that share keys",
                    pages<mean_page_selector<float>>([](auto const& p, auto const& b) {
                      return attend::moba_blocks(b, page_of(p, 512), list_of::key_value_head);
                    })),
      list_selector(
          "kinetics", "blocks of 16, by the mean of their logits over the heads that share keys",
          pages<mean_page_selector<float>>([](auto const&, auto const& b) { return attend::kinetics_blocks(b); })),
      list_selector("landmark", "blocks of up to 64, by their last key, which hands its weight to them", make_landmark,
                    [](auto const& query, auto const& store, auto& chooser, auto&& output, attend::threads threads) {
                      attend::landmark_attention(query, store, chooser, output, threads);
                    })};
}

}  // namespace attend_bench
