// SPDX-License-Identifier: BSD-3-Clause
// expect: attend hides keys with infinities: compile without -ffast-math and -ffinite-math-only
// What the compiler defines for -ffast-math, which would compute as if there were no infinities.
#define __FAST_MATH__ 1
#include <attend/simd/math.hpp>
