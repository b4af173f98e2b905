# SPDX-License-Identifier: BSD-3-Clause
# Builds for RISC-V without vectors with a cross compiler, and runs what was built under user-mode emulation.

include("${CMAKE_CURRENT_LIST_DIR}/cross.cmake")
attend_cross(riscv64-linux-gnu riscv64 qemu-riscv64)
