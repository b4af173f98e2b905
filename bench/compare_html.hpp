// SPDX-License-Identifier: BSD-3-Clause
// What attend_compare found out as one page that needs nothing else: for each problem error against time, the roofline
// and the table, and below what was measured and on which machine.
#pragma once

#include <ostream>
#include <vector>

#include "compare_options.hpp"
#include "compare_report.hpp"
#include "performance_charts.hpp"

namespace attend_bench {

void write_html(std::ostream& out, std::vector<compared_problem> const& problems, machine_limits const& machine,
                compare_options const& options);

}  // namespace attend_bench
