// SPDX-License-Identifier: BSD-3-Clause
// A variant, as attend_compare sees it: a name, what it computes, and how it is made ready for a problem. A new one is
// one entry in the list of a compare_*.cpp, and that list is one entry in attend_compare.cpp.
#pragma once

#include <attend/core/executor.hpp>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "compare_problem.hpp"
#include "element_type.hpp"

namespace attend_bench {

/// Sampled rows of a variant's output by its definition, in double and on the numbers that the variant reads:
/// [batch, head, sampled row, value dimension].
struct defined_rows {
  std::vector<double> output;
  /// How far rounding may bring the variant from each of them.
  std::vector<double> allowed;
};

/// A variant that is ready to run on a problem.
struct prepared_variant {
  element_type type;
  /// Floating-point operations that the definition needs.
  double operations;
  std::function<void(attend::threads)> run;
  /// Sampled rows of what the last run wrote.
  std::function<std::vector<double>(row_sample const&)> output;
  std::function<defined_rows(row_sample const&)> definition;
  /// Bytes that must be read, where that is what a call costs; otherwise 0.
  double bytes = 0;
};

struct variant {
  std::string name;
  std::string what;
  /// Nothing where the variant does not fit the problem.
  std::function<std::optional<prepared_variant>(problem const&, element_type)> prepare;
  /// Whether it stands in for causal attention, whatever the problem's mask says.
  bool causal = false;
};

/// prepare() from a function that is written for any element type T: make.template operator()<T>(problem).
template <class Make>
auto for_each_type(Make make) {
  return [make](problem const& p, element_type type) -> std::optional<prepared_variant> {
    return with_element_type(
        type, [&]<class T>() -> std::optional<prepared_variant> { return make.template operator()<T>(p); });
  };
}

/// Softmax attention under a mask, with nothing else.
prepared_variant plain_softmax(problem const& p, element_type type, attend::window const& mask);

std::vector<variant> mask_variants();
std::vector<variant> head_variants();
std::vector<variant> storage_variants();
std::vector<variant> pattern_variants();
std::vector<variant> cache_variants();
std::vector<variant> linear_variants();
std::vector<variant> slot_variants();
std::vector<variant> normalizer_variants();
std::vector<variant> score_variants();
std::vector<variant> selective_variants();

}  // namespace attend_bench
