// SPDX-License-Identifier: BSD-3-Clause
// Prefetches consecutive memory that is read once, a line for each line that is read: some kilobytes ahead, or on
// machines that read several pages faster than one, four pages at a time in turns (machine.hpp).
#pragma once

#include <cstdint>

#include "machine.hpp"
#include "scratch.hpp"

namespace attend::inline ATTEND_TARGET::detail {

class stream_ahead {
 public:
  /// `consecutive` says whether lines are read one after the other; otherwise all of them are `distance` bytes ahead.
  stream_ahead(bool consecutive, index_t distance)
      : in_turns_(consecutive && machine::here().pages_in_turns), distance_(distance), hint_(machine::here().hint()) {}

  /// Prefetches while the line at `line` is read.
  ATTEND_INLINE void fetch(void const* line) const {
    if (in_turns_)
      prefetch_once(reinterpret_cast<void const*>(in_turns(reinterpret_cast<std::uintptr_t>(line))),
                    prefetch_hint::level_2);
    else
      prefetch_once(static_cast<char const*>(line) + distance_, hint_);
  }

  /// The address for line n of four pages: in the next four pages, line n / 4 of page n % 4.
  static constexpr std::uintptr_t in_turns(std::uintptr_t address) {
    constexpr std::uintptr_t line = cache_line, page = 4096, pages = 4;
    std::uintptr_t const number = address % (pages * page) / line;
    return address / (pages * page) * (pages * page) + pages * page + number % pages * page + number / pages * line;
  }

 private:
  bool in_turns_;
  index_t distance_;
  prefetch_hint hint_;
};

}  // namespace attend::inline ATTEND_TARGET::detail
