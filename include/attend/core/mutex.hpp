// SPDX-License-Identifier: BSD-3-Clause
// Mutual exclusion where there are threads, and nothing in its place where the standard library has none: WebAssembly
// that is compiled without -pthread. There every call runs on the one thread, whatever its executor.
#pragma once

#include "target.hpp"

/// Whether there are threads.
#if defined(__wasm__) && !defined(_REENTRANT)
#define ATTEND_THREADS 0
#else
#define ATTEND_THREADS 1
#include <mutex>
#include <thread>
#endif

namespace attend::inline ATTEND_TARGET::detail {

#if ATTEND_THREADS

using mutex = std::mutex;
using unique_lock = std::unique_lock<std::mutex>;
inline void yield() { std::this_thread::yield(); }

#else

struct mutex {};
struct unique_lock {
  explicit unique_lock(mutex&) {}
  void lock() {}
  void unlock() {}
};
inline void yield() {}

#endif

}  // namespace attend::inline ATTEND_TARGET::detail
