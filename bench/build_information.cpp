// SPDX-License-Identifier: BSD-3-Clause
#include "build_information.hpp"

#include <xsimd/xsimd.hpp>

namespace attend_bench {

std::string instruction_set() { return xsimd::default_arch::name(); }

std::string compiler() {
#if defined(__clang__)
  return "clang " + std::to_string(__clang_major__) + "." + std::to_string(__clang_minor__) + "." +
         std::to_string(__clang_patchlevel__);
#else
  return "gcc " + std::to_string(__GNUC__) + "." + std::to_string(__GNUC_MINOR__) + "." +
         std::to_string(__GNUC_PATCHLEVEL__);
#endif
}

std::string compiler_flags() { return ATTEND_BENCH_COMPILER_FLAGS; }

}  // namespace attend_bench
