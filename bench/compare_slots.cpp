// SPDX-License-Identifier: BSD-3-Clause
// Extra keys that every query sees before its own, with and without values. A model would have learned them; here they
// are copies of the first keys and values.
#include "compare_softmax.hpp"

namespace attend_bench {
namespace {

constexpr index_t slot_count = 4;

/// The first tokens of every head.
tensor<double> first_tokens(tensor<double> const& from, index_t count) {
  tensor<double> to({from.extents[0], from.extents[1], count, from.extents[3]});
  auto const source = from.view();
  auto const target = to.view();
  for (index_t b = 0; b < to.extents[0]; ++b)
    for (index_t h = 0; h < to.extents[1]; ++h)
      for (index_t j = 0; j < count; ++j) std::copy_n(&source(b, h, j, 0), to.extents[3], &target(b, h, j, 0));
  return to;
}

/// In the element type, and the same numbers in double for the definition.
template <class T>
struct slots {
  tensor<T> key, value;
  tensor<double> key_as_double, value_as_double;

  explicit slots(problem const& p)
      : key(rounded<T>(first_tokens(p.key, std::min(slot_count, p.keys())))),
        value(rounded<T>(first_tokens(p.value, std::min(slot_count, p.keys())))),
        key_as_double(rounded<double>(key)),
        value_as_double(rounded<double>(value)) {}

  softmax_definition definition(std::shared_ptr<slots> const& kept, attend::window const& mask,
                                bool with_values) const {
    softmax_definition result{.mask = mask, .slots = key.extents[2], .kept = kept};
    result.options.slot_key = key_as_double.view();
    if (with_values) result.options.slot_value = value_as_double.view();
    return result;
  }
};

}  // namespace

std::vector<variant> slot_variants() {
  return {
      {"prefix_key_values", "4 more keys and values that everybody sees", for_each_type([]<class T>(problem const& p) {
         auto const extra = std::make_shared<slots<T>>(p);
         return softmax_variant<T>(p, extra->definition(extra, p.mask, true), p.mask,
                                   attend::options::prefix_key_values(extra->key.view(), extra->value.view()));
       })},
      {"key_bias", "4 more keys without values", for_each_type([]<class T>(problem const& p) {
         auto const extra = std::make_shared<slots<T>>(p);
         return softmax_variant<T>(p, extra->definition(extra, p.mask, false), p.mask,
                                   attend::options::key_bias(extra->key.view()));
       })}};
}

}  // namespace attend_bench
