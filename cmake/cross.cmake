# SPDX-License-Identifier: BSD-3-Clause
# What the toolchain files here have in common: a cross compiler of Debian's, and user-mode emulation for what it builds.
macro(attend_cross triple processor emulator)
  set(CMAKE_SYSTEM_NAME Linux)
  set(CMAKE_SYSTEM_PROCESSOR ${processor})
  set(CMAKE_C_COMPILER ${triple}-gcc)
  set(CMAKE_CXX_COMPILER ${triple}-g++)
  set(CMAKE_CROSSCOMPILING_EMULATOR "${emulator};-L;/usr/${triple};${ARGN}")

  # The header-only libraries of the host serve the target as well, wherever the host keeps their package files.
  list(APPEND CMAKE_PREFIX_PATH "/usr/lib/${CMAKE_HOST_SYSTEM_PROCESSOR}-linux-gnu/cmake")
endmacro()
