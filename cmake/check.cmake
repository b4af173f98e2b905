# SPDX-License-Identifier: BSD-3-Clause
# Sets up, builds and tests. From any folder:
#   cmake -P cmake/check.cmake
#   cmake -DPRESETS="release;avx2" -P cmake/check.cmake
#   cmake -DTESTS="^policy_mask" -P cmake/check.cmake       (the test programs whose names match)
#   cmake -DFIFTH=3 -P cmake/check.cmake                    (a fifth of what is compiled in many ways)

cmake_minimum_required(VERSION 3.22)
include("${CMAKE_CURRENT_LIST_DIR}/setup.cmake")

if(NOT PRESETS)
  set(PRESETS release)
endif()
attend_set_up(${PRESETS})
cmake_host_system_information(RESULT cores QUERY NUMBER_OF_LOGICAL_CORES)

set(counts)
foreach(preset IN LISTS PRESETS)
  attend_build(${preset})
  execute_process(COMMAND ${CMAKE_CTEST_COMMAND} --preset ${preset} --parallel ${cores}
    WORKING_DIRECTORY "${ATTEND_SOURCE_FOLDER}"
    RESULT_VARIABLE status OUTPUT_VARIABLE output ECHO_OUTPUT_VARIABLE)
  if(NOT status STREQUAL "0")
    message(SEND_ERROR "${preset}: testing failed")
  endif()
  string(REGEX MATCH "[0-9]+% tests passed, [0-9]+ tests failed out of [0-9]+" count "${output}")
  list(APPEND counts "${preset}:" "${count}")
endforeach()

# The last lines are the test runner's own counts, whatever it lists after them.
foreach(line IN LISTS counts)
  execute_process(COMMAND ${CMAKE_COMMAND} -E echo "${line}")
endforeach()
