# SPDX-License-Identifier: BSD-3-Clause
# Installs whatever a build of attend with its tests, benchmarks and examples needs and this machine lacks. For scripts
# that run as `cmake -P`.

# The packages that the given presets need and that are missing, by their names in Debian.
function(attend_missing_packages result)
  set(programs c++=g++ ninja=ninja-build)
  set(headers
    Eigen/Core=libeigen3-dev
    xsimd/xsimd.hpp=libxsimd-dev
    gmock/gmock.h=libgmock-dev
    benchmark/benchmark.h=libbenchmark-dev
    nlohmann/json.hpp=nlohmann-json3-dev)
  set(missing)
  if("clang" IN_LIST ARGN OR "fuzz" IN_LIST ARGN)
    list(APPEND programs clang++=clang)
  endif()
  # libFuzzer comes with the compiler's runtime, which Debian packs apart.
  if("fuzz" IN_LIST ARGN)
    execute_process(COMMAND clang++ -print-resource-dir
      OUTPUT_VARIABLE folder OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    file(GLOB found "${folder}/lib/*/libclang_rt.fuzzer*")
    if(NOT found)
      list(APPEND missing libclang-rt-dev)
    endif()
  endif()
  if("aarch64" IN_LIST ARGN OR "aarch64-bf16" IN_LIST ARGN OR "aarch64-sve" IN_LIST ARGN)
    list(APPEND programs aarch64-linux-gnu-g++=g++-aarch64-linux-gnu qemu-aarch64=qemu-user)
  endif()
  foreach(target i686:i686-linux-gnu:i386 arm:arm-linux-gnueabihf:arm riscv64:riscv64-linux-gnu:riscv64
          powerpc64le:powerpc64le-linux-gnu:ppc64le)
    string(REPLACE ":" ";" target "${target}")
    list(POP_FRONT target preset triple emulator)
    if(preset IN_LIST ARGN)
      list(APPEND programs ${triple}-g++=g++-${triple} qemu-${emulator}=qemu-user)
    endif()
  endforeach()
  if("wasm" IN_LIST ARGN)
    list(APPEND programs clang++-19=clang-19 wasm-ld-19=lld-19 node=nodejs)
    list(APPEND headers wasm32-wasi/stdio.h=wasi-libc wasm32-wasi/c++/v1/vector=libc++-19-dev-wasm32
      lib/llvm-19/lib/clang/19/lib/wasi/libclang_rt.builtins-wasm32.a=libclang-rt-19-dev-wasm32)
  endif()
  if("versions" IN_LIST ARGN)
    list(APPEND programs pip3=python3-pip)
  endif()
  # The site is made of texts: it needs no compiler and no library.
  if("site" IN_LIST ARGN)
    set(programs doxygen=doxygen awk=mawk)
    set(headers)
  endif()

  foreach(requirement IN LISTS programs headers)
    string(REGEX MATCH "^(.+)=(.+)$" requirement "${requirement}")
    set(file "${CMAKE_MATCH_1}")
    set(package "${CMAKE_MATCH_2}")
    unset(found)
    if(file MATCHES "/")
      find_file(found "${file}" PATHS /usr/local /usr PATH_SUFFIXES include include/eigen3 NO_CACHE)
    else()
      find_program(found "${file}" NO_CACHE)
    endif()
    if(NOT found)
      list(APPEND missing "${package}")
    endif()
  endforeach()
  set(${result} "${missing}" PARENT_SCOPE)
endfunction()

# Sets up for the given presets, or says what to install and stops.
function(attend_set_up)
  attend_missing_packages(missing ${ARGN})
  if(NOT missing)
    return()
  endif()
  string(REPLACE ";" " " packages "${missing}")

  find_program(apt_get apt-get NO_CACHE)
  execute_process(COMMAND id -u OUTPUT_VARIABLE user OUTPUT_STRIP_TRAILING_WHITESPACE)
  set(as_root)
  if(NOT user STREQUAL "0")
    set(as_root sudo -n)
    execute_process(COMMAND sudo -n true RESULT_VARIABLE no_password_needed OUTPUT_QUIET ERROR_QUIET)
  endif()
  if(NOT apt_get OR (as_root AND NOT no_password_needed STREQUAL "0"))
    message(FATAL_ERROR "Some packages are missing. Please install them; on Debian and Ubuntu with\n"
      "  sudo apt-get install ${packages}\n")
  endif()

  message(STATUS "Installing ${packages}")
  set(apt_get ${as_root} env DEBIAN_FRONTEND=noninteractive "${apt_get}" -qq -o DPkg::Lock::Timeout=300)
  # Without a fresh index the old one may still do, and where it does not the installation fails.
  execute_process(COMMAND ${apt_get} update OUTPUT_QUIET)
  execute_process(COMMAND ${apt_get} install --yes --no-install-recommends ${missing}
    RESULT_VARIABLE status OUTPUT_QUIET)
  if(NOT status STREQUAL "0")
    message(FATAL_ERROR "apt-get could not install ${packages}")
  endif()
endfunction()

# Configures a preset, in its existing build folder if there is one, and builds it or only the given targets of it. TESTS
# may restrict the test programs, and FIFTH what is compiled in many ways.
function(attend_build preset)
  set(generator)
  if(NOT EXISTS "${ATTEND_SOURCE_FOLDER}/build/${preset}/CMakeCache.txt")
    set(generator -G Ninja)
  endif()
  execute_process(COMMAND ${CMAKE_COMMAND} --preset ${preset} ${generator} "-DATTEND_TESTS=${TESTS}" "-DATTEND_FIFTH=${FIFTH}"
    WORKING_DIRECTORY "${ATTEND_SOURCE_FOLDER}" RESULT_VARIABLE status)
  if(NOT status STREQUAL "0")
    message(FATAL_ERROR "${preset}: configuring failed")
  endif()

  set(targets)
  if(ARGN)
    set(targets --target ${ARGN})
  endif()
  cmake_host_system_information(RESULT cores QUERY NUMBER_OF_LOGICAL_CORES)
  execute_process(COMMAND ${CMAKE_COMMAND} --build --preset ${preset} --parallel ${cores} ${targets}
    WORKING_DIRECTORY "${ATTEND_SOURCE_FOLDER}" RESULT_VARIABLE status)
  if(NOT status STREQUAL "0")
    message(FATAL_ERROR "${preset}: building failed")
  endif()
endfunction()

get_filename_component(ATTEND_SOURCE_FOLDER "${CMAKE_CURRENT_LIST_DIR}" DIRECTORY)
