// SPDX-License-Identifier: BSD-3-Clause
// What decides how fast a loop is on one processor and not on another: how memory is asked for ahead of its use,
// whether there is a matrix unit, how much of the caches a task fills, from which size on another form pays, and what
// waking a thread costs. Numbers that follow from the width of vectors stand where the vectors are
// (simd/register_tile.hpp).
//
// It is found out once, when it is first needed: from the processor's own description, and from the environment
// variable ATTEND_MACHINE, whose words replace what was found:
//
//   ATTEND_MACHINE="read_ahead=12288 non_temporal=0 matrix_unit=0" ./program
//
// No word changes a result beyond rounding. `attend_bench` prints what was decided, in these words, and `attend_tune`
// measures which ones are worth setting.
//
// Some numbers decide in which order terms are added: block_bytes and those behind it. They are the same on every
// machine, unless a word says otherwise, so that bits do not depend on which caches and cores a process was given. Only
// the numbers before them are taken from what the system says.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "compiler.hpp"
#include "error.hpp"
#include "processor.hpp"
#include "types.hpp"

#if defined(__linux__)
#include <unistd.h>
#endif
#if defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#endif

namespace attend::inline ATTEND_TARGET::detail {

/// Where a prefetched line goes: to the level-1 cache alone, if the processor can, to all levels, or to all levels but
/// the first.
enum class prefetch_hint { non_temporal, level_1, level_2 };

struct machine {
  /// The level-1 data cache that every processor has at least. It fixes the sizes of arrays and the terms of sums, so
  /// no word changes it.
  static constexpr index_t level_1_bytes = 32 * 1024;

  /// How many bytes ahead of their use rows that are read once are prefetched: more than a core can have in flight at a
  /// time, and few enough not to evict other data from the level-1 cache.
  index_t read_ahead = 12288;

  /// Whether such rows are prefetched with the hint that they are not needed again. AMD's processors then keep them out
  /// of the level-2 cache, which is worth some percent (Zen 5). Intel's allow a core few of these prefetches at a time:
  /// without the hint reading is two to three times as fast (Sapphire Rapids).
  bool non_temporal = false;

  /// Whether such rows are prefetched from four pages in turns. Intel's prefetchers follow a stream no further than to
  /// the end of its page of 4 KiB, and so many lines ahead: four streams are read 1.4 times as fast as one (Sapphire
  /// Rapids).
  bool pages_in_turns = false;

  /// Whether products of 16-bit numbers use the matrix unit that the code is compiled for (simd/pair_products.hpp).
  bool matrix_unit = false;

  /// Whether they use an instruction for vectors instead, in code that is compiled for one and for no matrix unit.
  /// AMD's processors do twice as many products of AVX512-BF16 in a cycle as of floats (Zen 4, Zen 5); Intel's do no
  /// more than of floats. Arm's do four times as many by BFMMLA.
  bool pair_instructions = false;

  /// How many nanoseconds waking a thread takes the calling thread, whether or not it comes in time for a task
  /// (core/executor.hpp): 5000 on Zen 5. On Sapphire Rapids small calls are 1.13 to 1.25 times as fast with half of it.
  index_t wake = 5000;

  /// The largest state, in bytes, that goes from thread to thread, and the bytes of the chunks that a thread takes at a
  /// time (engine/chunked/chunk_cut.hpp): a thread works on two such states, or on some chunks while it prefetches as
  /// many, of which most fits into a level-2 cache. It is half of this cache, and no more than was measured: 1 MiB,
  /// with which states of 256 KiB and of 1 MiB are 1.2 times as fast as with 512 KiB on Sapphire Rapids (2 MiB).
  index_t relay_bytes = 512 * 1024;

  /// How many bytes of keys and values, in the accumulation type, a block of the tiled engine has: a part of a level-2
  /// cache of 512 KiB or more, which has room for tiles beside it. A block has at most max_block_keys keys, so this
  /// decides only where rows are long.
  index_t block_bytes = 256 * 1024;

  /// How many bytes the tiles of a task have, packed queries and sums, which share each block: as many as fit in a
  /// level-2 cache of 1 MiB beside the block. Each block is read from further away once for all of them.
  index_t tile_bytes = 600 * 1024;

  /// From how many bytes of keys and values of a head on, in the accumulation type, the tiled engine waits for memory
  /// with one vector of rows, so that the split engine is faster (engine/softmax/split.hpp): measured on Zen 4.
  index_t split_bytes = 1024 * 1024;

  /// From how many multiplications on the tiled engine splits the keys of a sequence with few tiles, so that threads
  /// have tasks: these take a core 50 microseconds, ten times what waking another takes.
  index_t part_work = 2'000'000;

  /// How many multiplications of a state's products take as long as what is done once for each chunk, whatever its
  /// length (engine/chunked/chunk_cut.hpp).
  index_t chunk_work = 50'000;

  /// How many rows, of queries and heads, latent attention takes to the latent space at a time: so many that tiles
  /// share each block of the cache, and so few that their queries and outputs stay far smaller than the cache: 9 MB in
  /// float with DeepSeek-V3's dimensions.
  index_t latent_rows = 2048;

  /// How many rows, of queries and heads, a mixture of blocks keeps states of at most, while each block of keys meets
  /// the rows that chose it: 4 MiB in float with value dimension 128.
  index_t mixture_rows = 8192;

