# SPDX-License-Identifier: BSD-3-Clause
# Lays out the sources, and writes the license's line above files that lack it. From any folder:
#   cmake -P cmake/format.cmake
#   cmake -DCHECK=ON -P cmake/format.cmake                  (changes nothing, and fails where something is to be changed)
# One version of clang-format lays out differently from the next: cmake/format_requirements.txt names the one that is
# used, for `pip install -r` in a virtual environment.

cmake_minimum_required(VERSION 3.22)
get_filename_component(source_folder "${CMAKE_CURRENT_LIST_DIR}" DIRECTORY)

# The files of the given names in the project's folders.
function(find_files result)
  set(patterns)
  foreach(folder include tests bench examples cmake ports)
    foreach(name IN LISTS ARGN)
      list(APPEND patterns "${source_folder}/${folder}/${name}")
    endforeach()
  endforeach()
  file(GLOB_RECURSE found ${patterns})
  set(${result} ${found} PARENT_SCOPE)
endfunction()
find_files(sources *.hpp *.cpp *.h)
find_files(scripts CMakeLists.txt *.cmake *.py)
find_files(modules *.mjs)

# The first line is the license's, or the second one of a program that says first what runs it.
set(unlicensed)
foreach(file IN LISTS sources modules scripts ITEMS "${source_folder}/CMakeLists.txt" "${source_folder}/.ci/run")
  set(line "# SPDX-License-Identifier: BSD-3-Clause\n")
  if(file IN_LIST sources OR file IN_LIST modules)
    set(line "// SPDX-License-Identifier: BSD-3-Clause\n")
  endif()
  file(READ "${file}" text)
  string(REGEX MATCH "^#![^\n]*\n" program "${text}")
  string(LENGTH "${program}" length)
  string(SUBSTRING "${text}" ${length} -1 text)
  string(FIND "${text}" "${line}" place)
  if(place EQUAL 0)
    continue()
  endif()
  list(APPEND unlicensed "${file}")
  if(NOT CHECK)
    file(WRITE "${file}" "${program}${line}${text}")
  endif()
endforeach()
if(CHECK AND unlicensed)
  list(JOIN unlicensed "\n  " unlicensed)
  message(FATAL_ERROR "The license's line is missing, cmake -P cmake/format.cmake writes it:\n  ${unlicensed}\n")
endif()

file(STRINGS "${CMAKE_CURRENT_LIST_DIR}/format_requirements.txt" version REGEX "^clang-format==")
string(REPLACE "clang-format==" "" version "${version}")
find_program(clang_format clang-format NO_CACHE
  HINTS "$ENV{VIRTUAL_ENV}/bin" "$ENV{VIRTUAL_ENV}/Scripts" "${source_folder}/build/python/bin")
set(found "none")
if(clang_format)
  execute_process(COMMAND "${clang_format}" --version OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE)
endif()
string(REGEX REPLACE ".*version ([0-9.]+).*" "\\1" found "${found}")
if(NOT found STREQUAL version)
  message(FATAL_ERROR "clang-format: expected version ${version}, got ${found}. It is installed by\n"
    "  python3 -m venv build/python && build/python/bin/pip install -r cmake/format_requirements.txt\n")
endif()

set(mode -i)
if(CHECK)
  set(mode --dry-run --Werror)
endif()
execute_process(COMMAND "${clang_format}" ${mode} ${sources} RESULT_VARIABLE status)
if(NOT status STREQUAL "0")
  message(FATAL_ERROR "The layout differs: cmake -P cmake/format.cmake mends it.")
endif()
list(LENGTH sources count)
message(STATUS "${count} files are laid out as clang-format ${version} does.")
