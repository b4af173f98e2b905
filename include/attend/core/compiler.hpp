// SPDX-License-Identifier: BSD-3-Clause
// Macros for what standard C++ cannot express: forced inlining and unrolling.
#pragma once

#if !defined(__GNUC__)
#error "attend needs gcc 12 or clang 14, or newer: it uses their vector shuffles"
#endif

// A kernel's accumulators stay in registers only if every function that names them is inlined into one.
#define ATTEND_INLINE [[gnu::always_inline]] inline

// Arrays of accumulators become registers only if the loops over them are unrolled, and -O2 does not unroll loops whose
// code grows by it. ATTEND_UNROLL_SOME is for loops over memory whose body is one or two instructions.
#if defined(__clang__)
#define ATTEND_UNROLL _Pragma("clang loop unroll(full)")
#define ATTEND_UNROLL_SOME _Pragma("clang loop unroll_count(8)")
#else
#define ATTEND_UNROLL _Pragma("GCC unroll 64")
#define ATTEND_UNROLL_SOME _Pragma("GCC unroll 8")
#endif

// ATTEND_INLINE for a lambda: it stands between the parameters and the body.
#define ATTEND_INLINE_LAMBDA __attribute__((always_inline))
