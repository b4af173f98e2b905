# SPDX-License-Identifier: BSD-3-Clause
# What a project that takes attend in gets besides attend::attend: see docs/embedding.md.
#
#   attend::native     attend::attend, compiled for the instruction set of the machine that compiles
#   attend::hnswlib    attend::attend with hnswlib, for attend/select/hnsw_index.hpp, where hnswlib is installed
#
# And a warning where the project is compiled without optimisation.

include(CheckCXXCompilerFlag)

# The targets are imported ones, within attend_scope (GLOBAL or nothing): those are exported by their name, so that
# libraries that link them can be exported.
if(NOT TARGET attend::native)
  add_library(attend::native INTERFACE IMPORTED ${attend_scope})
  target_link_libraries(attend::native INTERFACE attend::attend)
  if(CMAKE_CROSSCOMPILING)
    message(STATUS "attend::native is attend::attend here: the machine that compiles is not the one that runs")
  else()
    # Most compilers have the first; for some processors they have the second only.
    foreach(option march mcpu)
      check_cxx_compiler_flag(-${option}=native ATTEND_COMPILER_HAS_${option}_NATIVE)
      if(ATTEND_COMPILER_HAS_${option}_NATIVE)
        target_compile_options(attend::native INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-${option}=native>)
        break()
      endif()
    endforeach()
  endif()
endif()

find_path(ATTEND_HNSWLIB_INCLUDE_DIR hnswlib/hnswlib.h)
mark_as_advanced(ATTEND_HNSWLIB_INCLUDE_DIR)
if(ATTEND_HNSWLIB_INCLUDE_DIR AND NOT TARGET attend::hnswlib)
  add_library(attend::hnswlib INTERFACE IMPORTED ${attend_scope})
  target_link_libraries(attend::hnswlib INTERFACE attend::attend)
  target_include_directories(attend::hnswlib INTERFACE "${ATTEND_HNSWLIB_INCLUDE_DIR}")
endif()

option(ATTEND_WARN_UNOPTIMISED "Warn where a project that uses attend is compiled without optimisation" ON)
mark_as_advanced(ATTEND_WARN_UNOPTIMISED)

# Generators of several configurations choose one of them later, and have one that optimises.
function(attend_warn_unoptimised)
  get_property(several GLOBAL PROPERTY GENERATOR_IS_MULTI_CONFIG)
  get_property(warned GLOBAL PROPERTY ATTEND_WARNED_UNOPTIMISED)
  if(NOT ATTEND_WARN_UNOPTIMISED OR several OR warned)
    return()
  endif()
  string(TOUPPER "${CMAKE_BUILD_TYPE}" type)
  if(" ${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_${type}} " MATCHES " -O([1-9gsz]|fast)? ")
    return()
  endif()
  set_property(GLOBAL PROPERTY ATTEND_WARNED_UNOPTIMISED TRUE)
  message(WARNING
    "attend: ${CMAKE_PROJECT_NAME} is compiled without optimisation (CMAKE_BUILD_TYPE is \"${CMAKE_BUILD_TYPE}\"), which makes "
    "attention several hundred times slower. Configure with -DCMAKE_BUILD_TYPE=Release, or set "
    "ATTEND_WARN_UNOPTIMISED=OFF where this is meant.")
endfunction()
