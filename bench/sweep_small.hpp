// SPDX-License-Identifier: BSD-3-Clause
// One line of attend_sweep's part `small`: the same call serially and with threads.
#pragma once

#include <attend/core/executor.hpp>

#include <algorithm>
#include <cstdio>
#include <string>

#include "sweep_engines.hpp"

namespace attend_bench {

/// What is pooled, ranked, gathered or summed up before attention, in loops of its own.
void prepared(bool quick);

/// The largest part of the serial time of all lines so far.
inline double& worst_small_report() {
  static double worst = 0;
  return worst;
}

/// call(executor) runs the same on each. A call of threads alone is compiled once: threads{1} is the calling thread.
template <class Call>
void report_small(std::string const& name, bool quick, Call const& call) {
  auto const alone = [&] {
    if constexpr (std::invocable<Call const&, attend::serial>)
      call(attend::serial{});
    else
      call(attend::threads{1});
  };
  auto const [serial, two, eight] =
      seconds_in_turns(quick ? 0 : 0.15, alone, [&] { call(attend::threads{2}); }, [&] { call(attend::threads{8}); });
  worst_small_report() = std::max({worst_small_report(), two / serial, eight / serial});
  std::printf("%-44s %9.1f us   threads{2} %5.2f   threads{8} %5.2f\n", name.c_str(), serial * 1e6, two / serial,
              eight / serial);
}

}  // namespace attend_bench
