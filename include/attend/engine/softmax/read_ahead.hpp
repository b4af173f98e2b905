// SPDX-License-Identifier: BSD-3-Clause
// Prefetches memory that will be read some kilobytes from now, in the order in which it will be read.
//
// One cache line is prefetched with every line that is read, evenly and in order: so misses come as steadily as in a
// plain stream, which the hardware prefetcher then follows. Bursts of prefetches would fill the core's few line fill
// buffers and stall. Memory in several pieces, such as pages, is a list of runs of bytes.
//
// On machines that read several pages faster than one (machine.hpp), the runs of several streams are cut into pieces
// and listed in turns.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>

#include "../../core/compiler.hpp"
#include "../../core/machine.hpp"
#include "../../core/scratch.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Consecutive bytes.
struct byte_run {
  char const* first;
  char const* last;
};

/// Of the pieces of runs that are listed in turns: so long that changing from stream to stream costs little beside
/// them, so short that hardware keeps following all streams.
inline constexpr index_t piece_bytes = 512;

/// Lists the runs of streams in turns, a piece of each at a time, and returns the end of the list. `to` has room for
/// all runs and as many pieces more as their bytes fill.
template <std::size_t Streams>
byte_run* list_in_turns(std::span<byte_run const> const (&streams)[Streams], byte_run* to) {
  std::span<byte_run const> runs[Streams];
  std::copy_n(streams, Streams, runs);
  byte_run rest[Streams]{};
  byte_run* begin;
  do {
    begin = to;
    for (std::size_t s = 0; s < Streams; ++s) {
      if (rest[s].first == rest[s].last) {
        if (runs[s].empty()) continue;
        rest[s] = runs[s].front();
        runs[s] = runs[s].subspan(1);
      }
      index_t const bytes = std::min<index_t>(piece_bytes, rest[s].last - rest[s].first);
      *to++ = {rest[s].first, rest[s].first + bytes};
      rest[s].first += bytes;
    }
  } while (to != begin);
  return to;
}

/// Copies runs to `to`, cut into two streams of about as many bytes. `to` has room for one run more.
inline std::array<std::span<byte_run const>, 2> cut_in_two(std::span<byte_run const> runs, byte_run* to) {
  index_t left = 0;
  for (byte_run const& run : runs) left += run.last - run.first;
  left = left / 2 / piece_bytes * piece_bytes;
  byte_run *end = to, *middle = nullptr;
  for (byte_run const& run : runs) {
    index_t const bytes = run.last - run.first;
    if (!middle && left < bytes) {
      if (left > 0) *end++ = {run.first, run.first + left};
      middle = end;
      *end++ = {run.first + left, run.last};
    } else {
      *end++ = run;
      left -= bytes;
    }
  }
  if (!middle) middle = end;
  return {std::span<byte_run const>(to, middle), std::span<byte_run const>(middle, end)};
}

class read_ahead {
 public:
  static constexpr index_t line = static_cast<index_t>(attend::detail::cache_line);

  /// Prefetches the runs [run, end), of which there is at least one, from `skipped` bytes after their beginning on.
  /// After their end it prefetches the last run again, which is cached by then and costs nothing.
  read_ahead(byte_run const* run, byte_run const* end, index_t skipped, attend::detail::prefetch_hint hint)
      : run_(run), last_(end - 1), hint_(hint) {
    while (run_ != last_ && skipped >= run_->last - run_->first) {
      skipped -= run_->last - run_->first;
      ++run_;
    }
    follow(next);
    if (skipped < next.last - next.first) next.first += skipped;
  }

  /// Prefetches the first line of `bytes` and moves `bytes` on by a line. The caller keeps `bytes` in registers.
  ATTEND_INLINE void fetch(byte_run& bytes) {
    attend::detail::prefetch_once(bytes.first, hint_);
    bytes.first += line;
    if (__builtin_expect(bytes.first >= bytes.last, false)) follow(bytes);
  }

  /// The same for `Lines` lines, which for the most part are in one run: code that uses many registers or few
  /// instructions for a line would spend much of its time on the ends of runs otherwise.
  template <int Lines>
  ATTEND_INLINE void fetch_lines(byte_run& bytes) {
    if (__builtin_expect(bytes.last - bytes.first <= Lines * line, false)) {
      for (int i = 0; i < Lines; ++i) fetch(bytes);
      return;
    }
    ATTEND_UNROLL for (int i = 0; i < Lines; ++i) attend::detail::prefetch_once(bytes.first + i * line, hint_);
    bytes.first += Lines * line;
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
  attend::detail::prefetch_hint hint_;
};

}  // namespace attend::inline ATTEND_TARGET::engine
