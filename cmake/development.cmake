# SPDX-License-Identifier: BSD-3-Clause
# What attend's own tests, benchmarks and examples share. None of it reaches a consumer.

if(PROJECT_IS_TOP_LEVEL)
  set(attend_default_architecture native)
else()
  set(attend_default_architecture default)
endif()
set(ATTEND_ARCHITECTURE ${attend_default_architecture} CACHE STRING
  "Instruction set of attend's own programs: native, avx2, sse2, or default (the compiler's)")
set_property(CACHE ATTEND_ARCHITECTURE PROPERTY STRINGS native avx2 sse2 default)

if(ATTEND_ARCHITECTURE STREQUAL "native")
  set(attend_architecture_options -march=native)
elseif(ATTEND_ARCHITECTURE STREQUAL "avx2")
  set(attend_architecture_options -mavx2 -mfma -mf16c)
elseif(ATTEND_ARCHITECTURE STREQUAL "sse2")
  set(attend_architecture_options -march=x86-64)
elseif(ATTEND_ARCHITECTURE STREQUAL "default")
  set(attend_architecture_options)
else()
  message(FATAL_ERROR "ATTEND_ARCHITECTURE: expected native, avx2, sse2 or default, got ${ATTEND_ARCHITECTURE}")
endif()

# Unoptimised vector code is of no use to anybody who did not ask for it.
get_property(attend_multiple_configurations GLOBAL PROPERTY GENERATOR_IS_MULTI_CONFIG)
if(PROJECT_IS_TOP_LEVEL AND NOT CMAKE_BUILD_TYPE AND NOT attend_multiple_configurations)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()

option(ATTEND_WARNINGS_AS_ERRORS "Stop at a warning in attend's own programs" OFF)

add_library(attend_development INTERFACE)
target_compile_features(attend_development INTERFACE cxx_std_20)
target_compile_options(attend_development INTERFACE
  -Wall -Wextra ${attend_architecture_options}
  # gcc 12 takes the undefined vectors inside its own AVX-512 intrinsics for mistakes.
  $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized -Wno-maybe-uninitialized>)
if(ATTEND_WARNINGS_AS_ERRORS)
  target_compile_options(attend_development INTERFACE -Werror
    # gcc's optimizer takes joined strings and inlined vectors for reads and writes beyond an object's end, and a test's
    # own operator new for another's.
    $<$<CXX_COMPILER_ID:GNU>:-Wno-error=array-bounds>
    $<$<CXX_COMPILER_ID:GNU>:-Wno-error=restrict>
    $<$<CXX_COMPILER_ID:GNU>:-Wno-error=mismatched-new-delete>
    $<$<CXX_COMPILER_ID:GNU>:-Wno-error=stringop-overflow>
    $<$<CXX_COMPILER_ID:GNU>:-Wno-error=stringop-overread>)
endif()
