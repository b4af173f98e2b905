# SPDX-License-Identifier: BSD-3-Clause
# Builds for 32-bit x86 with SSE2 with a cross compiler, and runs what was built under user-mode emulation.

include("${CMAKE_CURRENT_LIST_DIR}/cross.cmake")
attend_cross(i686-linux-gnu i686 qemu-i386)
set(CMAKE_CXX_FLAGS_INIT -msse2)
