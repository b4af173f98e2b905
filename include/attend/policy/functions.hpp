// Functions for a caller's own scores and masks: the same names for numbers and for vectors of them, so that one generic
// lambda serves the kernel and a test of it. They are xsimd's.
//
//   abs(x)  exp(x)  tanh(x)  min(a, b)  max(a, b)  select(condition, yes, no)
#pragma once

#include <xsimd/xsimd.hpp>

namespace attend {

using xsimd::abs;
using xsimd::exp;
using xsimd::max;
using xsimd::min;
using xsimd::select;
using xsimd::tanh;

}  // namespace attend
