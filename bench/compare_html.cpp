// SPDX-License-Identifier: BSD-3-Clause
#include "compare_html.hpp"

#include <string>

namespace attend_bench {
namespace {

// Marks are closed as XML wants it, so that its readers can read the page as well.
constexpr char const* head =
    "<!DOCTYPE html>\n"
    "<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\"><head><meta charset=\"utf-8\"/>\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
    "<title>attend_compare</title>\n"
    "<style>\n"
    ":root{color-scheme:light dark}\n"
    "body{font:15px/1.45 system-ui,sans-serif;max-width:1180px;margin:2em auto;padding:0 1em;color:#24292f;"
    "background:#fff}\n"
    "svg.chart{max-width:100%;height:auto}\n"
    ".wide{overflow-x:auto}\n"
    "table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}\n"
    "th,td{padding:3px 8px;text-align:right;border-bottom:1px solid #d8dee4;white-space:nowrap}\n"
    "th{vertical-align:bottom}\n"
    ".words{text-align:left}\n"
    "td:last-child{white-space:normal;min-width:20em}\n"
    "pre{overflow-x:auto}\n"
    "@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#14181d}th,td{border-color:#363d45}}\n"
    "</style></head>\n<body>\n";

void write_row(std::ostream& out, char const* cell, std::vector<std::string> const& cells) {
  out << "<tr>";
  for (std::size_t i = 0; i < cells.size(); ++i)
    out << '<' << cell << (is_text_column(i) ? " class=\"words\">" : ">") << escaped(cells[i]) << "</" << cell << '>';
  out << "</tr>\n";
}

chart error_chart(compared_problem const& p) {
  std::vector<measured_error> variants;
  for (comparison const& row : p.rows) variants.push_back({row.name, row.milliseconds, row.error});
  chart result = error_against_time("Error against time", variants);
  result.note = p.name;
  return result;
}

chart roofline_chart(compared_problem const& p, machine_limits machine) {
  std::vector<measured_call> calls;
  for (comparison const& row : p.rows) {
    double const seconds = row.milliseconds / 1e3, rate = row.gigaflops * 1e9;
    calls.push_back({row.name, name_of(row.type), seconds, rate * seconds, row.bytes});
    // The best that was measured beside any of them.
    machine.peak = std::max(machine.peak, rate / row.peak_fraction);
    if (row.bandwidth_fraction)
      machine.bandwidth = std::max(machine.bandwidth, row.bytes / seconds / *row.bandwidth_fraction);
  }
  chart result = roofline("Roofline", calls, machine);
  result.names_points = true;
  result.note = p.name;
  return result;
}

}  // namespace

void write_html(std::ostream& out, std::vector<compared_problem> const& problems, machine_limits const& machine,
                compare_options const& options) {
  out << head << "<h1>attend_compare</h1>\n<p>" << escaped(machine_text(options)) << "</p>\n<p>"
      << escaped(summary_text(problems))
      << "</p>\n<p>In the rooflines, what can be read is the limit along the slope, and arithmetic along the flat "
         "part. "
         "Points above the slope are calls whose tensors stay in a cache.</p>\n";
  for (compared_problem const& p : problems) {
    out << "<h2>" << escaped(p.name) << "</h2>\n<p>" << escaped(shape_text(p)) << "</p>\n"
        << as_svg(error_chart(p)) << as_svg(roofline_chart(p, machine)) << "<div class=\"wide\"><table>\n";
    write_row(out, "th", table_headings());
    for (comparison const& row : p.rows) write_row(out, "td", table_cells(row));
    out << "</table></div>\n";
  }
  out << "<h2>What the columns mean</h2>\n<pre>" << escaped(table_legend()) << "</pre>\n</body></html>\n";
}

}  // namespace attend_bench
