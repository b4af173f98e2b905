# SPDX-License-Identifier: BSD-3-Clause
# What a check of a single commit leaves to others. Where ATTEND_FIFTH is a number, what is compiled in many ways is
# built in one of five checks, and nobody reads the speed of examples and benchmarks.

set(ATTEND_FIFTH "" CACHE STRING "Which fifth of what is compiled in many ways is built, from 0 to 4; empty: all of it")

# Whether a part that compiles what others compile as well, in another way, belongs to the fifth that is built.
function(attend_in_fifth result fifth)
  if(ATTEND_FIFTH STREQUAL "" OR ATTEND_FIFTH EQUAL fifth)
    set(${result} ON PARENT_SCOPE)
  else()
    set(${result} OFF PARENT_SCOPE)
  endif()
endfunction()

# Compiles a folder with -O1 in such a check, which takes a compiler two thirds of the time.
macro(attend_compile_lightly)
  if(NOT ATTEND_FIFTH STREQUAL "" AND CMAKE_BUILD_TYPE STREQUAL "Release")
    set(CMAKE_CXX_FLAGS_RELEASE "-O1 -DNDEBUG")
  endif()
endmacro()
