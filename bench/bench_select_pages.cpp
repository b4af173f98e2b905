// Decoding with chosen pages (select_decode.hpp).
#include <attend/variant/quest_attention.hpp>

#include "benchmarks.hpp"
#include "select_decode.hpp"

namespace attend_bench {

void register_select_pages() {
  using attend::quest_selector;
  using problem = select_decode_problem;
  using T = problem::T;
  attend::selection_budget const budget{.fraction = problem::budget};
  add_select_decode("quest", [=](problem& p) {
    return quest_selector<T>(p.shape(), p.query_heads, p.keys, attend::quest_pages(budget));
  });
}

}  // namespace attend_bench
