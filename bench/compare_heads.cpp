// SPDX-License-Identifier: BSD-3-Clause
// Fewer key-value heads, made from the given ones by their plain mean: what a model trained with them would have, were
// it not trained further.
#include "compare_variant.hpp"

namespace attend_bench {
namespace {

std::optional<prepared_variant> prepare_merged(problem const& p, element_type type, index_t heads) {
  bool const fits = heads > 0 && p.key_heads() > heads && p.key_heads() % heads == 0 && p.value_heads() > heads &&
                    p.value_heads() % heads == 0;
  if (!fits) return std::nullopt;
  return plain_softmax(with_merged_heads(p, heads), type, p.mask);
}

}  // namespace

std::vector<variant> head_variants() {
  return {{"gqa", "4 query heads share the mean of their key-values",
           [](problem const& p, element_type type) { return prepare_merged(p, type, p.heads() / 4); }},
          {"mqa", "all query heads share one mean",
           [](problem const& p, element_type type) { return prepare_merged(p, type, 1); }}};
}

}  // namespace attend_bench
