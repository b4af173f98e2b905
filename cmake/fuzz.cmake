# SPDX-License-Identifier: BSD-3-Clause
# Builds the fuzz targets with clang and runs them, each on the inputs kept for it. From any folder:
#   cmake -P cmake/fuzz.cmake
#   cmake -DSECONDS=3600 -DTARGETS="npy;safetensors" -DJOBS=8 -P cmake/fuzz.cmake
# SECONDS is the time in all, 120 unless given: the targets share it, JOBS of them at a time (unless given, one for each
# processor). What is found lies in build/fuzz/found/<target>; it is copied into tests/fuzz/corpus/<target> together
# with the mending. New inputs of interest are kept in build/fuzz/corpus/<target> for the next time.

cmake_minimum_required(VERSION 3.22)
include("${CMAKE_CURRENT_LIST_DIR}/setup.cmake")

if(NOT SECONDS)
  set(SECONDS 120)
endif()
if(NOT JOBS)
  cmake_host_system_information(RESULT JOBS QUERY NUMBER_OF_LOGICAL_CORES)
endif()
set(kept "${ATTEND_SOURCE_FOLDER}/tests/fuzz/corpus")
set(folder "${ATTEND_SOURCE_FOLDER}/build/fuzz")
if(NOT TARGETS)
  file(GLOB TARGETS RELATIVE "${kept}" "${kept}/*")
endif()

attend_set_up(fuzz)
list(TRANSFORM TARGETS PREPEND fuzz_ OUTPUT_VARIABLE programs)
attend_build(fuzz ${programs})

# Each target has its share of the time, and `-jobs` of libFuzzer would give every job the whole of it: so the targets
# go in rounds of JOBS, side by side as the commands of one pipeline.
list(LENGTH TARGETS count)
math(EXPR rounds "(${count} + ${JOBS} - 1) / ${JOBS}")
math(EXPR share "${SECONDS} / ${rounds}")
if(share EQUAL 0)
  message(FATAL_ERROR "SECONDS: expected at least ${rounds}, one for each round of ${JOBS} targets, got ${SECONDS}")
endif()

set(failed)
while(TARGETS)
  list(SUBLIST TARGETS 0 ${JOBS} round)
  list(REMOVE_ITEM TARGETS ${round})
  set(commands)
  foreach(target IN LISTS round)
    file(MAKE_DIRECTORY "${folder}/corpus/${target}" "${folder}/found/${target}")
    # An allocation of 256 MiB is more than any input may ask for; what takes 20 seconds hangs.
    list(APPEND commands COMMAND ${CMAKE_COMMAND} -E env "UBSAN_OPTIONS=print_stacktrace=1"
      "${folder}/tests/fuzz/fuzz_${target}" "-max_total_time=${share}" -malloc_limit_mb=256 -timeout=20
      -print_final_stats=1 "-artifact_prefix=${folder}/found/${target}/"
      "${folder}/corpus/${target}" "${kept}/${target}")
  endforeach()
  string(REPLACE ";" ", " names "${round}")
  message(STATUS "Fuzzing for ${share} s: ${names}")
  execute_process(${commands} RESULTS_VARIABLE statuses ERROR_VARIABLE output)
  foreach(target status IN ZIP_LISTS round statuses)
    if(NOT status STREQUAL "0")
      list(APPEND failed ${target})
    endif()
  endforeach()
  if(failed)
    message("${output}")
  else()
    string(REGEX MATCHALL "stat::number_of_executed_units: *[0-9]+" executed "${output}")
    message(STATUS "Nothing found: ${executed}")
  endif()
endwhile()

if(failed)
  set(found)
  foreach(target IN LISTS failed)
    file(GLOB inputs "${folder}/found/${target}/*")
    list(APPEND found "${target}:" ${inputs})
  endforeach()
  string(REPLACE ";" "\n  " found "${found}")
  message(FATAL_ERROR "The fuzzer found, by target:\n  ${found}")
endif()
