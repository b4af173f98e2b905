// SPDX-License-Identifier: BSD-3-Clause
#include "compare_selection_report.hpp"

#include "build_information.hpp"
#include "text_table.hpp"

namespace attend_bench {
namespace {

std::string percent(std::optional<double> const& fraction) { return fraction ? text("%.1f", 100 * *fraction) : "-"; }

std::string number(double x) { return text("%.6g", x); }
std::string number(std::optional<double> const& x) { return x ? number(*x) : ""; }

/// A text that may have commas in it.
std::string quoted(std::string const& words) { return '"' + words + '"'; }

}  // namespace

void print_selection(std::ostream& out, std::vector<selection_result> const& results, compare_options const& options) {
  out << instruction_set() << ", " << compiler() << ", flags " << compiler_flags() << "; threads " << options.threads
      << "\n\n";
  std::vector<std::vector<std::string>> lines = {{"input", "phase", "selector", "budget %", "keys %", "time (ms)",
                                                  "speed-up", "read (MB)", "of dense", "recall %", "error",
                                                  "what it is"}};
  for (selection_result const& r : results)
    lines.push_back({r.input, r.phase, r.selector, text("%.0f", 100 * r.budget), percent(r.keys_fraction),
                     milliseconds_text(r.milliseconds), text("%.2f", r.speedup), text("%.3f", r.megabytes),
                     text("%.3f", r.fraction_of_bytes), percent(r.recall), text("%.1e", r.error), r.what});
  print_lines(out, lines, 3);
  out << "\n"
         "budget     of the keys, that a selector was given; it takes whole blocks\n"
         "keys       of the keys that a query sees, that it attended to\n"
         "time       the median: of a step in decoding, of the whole prompt in prefill; choosing included\n"
         "speed-up   over dense attention\n"
         "read       of a step: what the keys are chosen by, and the keys and values of each list of them; in "
         "prefill,\n"
         "           by each query for itself\n"
         "recall     of the exact attention mass, on the keys that were attended to\n"
         "error      root mean square of the difference from exact attention, relative to exact attention's own\n"
         "           recall and error in double, means over heads and rows\n";
}

void write_selection_csv(std::ostream& out, std::vector<selection_result> const& results) {
  out << "input,phase,selector,budget,keys_fraction,milliseconds,speedup,megabytes,fraction_of_bytes,recall,error,"
         "what\n";
  for (selection_result const& r : results)
    out << r.input << ',' << r.phase << ',' << r.selector << ',' << number(r.budget) << ',' << number(r.keys_fraction)
        << ',' << number(r.milliseconds) << ',' << number(r.speedup) << ',' << number(r.megabytes) << ','
        << number(r.fraction_of_bytes) << ',' << number(r.recall) << ',' << number(r.error) << ',' << quoted(r.what)
        << '\n';
}

nlohmann::json selection_as_json(std::vector<selection_result> const& results, compare_options const& options) {
  nlohmann::json document;
  document["machine"] = {
      {"instruction_set", instruction_set()}, {"compiler", compiler()}, {"compiler_flags", compiler_flags()}};
  document["threads"] = options.threads;
  document["repetitions"] = options.repetitions;
  document["selection"] = nlohmann::json::array();
  auto const or_null = [](std::optional<double> const& x) { return x ? nlohmann::json(*x) : nlohmann::json(); };
  for (selection_result const& r : results)
    document["selection"].push_back({{"input", r.input},
                                     {"phase", r.phase},
                                     {"selector", r.selector},
                                     {"what", r.what},
                                     {"budget", r.budget},
                                     {"keys_fraction", or_null(r.keys_fraction)},
                                     {"milliseconds", r.milliseconds},
                                     {"speedup", r.speedup},
                                     {"megabytes", r.megabytes},
                                     {"fraction_of_bytes", r.fraction_of_bytes},
                                     {"recall", or_null(r.recall)},
                                     {"error", r.error}});
  return document;
}

}  // namespace attend_bench
