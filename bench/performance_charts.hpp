// SPDX-License-Identifier: BSD-3-Clause
// The pictures of measured speed: which points and limits a chart of each kind has.
//
//   roofline            operations each second against operations for each byte. A call that reads Q bytes and does W
//                       operations takes at least max(Q / bandwidth, W / peak) (Williams, Waterman and Patterson 2009,
//                       "Roofline: an insightful visual performance model for multicore architectures").
//   error against time  a variant is of use where no other is both faster and closer to exact attention
//   decode against bytes    the time of a step for one sequence against the keys and values that it must read
#pragma once

#include <string>
#include <vector>

#include "chart.hpp"

namespace attend_bench {

/// What a machine can do at most; 0 where that is not known.
struct machine_limits {
  double peak = 0, bandwidth = 0;  // operations and bytes per second
};

struct measured_call {
  std::string name, family;
  double seconds, operations, bytes;
};

struct measured_error {
  std::string name;
  double milliseconds, error;
};

chart roofline(std::string const& title, std::vector<measured_call> const& calls, machine_limits const& machine);
chart error_against_time(std::string const& title, std::vector<measured_error> const& variants);
/// The calls are those of one sequence: their time and bytes, each divided by the number of sequences.
chart decode_against_bytes(std::string const& title, std::vector<measured_call> const& calls,
                           machine_limits const& machine);

}  // namespace attend_bench
