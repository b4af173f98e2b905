# SPDX-License-Identifier: BSD-3-Clause
# An overlay port of the sources that it lies in: vcpkg install attend --overlay-ports=<attend>/ports
get_filename_component(SOURCE_PATH "${CMAKE_CURRENT_LIST_DIR}/../.." ABSOLUTE)

# Headers are the same for every configuration.
set(VCPKG_BUILD_TYPE release)
vcpkg_cmake_configure(
  SOURCE_PATH "${SOURCE_PATH}"
  OPTIONS
    -DATTEND_BUILD_TESTS=OFF
    -DATTEND_BUILD_BENCHMARKS=OFF
    -DATTEND_BUILD_EXAMPLES=OFF)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(CONFIG_PATH share/cmake/attend)
vcpkg_fixup_pkgconfig()
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
