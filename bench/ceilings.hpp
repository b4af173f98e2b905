// SPDX-License-Identifier: BSD-3-Clause
// What this machine can do at most, measured: the numbers that a kernel's speed is a fraction of.
//
// Clocks and neighbours change from one second to the next, so a ceiling is not measured once and kept: it is measured
// anew, in a few milliseconds, before and after each thing that is compared with it. The best of several such runs is
// the ceiling: a neighbour can slow a run down, and nothing can make it faster than the machine is.
#pragma once

#include <attend/core/types.hpp>

#include <functional>
#include <vector>

namespace attend_bench {

/// Floating-point operations per second of fused multiply-adds that never leave the registers, as wide as the library's
/// vectors, on so many threads at the same time. A is float or double. One run of a few ms.
template <class A>
double fma_peak(int threads);

/// Bytes per second that so many threads at the same time read from memory, one after the other, out of a buffer that
/// no cache can hold. One run of about 10 ms; the first takes longer, since it makes the buffer.
double read_bandwidth(int threads);

/// Calls per second of all these together, each on a thread of its own, made again and again at the same time. One run
/// of about 20 ms, or of one call each where that is longer; every call is made once more before it.
double calls_per_second(std::vector<std::function<void()>> const& calls);

}  // namespace attend_bench
