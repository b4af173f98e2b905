// SPDX-License-Identifier: BSD-3-Clause
// What this translation unit is compiled for, as the name of the namespace that holds all of attend.
//
// A function that is compiled for two instruction sets under one name is one function to the linker, which keeps
// either: the program then runs instructions that its processor lacks, or reads memory that was laid out for vectors of
// another width. So all of attend stands in an inline namespace, which users never write, and whose name says what the
// code depends on: a digit for each extension that the compiler may use. Translation units for different processors may
// then be linked into one program.
#pragma once

// 1 where the macro is defined as 1, else 0. For a macro that is 1, the pasted name is ATTEND_COMMA_IF_1, whose comma
// moves the 1 to second place.
#define ATTEND_FLAG(macro) ATTEND_FLAG_OF(macro)
#define ATTEND_FLAG_OF(value) ATTEND_FLAG_BEHIND(ATTEND_COMMA_IF_##value)
#define ATTEND_COMMA_IF_1 0,
#define ATTEND_FLAG_BEHIND(comma) ATTEND_SECOND(comma 1, 0, 0)
#define ATTEND_SECOND(first, second, ...) second

// Appends four flags to a name, as a hexadecimal digit.
#define ATTEND_EXTEND(name, a, b, c, d) \
  ATTEND_JOIN(name, ATTEND_DIGIT(ATTEND_FLAG(a), ATTEND_FLAG(b), ATTEND_FLAG(c), ATTEND_FLAG(d)))
#define ATTEND_JOIN(name, digit) ATTEND_JOIN_VALUES(name, digit)
#define ATTEND_JOIN_VALUES(name, digit) name##digit
#define ATTEND_DIGIT(a, b, c, d) ATTEND_DIGIT_OF(a, b, c, d)
#define ATTEND_DIGIT_OF(a, b, c, d) ATTEND_DIGIT_##a##b##c##d
#define ATTEND_DIGIT_0000 0
#define ATTEND_DIGIT_0001 1
#define ATTEND_DIGIT_0010 2
#define ATTEND_DIGIT_0011 3
#define ATTEND_DIGIT_0100 4
#define ATTEND_DIGIT_0101 5
#define ATTEND_DIGIT_0110 6
#define ATTEND_DIGIT_0111 7
#define ATTEND_DIGIT_1000 8
#define ATTEND_DIGIT_1001 9
#define ATTEND_DIGIT_1010 a
#define ATTEND_DIGIT_1011 b
#define ATTEND_DIGIT_1100 c
#define ATTEND_DIGIT_1101 d
#define ATTEND_DIGIT_1110 e
#define ATTEND_DIGIT_1111 f

#if defined(__x86_64__) || defined(__i386__)

#define ATTEND_EXTENSIONS_1 ATTEND_EXTEND(x86_, __SSE2__, __SSE3__, __SSSE3__, __SSE4_1__)
#define ATTEND_EXTENSIONS_2 ATTEND_EXTEND(ATTEND_EXTENSIONS_1, __SSE4_2__, __POPCNT__, __AVX__, __F16C__)
#define ATTEND_EXTENSIONS_3 ATTEND_EXTEND(ATTEND_EXTENSIONS_2, __AVX2__, __FMA__, __BMI__, __BMI2__)
#define ATTEND_EXTENSIONS_4 ATTEND_EXTEND(ATTEND_EXTENSIONS_3, __LZCNT__, __MOVBE__, __FMA4__, __XOP__)
#define ATTEND_EXTENSIONS_5 ATTEND_EXTEND(ATTEND_EXTENSIONS_4, __AVX512F__, __AVX512CD__, __AVX512BW__, __AVX512DQ__)
#define ATTEND_EXTENSIONS_6 \
  ATTEND_EXTEND(ATTEND_EXTENSIONS_5, __AVX512VL__, __AVX512ER__, __AVX512IFMA__, __AVX512VBMI__)
#define ATTEND_EXTENSIONS_7 \
  ATTEND_EXTEND(ATTEND_EXTENSIONS_6, __AVX512VBMI2__, __AVX512BITALG__, __AVX512VPOPCNTDQ__, __AVX512VNNI__)
