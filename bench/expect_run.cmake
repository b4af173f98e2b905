# SPDX-License-Identifier: BSD-3-Clause
# Runs a program and checks its exit code and what it prints:
#   cmake -DCODE=2 "-DERROR=--heads: expected" "-DJSON=problems 0 name" -P expect_run.cmake -- program arguments...
# CODE is the exit code. ERROR must occur in the error stream. JSON leads to a member of the document on the output
# stream, which must be there. OUTPUT is a file that the output stream is kept in.

cmake_minimum_required(VERSION 3.22)
include("${CMAKE_CURRENT_LIST_DIR}/../cmake/arguments.cmake")

attend_arguments(command)
execute_process(COMMAND ${command} RESULT_VARIABLE code OUTPUT_VARIABLE output ERROR_VARIABLE error)
set(what "output:\n${output}\nerrors:\n${error}")
if(NOT code STREQUAL CODE)
  message(FATAL_ERROR "expected exit code ${CODE}, got ${code}\n${what}")
endif()
if(DEFINED OUTPUT)
  file(WRITE "${OUTPUT}" "${output}")
endif()
if(DEFINED ERROR)
  string(FIND "${error}" "${ERROR}" position)
  if(position EQUAL -1)
    message(FATAL_ERROR "expected the errors to say '${ERROR}'\n${what}")
  endif()
endif()
if(DEFINED JSON)
  separate_arguments(members UNIX_COMMAND "${JSON}")
  string(JSON member ERROR_VARIABLE problem GET "${output}" ${members})
  if(problem)
    message(FATAL_ERROR "expected JSON with ${JSON}: ${problem}\n${what}")
  endif()
endif()
