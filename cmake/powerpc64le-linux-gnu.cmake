# SPDX-License-Identifier: BSD-3-Clause
# Builds for 64-bit Power with a cross compiler, and runs what was built under user-mode emulation.

include("${CMAKE_CURRENT_LIST_DIR}/cross.cmake")
attend_cross(powerpc64le-linux-gnu ppc64le qemu-ppc64le)
