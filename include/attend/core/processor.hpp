// SPDX-License-Identifier: BSD-3-Clause
// The features of the processor that runs the program: the instruction sets that a target of dispatch.hpp needs, and
// the registers that the operating system saves for them.
#pragma once

#include <cstdint>

#include "target.hpp"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace attend::inline ATTEND_TARGET::detail {

/// Feature bits as the processor or the system reports them. For a target: the bits that code compiled for it may need.
struct processor_features {
#if defined(__x86_64__) || defined(__i386__)
  /// CPUID leaf 1 ECX; leaf 7 EBX, ECX, EDX; leaf 7.1 EAX; leaf 0x80000001 ECX. Then XCR0.
  static constexpr int words = 7;
#else
  /// The auxiliary vector's AT_HWCAP and AT_HWCAP2.
  static constexpr int words = 2;
#endif
  std::uint64_t bits[words] = {};

  /// The union of both sets.
  constexpr processor_features with(processor_features const& more) const {
    processor_features sum = *this;
    for (int word = 0; word < words; ++word) sum.bits[word] |= more.bits[word];
    return sum;
  }
  constexpr bool includes(processor_features const& wanted) const {
    bool all = true;
    for (int word = 0; word < words; ++word) all = all && (bits[word] & wanted.bits[word]) == wanted.bits[word];
    return all;
  }
};

template <class... Positions>
constexpr std::uint64_t bits_at(Positions... positions) {
  return (std::uint64_t{0} | ... | (std::uint64_t{1} << positions));
}

#if defined(__x86_64__) || defined(__i386__)

inline processor_features features_of_this_processor() {
  processor_features found;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx)) found.bits[0] = ecx;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) {
    unsigned const last = eax;
    found.bits[1] = ebx;
    found.bits[2] = ecx;
    found.bits[3] = edx;
    if (last >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) found.bits[4] = eax;
  }
  if (__get_cpuid(0x80000001u, &eax, &ebx, &ecx, &edx)) found.bits[5] = ecx;
  // XCR0 says which registers the system saves. The instruction that reads it exists where OSXSAVE is set; it is
  // written as assembly, since the compiler's function for it needs an option that code for an old processor is
  // compiled without.
  if (found.bits[0] & bits_at(27)) {
    unsigned low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    found.bits[6] = low | std::uint64_t{high} << 32;
  }
  return found;
}

namespace processor {

// The levels are those of the System V ABI for x86-64.
inline constexpr processor_features x86_64{};
// SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT; LAHF.
inline constexpr processor_features x86_64_v2 =
    x86_64.with({{bits_at(0, 9, 13, 19, 20, 23), 0, 0, 0, 0, bits_at(0), 0}});
// FMA, MOVBE, OSXSAVE, AVX, F16C; BMI, AVX2, BMI2; LZCNT; SSE's and AVX's registers.
inline constexpr processor_features x86_64_v3 =
    x86_64_v2.with({{bits_at(12, 22, 27, 28, 29), bits_at(3, 5, 8), 0, 0, 0, bits_at(5), bits_at(1, 2)}});
// AVX-512 F, DQ, CD, BW, VL; the mask registers and both halves of AVX-512's.
inline constexpr processor_features x86_64_v4 =
    x86_64_v3.with({{0, bits_at(16, 17, 28, 30, 31), 0, 0, 0, 0, bits_at(5, 6, 7)}});
// PCLMULQDQ, AES; RDSEED, ADX; PREFETCHW: every processor with AVX-512 has them, and compilers take them for granted.
inline constexpr processor_features skylake_avx512 =
    x86_64_v4.with({{bits_at(1, 25), bits_at(18, 19), 0, 0, 0, bits_at(8), 0}});
// AVX512-VNNI.
inline constexpr processor_features cascadelake = skylake_avx512.with({{0, 0, bits_at(11), 0, 0, 0, 0}});
// AVX512-BF16.
inline constexpr processor_features cooperlake = cascadelake.with({{0, 0, 0, 0, bits_at(5), 0, 0}});
// SHA, AVX512-IFMA; AVX512-VBMI, VBMI2, GFNI, VAES, VPCLMULQDQ, BITALG, VPOPCNTDQ, RDPID.
inline constexpr processor_features icelake_server =
    cascadelake.with({{0, bits_at(21, 29), bits_at(1, 6, 8, 9, 10, 12, 14, 22), 0, 0, 0, 0}});
// AMX-BF16, AVX512-FP16, AMX-TILE, AMX-INT8; AVX-VNNI; the tiles and their configuration.
inline constexpr processor_features sapphirerapids =
    icelake_server.with(cooperlake)
        .with({{0, 0, bits_at(27, 28), bits_at(22, 23, 24, 25), bits_at(4), 0, bits_at(17, 18)}});

/// The features that the compiler may use in this translation unit, as far as its macros tell. dispatch.hpp checks that
/// they are no more than the target has.
inline constexpr processor_features compiled = processor_features{}
#if defined(__AVX__)
                                                   .with({{bits_at(28)}})
#endif
#if defined(__FMA__)
                                                   .with({{bits_at(12)}})
#endif
#if defined(__AVX2__)
                                                   .with({{0, bits_at(5)}})
#endif
#if defined(__AVX512F__)
                                                   .with({{0, bits_at(16)}})
#endif
#if defined(__AVX512VNNI__)
                                                   .with({{0, 0, bits_at(11)}})
#endif
#if defined(__AVX512BF16__)
                                                   .with({{0, 0, 0, 0, bits_at(5)}})
#endif
#if defined(__AMX_TILE__)
                                                   .with({{0, 0, 0, bits_at(24)}})
#endif
    ;

}  // namespace processor

#elif defined(__aarch64__)

inline processor_features features_of_this_processor() {
#if defined(__linux__)
  return {{getauxval(AT_HWCAP), getauxval(AT_HWCAP2)}};
#else
  return {};
#endif
}

namespace processor {

inline constexpr processor_features armv8_a{};
// ATOMICS, FPHP, ASIMDHP, ASIMDRDM, ASIMDDP, CRC32.
inline constexpr processor_features armv8_2_a_fp16_dotprod{{bits_at(7, 8, 9, 10, 12, 20), 0}};
// JSCVT, FCMA, LRCPC, USCAT, ILRCPC, FLAGM; I8MM, BF16.
inline constexpr processor_features armv8_6_a_fp16 =
    armv8_2_a_fp16_dotprod.with({{bits_at(13, 14, 15, 25, 26, 27), bits_at(13, 14)}});

inline constexpr processor_features compiled = processor_features{}
#if defined(__ARM_FEATURE_DOTPROD)
                                                   .with({{bits_at(20)}})
#endif
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
                                                   .with({{0, bits_at(14)}})
#endif
    ;

}  // namespace processor

#endif

}  // namespace attend::inline ATTEND_TARGET::detail
