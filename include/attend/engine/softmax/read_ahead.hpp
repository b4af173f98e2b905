// SPDX-License-Identifier: BSD-3-Clause
// Asking for what will be read some kilobytes from now, in the order in which it will be read.
//
// One line of it is asked for with every line that is read, evenly and in order: so misses come as steadily as in a
// plain stream, which the machine's own prefetcher then follows; in bursts neither it nor the core's few miss buffers
// get far. What lies in pieces, as in pages, is a list of runs of bytes.
#pragma once

#include <algorithm>

#include "../../core/compiler.hpp"
#include "../../core/scratch.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// How far ahead rows are asked for: more than what a core has under way at a time, less than what pushes others out of
/// its first cache.
inline constexpr index_t read_ahead_distance = 12288;

/// Bytes that lie one after the other.
struct byte_run {
  char const* first;
  char const* last;
};

class read_ahead {
 public:
  static constexpr index_t line = static_cast<index_t>(attend::detail::cache_line);

  /// Of runs [run, end), at least one, from `skipped` bytes after their beginning on; then the last again, which costs
  /// nothing.
  read_ahead(byte_run const* run, byte_run const* end, index_t skipped) : run_(run), last_(end - 1) {
    while (run_ != last_ && skipped >= run_->last - run_->first) {
      skipped -= run_->last - run_->first;
      ++run_;
    }
    follow(next);
    if (skipped < next.last - next.first) next.first += skipped;
  }

  /// Asks for a line of `bytes`, which is kept in registers, and follows them.
  ATTEND_INLINE void fetch(byte_run& bytes) {
    // Read once and never again: the second-level cache need not take it.
    __builtin_prefetch(bytes.first, 0, 0);
    bytes.first += line;
    if (__builtin_expect(bytes.first >= bytes.last, false)) follow(bytes);
  }

  byte_run next{};

 private:
  // In line: a call would have all accumulators stored and loaded.
  ATTEND_INLINE void follow(byte_run& bytes) {
    bytes = *run_;
    run_ += run_ != last_;
  }

  byte_run const* run_;
  byte_run const* last_;
};

}  // namespace attend::inline ATTEND_TARGET::engine