#define ATTEND_EXTENSIONS_8 \
  ATTEND_EXTEND(ATTEND_EXTENSIONS_7, __AVX512BF16__, __AVX512FP16__, __AVX512VP2INTERSECT__, __GFNI__)
#define ATTEND_EXTENSIONS_9 ATTEND_EXTEND(ATTEND_EXTENSIONS_8, __AVXVNNI__, __AVX10_1__, __AVX10_2__, __APX_F__)
#define ATTEND_EXTENSIONS ATTEND_EXTEND(ATTEND_EXTENSIONS_9, __AMX_TILE__, __AMX_BF16__, __AMX_INT8__, __AMX_FP16__)

#else

#define ATTEND_EXTENSIONS_1 \
  ATTEND_EXTEND(target_, __ARM_NEON, __ARM_FEATURE_FMA, __ARM_FEATURE_FP16_VECTOR_ARITHMETIC, __ARM_FEATURE_DOTPROD)
#define ATTEND_EXTENSIONS_2                                                                           \
  ATTEND_EXTEND(ATTEND_EXTENSIONS_1, __ARM_FEATURE_BF16_VECTOR_ARITHMETIC, __ARM_FEATURE_MATMUL_INT8, \
                __ARM_FEATURE_SVE, __ARM_FEATURE_SVE2)
#define ATTEND_EXTENSIONS_3 \
  ATTEND_EXTEND(ATTEND_EXTENSIONS_2, __ARM_FEATURE_ATOMICS, __wasm_simd128__, __wasm_relaxed_simd__, __riscv_v)
#define ATTEND_EXTENSIONS_4 \
  ATTEND_EXTEND(ATTEND_EXTENSIONS_3, __ALTIVEC__, __VSX__, __POWER8_VECTOR__, __POWER9_VECTOR__)

// The length of a vector in bits, where processors of the target differ in it and the compiler was told which it is.
#if defined(__ARM_FEATURE_SVE_BITS)
#define ATTEND_EXTENSIONS ATTEND_JOIN(ATTEND_EXTENSIONS_4, __ARM_FEATURE_SVE_BITS)
#elif defined(__riscv_v_fixed_vlen)
#define ATTEND_EXTENSIONS ATTEND_JOIN(ATTEND_EXTENSIONS_4, __riscv_v_fixed_vlen)
#else
#define ATTEND_EXTENSIONS ATTEND_EXTENSIONS_4
#endif

#endif

/// 1 where code is compiled without exceptions (-fno-exceptions): an argument error then calls a handler, as
/// core/error.hpp says. A program with exceptions may define it as 1 before the first include, to have its handler
/// called as well.
#if !defined(ATTEND_NO_EXCEPTIONS)
#if defined(__cpp_exceptions)
#define ATTEND_NO_EXCEPTIONS 0
#else
#define ATTEND_NO_EXCEPTIONS 1
#endif
#endif

/// 1 where products of pairs of 16-bit numbers are emulated (simd/pair_products.hpp), for tests on any machine.
#if !defined(ATTEND_EMULATED_PAIRS)
#define ATTEND_EMULATED_PAIRS 0
#endif

/// 1 where they are emulated as Arm's BFMMLA computes them (simd/four_products.hpp).
#if !defined(ATTEND_EMULATED_FOURS)
#define ATTEND_EMULATED_FOURS 0
#endif

#define ATTEND_FREEDOMS \
  ATTEND_EXTEND(ATTEND_EXTENSIONS, __ASSOCIATIVE_MATH__, __RECIPROCAL_MATH__, __NO_SIGNED_ZEROS__, __NO_TRAPPING_MATH__)

/// The inline namespace within `attend`. Its name holds the extensions above, the rules of arithmetic that the compiler
/// may break, and whether errors are exceptions.
#define ATTEND_TARGET \
  ATTEND_EXTEND(ATTEND_FREEDOMS, ATTEND_NO_EXCEPTIONS, __EXCEPTIONS, ATTEND_EMULATED_PAIRS, ATTEND_EMULATED_FOURS)

