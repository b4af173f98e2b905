# SPDX-License-Identifier: BSD-3-Clause
# attend::compiled: attend::attend with what attend/compiled.hpp lists compiled once, so that files that link it compile
# faster. It is built where something links it, within the project that uses attend: an installed attend has no binaries.
# See docs/embedding.md.

set(ATTEND_COMPILED_OPTIONS "" CACHE STRING
  "Options for the instruction set of attend::compiled and of what links it; empty: those of attend::native")
mark_as_advanced(ATTEND_COMPILED_OPTIONS)

if(TARGET attend_compiled)
  return()
endif()
add_library(attend_compiled STATIC EXCLUDE_FROM_ALL)
add_library(attend::compiled ALIAS attend_compiled)

# A file for each element type: what it includes takes a compiler longer than one of the lists.
foreach(type float double Eigen::half Eigen::bfloat16)
  set(instances "ATTEND_COMPILED_ROWS(${type})\nATTEND_COMPILED_TILED(${type})\nATTEND_COMPILED_SPLIT(${type})\n")
  if(type MATCHES "Eigen")
    string(PREPEND instances "#include <Eigen/Core>\n")
  else()
    string(APPEND instances "ATTEND_COMPILED_STEPS(${type})\n")
  endif()
  string(MAKE_C_IDENTIFIER "${type}" name)
  set(source "${CMAKE_CURRENT_BINARY_DIR}/attend_compiled/${name}.cpp")
  file(CONFIGURE OUTPUT "${source}" @ONLY
    CONTENT "#define ATTEND_COMPILED_HERE\n#include <attend/compiled.hpp>\n@instances@")
  target_sources(attend_compiled PRIVATE "${source}")
endforeach()

target_compile_definitions(attend_compiled INTERFACE ATTEND_COMPILED)
target_link_libraries(attend_compiled PUBLIC attend::attend)
if(PROJECT_IS_TOP_LEVEL AND TARGET attend_development)
  # Among attend's own programs, which have their instruction set from there.
  target_link_libraries(attend_compiled PRIVATE attend_development)
elseif(ATTEND_COMPILED_OPTIONS)
  target_compile_options(attend_compiled PUBLIC ${ATTEND_COMPILED_OPTIONS})
else()
  target_link_libraries(attend_compiled PUBLIC attend::native)
endif()
