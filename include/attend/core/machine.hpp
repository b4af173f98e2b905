// SPDX-License-Identifier: BSD-3-Clause
// What decides how fast a loop is on one processor and not on another: how memory is asked for ahead of its use, and
// whether there is a matrix unit. It is found out once, when it is first needed:
// from the processor's own description, and from the environment variable ATTEND_MACHINE, whose words replace what was
// found:
//
//   ATTEND_MACHINE="read_ahead=12288 non_temporal=0 matrix_unit=0" ./program
//
// No word changes a result beyond rounding. `attend_bench` prints what was decided, in these words.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "check.hpp"
#include "compiler.hpp"
#include "processor.hpp"

#if defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace attend::inline ATTEND_TARGET::detail {

struct machine {
  /// How many bytes ahead of their use rows that are read once are prefetched: more than a core can have in flight at a
  /// time, and few enough not to evict other data from the level-1 cache, of which every processor has 32 KiB.
  index_t read_ahead = 12288;

  /// Whether such rows are prefetched with the hint that they are not needed again. AMD's processors then keep them out
  /// of the level-2 cache, which is worth some percent (Zen 5). Intel's allow a core few of these prefetches at a time:
  /// without the hint reading is two to three times as fast (Sapphire Rapids).
  bool non_temporal = false;

  /// Whether products of 16-bit numbers use the matrix unit that the code is compiled for (simd/pair_products.hpp).
  bool matrix_unit = false;

  /// What was found, and then what the environment says.
  static machine const& here() {
    static machine const found = [] {
      machine m = detected();
      if (char const* const words = std::getenv("ATTEND_MACHINE")) m.change(words);
      return m;
    }();
    return found;
  }

  static machine detected() {
    machine m;
    m.non_temporal = is_amd();
    m.matrix_unit = permits_matrix_unit();
    return m;
  }

  /// Replaces what `words`, of the form name=number and apart by spaces, names.
  void change(std::string_view words) {
    while (!words.empty()) {
      std::string_view const word = words.substr(0, words.find(' '));
      words.remove_prefix(std::min(word.size() + 1, words.size()));
      if (!word.empty()) change_one(word);
    }
  }

 private:
  void change_one(std::string_view word) {
    std::size_t const sign = word.find('=');
    std::string_view const name = word.substr(0, sign);
    index_t number = 0;
    bool is_number = sign != std::string_view::npos && sign + 1 < word.size();
    for (char const digit : word.substr(is_number ? sign + 1 : word.size())) {
      is_number = is_number && digit >= '0' && digit <= '9' && number < largest / 10;
      number = 10 * number + (digit - '0');
    }
    if (is_number && name == "read_ahead")
      read_ahead = number;
    else if (is_number && name == "non_temporal")
      non_temporal = number != 0;
    else if (is_number && name == "matrix_unit")
      // What the processor lacks, or the system refuses, no word can give.
      matrix_unit = matrix_unit && number != 0;
    else
      fail("ATTEND_MACHINE", "expected read_ahead, non_temporal or matrix_unit with a number below ", largest,
           ", such as read_ahead=12288, got ", word);
  }

  static constexpr index_t largest = 1'000'000'000;

  static bool is_amd() {
#if defined(__x86_64__) || defined(__i386__)
    unsigned eax = 0, words[3] = {};
    if (!__get_cpuid(0, &eax, &words[0], &words[2], &words[1])) return false;
    return std::memcmp(words, "AuthenticAMD", sizeof(words)) == 0;
#else
    return false;
#endif
  }

  /// Whether the process may use tiles. Linux saves their registers for processes that have asked for it.
  static bool permits_matrix_unit() {
#if ATTEND_EMULATED_PAIRS
    return true;
#elif defined(__AMX_BF16__) && defined(__linux__)
    constexpr long ask_for_permission = 0x1023, tile_data = 18;
    return features_of_this_processor().includes({{0, 0, 0, bits_at(22, 24), 0, 0, bits_at(17, 18)}}) &&
           syscall(SYS_arch_prctl, ask_for_permission, tile_data) == 0;
#else
    return false;
#endif
  }
};

/// Prefetches a line that is read once and never again.
ATTEND_INLINE void prefetch_once(void const* line, bool non_temporal) {
  if (non_temporal)
    __builtin_prefetch(line, 0, 0);
  else
    __builtin_prefetch(line, 0, 3);
}

}  // namespace attend::inline ATTEND_TARGET::detail
