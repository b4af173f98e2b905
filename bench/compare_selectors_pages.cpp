// Selectors of pages: by a summary of the keys of each.
#include <attend/variant/quest_attention.hpp>

#include "compare_selection_lists.hpp"

namespace attend_bench {
namespace {

attend::selection_budget share(double budget) { return {.fraction = budget}; }

}  // namespace

std::vector<selector> page_selectors() {
  return {list_selector("quest", "pages of 16, by bounds of their channels; a list for the heads that share keys",
                        [](selection_problem const& p, double budget) {
                          return attend::quest_selector<float>(cache_shape_of(p), p.heads(), p.keys(),
                                                               attend::quest_pages(share(budget)));
                        }),
          list_selector("quest_of_head", "the same, a list for each query head",
                        [](selection_problem const& p, double budget) {
                          return attend::quest_selector<float>(
                              cache_shape_of(p), p.heads(), p.keys(),
                              attend::quest_pages(share(budget), 16, attend::list_of::query_head));
                        })};
}

}  // namespace attend_bench
