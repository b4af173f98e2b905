# Lays out the sources. From any folder:
#   cmake -P cmake/format.cmake
#   cmake -DCHECK=ON -P cmake/format.cmake                  (changes nothing, and fails where something is to be changed)
# One version of clang-format lays out differently from the next: cmake/format_requirements.txt names the one that is
# used, for `pip install -r` in a virtual environment.

cmake_minimum_required(VERSION 3.22)
get_filename_component(source_folder "${CMAKE_CURRENT_LIST_DIR}" DIRECTORY)
set(requirements "${CMAKE_CURRENT_LIST_DIR}/format_requirements.txt")

file(STRINGS "${requirements}" version REGEX "^clang-format==")
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

set(files)
foreach(folder include tests bench examples)
  file(GLOB_RECURSE found "${source_folder}/${folder}/*.hpp" "${source_folder}/${folder}/*.cpp"
    "${source_folder}/${folder}/*.h")
  list(APPEND files ${found})
endforeach()

set(mode -i)
if(CHECK)
  set(mode --dry-run --Werror)
endif()
execute_process(COMMAND "${clang_format}" ${mode} ${files} RESULT_VARIABLE status)
if(NOT status STREQUAL "0")
  message(FATAL_ERROR "The layout differs: cmake -P cmake/format.cmake mends it.")
endif()
list(LENGTH files count)
message(STATUS "${count} files are laid out as clang-format ${version} does.")
