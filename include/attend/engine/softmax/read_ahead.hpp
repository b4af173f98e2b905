// SPDX-License-Identifier: BSD-3-Clause
// Prefetches memory that will be read some kilobytes from now, in the order in which it will be read.
//
// One cache line is prefetched with every line that is read, evenly and in order: so misses come as steadily as in a
// plain stream, which the hardware prefetcher then follows. Bursts of prefetches would fill the core's few line fill
// buffers and stall. Memory in several pieces, such as pages, is a list of runs of bytes.
#pragma once

#include <algorithm>

#include "../../core/compiler.hpp"
#include "../../core/machine.hpp"
#include "../../core/scratch.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Consecutive bytes.
struct byte_run {
  char const* first;
  char const* last;
};

class read_ahead {
 public:
  static constexpr index_t line = static_cast<index_t>(attend::detail::cache_line);

  /// Prefetches the runs [run, end), of which there is at least one, from `skipped` bytes after their beginning on.
  /// After their end it prefetches the last run again, which is cached by then and costs nothing.
  read_ahead(byte_run const* run, byte_run const* end, index_t skipped, bool non_temporal)
      : run_(run), last_(end - 1), non_temporal_(non_temporal) {
    while (run_ != last_ && skipped >= run_->last - run_->first) {
      skipped -= run_->last - run_->first;
      ++run_;
    }
    follow(next);
    if (skipped < next.last - next.first) next.first += skipped;
  }

  /// Prefetches the first line of `bytes` and moves `bytes` on by a line. The caller keeps `bytes` in registers.
  ATTEND_INLINE void fetch(byte_run& bytes) {
    attend::detail::prefetch_once(bytes.first, non_temporal_);
    bytes.first += line;
    if (__builtin_expect(bytes.first >= bytes.last, false)) follow(bytes);
  }

  byte_run next{};

 private:
  // Inlined, since a call would store and load all accumulators.
  ATTEND_INLINE void follow(byte_run& bytes) {
    bytes = *run_;
    run_ += run_ != last_;
  }

  byte_run const* run_;
  byte_run const* last_;
  bool non_temporal_;
};

}  // namespace attend::inline ATTEND_TARGET::engine
