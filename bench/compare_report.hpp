// SPDX-License-Identifier: BSD-3-Clause
// What attend_compare found out, as tables or as one JSON document, and what other reports show of it.
#pragma once

#include <nlohmann/json.hpp>

#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "compare_options.hpp"
#include "compare_problem.hpp"

namespace attend_bench {

/// One row: a variant on a problem.
struct comparison {
  std::string name, what;
  element_type type = element_type::f32;
  double milliseconds = 0, gigaflops = 0, peak_fraction = 0;
  double bytes = 0;                               // that a call must read and write
  std::optional<double> bandwidth_fraction = {};  // where reading is what a call costs
  attend::index_t scratch_bytes = 0;              // of each thread
  double error = 0;                               // from exact softmax attention, relative to its largest output
  double rounding = 0;                            // from the variant's own definition, relative to its largest output
  double rounding_of_allowed = 0;                 // the same as a fraction of what rounding explains
};

/// A table: a problem and what was compared on it.
struct compared_problem {
  std::string name;
  attend::index_t batch, heads, key_heads, queries, keys, dimension, value_dimension, sampled_rows;
  std::vector<comparison> rows;

  compared_problem(problem const& p, row_sample const& sample)
      : name(p.name),
        batch(p.batch()),
        heads(p.heads()),
        key_heads(p.key_heads()),
        queries(p.queries()),
        keys(p.keys()),
        dimension(p.dimension()),
        value_dimension(p.value_dimension()),
        sampled_rows(sample.count) {}
};

/// Whether every variant is as close to its definition as rounding lets it be.
bool passed(std::vector<compared_problem> const& problems);

/// What was compiled and asked for.
std::string machine_text(compare_options const& options);
std::string shape_text(compared_problem const& p);
/// Of a table: its columns, which of them are texts, a row, and what the columns mean, in several lines.
std::vector<std::string> const& table_headings();
bool is_text_column(std::size_t column);
std::vector<std::string> table_cells(comparison const& row);
char const* table_legend();
/// How many variants, the fastest on each problem, and the largest rounding error.
std::string summary_text(std::vector<compared_problem> const& problems);

void print_tables(std::ostream& out, std::vector<compared_problem> const& problems, compare_options const& options);
nlohmann::json as_json(std::vector<compared_problem> const& problems, compare_options const& options);

}  // namespace attend_bench
