# SPDX-License-Identifier: BSD-3-Clause
# Runs clang-tidy, by default on what was changed since main. From any folder, with clang-tidy 14 (Debian: clang-tidy):
#   cmake -P cmake/tidy.cmake
#   cmake -DBASE=HEAD~3 -P cmake/tidy.cmake
#   cmake "-DFILES=include/attend/softmax.hpp;tests/version_test.cpp" -P cmake/tidy.cmake
# A file takes from seconds to a minute, so that this is no part of CI.

cmake_minimum_required(VERSION 3.22)
get_filename_component(source_folder "${CMAKE_CURRENT_LIST_DIR}" DIRECTORY)
if(NOT BASE)
  set(BASE main)
endif()
find_program(clang_tidy NAMES clang-tidy-14 clang-tidy NO_CACHE REQUIRED)
find_path(eigen Eigen/Core PATHS /usr/local/include/eigen3 /usr/include/eigen3 REQUIRED NO_CACHE)

if(NOT FILES)
  execute_process(COMMAND git diff --name-only --diff-filter=d "${BASE}" -- include tests bench examples
    WORKING_DIRECTORY "${source_folder}" OUTPUT_VARIABLE FILES RESULT_VARIABLE status OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT status STREQUAL "0")
    message(FATAL_ERROR "BASE: expected a commit, got ${BASE}")
  endif()
  string(REPLACE "\n" ";" FILES "${FILES}")
  # What must not compile has nothing to be looked at.
  list(FILTER FILES INCLUDE REGEX "\\.(hpp|cpp)$")
  list(FILTER FILES EXCLUDE REGEX "^tests/compile_failures/")
endif()

# Warnings of other headers are left to those who change them.
set(flags -x c++ -std=c++20 -O2 -march=native -Iinclude -Itests -Ibench -Iexamples -isystem "${eigen}"
  "-DATTEND_TEST_DATA=\"tests/data\"" "-DATTEND_BUILD_VERSION=\"\"" -Wno-pragma-once-outside-header)
set(unclean)
foreach(file IN LISTS FILES)
  message(STATUS "${file}")
  execute_process(COMMAND "${clang_tidy}" --quiet --warnings-as-errors=* "--header-filter=^$" "${file}" -- ${flags}
    WORKING_DIRECTORY "${source_folder}" RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE errors)
  if(NOT status STREQUAL "0")
    message("${output}${errors}")
    list(APPEND unclean "${file}")
  endif()
endforeach()
if(unclean)
  list(JOIN unclean "\n  " unclean)
  message(FATAL_ERROR "clang-tidy has something to say about\n  ${unclean}\n")
endif()
