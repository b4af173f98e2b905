// SPDX-License-Identifier: BSD-3-Clause
// A benchmark of attention to chosen keys, beside attention to all of them in the same process.
//
//   bound      how many times faster it could be: what attention to all keys must read (or, in prefill, compute), over
//              what the system must, choosing included
//   speedup    how many times faster it is: of medians, the dense ones taken before and after
//   of_bound   speedup / bound
#pragma once

#include <functional>
#include <string>

namespace attend_bench {

struct select_run {
  std::function<void()> chosen, dense;
  /// Known once `chosen` has run.
  std::function<double()> bound;
};

/// `prepare` is called when the benchmark runs, and what it made is kept until another one does. The dense call is made
/// `dense_runs` times before and as often after.
void register_select(std::string const& path, int dense_runs, std::function<select_run()> const& prepare);

}  // namespace attend_bench