namespace attend::inline ATTEND_TARGET {

/// What concerns a program as a whole: the instruction set that it is compiled for, the working memory that its threads
/// keep, and what an argument error calls where there are no exceptions.
namespace runtime {

/// The instruction set that this translation unit is compiled for, such as "x86-64-v4 avx512_bf16": its level, and
/// the extensions beyond the level that decide how fast attend is. Code that is built without an option such as
/// -march=native says "x86-64", and runs several times slower than it could on a newer machine.
///
///     std::puts(attend::runtime::target());
inline char const* target() {
  return
#if defined(__AVX512BW__) && defined(__AVX512CD__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
      "x86-64-v4"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && defined(__BMI2__)
      "x86-64-v3"
#elif defined(__SSE4_2__) && defined(__x86_64__)
      "x86-64-v2"
#elif defined(__x86_64__)
      "x86-64"
#elif defined(__i386__)
      "i386"
#elif defined(__aarch64__)
      "aarch64"
#elif defined(__arm__)
      "arm"
#elif defined(__wasm__)
      "wasm"
#elif defined(__riscv)
      "riscv"
#elif defined(__powerpc__)
      "powerpc"
#else
      "unknown"
#endif
#if defined(__SSE2__) && defined(__i386__)
      " sse2"
#endif
#if defined(__AVX__) && !(defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && defined(__BMI2__))
      " avx"
#if defined(__AVX2__)
      " avx2"
#endif
#if defined(__FMA__)
      " fma"
#endif
#endif
#if defined(__AVX512F__) && \
    !(defined(__AVX512BW__) && defined(__AVX512CD__) && defined(__AVX512DQ__) && defined(__AVX512VL__))
      " avx512f"
#endif
#if defined(__AVX512VNNI__)
      " avx512_vnni"
#endif
#if defined(__AVX512BF16__)
      " avx512_bf16"
#endif
#if defined(__AVX512FP16__)
      " avx512_fp16"
#endif
#if defined(__AVXVNNI__)
      " avx_vnni"
#endif
#if defined(__AMX_BF16__)
      " amx_bf16"
#endif
#if defined(__AMX_INT8__)
      " amx_int8"
#endif
#if defined(__ARM_NEON)
      " neon"
#endif
#if defined(__ARM_FEATURE_DOTPROD)
      " dotprod"
#endif
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
      " bf16"
#endif
#if defined(__ARM_FEATURE_MATMUL_INT8)
      " i8mm"
#endif
#if defined(__ARM_FEATURE_SVE)
      " sve"
#endif
#if defined(__wasm_simd128__)
      " simd128"
#endif
#if defined(__VSX__)
      " vsx"
#endif
      ;
}

}  // namespace runtime

/// Types and functions that authors of masks, scores, normalizers, features and stores need beside the options.
namespace extend {}
/// The options of softmax attention (docs/options.md) that are not among the everyday ones.
namespace options {
using namespace extend;
}
/// Features, decays, updates and normalizers of attention with a state (docs/linear.md).
namespace linear {
using namespace extend;
using namespace options;
}  // namespace linear
/// Key-value stores that are not among the everyday ones, and what stores are made with (docs/caches.md).
namespace caches {
using namespace extend;
using namespace options;
}  // namespace caches
/// Choosing keys from the data (docs/selection.md).
namespace selection {
using namespace extend;
using namespace options;
using namespace caches;
}  // namespace selection
/// Tokens on a line, in an image or in a volume: neighborhoods, regions, positions relative to each other.
namespace grids {
using namespace extend;
using namespace options;
}  // namespace grids
/// The named systems of papers, each a call with its options.
namespace systems {
using namespace extend;
using namespace options;
using namespace linear;
using namespace caches;
using namespace selection;
using namespace grids;
}  // namespace systems
namespace detail {
using namespace systems;
}
namespace engine {
using namespace systems;
}
namespace call {
using namespace systems;
}
namespace simd {
using namespace extend;
}
namespace reference {
using namespace systems;
}
namespace onnx {
using namespace systems;
}

}  // namespace attend::inline ATTEND_TARGET
