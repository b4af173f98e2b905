// SPDX-License-Identifier: BSD-3-Clause
// How a benchmark program was compiled: what belongs beside its numbers.
#pragma once

#include <string>

namespace attend_bench {

std::string instruction_set();
std::string compiler();
std::string compiler_flags();

}  // namespace attend_bench
