# SPDX-License-Identifier: BSD-3-Clause
# attend::compiled: attend::attend with what the files of attend/call/compiled/ list compiled once, so that files that
# link it compile faster. It is built where something links it, within the project that uses attend: an installed attend has no binaries.
# See docs/embedding.md.

set(ATTEND_COMPILED_OPTIONS "" CACHE STRING
  "Options for the instruction set of attend::compiled and of what links it; empty: those of attend::native")
mark_as_advanced(ATTEND_COMPILED_OPTIONS)

if(TARGET attend_compiled)
  return()
endif()
add_library(attend_compiled STATIC EXCLUDE_FROM_ALL)
add_library(attend::compiled ALIAS attend_compiled)

# Adds a file with these lists of attend/call/compiled/.
function(attend_add_compiled name lists)
  set(source "${CMAKE_CURRENT_BINARY_DIR}/attend_compiled/${name}.cpp")
  string(REPLACE ";" "\n" lists "${lists}")
  file(CONFIGURE OUTPUT "${source}" @ONLY CONTENT "#include <Eigen/Core>
#include <attend/call/compiled/linear.hpp>
#include <attend/call/compiled/softmax.hpp>
#undef ATTEND_COMPILED_ONCE
#define ATTEND_COMPILED_ONCE template
@lists@
")
  target_sources(attend_compiled PRIVATE "${source}")
endfunction()

# A file for each element type, and two for stores: what it includes takes a compiler longer than one of the lists.
set(stores "ATTEND_COMPILED_STORES(float, Eigen::half)" "ATTEND_COMPILED_STORES(float, Eigen::bfloat16)")
set(quantized "ATTEND_COMPILED_STORES(Eigen::bfloat16, std::int8_t)" "ATTEND_COMPILED_BLOCKS(std::int8_t, true)")
foreach(type std::int8_t attend::caches::int4_pair)
  list(APPEND quantized "ATTEND_COMPILED_STORES(float, ${type})" "ATTEND_COMPILED_BLOCKS(${type}, false)"
    "ATTEND_COMPILED_SCORES(${type})")
endforeach()
foreach(type float double Eigen::half Eigen::bfloat16)
  set(instances)
  foreach(list ROWS TILED SPLIT CHUNKED)
    list(APPEND instances "ATTEND_COMPILED_${list}(${type})")
  endforeach()
  if(NOT type MATCHES "Eigen")
    list(APPEND instances "ATTEND_COMPILED_STEPS(${type})" "ATTEND_COMPILED_DECAYS(${type})")
  endif()
  list(APPEND stores "ATTEND_COMPILED_STORES(${type}, ${type})")
  if(NOT type STREQUAL "double")
    list(APPEND instances "ATTEND_COMPILED_BLOCKS(${type}, false)" "ATTEND_COMPILED_SCORES(${type})")
  endif()
  if(type STREQUAL "float")
    list(APPEND instances "ATTEND_COMPILED_STAGE(1)" "ATTEND_COMPILED_STAGE(2)" "ATTEND_COMPILED_STAGE(3)")
  endif()
  string(MAKE_C_IDENTIFIER "${type}" name)
  attend_add_compiled(${name} "${instances}")
endforeach()
attend_add_compiled(stores "${stores}")
attend_add_compiled(quantized "${quantized}")

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
