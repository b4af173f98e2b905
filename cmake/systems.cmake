# SPDX-License-Identifier: BSD-3-Clause
# Makes docs/systems.md, the list of published systems, from docs/systems/*.cpp:
#   cmake -P cmake/systems.cmake
#   cmake -DCHECK=ON -P cmake/systems.cmake      writes nothing, and fails where the page is not what it would write
# Fails where a system names a header, a test, a file or an identifier that does not exist.
#   cmake -P cmake/systems.cmake -- attend_bench attend_compare attend_sweep attend_chosen
# takes the paths of these programs, writes nothing, and fails where a benchmark does not exist.
#
# Each file is a family of systems. A system is a comment and, where there is a call, a function whose body is what the
# page shows. A field of the comment may go on in the lines below it:
#   // family: the heading, once in a file
#   // system: its names
#   // paper: authors, title and year as far as they are known
#   // state: part, by hand or not yet; without it, the library has the system as a call or as a combination of options
#   // header: attend/..., ...         where it is defined
#   // test: tests/..., ...            where it is tested
#   // bench: program arguments, ...   how it is measured
#   // note: what should be known beside the call
#   // missing: what the paper has and the library has not

cmake_minimum_required(VERSION 3.22)
include("${CMAKE_CURRENT_LIST_DIR}/arguments.cmake")
get_filename_component(root "${CMAKE_CURRENT_LIST_DIR}" DIRECTORY)
set(page "${root}/docs/systems.md")
set(fields system paper state header test bench note missing)
set(families heads positions scores windows images linear recurrent selection decoding caches outputs pooling distributed)

set(state_ "")
set(state_part "Not yet as a whole.")
set(state_by_hand "A combination without a call of its own.")
set(state_not_yet "Not yet.")

# All that headers say, for identifiers that the text mentions.
file(GLOB_RECURSE headers "${root}/include/attend/*.hpp")
set(known "")
foreach(header IN LISTS headers)
  file(READ "${header}" text)
  string(APPEND known "${text}")
endforeach()

set(wrong "")
macro(complain)
  string(CONCAT message "docs/systems/${family}.cpp, ${system}: " ${ARGN})
  string(APPEND wrong "\n  ${message}")
endmacro()

# Reads the comment at the beginning of `entry` into a variable for each field, and takes it away.
macro(read_fields)
  foreach(name IN LISTS fields)
    set(${name} "")
  endforeach()
  set(name "")
  while(entry MATCHES "^// ?([^\n]*)\n")
    set(line "${CMAKE_MATCH_1}")
    string(LENGTH "${CMAKE_MATCH_0}" length)
    string(SUBSTRING "${entry}" ${length} -1 entry)
    if(line MATCHES "^([a-z]+): (.*)$" AND CMAKE_MATCH_1 IN_LIST fields)
      set(name "${CMAKE_MATCH_1}")
      set(${name} "${CMAKE_MATCH_2}")
    else()
      string(APPEND ${name} " ${line}")
    endif()
  endwhile()
endmacro()

# The body of the function that `entry` is, without its indent; empty where there is none.
macro(read_body)
  set(body "")
  if(entry MATCHES "^void [a-z0-9_]+\\(\\) { ([^\n]*) }\n")
    set(body "${CMAKE_MATCH_1}\n")
  elseif(entry MATCHES "^void [a-z0-9_]+\\(\\) {\n(.*)\n}\n")
    string(REPLACE "\n  " "\n" body "\n${CMAKE_MATCH_1}\n")
    string(SUBSTRING "${body}" 1 -1 body)
  elseif(NOT entry MATCHES "^[\n ]*$")
    complain("expected a function without arguments, got:\n${entry}")
  endif()
endmacro()

