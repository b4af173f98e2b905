// SPDX-License-Identifier: BSD-3-Clause
// Who sees whom by a pattern that is known beforehand: blocks of a table, and the neighborhood of a token on a line.
#include <attend/attention/image/neighborhood_attention.hpp>
#include <attend/policy/mask/block_builders.hpp>
#include <attend/policy/mask/block_sparse.hpp>
#include <attend/reference/neighborhood.hpp>

#include "compare_softmax.hpp"

namespace attend_bench {
namespace {

constexpr index_t block = 64;

/// One block of four, and the diagonal.
bool is_listed(index_t query_block, index_t key_block) {
  return query_block == key_block || (query_block * 5 + key_block * 3) % 4 == 0;
}

template <class T>
std::optional<prepared_variant> prepare_blocks(problem const& p) {
  auto const table = std::make_shared<attend::options::block_table>(
      attend::options::table_of_blocks({1, 1, p.queries(), p.keys(), block, block},
                                       [](index_t, index_t, index_t i, index_t j) { return is_listed(i, j); }));
  softmax_definition definition{.mask = p.mask, .kept = table};
  definition.also_visible = [](reference::place const& at) { return is_listed(at.query / block, at.key / block); };
  return softmax_variant<T>(p, definition, attend::options::block_sparse(*table) & p.mask);
}

template <class T>
std::optional<prepared_variant> prepare_neighborhood(problem const& p) {
  index_t const tokens = p.keys(), window = std::max<index_t>(tokens / 4, 1);
  if (p.queries() != tokens || p.mask.left >= 0 || p.mask.right >= 0) return std::nullopt;
  softmax_definition definition{.mask = p.mask};
  definition.also_visible = [=](reference::place const& at) {
    return reference::is_neighbor({tokens, window, 1, 1, false}, at.query, at.key);
  };
  return call_variant<T>(
      p, definition, [=](auto const& query, auto const& key, auto const& value, auto&& output, auto threads) {
        attend::grids::neighborhood_attention<1>(query, key, value, output, {tokens}, {{{window}}}, threads);
      });
}

}  // namespace

std::vector<variant> pattern_variants() {
  return {{"block_sparse", "one block of 64 x 64 in four, and the diagonal",
           for_each_type([]<class T>(problem const& p) { return prepare_blocks<T>(p); })},
          {"neighborhood", "a quarter of the keys, around the query",
           for_each_type([]<class T>(problem const& p) { return prepare_neighborhood<T>(p); })}};
}

}  // namespace attend_bench
