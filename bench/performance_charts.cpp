// SPDX-License-Identifier: BSD-3-Clause
#include "performance_charts.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "text_table.hpp"

namespace attend_bench {
namespace {

// Far beyond any axis.
constexpr double far = 1e9;

/// A series for each family, in the order in which they come first.
template <class PlaceOf>
std::vector<chart_series> by_family(std::vector<measured_call> const& calls, PlaceOf place_of) {
  std::vector<chart_series> all;
  for (measured_call const& call : calls) {
    auto found = std::find_if(all.begin(), all.end(), [&](chart_series const& s) { return s.name == call.family; });
    if (found == all.end()) found = all.insert(found, {call.family, {}});
    found->points.push_back({place_of(call), call.name});
  }
  return all;
}

}  // namespace

chart roofline(std::string const& title, std::vector<measured_call> const& calls, machine_limits const& machine) {
  chart result{title, "operations for each byte (FLOP/byte)", "speed (GFLOP/s)", {}, {}};
  result.series = by_family(calls, [](measured_call const& call) {
    return chart_place{call.operations / call.bytes, call.operations / call.seconds / 1e9};
  });
  double const peak = machine.peak / 1e9;
  std::string const peak_text = text("%.0f GFLOP/s", peak);
  if (machine.bandwidth > 0) {
    chart_place const ridge = {machine.peak / machine.bandwidth, peak};
    result.limits.push_back({text("%.1f GB/s read, ", machine.bandwidth / 1e9) + peak_text,
                             {{ridge.x / far, peak / far}, ridge, {ridge.x * far, peak}},
                             ridge});
  } else if (peak > 0 && !calls.empty()) {
    double const x = calls.front().operations / calls.front().bytes;
    result.limits.push_back({peak_text, {{x / far, peak}, {x * far, peak}}, {x, peak}});
  }
  return result;
}

chart error_against_time(std::string const& title, std::vector<measured_error> const& variants) {
  // A logarithmic axis has no place for 0.
  std::vector<measured_error> by_time;
  std::copy_if(variants.begin(), variants.end(), std::back_inserter(by_time),
               [](measured_error const& one) { return one.error > 0 && std::isfinite(one.error); });
  std::sort(by_time.begin(), by_time.end(), [](measured_error const& a, measured_error const& b) {
    return a.milliseconds != b.milliseconds ? a.milliseconds < b.milliseconds : a.error < b.error;
  });
  chart_series best{"no other is faster and closer", {}}, others{"others", {}};
  double least = std::numeric_limits<double>::infinity();
  for (measured_error const& one : by_time) {
    (one.error < least ? best : others).points.push_back({{one.milliseconds, one.error}, one.name});
    least = std::min(least, one.error);
  }
  return {title, "time of a call (ms)", "largest error, relative to the largest output", {best, others}, {}, true};
}

chart decode_against_bytes(std::string const& title, std::vector<measured_call> const& calls,
                           machine_limits const& machine) {
  chart result{title, "keys and values that are read (MB)", "time of a step (ms)", {}, {}};
  result.series =
      by_family(calls, [](measured_call const& call) { return chart_place{call.bytes / 1e6, call.seconds * 1e3}; });
  if (machine.bandwidth > 0 && !calls.empty()) {
    chart_place const first = {calls.front().bytes / 1e6, calls.front().bytes / machine.bandwidth * 1e3};
    result.limits.push_back({text("%.1f GB/s read", machine.bandwidth / 1e9),
                             {{first.x / far, first.y / far}, {first.x * far, first.y * far}},
                             first});
  }
  return result;
}

}  // namespace attend_bench
