# SPDX-License-Identifier: BSD-3-Clause
# Compiles the examples in the doc comments of include/attend: lines that are indented by four spaces behind an empty
# line of a comment that begins with ///. Each becomes the body of a function, in a file that begins with
# docs/systems/tensors.hpp, and errors name the header's own line.
#   cmake "-DCOMPILE=c++;-std=c++20;-fsyntax-only;-I..." -DTO=examples.cpp -P cmake/comment_examples.cmake
cmake_minimum_required(VERSION 3.22)
get_filename_component(root "${CMAKE_CURRENT_LIST_DIR}" DIRECTORY)
set(source "#include \"${root}/docs/systems/tensors.hpp\"\n")
set(bodies "")
set(count 0)

file(GLOB_RECURSE headers RELATIVE "${root}/include" "${root}/include/attend/*.hpp")
foreach(header IN LISTS headers)
  file(READ "${root}/include/${header}" rest)
  # A header of a library that need not be there counts where the library is.
  set(condition 1)
  if(rest MATCHES "#include (<hnswlib/[^>]+>)")
    set(condition "__has_include(${CMAKE_MATCH_1})")
  endif()
  set(line 1)
  set(found OFF)
  while(rest MATCHES "\n *///(\n *///     [^\n]*)+\n")
    set(found ON)
    set(example "${CMAKE_MATCH_0}")
    string(FIND "${rest}" "${example}" at)
    string(SUBSTRING "${rest}" 0 ${at} before)
    string(LENGTH "${example}" length)
    math(EXPR at "${at} + ${length} - 1")
    string(SUBSTRING "${rest}" ${at} -1 rest)
    # That of the empty comment, with which the example begins.
    string(REGEX REPLACE "[^\n]" "" newlines "${before}")
    string(LENGTH "${newlines}" newlines)
    math(EXPR first "${line} + ${newlines} + 1")
    string(REGEX REPLACE "[^\n]" "" newlines "${example}")
    string(LENGTH "${newlines}" newlines)
    math(EXPR line "${first} + ${newlines} - 2")
    string(REGEX REPLACE "\n *///(     )?" "\n" example "${example}")
    math(EXPR count "${count} + 1")
    string(APPEND bodies "#if ${condition}\nvoid example_${count}() {\n"
      "#line ${first} \"${root}/include/${header}\"${example}}\n#endif\n")
  endwhile()
  if(found)
    string(APPEND source "#if ${condition}\n#include <${header}>\n#endif\n")
  endif()
endforeach()

if(count EQUAL 0)
  message(FATAL_ERROR "no example was found in the comments of ${root}/include/attend")
endif()
file(WRITE "${TO}" "${source}${bodies}")
execute_process(COMMAND ${COMPILE} "${TO}" RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "an example in a comment does not compile")
endif()
