// SPDX-License-Identifier: BSD-3-Clause
// Outputs and states of linear attention of bfloat16, as two translation units of one program compute them: for the
// machine at hand, and with its matrix unit emulated.
#pragma once

#include <cstdint>
#include <vector>

namespace attend_bits {

struct result {
  bool by_unit;  // whether a matrix unit multiplied, or its emulation
  std::vector<std::uint32_t> bits;
};

result of_machine();
result of_emulation();

}  // namespace attend_bits
