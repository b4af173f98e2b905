# SPDX-License-Identifier: BSD-3-Clause
include(CMakeFindDependencyMacro)
find_dependency(attend 0.1)
include("${CMAKE_CURRENT_LIST_DIR}/exported-targets.cmake")
