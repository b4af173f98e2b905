// SPDX-License-Identifier: BSD-3-Clause
#include "compare_report.hpp"

#include <algorithm>
#include <set>

#include "build_information.hpp"
#include "text_table.hpp"

namespace attend_bench {
namespace {

/// The first columns are texts, and so is the last.
constexpr std::size_t text_columns = 2;

std::string count_text(std::size_t count, std::string const& what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

comparison const& fastest_of(compared_problem const& p) {
  return *std::min_element(p.rows.begin(), p.rows.end(),
                           [](comparison const& a, comparison const& b) { return a.milliseconds < b.milliseconds; });
}

/// A row, and the problem that it belongs to.
struct place {
  compared_problem const* problem;
  comparison const* row;
};

std::vector<place> all_rows(std::vector<compared_problem> const& problems) {
  std::vector<place> all;
  for (compared_problem const& p : problems)
    for (comparison const& row : p.rows) all.push_back({&p, &row});
  return all;
}

place max_rounded(std::vector<compared_problem> const& problems) {
  std::vector<place> const all = all_rows(problems);
  return *std::max_element(all.begin(), all.end(),
                           [](place const& a, place const& b) { return a.row->rounding < b.row->rounding; });
}

std::size_t count_variants(std::vector<compared_problem> const& problems) {
  std::set<std::string> names;
  for (place const& at : all_rows(problems)) names.insert(at.row->name);
  return names.size();
}

}  // namespace

bool passed(std::vector<compared_problem> const& problems) {
  std::vector<place> const all = all_rows(problems);
  return std::all_of(all.begin(), all.end(), [](place const& at) { return at.row->rounding_of_allowed <= 1; });
}

std::string machine_text(compare_options const& options) {
  return instruction_set() + ", " + compiler() + ", flags " + compiler_flags() + "; " +
         count_text(static_cast<std::size_t>(options.threads), "thread") + "; mask " + options.mask_name;
}

std::string shape_text(compared_problem const& p) {
  std::string heads = std::to_string(p.heads);
  if (p.key_heads != p.heads) heads += " (" + std::to_string(p.key_heads) + " of keys)";
  std::string dimension = std::to_string(p.dimension);
  if (p.value_dimension != p.dimension) dimension += " (" + std::to_string(p.value_dimension) + " of values)";
  return "batch " + std::to_string(p.batch) + ", heads " + heads + ", queries " + std::to_string(p.queries) +
         ", keys " + std::to_string(p.keys) + ", dimension " + dimension + "; errors in " +
         count_text(static_cast<std::size_t>(p.sampled_rows), "query row") + " of each head";
}

std::vector<std::string> const& table_headings() {
  static std::vector<std::string> const headings = {"variant",  "type",       "time (ms)",     "GFLOP/s",
                                                    "of peak",  "of reading", "scratch (KiB)", "error",
                                                    "rounding", "what it is"};
  return headings;
}

bool is_text_column(std::size_t column) { return column < text_columns || column + 1 == table_headings().size(); }

std::vector<std::string> table_cells(comparison const& row) {
  return {row.name,
          name_of(row.type),
          milliseconds_text(row.milliseconds),
          text("%.1f", row.gigaflops),
          text("%.2f", row.peak_fraction),
          row.bandwidth_fraction ? text("%.2f", *row.bandwidth_fraction) : "-",
          text("%.1f", static_cast<double>(row.scratch_bytes) / 1024),
          text("%.1e", row.error),
          text("%.1e", row.rounding) + (row.rounding_of_allowed <= 1 ? "" : " TOO MUCH"),
          row.what};
}

char const* table_legend() {
  return "time       the median of a call\n"
         "of peak    of the fused multiply-adds that this machine can do in that time, for pairs that see each other\n"
         "of reading of the bytes that it can read from memory in that time, where queries are few and keys are many\n"
         "scratch    of each thread\n"
         "error      the largest difference from exact softmax attention (causal and window: from causal attention)\n"
         "rounding   the largest difference from the variant's own definition\n"
         "           both in double, and relative to the largest output\n";
}

std::string summary_text(std::vector<compared_problem> const& problems) {
  std::string summary = "compared " + count_text(count_variants(problems), "variant") + " on " +
                        count_text(problems.size(), "problem") + "; fastest: ";
  for (compared_problem const& p : problems)
    summary += (&p == problems.data() ? "" : ", ") + fastest_of(p).name + " (" +
               milliseconds_text(fastest_of(p).milliseconds) + " ms) on " + p.name;
  place const worst = max_rounded(problems);
  return summary + "; largest rounding error " + text("%.1e", worst.row->rounding) + " (" + worst.row->name + " on " +
         worst.problem->name + "), " +
         (passed(problems) ? "each within what rounding explains" : "and not each within what rounding explains");
}

void print_tables(std::ostream& out, std::vector<compared_problem> const& problems, compare_options const& options) {
  out << machine_text(options) << '\n';
  for (compared_problem const& p : problems) {
    out << '\n' << p.name << ": " << shape_text(p) << '\n';
    std::vector<std::vector<std::string>> lines = {table_headings()};
    for (comparison const& row : p.rows) lines.push_back(table_cells(row));
    print_lines(out, lines, text_columns);
  }
  out << '\n' << table_legend() << '\n' << summary_text(problems) << '\n';
}

nlohmann::json as_json(std::vector<compared_problem> const& problems, compare_options const& options) {
  nlohmann::json document;
  document["machine"] = {
      {"instruction_set", instruction_set()}, {"compiler", compiler()}, {"compiler_flags", compiler_flags()}};
  document["threads"] = options.threads;
  document["mask"] = options.mask_name;
  document["repetitions"] = options.repetitions;
  document["problems"] = nlohmann::json::array();
  for (compared_problem const& p : problems) {
    nlohmann::json entry = {{"name", p.name},
                            {"batch", p.batch},
                            {"heads", p.heads},
                            {"key_heads", p.key_heads},
                            {"queries", p.queries},
                            {"keys", p.keys},
                            {"dimension", p.dimension},
                            {"value_dimension", p.value_dimension},
                            {"sampled_rows", p.sampled_rows},
                            {"variants", nlohmann::json::array()}};
    for (comparison const& row : p.rows)
      entry["variants"].push_back(
          {{"name", row.name},
           {"what", row.what},
           {"type", name_of(row.type)},
           {"milliseconds", row.milliseconds},
           {"gigaflops", row.gigaflops},
           {"peak_fraction", row.peak_fraction},
           {"bandwidth_fraction", row.bandwidth_fraction ? nlohmann::json(*row.bandwidth_fraction) : nlohmann::json()},
           {"bytes", row.bytes},
           {"scratch_bytes", row.scratch_bytes},
           {"error", row.error},
           {"rounding", row.rounding},
           {"rounding_of_allowed", row.rounding_of_allowed}});
    document["problems"].push_back(entry);
  }
  place const worst = max_rounded(problems);
  document["summary"] = {
      {"variants", count_variants(problems)},
      {"problems", problems.size()},
      {"passed", passed(problems)},
      {"largest_rounding",
       {{"variant", worst.row->name}, {"problem", worst.problem->name}, {"rounding", worst.row->rounding}}}};
  for (compared_problem const& p : problems)
    document["summary"]["fastest"].push_back(
        {{"problem", p.name}, {"variant", fastest_of(p).name}, {"milliseconds", fastest_of(p).milliseconds}});
  return document;
}

}  // namespace attend_bench
