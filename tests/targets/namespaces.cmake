# SPDX-License-Identifier: BSD-3-Clause
# cmake -DHEADERS=include/attend -P namespaces.cmake: every header opens the inline namespace, and none stands beside it:
# but for what a whole program has in common, data in attend::shared, and what dispatch.hpp declares, which has no bodies.
file(GLOB_RECURSE headers "${HEADERS}/*.hpp")
set(wrong)
foreach(header IN LISTS headers)
  file(READ "${header}" text)
  string(REGEX REPLACE "[][;]|\nnamespace attend::shared {" "" text "${text}")
  if(header MATCHES "/attend/dispatch\\.hpp$")
    continue()
  endif()
  if(text MATCHES "\nnamespace attend( |::[a-hj-z])" OR
      (text MATCHES "\nnamespace attend" AND NOT text MATCHES "\nnamespace attend::inline ATTEND_TARGET"))
    list(APPEND wrong "${header}")
  endif()
endforeach()
list(LENGTH headers count)
if(wrong OR count LESS 100)
  message(FATAL_ERROR "expected every header to open namespace attend::inline ATTEND_TARGET, got ${wrong}")
endif()
