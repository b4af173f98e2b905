# SPDX-License-Identifier: BSD-3-Clause
# Makes one test program of the C++ that a page of the documentation shows:
#   cmake -DPAGE=docs/options.md -DNAME=options -DTO=options.cpp -P cmake/page_program.cmake
#
# The blocks of a page are the body of one test, in the order of the page; its includes come first, and its tensors from
# the fixture `page` of tests/documents/<name>.hpp, or of tests/documents/page.hpp. Two things are not shown to readers
# or not compiled here:
#   - an HTML comment that begins with the line `<!-- cpp`: statements such as the checks of what a block before it gives;
#   - a block whose first line names a file of the examples, as `// examples/quickstart.cpp`: an excerpt, which must stand
#     in that file, where it is compiled. A line `// ...` in it leaves something out.

cmake_minimum_required(VERSION 3.22)
get_filename_component(root "${CMAKE_CURRENT_LIST_DIR}" DIRECTORY)

# Stops unless each piece of the block stands in the file.
function(check_excerpt block file line)
  file(READ "${root}/${file}" whole)
  string(APPEND block "// ...\n")
  while(NOT block STREQUAL "")
    string(FIND "${block}" "// ...\n" end)
    string(SUBSTRING "${block}" 0 ${end} piece)
    math(EXPR end "${end} + 7")
    string(SUBSTRING "${block}" ${end} -1 block)
    string(STRIP "${piece}" piece)
    string(FIND "${whole}" "${piece}" found)
    if(found EQUAL -1)
      message(FATAL_ERROR "${PAGE}:${line}: this is not in ${file}:\n${piece}")
    endif()
  endwhile()
endfunction()

file(READ "${PAGE}" rest)
set(line 1)
set(includes "")
set(body "")
while(rest MATCHES "\n(```cpp|<!-- cpp)\n")
  set(open "${CMAKE_MATCH_0}")
  set(close "\n```\n")
  if(open MATCHES "<!--")
    set(close "\n-->\n")
  endif()

  # What comes before the block counts lines alone.
  string(FIND "${rest}" "${open}" at)
  string(LENGTH "${open}" length)
  math(EXPR at "${at} + ${length}")
  string(SUBSTRING "${rest}" 0 ${at} before)
  string(SUBSTRING "${rest}" ${at} -1 rest)
  string(REGEX MATCHALL "\n" newlines "${before}")
  list(LENGTH newlines count)
  math(EXPR line "${line} + ${count}")

  string(FIND "${rest}" "${close}" at)
  if(at EQUAL -1)
    message(FATAL_ERROR "${PAGE}:${line}: this block has no end")
  endif()
  math(EXPR at "${at} + 1")
  string(SUBSTRING "${rest}" 0 ${at} block)
  string(SUBSTRING "${rest}" ${at} -1 rest)

  if(block MATCHES "^// (examples/[^ \n]+)\n")
    set(file "${CMAKE_MATCH_1}")
    string(FIND "${block}" "\n" end)
    string(SUBSTRING "${block}" ${end} -1 excerpt)
    check_excerpt("${excerpt}" "${file}" ${line})
  else()
    set(include "#include [<\"][^\n]*")
    string(REGEX MATCHALL "${include}" found "${block}")
    list(JOIN found "\n" found)
    string(APPEND includes "${found}\n")
    string(REGEX REPLACE "${include}" "" block "${block}")
    string(APPEND body "#line ${line} \"${PAGE}\"\n${block}")
  endif()
  string(REGEX MATCHALL "\n" newlines "${block}")
  list(LENGTH newlines count)
  math(EXPR line "${line} + ${count}")
endwhile()

set(fixture "${NAME}")
if(NOT EXISTS "${root}/tests/documents/${NAME}.hpp")
  set(fixture page)
endif()
file(WRITE "${TO}" "// Made from ${PAGE} by cmake/page_program.cmake.
${includes}
#include \"documents/${fixture}.hpp\"

TEST_F(page, ${NAME}) {
${body}}
")
