// SPDX-License-Identifier: BSD-3-Clause
// What attend_compare --select found out, as a table, as comma-separated values, or as one JSON document.
#pragma once

#include <nlohmann/json.hpp>

#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "compare_options.hpp"

namespace attend_bench {

/// One row: a selector on a problem with a budget.
struct selection_result {
  std::string input, phase, selector, what;
  double budget = 1;                            // of the keys
  double milliseconds = 0, megabytes = 0;       // of a step
  double speedup = 0, fraction_of_bytes = 0;    // beside dense attention
  std::optional<double> keys_fraction, recall;  // of the keys, and of the attention mass; means over rows
  double error = 0;                             // root mean square, relative to that of the exact output
};

void print_selection(std::ostream& out, std::vector<selection_result> const& results, compare_options const& options);
void write_selection_csv(std::ostream& out, std::vector<selection_result> const& results);
nlohmann::json selection_as_json(std::vector<selection_result> const& results, compare_options const& options);

}  // namespace attend_bench
