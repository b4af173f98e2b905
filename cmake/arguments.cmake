# SPDX-License-Identifier: BSD-3-Clause
# For scripts that run as `cmake -P script.cmake -- arguments...`.

# The arguments that follow `--`.
function(attend_arguments result)
  set(arguments)
  set(after_dashes FALSE)
  math(EXPR last "${CMAKE_ARGC} - 1")
  foreach(index RANGE ${last})
    if(after_dashes)
      list(APPEND arguments "${CMAKE_ARGV${index}}")
    elseif(CMAKE_ARGV${index} STREQUAL "--")
      set(after_dashes TRUE)
    endif()
  endforeach()
  set(${result} "${arguments}" PARENT_SCOPE)
endfunction()