# A list of paths as links; each must exist.
function(link_paths paths prefix result)
  string(REPLACE ", " ";" paths "${paths}")
  set(links "")
  foreach(path IN LISTS paths)
    if(NOT EXISTS "${root}/${prefix}${path}")
      complain("there is no ${path}")
    endif()
    list(APPEND links "[${path}](../${prefix}${path})")
  endforeach()
  list(JOIN links ", " links)
  set(${result} "${links}" PARENT_SCOPE)
  set(wrong "${wrong}" PARENT_SCOPE)
endfunction()

# What is set as code in a text is the path of a header, or stands in one.
function(check_names text)
  string(REGEX MATCHALL "`[^`]*`" names "${text}")
  foreach(name IN LISTS names)
    string(REPLACE "`" "" name "${name}")
    string(FIND "${known}" "${name}" at)
    if(at EQUAL -1 AND NOT EXISTS "${root}/include/attend/${name}")
      complain("no header has ${name}")
    endif()
  endforeach()
  set(wrong "${wrong}" PARENT_SCOPE)
endfunction()

set(contents "")
set(sections "")
set(benchmarks "")
set(anchors "")
set(number 0)
foreach(family IN LISTS families)
  set(system "")
  file(READ "${root}/docs/systems/${family}.cpp" rest)
  string(REGEX MATCH "// family: ([^\n]*)\n" title "${rest}")
  set(title "${CMAKE_MATCH_1}")
    set(listed "")
  set(entries "")
  set(count 0)
  string(FIND "${rest}" "// system: " at)
  string(SUBSTRING "${rest}" ${at} -1 rest)
  while(rest)
    string(FIND "${rest}" "\n// system: " at)
    if(at EQUAL -1)
      set(entry "${rest}")
      set(rest "")
    else()
      math(EXPR at "${at} + 1")
      string(SUBSTRING "${rest}" 0 ${at} entry)
      string(SUBSTRING "${rest}" ${at} -1 rest)
    endif()
    math(EXPR count "${count} + 1")
    read_fields()
    read_body()

    string(REPLACE " " "_" of_state "state_${state}")
    if(NOT DEFINED ${of_state})
      complain("expected the state part, by hand, not yet or none, got '${state}'")
    endif()
    if(NOT paper)
      complain("expected a paper")
    endif()
    if(state STREQUAL "not yet")
      if(NOT missing OR body OR header OR test OR bench)
        complain("expected what is missing, and nothing else, of a system that is not here yet")
      endif()
    elseif(NOT body OR NOT header OR NOT test)
      complain("expected a function, a header and a test")
    endif()
    if("${${of_state}}${paper}${header}${test}${bench}${note}${missing}" MATCHES " (paper|state|header|test|bench|note|missing): ")
      complain("a line that is too long has made the formatter join the field ${CMAKE_MATCH_1} to the one before it")
    endif()
    check_names("${note} ${missing}")

    # As sites that show Markdown make them.
    string(TOLOWER "${system}" anchor)
    string(REGEX REPLACE "[^a-z0-9 _-]" "" anchor "${anchor}")
    string(REPLACE " " "-" anchor "${anchor}")
    if(anchor IN_LIST anchors)
      complain("expected a name of its own")
    endif()
    list(APPEND anchors "${anchor}")
    string(APPEND listed "${separator}[${system}](#${anchor})")
    set(separator " · ")

    string(APPEND entries "\n### ${system}\n\n${paper}.\n")
    if(${of_state} OR note)
      string(STRIP "${${of_state}} ${note}" text)
      string(APPEND entries "\n${text}\n")
    endif()
    if(body)
      # Not `cpp`: of those blocks tests/documents makes a program.
      string(APPEND entries "\n```cc\n${body}```\n")
    endif()
    set(lines "")
    if(header)
      link_paths("${header}" "include/" links)
      string(APPEND lines "- Header: ${links}\n")
    endif()
    if(test)
      link_paths("${test}" "" links)
      string(APPEND lines "- Test: ${links}\n")
    endif()
    if(bench)
      string(REPLACE ", " ";" measured "${bench}")
      list(APPEND benchmarks ${measured})
      list(JOIN measured "`, `" measured)
      string(APPEND lines "- Benchmark: `${measured}`\n")
    endif()
    if(missing)
      string(APPEND lines "- Not covered: ${missing}\n")
    endif()
    string(APPEND entries "\n${lines}")
  endwhile()
  string(TOLOWER "${title}" anchor)
  string(REGEX REPLACE "[^a-z0-9 _-]" "" anchor "${anchor}")
  string(REPLACE " " "-" anchor "${anchor}")
  string(APPEND contents "- [${title}](#${anchor}) (${count})\n")
  string(APPEND sections "\n## ${title}\n\n${listed}\n${entries}")
  math(EXPR number "${number} + ${count}")
  unset(separator)
