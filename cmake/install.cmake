# SPDX-License-Identifier: BSD-3-Clause
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(attend_package_folder "${CMAKE_INSTALL_DATADIR}/cmake/attend")

write_basic_package_version_file("${PROJECT_BINARY_DIR}/attend-config-version.cmake"
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)

install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/attend" DESTINATION include)
install(TARGETS attend EXPORT attend-targets)
install(EXPORT attend-targets NAMESPACE attend:: DESTINATION "${attend_package_folder}")
install(FILES
  "${PROJECT_BINARY_DIR}/attend-config-version.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/attend-config.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/dispatch.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/embedding.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/xsimd_without_xtl.cmake"
  DESTINATION "${attend_package_folder}")
