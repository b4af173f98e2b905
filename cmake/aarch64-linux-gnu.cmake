# SPDX-License-Identifier: BSD-3-Clause
# Builds for 64-bit Arm with a cross compiler, and runs what was built under user-mode emulation.

include("${CMAKE_CURRENT_LIST_DIR}/cross.cmake")
attend_cross(aarch64-linux-gnu aarch64 qemu-aarch64)