endforeach()

if(wrong)
  message(FATAL_ERROR "${wrong}\n")
endif()

attend_arguments(programs)
if(programs)
  set(all "")
  foreach(program IN LISTS programs)
    get_filename_component(name "${program}" NAME)
    if(name STREQUAL "attend_bench")
      execute_process(COMMAND "${program}" --benchmark_list_tests=true OUTPUT_VARIABLE output COMMAND_ERROR_IS_FATAL ANY)
      string(REGEX REPLACE "[^\n]+" "attend_bench --benchmark_filter=\\0," output "${output}")
      string(APPEND all "${output}\n")
      continue()
    endif()
    # The others name what they know when they are asked for what they do not know.
    set(asked "no_such_name")
    set(options "")
    if(name STREQUAL "attend_compare")
      set(asked "--only;no_such_name")
      set(options " --only")
    endif()
    foreach(select "" " --select" " --cache")
      if(select AND NOT name STREQUAL "attend_compare")
        continue()
      endif()
      string(STRIP "${select}" argument)
      execute_process(COMMAND "${program}" ${argument} ${asked} ERROR_VARIABLE output OUTPUT_QUIET)
      string(REGEX REPLACE "^.*one of(.*)$" "\\1" output "${output}")
      string(REGEX REPLACE "[a-z0-9_]+" "${name}${select}${options} \\0," output "${output}")
      string(APPEND all "${output}\n")
    endforeach()
  endforeach()
  foreach(benchmark IN LISTS benchmarks)
    # A filter of attend_bench is the beginning of names; of the others a name stands alone.
    set(end ",")
    if(benchmark MATCHES "^attend_bench ")
      set(end "")
    endif()
    string(FIND "${all}" "${benchmark}${end}" at)
    if(at EQUAL -1)
      string(APPEND wrong "\n  there is no benchmark ${benchmark}")
    endif()
  endforeach()
  if(wrong)
    message(FATAL_ERROR "docs/systems:${wrong}\n")
  endif()
  return()
endif()

set(text "# Systems

Published attention systems, and how each is said with this library: ${number} entries, by families. A test compiles the
calls, on the tensors that [docs/systems/tensors.hpp](systems/tensors.hpp) declares, with the names of `attend`,
`attend::systems`, `attend::extend` and of all families (`options`, `linear`, `caches`, `selection`, `grids`) at hand: `q`,
`k`, `v` and `o` are `[batch, head, token, dimension]`, `cache` is a store of keys and values, and sizes are examples.

Tests hold a call, or a set of options, against the paper's formula or numbers of a published program, and a store against
all tokens that it was given; where an entry says that it is *a combination* or *not yet* there *as a whole*, they hold each
of its options. What a paper has and the library has not is *not covered*. Benchmarks are the programs of
`bench/`.

<!-- Made from docs/systems/*.cpp by cmake/systems.cmake. -->

${contents}${sections}")
if(CHECK)
  file(READ "${page}" today)
  if(NOT today STREQUAL text)
    message(FATAL_ERROR "docs/systems.md is not what docs/systems/*.cpp say: cmake -P cmake/systems.cmake writes it")
  endif()
else()
  file(WRITE "${page}" "${text}")
endif()
