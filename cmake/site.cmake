# SPDX-License-Identifier: BSD-3-Clause
# Builds the site of the documentation, its pages and the comments of the headers, as build/site/index.html:
#   cmake -P cmake/site.cmake
# Fails for a link that leads nowhere, and for a comment that doxygen warns of.

cmake_minimum_required(VERSION 3.22)
include("${CMAKE_CURRENT_LIST_DIR}/setup.cmake")
include("${CMAKE_CURRENT_LIST_DIR}/check_links.cmake")

attend_set_up(site)
file(REMOVE_RECURSE "${ATTEND_SOURCE_FOLDER}/build/site")
file(MAKE_DIRECTORY "${ATTEND_SOURCE_FOLDER}/build/site")
execute_process(COMMAND doxygen docs/site/Doxyfile WORKING_DIRECTORY "${ATTEND_SOURCE_FOLDER}" RESULT_VARIABLE status)
if(NOT status STREQUAL "0")
  message(FATAL_ERROR "doxygen failed")
endif()
message(STATUS "The site is build/site/index.html")
