# SPDX-License-Identifier: BSD-3-Clause
# What a translation unit pays at -O2 for including a family of attend, and for one call in it on top: the compiler's
# user time in milliseconds, the least of three, alone and with attend::compiled, and the code of such an object. From any
# folder:
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
find_program(shell sh REQUIRED NO_CACHE)
find_program(size size NO_CACHE)

set(folder "${attend}/build/compile_time")
file(MAKE_DIRECTORY "${folder}")

# User milliseconds that the compiler takes for a text, and the bytes of code that come out.
# Further arguments are the compiler's.
function(measure text milliseconds bytes)
  file(WRITE "${folder}/source.cpp" "${text}")
  unset(least)
  foreach(run RANGE 1 3)
    # The shell's second line says what its children took.
    execute_process(
      COMMAND "${shell}" -c "\"$@\" && times" sh
        "${compiler}" -std=c++20 ${flags} ${ARGN} -w "-I${attend}/include" "-I${eigen}" "-I${xsimd}"
        -c "${folder}/source.cpp" -o "${folder}/object.o"
      RESULT_VARIABLE status OUTPUT_VARIABLE times)
    if(NOT status STREQUAL "0" OR NOT times MATCHES "\n([0-9]+)m([0-9]+)\\.([0-9][0-9][0-9]?)")
      message(FATAL_ERROR "${compiler} failed on ${text}")
    endif()
    string(SUBSTRING "${CMAKE_MATCH_3}0" 0 3 fraction)
    math(EXPR taken "${CMAKE_MATCH_1} * 60000 + ${CMAKE_MATCH_2} * 1000 + 1${fraction} - 1000")
    if(NOT DEFINED least OR taken LESS least)
      set(least ${taken})
    endif()
  endforeach()
  set(code 0)
  if(size)
    execute_process(COMMAND "${size}" "${folder}/object.o" OUTPUT_VARIABLE table)
    string(REGEX MATCH "\n *([0-9]+)" row "${table}")
    set(code ${CMAKE_MATCH_1})
  endif()
  set(${milliseconds} ${least} PARENT_SCOPE)
  set(${bytes} ${code} PARENT_SCOPE)
endfunction()

function(print_row)
  set(line)
  foreach(cell IN LISTS ARGN)
    string(LENGTH "${cell}" length)
    math(EXPR missing "22 - ${length}")
    string(REPEAT " " ${missing} space)
    string(APPEND line "${cell}${space}")
  endforeach()
  execute_process(COMMAND ${CMAKE_COMMAND} -E echo "${line}")
endfunction()

# The call of each family is an ordinary one, over pointers.
set(parameters "attend::tensor_view<float const, 4> q, attend::tensor_view<float const, 4> k,
  attend::tensor_view<float const, 4> v, attend::tensor_view<float, 4> o")
set(call_softmax "void call(${parameters}) { attend::softmax_attention(q, k, v, o, attend::causal{}); }")
set(call_cache "void call(attend::contiguous_cache<float, float>& cache, ${parameters}) {
  attend::cached_attention(cache, q, k, v, o);
}")
set(call_linear "void call(${parameters}) { attend::linear_attention(q, k, v, o, attend::causal{}); }")
set(call_sparse "void call(${parameters}) {
  attend::systems::moba_attention(q, k, v, o, attend::systems::moba_options{64, 4});
}")
set(call_image "void call(${parameters}) {
  attend::grids::neighborhood_attention<2>(q, k, v, o, {32, 32}, {attend::grids::neighborhood_axis{7}, attend::grids::neighborhood_axis{7}});
}")

list(JOIN flags " " printed_flags)
execute_process(COMMAND ${CMAKE_COMMAND} -E echo "${compiler} ${printed_flags}, user time in ms")
print_row("header" "includes" "with Eigen's tensors" "a call adds" "bytes" "with compiled" "bytes")
set(tensors "#include <unsupported/Eigen/CXX11/Tensor>\n")
measure("${tensors}" eigen_alone code)
print_row("Eigen's tensors alone" "" "${eigen_alone}")
foreach(family softmax cache linear sparse image)
  set(include "#include <attend/${family}.hpp>\n")
  measure("${include}" includes none)
  measure("${tensors}${include}" with_tensors none)
  measure("${include}${call_${family}}\n" whole code)
  math(EXPR added "${whole} - ${includes}")
  measure("${include}${call_${family}}\n" with_compiled code_with_compiled -DATTEND_COMPILED)
  math(EXPR added_with_compiled "${with_compiled} - ${includes}")
  print_row("${family}.hpp" "${includes}" "${with_tensors}" "${added}" "${code}" "${added_with_compiled}"
    "${code_with_compiled}")
endforeach()
measure("#include <attend/attend.hpp>\n" includes none)
print_row("attend.hpp" "" "${includes}")
file(REMOVE_RECURSE "${folder}")
