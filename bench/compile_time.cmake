# SPDX-License-Identifier: BSD-3-Clause
# What including attend costs a translation unit at -O2, and what one call in it costs on top. From any folder:
#   cmake -P bench/compile_time.cmake
#   CXX=clang++ CXXFLAGS=-march=native cmake -P bench/compile_time.cmake

cmake_minimum_required(VERSION 3.23)

set(compiler c++)
if(DEFINED ENV{CXX})
  set(compiler $ENV{CXX})
endif()
separate_arguments(flags UNIX_COMMAND "-O2 $ENV{CXXFLAGS}")
get_filename_component(attend "${CMAKE_CURRENT_LIST_DIR}" DIRECTORY)
find_path(eigen Eigen/Core PATHS /usr/local/include /usr/include PATH_SUFFIXES eigen3 REQUIRED NO_CACHE)
find_path(xsimd xsimd/xsimd.hpp PATHS /usr/local/include /usr/include REQUIRED NO_CACHE)

set(folder "${attend}/build/compile_time")
file(MAKE_DIRECTORY "${folder}")
set(tensor "Eigen::Tensor<float, 4, Eigen::RowMajor>")
file(WRITE "${folder}/includes.cpp" "#include <attend/attend.hpp>\n")
file(WRITE "${folder}/call.cpp" "#include <attend/attend.hpp>
void call(${tensor} const& q, ${tensor} const& k, ${tensor} const& v, ${tensor}& o) {
  attend::softmax_attention(q, k, v, o, attend::causal{});
}
")

# Milliseconds that the compiler takes: the middle one of three.
function(measure source result)
  set(times)
  foreach(run RANGE 1 3)
    string(TIMESTAMP begin "%s%f" UTC)
    execute_process(
      COMMAND "${compiler}" -std=c++20 ${flags} -w "-I${attend}/include" "-I${eigen}" "-I${xsimd}"
        -c "${folder}/${source}" -o "${folder}/object.o"
      RESULT_VARIABLE status)
    string(TIMESTAMP end "%s%f" UTC)
    if(NOT status STREQUAL "0")
      message(FATAL_ERROR "${compiler} failed on ${folder}/${source}")
    endif()
    math(EXPR elapsed "(${end} - ${begin}) / 1000")
    list(APPEND times ${elapsed})
  endforeach()
  list(SORT times COMPARE NATURAL)
  list(GET times 1 middle)
  set(${result} ${middle} PARENT_SCOPE)
endfunction()

measure(includes.cpp includes)
measure(call.cpp call)
file(REMOVE_RECURSE "${folder}")
math(EXPR difference "${call} - ${includes}")
list(JOIN flags " " flags)
execute_process(COMMAND ${CMAKE_COMMAND} -E echo
  "${compiler} ${flags}: the includes alone ${includes} ms, with one call ${call} ms: the call costs ${difference} ms")
