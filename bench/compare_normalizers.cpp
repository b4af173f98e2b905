// SPDX-License-Identifier: BSD-3-Clause
// Other ways from logits to weights than softmax.
#include <attend/policy/normalizer/relu.hpp>
#include <attend/policy/normalizer/sigmoid.hpp>
#include <attend/policy/normalizer/sinks.hpp>

#include "compare_softmax.hpp"

namespace attend_bench {
namespace {

constexpr float sink_logit = 1;

template <attend::options::relu_scaling scaling>
variant relu(std::string const& name, std::string const& what, reference::normalizer settings) {
  return {name, what, for_each_type([settings]<class T>(problem const& p) {
            softmax_definition definition{p.mask};
            definition.options.settings = settings;
            return softmax_variant<T>(p, definition, p.mask, attend::options::relu_weights{scaling});
          })};
}

}  // namespace

std::vector<variant> normalizer_variants() {
  return {
      {"sinks", "exp(logit of the head) + sum in the denominator", for_each_type([]<class T>(problem const& p) {
         auto const logits = std::make_shared<std::vector<float>>(static_cast<std::size_t>(p.heads()), sink_logit);
         softmax_definition definition{.mask = p.mask, .kept = logits};
         definition.options.sink = [](index_t) { return static_cast<double>(sink_logit); };
         return softmax_variant<T>(p, definition, p.mask, attend::options::sinks(*logits));
       })},
      {"zero_slot", "1 + sum of exp(s) in the denominator", for_each_type([]<class T>(problem const& p) {
         softmax_definition definition{p.mask};
         definition.options.sink = [](index_t) { return 0.0; };
         return softmax_variant<T>(p, definition, p.mask, attend::options::sinks<float>(0));
       })},
      {"sigmoid_weights", "1 / (1 + exp(-(s - ln keys))), no sum", for_each_type([]<class T>(problem const& p) {
         softmax_definition definition{p.mask};
         definition.options.settings = reference::normalizer::sigmoid;
         definition.options.sigmoid_bias = -std::log(static_cast<double>(p.keys()));
         return softmax_variant<T>(p, definition, p.mask, attend::options::sigmoid_weights{});
       })},
      relu<attend::options::relu_scaling::none>("relu_weights", "max(s, 0)", reference::normalizer::relu),
      relu<attend::options::relu_scaling::count>("relu_by_count", "max(s, 0) / number of keys seen",
                                                 reference::normalizer::relu_by_count),
      relu<attend::options::relu_scaling::sum>("relu_by_sum", "max(s, 0) / sum of max(s, 0)",
                                               reference::normalizer::relu_by_sum),
  };
}

}  // namespace attend_bench
