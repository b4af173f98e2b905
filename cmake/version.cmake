# SPDX-License-Identifier: BSD-3-Clause
# Reads the version where it stands: version.hpp.
set(attend_version_header "${CMAKE_CURRENT_LIST_DIR}/../include/attend/version.hpp")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${attend_version_header}")
file(STRINGS "${attend_version_header}" attend_version REGEX "^#define ATTEND_VERSION_(MAJOR|MINOR|PATCH) [0-9]+$")
list(TRANSFORM attend_version REPLACE "^.* " "")
list(JOIN attend_version "." attend_version)
