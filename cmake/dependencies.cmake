# SPDX-License-Identifier: BSD-3-Clause
# Each dependency is the target the surrounding project already has, else an installed package, else a pinned
# download. Who only includes attend needs Eigen, xsimd and threads; the rest is for attend's own programs.

include(FetchContent)

# Takes an installed package of at least the given version, whatever its major number.
macro(attend_find_package package target lowest_version)
  if(NOT TARGET ${target})
    find_package(${package} CONFIG QUIET)
    if(${package}_FOUND AND (NOT TARGET ${target} OR ${package}_VERSION VERSION_LESS ${lowest_version}))
      message(FATAL_ERROR
        "attend needs ${target} of ${package} ${lowest_version} or newer, which ${package} ${${package}_VERSION} in "
        "${${package}_DIR} is not. Set CMAKE_DISABLE_FIND_PACKAGE_${package}=ON to download one that is.")
    endif()
  endif()
endmacro()

# Downloads a header-only library. Its own build files are left alone (there is nothing in the folder named by
# SOURCE_SUBDIR): they would add tests, documentation and install rules.
function(attend_fetch_headers name target folder)
  FetchContent_Declare(${name} ${ARGN} SOURCE_SUBDIR headers_only)
  FetchContent_MakeAvailable(${name})
  # An imported target is exported by its name: attend's own package looks for the dependency again.
  add_library(${target} INTERFACE IMPORTED GLOBAL)
  target_include_directories(${target} INTERFACE "${${name}_SOURCE_DIR}/${folder}")
endfunction()

find_package(Threads REQUIRED)

attend_find_package(Eigen3 Eigen3::Eigen 3.4)
if(NOT TARGET Eigen3::Eigen)
  attend_fetch_headers(eigen Eigen3::Eigen "."
    URL https://gitlab.com/libeigen/eigen/-/archive/3.4.0/eigen-3.4.0.tar.bz2
    URL_HASH SHA256=b4c198460eba6f28d34894e3a5710998818515104d6e74e5cc331ce31e46e626)
endif()

attend_find_package(xsimd xsimd 8.1)
if(NOT TARGET xsimd)
  attend_fetch_headers(xsimd xsimd include
    URL https://github.com/xtensor-stack/xsimd/archive/8.1.0.tar.gz
    URL_HASH SHA256=d52551360d37709675237d2a0418e28f70995b5b7cdad7c674626bcfbbf48328)
endif()
include("${CMAKE_CURRENT_LIST_DIR}/xsimd_without_xtl.cmake")

if(ATTEND_BUILD_TESTS OR ATTEND_BUILD_BENCHMARKS OR ATTEND_BUILD_EXAMPLES)
  attend_find_package(nlohmann_json nlohmann_json::nlohmann_json 3.10)
  if(NOT TARGET nlohmann_json::nlohmann_json)
    attend_fetch_headers(nlohmann_json nlohmann_json::nlohmann_json include
      URL https://github.com/nlohmann/json/releases/download/v3.11.2/json.tar.xz
      URL_HASH SHA256=8c4b26bf4b422252e13f332bc5e388ec0ab5c3443d24399acb675e68278d341f)
  endif()
endif()

if(ATTEND_BUILD_TESTS)
  attend_find_package(GTest GTest::gmock_main 1.12)
  if(NOT TARGET GTest::gmock_main)
    set(INSTALL_GTEST OFF)
    FetchContent_Declare(googletest
      URL https://github.com/google/googletest/archive/refs/tags/release-1.12.1.tar.gz
      URL_HASH SHA256=81964fe578e9bd7c94dfdb09c8e4d6e6759e19967e397dbea48d1c10e45d0df2)
    FetchContent_MakeAvailable(googletest)
  endif()
endif()

if(ATTEND_BUILD_BENCHMARKS)
  attend_find_package(benchmark benchmark::benchmark 1.7)
  if(NOT TARGET benchmark::benchmark)
    set(BENCHMARK_ENABLE_TESTING OFF)
    set(BENCHMARK_ENABLE_INSTALL OFF)
    set(BENCHMARK_ENABLE_WERROR OFF)
    FetchContent_Declare(benchmark
      URL https://github.com/google/benchmark/archive/refs/tags/v1.7.1.tar.gz
      URL_HASH SHA256=6430e4092653380d9dc4ccb45a1e2dc9259d581f4866dc0759713126056bc1d7)
    FetchContent_MakeAvailable(benchmark)
  endif()
endif()