  /// The floating-point operations that a core does in a nanosecond, and the bytes that it moves from a near cache, by
  /// which the cost of loops is guessed: right within a factor of a few on every processor, which is enough.
  static constexpr double operations_per_nanosecond = 80, bytes_per_nanosecond = 40;

  prefetch_hint hint() const { return non_temporal ? prefetch_hint::non_temporal : prefetch_hint::level_1; }

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
    m.non_temporal = is_made_by("AuthenticAMD");
    m.pages_in_turns = is_made_by("GenuineIntel");
    if (is_made_by("GenuineIntel")) m.wake = 2500;
    m.matrix_unit = permits_matrix_unit();
    m.pair_instructions = is_made_by("AuthenticAMD") || has_neon_bfloat16();
    if (index_t const cache = level_2_bytes(); cache > 0) m.relay_bytes = std::min<index_t>(1024 * 1024, cache / 2);
    return m;
  }

  /// Replaces what `words`, of the form name=number and apart by spaces, names.
  void change(std::string_view words) {
    bool const permitted = matrix_unit;
    while (!words.empty()) {
      std::string_view const word = words.substr(0, words.find(' '));
      words.remove_prefix(std::min(word.size() + 1, words.size()));
      if (!word.empty()) change_one(word);
    }
    // What the processor lacks, or the system refuses, no word can give.
    matrix_unit = matrix_unit && permitted;
  }

  /// All numbers, as change() takes them.
  std::string words() const {
    std::string text;
    for_each(*this, [&](char const* name, index_t number) {
      text += (text.empty() ? "" : " ") + std::string(name) + '=' + std::to_string(number);
    });
    return text;
  }

 private:
  /// Calls visit(name, number) for every number that has a word.
  template <class Machine, class Visit>
  static void for_each(Machine& m, Visit const& visit) {
    visit("read_ahead", m.read_ahead);
    visit("non_temporal", m.non_temporal);
    visit("pages_in_turns", m.pages_in_turns);
    visit("matrix_unit", m.matrix_unit);
    visit("pair_instructions", m.pair_instructions);
    visit("wake", m.wake);
    visit("relay_bytes", m.relay_bytes);
    visit("block_bytes", m.block_bytes);
    visit("tile_bytes", m.tile_bytes);
    visit("split_bytes", m.split_bytes);
    visit("part_work", m.part_work);
    visit("chunk_work", m.chunk_work);
    visit("latent_rows", m.latent_rows);
    visit("mixture_rows", m.mixture_rows);
  }

  void change_one(std::string_view word) {
    std::size_t const sign = word.find('=');
    std::string_view const name = word.substr(0, sign);
    index_t number = 0;
    bool is_number = sign != std::string_view::npos && sign + 1 < word.size();
    for (char const digit : word.substr(is_number ? sign + 1 : word.size())) {
      is_number = is_number && digit >= '0' && digit <= '9' && number < largest / 10;
      number = 10 * number + (digit - '0');
    }
    bool known = false;
    std::string names;
    for_each(*this, [&](char const* one, auto& value) {
      names += (names.empty() ? "" : ", ") + std::string(one);
      if (!is_number || name != one) return;
      value = static_cast<std::remove_reference_t<decltype(value)>>(number);
      known = true;
    });
    if (!known)
      fail("ATTEND_MACHINE", "expected one of ", names, " with a number below ", largest,
           ", such as read_ahead=12288, got ", word);
  }

  static constexpr index_t largest = 1'000'000'000;

  /// Whether the processor's own description has these twelve letters.
  static bool is_made_by([[maybe_unused]] char const* maker) {
#if defined(__x86_64__) || defined(__i386__)
    unsigned eax = 0, words[3] = {};
    if (!__get_cpuid(0, &eax, &words[0], &words[2], &words[1])) return false;
    return std::memcmp(words, maker, sizeof(words)) == 0;
#else
    return false;
#endif
  }

  /// Whether code may use NEON's instructions for bfloat16. Where the system is not asked, it is what the code is
  /// compiled for: Apple's processors have them from M2 on.
  static bool has_neon_bfloat16() {
#if !defined(__aarch64__) || !defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
    return false;
#elif defined(__linux__)
    return features_of_this_processor().includes({{0, bits_at(14)}});
#else
    return true;
#endif
  }

  /// The level-2 cache of a core, or 0 where the system does not tell.
  static index_t level_2_bytes() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
    return static_cast<index_t>(sysconf(_SC_LEVEL2_CACHE_SIZE));
#else
    return 0;
#endif
  }

  /// Whether the process may use tiles. Linux saves their registers for processes that have asked for it.
  static bool permits_matrix_unit() {
#if ATTEND_EMULATED_PAIRS || ATTEND_EMULATED_FOURS
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
ATTEND_INLINE void prefetch_once(void const* line, prefetch_hint hint) {
  if (hint == prefetch_hint::non_temporal)
    __builtin_prefetch(line, 0, 0);
  else if (hint == prefetch_hint::level_1)
    __builtin_prefetch(line, 0, 3);
  else
    __builtin_prefetch(line, 0, 2);
}

}  // namespace attend::inline ATTEND_TARGET::detail
