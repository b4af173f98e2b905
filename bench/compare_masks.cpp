// SPDX-License-Identifier: BSD-3-Clause
// Softmax attention with nothing but a mask: the problem's own, causal, a window.
#include <attend/policy/mask/causal.hpp>

#include "compare_softmax.hpp"

namespace attend_bench {
namespace {

constexpr attend::window causal_window{-1, 0};

/// A window over a quarter of the keys.
attend::window quarter(problem const& p) { return {std::max<index_t>(p.keys() / 4, 1), 0}; }

std::optional<prepared_variant> prepare_causal(problem const& p, element_type type) {
  attend::window const mask = intersection_of(p.mask, causal_window);
  if (mask.left >= 0 || mask.right != 0) return plain_softmax(p, type, mask);
  return with_element_type(type, [&]<class T>() { return softmax_variant<T>(p, {mask}, attend::causal{}); });
}

}  // namespace

prepared_variant plain_softmax(problem const& p, element_type type, attend::window const& mask) {
  return with_element_type(type, [&]<class T>() { return softmax_variant<T>(p, {mask}, mask); });
}

std::vector<variant> mask_variants() {
  return {
      {"softmax", "under the problem's mask",
       [](problem const& p, element_type type) { return plain_softmax(p, type, p.mask); }},
      {"causal", "no query sees a later key", prepare_causal, true},
      {"window", "causal, and the last quarter of the keys alone",
       [](problem const& p, element_type type) { return plain_softmax(p, type, intersection_of(p.mask, quarter(p))); },
       true}};
}

}  // namespace attend_bench
