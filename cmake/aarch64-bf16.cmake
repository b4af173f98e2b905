# SPDX-License-Identifier: BSD-3-Clause
# Builds for 64-bit Arm with its instructions for bfloat16, and runs what was built under an emulation of such.

include("${CMAKE_CURRENT_LIST_DIR}/cross.cmake")
attend_cross(aarch64-linux-gnu aarch64 qemu-aarch64 -cpu max)
set(CMAKE_CXX_FLAGS_INIT "-march=armv8.6-a+bf16")
