# SPDX-License-Identifier: BSD-3-Clause
# cmake -DNM=nm -DONE=a.o -DOTHER=b.o -P names.cmake: two object files that were compiled for two instruction sets define
# no name of attend's in common, but for the data in attend::shared.

function(attend_names object result)
  execute_process(COMMAND ${NM} --defined-only "${object}" OUTPUT_VARIABLE lines COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL " [A-Zu] [^\n]*6attend[^\n]*" names "${lines}")
  list(TRANSFORM names REPLACE "^ . " "")
  list(FILTER names EXCLUDE REGEX "^_ZN6attend6shared")
  list(LENGTH names count)
  message(STATUS "${object}: ${count} names of attend's")
  if(count LESS 100)
    message(FATAL_ERROR "expected at least 100 names of attend's, got ${count}")
  endif()
  set(${result} "${names}" PARENT_SCOPE)
endfunction()

attend_names("${ONE}" one)
attend_names("${OTHER}" other)
list(APPEND one ${other})
list(LENGTH one all)
list(REMOVE_DUPLICATES one)
list(LENGTH one different)
if(NOT all EQUAL different)
  math(EXPR shared "${all} - ${different}")
  message(FATAL_ERROR "expected no names in common, got ${shared}")
endif()
