# SPDX-License-Identifier: BSD-3-Clause
# Sets up, builds the comparison with other kernels, and runs it with the arguments after `--`. From any folder:
#   cmake -P cmake/compare.cmake
#   cmake -P cmake/compare.cmake -- --heads 8

cmake_minimum_required(VERSION 3.22)
include("${CMAKE_CURRENT_LIST_DIR}/arguments.cmake")
include("${CMAKE_CURRENT_LIST_DIR}/setup.cmake")

attend_set_up(release)
attend_build(release attend_compare)

attend_arguments(arguments)
execute_process(COMMAND "${ATTEND_SOURCE_FOLDER}/build/release/bench/attend_compare" ${arguments}
  RESULT_VARIABLE status)
if(NOT status STREQUAL "0")
  message(FATAL_ERROR "attend_compare failed")
endif()
