// SPDX-License-Identifier: BSD-3-Clause
// Parts of attend_sweep that hold calls against each other which give the same: timed in turns within one process,
// since a machine's speed changes with time.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <vector>

namespace attend_bench {

/// Calls with few operations, serial and with threads: what threads may not cost.
void small(bool quick);

/// Few queries by the tiled engine and by the one that splits keys: where each is the faster.
void engines(bool quick);

/// Seconds of each call, run in turns: the first quartile of many runs.
template <class... Calls>
std::array<double, sizeof...(Calls)> seconds_in_turns(double total, Calls const&... calls) {
  using clock = std::chrono::steady_clock;
  std::array<std::vector<double>, sizeof...(Calls)> times;
  (calls(), ...);  // takes memory and starts threads
  auto const begin = clock::now();
  do {
    std::size_t i = 0;
    auto const time = [&](auto const& call) {
      auto const from = clock::now();
      call();
      times[i++].push_back(std::chrono::duration<double>(clock::now() - from).count());
    };
    (time(calls), ...);
  } while (std::chrono::duration<double>(clock::now() - begin).count() < total || times[0].size() < 3);
  std::array<double, sizeof...(Calls)> quartiles;
  for (std::size_t i = 0; i < quartiles.size(); ++i) {
    std::sort(times[i].begin(), times[i].end());
    quartiles[i] = times[i][times[i].size() / 4];
  }
  return quartiles;
}

}  // namespace attend_bench
