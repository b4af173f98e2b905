# SPDX-License-Identifier: BSD-3-Clause
# Builds and tests a small part of attend for other targets, and against older and newer versions of xsimd and Eigen than
# the installed ones. From any folder:
#   cmake -P cmake/porting.cmake
#   cmake "-DTARGETS=riscv64;arm;versions" -P cmake/porting.cmake
# The versions' headers come out of packages of Python's index that carry them, into build/porting.

cmake_minimum_required(VERSION 3.22)
include("${CMAKE_CURRENT_LIST_DIR}/setup.cmake")
set(folder "${ATTEND_SOURCE_FOLDER}/build/porting")
if(NOT TARGETS)
  set(TARGETS versions knl i686 arm riscv64 powerpc64le aarch64-bf16 aarch64-sve wasm)
endif()
attend_set_up(${TARGETS})

# Runs a command, or stops with what it said.
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status STREQUAL "0")
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${command}:\n${output}")
  endif()
endfunction()

# Configures with the given options, and builds.
function(build name)
  cmake_host_system_information(RESULT cores QUERY NUMBER_OF_LOGICAL_CORES)
  run(${CMAKE_COMMAND} -S "${ATTEND_SOURCE_FOLDER}/tests/porting" -B "${folder}/${name}" -G Ninja
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE=-O1 ${ARGN})
  run(${CMAKE_COMMAND} --build "${folder}/${name}" --parallel ${cores})
endfunction()
function(test name)
  build(${name} ${ARGN})
  run(${CMAKE_CTEST_COMMAND} --test-dir "${folder}/${name}" --output-on-failure)
  message(STATUS "${name}: passed")
endfunction()

# Unpacks a package, and gives the include folder within it.
function(fetch_headers result package include_folder)
  set(unpacked "${folder}/${package}")
  if(NOT EXISTS "${unpacked}/${include_folder}")
    run(python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "${unpacked}" ${package})
    file(GLOB archive "${unpacked}/*.whl")
    file(ARCHIVE_EXTRACT INPUT "${archive}" DESTINATION "${unpacked}")
  endif()
  set(${result} "${unpacked}/${include_folder}" PARENT_SCOPE)
endfunction()

set(toolchain_i686 i686-linux-gnu)
set(toolchain_arm arm-linux-gnueabihf)
set(toolchain_riscv64 riscv64-linux-gnu)
set(toolchain_powerpc64le powerpc64le-linux-gnu)
set(toolchain_aarch64-bf16 aarch64-bf16)
set(toolchain_aarch64-sve aarch64-sve-256)
foreach(target IN LISTS TARGETS)
  if(target STREQUAL "versions")
    fetch_headers(xsimd_12 pythran==0.15.0 pythran)
    fetch_headers(xsimd_14 pythran==0.19.0 pythran)
    fetch_headers(eigen_3_4_1 cmeel-eigen==3.4.1 cmeel.prefix/include/eigen3)
    fetch_headers(eigen_5 eigency==5.0.1.1 eigency/eigen)
    test(xsimd-12.1.1-eigen-3.4.1 -DCMAKE_CXX_FLAGS=-march=native
      "-Dxsimd_INCLUDE=${xsimd_12}" "-DEigen3_INCLUDE=${eigen_3_4_1}")
    test(xsimd-14.1.0-eigen-5.0.1 -DCMAKE_CXX_FLAGS=-march=native
      "-Dxsimd_INCLUDE=${xsimd_14}" "-DEigen3_INCLUDE=${eigen_5}")
  elseif(target STREQUAL "knl")
    # There is neither such a machine any more nor an emulation of it.
    build(knl -DCMAKE_CXX_FLAGS=-march=knl)
    message(STATUS "knl: compiled")
  elseif(target STREQUAL "wasm")
    # A program of WASI's, without exceptions and without threads.
    find_path(eigen Eigen/Core PATHS /usr/local/include/eigen3 /usr/include/eigen3 REQUIRED NO_CACHE)
    file(MAKE_DIRECTORY "${folder}/wasm")
    run(clang++-19 --target=wasm32-wasi -msimd128 -std=c++20 -O2 -fno-exceptions -Wall -Wextra -Werror
      "-I${ATTEND_SOURCE_FOLDER}/include" -isystem "${eigen}"
      "${ATTEND_SOURCE_FOLDER}/tests/porting/wasm.cpp" -o "${folder}/wasm/program.wasm")
    run(node --no-warnings "${ATTEND_SOURCE_FOLDER}/tests/porting/run_wasm.mjs" "${folder}/wasm/program.wasm")
    message(STATUS "wasm: passed")
  elseif(toolchain_${target})
    test(${target} "-DCMAKE_TOOLCHAIN_FILE=${CMAKE_CURRENT_LIST_DIR}/${toolchain_${target}}.cmake")
  else()
    message(FATAL_ERROR "TARGETS: expected versions, knl, i686, arm, riscv64, powerpc64le, aarch64-bf16, aarch64-sve or wasm, got ${target}")
  endif()
endforeach()
