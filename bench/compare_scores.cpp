// SPDX-License-Identifier: BSD-3-Clause
// What is done to logits before the softmax.
#include <attend/policy/score/alibi.hpp>
#include <attend/policy/score/logit_scale.hpp>
#include <attend/policy/score/softcap.hpp>

#include "compare_softmax.hpp"

namespace attend_bench {
namespace {

constexpr double cap = 30;

/// From 1/2 to 1, a different one for each head.
std::vector<float> temperatures(index_t heads) {
  std::vector<float> factors;
  for (index_t head = 0; head < heads; ++head)
    factors.push_back(0.5f + 0.5f * static_cast<float>(head + 1) / static_cast<float>(heads));
  return factors;
}

double of_head(std::vector<float> const& numbers, index_t head) {
  return static_cast<double>(numbers[static_cast<std::size_t>(head)]);
}

}  // namespace

std::vector<variant> score_variants() {
  return {
      {"softcap", "30 tanh(s / 30)", for_each_type([]<class T>(problem const& p) {
         softmax_definition definition{p.mask};
         definition.options.scores = {[](double s, reference::place const&) { return cap * std::tanh(s / cap); }};
         return softmax_variant<T>(p, definition, p.mask, attend::options::softcap{cap});
       })},
      {"alibi", "s - slope of the head * distance", for_each_type([]<class T>(problem const& p) {
         auto const slopes =
             std::make_shared<std::vector<float>>(attend::options::alibi_slopes(static_cast<int>(p.heads())));
         softmax_definition definition{.mask = p.mask, .kept = slopes};
         definition.options.scores = {[slopes](double s, reference::place const& at) {
           return s - of_head(*slopes, at.head) * std::abs(static_cast<double>(at.position() - at.key));
         }};
         return softmax_variant<T>(p, definition, p.mask, attend::alibi(*slopes));
       })},
      {"head_logit_scale", "s * factor of the head, 1/2 to 1", for_each_type([]<class T>(problem const& p) {
         auto const factors = std::make_shared<std::vector<float>>(temperatures(p.heads()));
         softmax_definition definition{.mask = p.mask, .kept = factors};
         definition.options.scores = {
             [factors](double s, reference::place const& at) { return s * of_head(*factors, at.head); }};
         return softmax_variant<T>(p, definition, p.mask, attend::options::head_logit_scale(*factors));
       })},
  };
}

}  // namespace attend_bench
