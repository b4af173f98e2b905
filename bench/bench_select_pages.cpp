// Decoding with chosen pages (select_decode.hpp).
#include <attend/variant/mean_page_attention.hpp>
#include <attend/variant/quest_attention.hpp>

#include <type_traits>

#include "benchmarks.hpp"
#include "select_decode.hpp"

namespace attend_bench {

void register_select_pages() {
  using problem = select_decode_problem;
  using quest = attend::quest_selector<problem::T>;
  using means = attend::mean_page_selector<problem::T>;
  using attend::list_of;
  attend::selection_budget const budget{.fraction = problem::budget};
  auto const pages = [](auto kind, attend::page_choice const& choice) {
    return [=](problem& p) { return typename decltype(kind)::type(p.shape(), p.query_heads, p.keys, choice); };
  };
  add_select_decode("quest", pages(std::type_identity<quest>{}, attend::quest_pages(budget)));
  add_select_decode("quest_of_head",
                    pages(std::type_identity<quest>{}, attend::quest_pages(budget, 16, list_of::query_head)));
  add_select_decode("moba",
                    pages(std::type_identity<means>{}, attend::moba_blocks(budget, 512, list_of::key_value_head)));
  add_select_decode("kinetics", pages(std::type_identity<means>{}, attend::kinetics_blocks(budget)));
}

}  // namespace attend_bench
