# SPDX-License-Identifier: BSD-3-Clause
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(attend_package_folder "${CMAKE_INSTALL_DATADIR}/cmake/attend")

write_basic_package_version_file("${PROJECT_BINARY_DIR}/attend-config-version.cmake"
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)

# Both folders are relative to the prefix, and so is the way from one to the other.
set(attend_pc_folder "${CMAKE_INSTALL_DATADIR}/pkgconfig")
file(RELATIVE_PATH attend_pc_to_prefix "/prefix/${attend_pc_folder}" /prefix)
string(REGEX REPLACE "/$" "" attend_pc_to_prefix "${attend_pc_to_prefix}")
configure_file("${CMAKE_CURRENT_LIST_DIR}/attend.pc.in" "${PROJECT_BINARY_DIR}/attend.pc" @ONLY)

install(FILES "${PROJECT_BINARY_DIR}/attend.pc" DESTINATION "${attend_pc_folder}")
install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/attend" DESTINATION include)
install(TARGETS attend EXPORT attend-targets)
install(EXPORT attend-targets NAMESPACE attend:: DESTINATION "${attend_package_folder}")
install(FILES
  "${PROJECT_BINARY_DIR}/attend-config-version.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/attend-config.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/compiled.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/dispatch.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/embedding.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/xsimd_without_xtl.cmake"
  DESTINATION "${attend_package_folder}")
