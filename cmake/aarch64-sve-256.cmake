# SPDX-License-Identifier: BSD-3-Clause
# Builds for 64-bit Arm whose SVE vectors have 256 bits, and runs what was built under an emulation of such.

include("${CMAKE_CURRENT_LIST_DIR}/cross.cmake")
attend_cross(aarch64-linux-gnu aarch64 qemu-aarch64 -cpu "max,sve-default-vector-length=32")
set(CMAKE_CXX_FLAGS_INIT "-march=armv8.2-a+sve -msve-vector-bits=256")
