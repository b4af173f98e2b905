# SPDX-License-Identifier: BSD-3-Clause
# Compiles files of a program or library once for each of several instruction sets: see docs/dispatch.md.
#
#   attend_add_dispatched(<target> <source>... TARGETS x86-64-v2 x86-64-v3 x86-64-v4)
#
# TARGETS go from the oldest to the newest; attend/dispatch.hpp takes the last one that the processor can run. One that
# the compiler does not know is left out with a warning. The sources are compiled with the target's own options,
# definitions, include folders and libraries, and -march=<name> behind them.

include(CheckCXXCompilerFlag)

# The linker that can put objects together so that nothing but attend::compiled can be seen from outside, where there is
# also an objcopy that can hide the rest: for ELF files. With clang, CMake's own choice is lld, which may not.
function(attend_isolating_linker result)
  set(${result} "" PARENT_SCOPE)
  if(NOT CMAKE_EXECUTABLE_FORMAT STREQUAL "ELF" OR NOT CMAKE_OBJCOPY)
    return()
  endif()
  execute_process(COMMAND ${CMAKE_OBJCOPY} --help OUTPUT_VARIABLE help ERROR_QUIET)
  if(NOT help MATCHES "keep-global-symbol" OR NOT help MATCHES "wildcard")
    return()
  endif()
  set(candidates ${CMAKE_LINKER})
  if(NOT CMAKE_CROSSCOMPILING)
    find_program(ATTEND_GNU_LINKER NAMES ld.bfd ld)
    mark_as_advanced(ATTEND_GNU_LINKER)
    list(APPEND candidates ${ATTEND_GNU_LINKER})
  endif()
  foreach(linker IN LISTS candidates)
    execute_process(COMMAND ${linker} --help OUTPUT_VARIABLE help ERROR_QUIET)
    if(help MATCHES "force-group-allocation")
      set(${result} "${linker}" PARENT_SCOPE)
      return()
    endif()
  endforeach()
endfunction()

function(attend_add_dispatched target)
  cmake_parse_arguments(PARSE_ARGV 1 dispatch "" "" "TARGETS")
  set(sources "${dispatch_UNPARSED_ARGUMENTS}")
  if(NOT TARGET ${target})
    message(FATAL_ERROR "attend_add_dispatched: expected a target, got ${target}")
  endif()
  if(NOT sources OR NOT dispatch_TARGETS)
    message(FATAL_ERROR "attend_add_dispatched(${target}): expected sources, then TARGETS and instruction sets")
  endif()
  get_target_property(folder ${target} SOURCE_DIR)
  if(NOT folder STREQUAL CMAKE_CURRENT_SOURCE_DIR)
    message(FATAL_ERROR "attend_add_dispatched(${target}): expected a call in the target's own folder, ${folder}")
  endif()
  get_target_property(before ${target} ATTEND_DISPATCH_TARGETS)
  if(before)
    message(FATAL_ERROR "attend_add_dispatched(${target}): expected one call for a target, with all of its sources")
  endif()

  # What attend/dispatch.hpp knows. The names are the compiler's, for -march.
  set(known
    x86-64 x86-64-v2 x86-64-v3 x86-64-v4 cascadelake cooperlake icelake-server sapphirerapids
    armv8-a armv8.2-a+fp16+dotprod armv8.6-a+fp16)
  set(targets)
  set(types)
  foreach(name IN LISTS dispatch_TARGETS)
    if(NOT name IN_LIST known)
      list(JOIN known ", " known)
      message(FATAL_ERROR "attend_add_dispatched(${target}): expected targets among ${known}, got ${name}")
    endif()
    string(MAKE_C_IDENTIFIER "${name}" type)
    check_cxx_compiler_flag("-march=${name}" ATTEND_COMPILES_FOR_${type})
    if(ATTEND_COMPILES_FOR_${type})
      list(APPEND targets "${name}")
      list(APPEND types "${type}")
    else()
      message(WARNING "attend_add_dispatched(${target}): the compiler does not know -march=${name}, which is left out")
    endif()
  endforeach()
  if(NOT targets)
    message(FATAL_ERROR "attend_add_dispatched(${target}): the compiler knows none of ${dispatch_TARGETS}, for "
      "${CMAKE_SYSTEM_PROCESSOR}")
  endif()
  list(JOIN types "," listed_types)
  set_target_properties(${target} PROPERTIES ATTEND_DISPATCH_TARGETS "${targets}")
  target_compile_definitions(${target} PRIVATE "ATTEND_DISPATCH_TARGETS=${listed_types}")

  attend_isolating_linker(linker)
  if(NOT linker)
    message(WARNING "attend_add_dispatched(${target}): without an ELF linker that has --force-group-allocation and an "
      "objcopy that has --keep-global-symbol, functions of other libraries' headers (std, Eigen, xsimd) that several "
      "targets compile are one function to the linker, which may keep the one for a newer processor. attend itself "
      "is not concerned.")
  endif()

  foreach(name type IN ZIP_LISTS targets types)
    # A file of its own includes the source, so that the option comes behind all those of the target.
    set(objects ${target}_${type})
    add_library(${objects} OBJECT)
    foreach(source IN LISTS sources)
      get_filename_component(source "${source}" ABSOLUTE)
      get_filename_component(stem "${source}" NAME)
      string(MD5 hash "${source}")
      string(SUBSTRING "${hash}" 0 8 hash)
      set(copy "${CMAKE_CURRENT_BINARY_DIR}/${objects}/${hash}_${stem}")
      file(CONFIGURE OUTPUT "${copy}" CONTENT "#include \"@source@\"\n" @ONLY)
      # Link-time optimisation would put the targets together again, and gcc's unique symbols cannot be made local.
      set_source_files_properties("${copy}" PROPERTIES COMPILE_OPTIONS
        "-march=${name};-fno-lto;$<$<CXX_COMPILER_ID:GNU>:-fno-gnu-unique>")
      target_sources(${objects} PRIVATE "${copy}")
    endforeach()
    target_link_libraries(${objects} PRIVATE $<TARGET_PROPERTY:${target},LINK_LIBRARIES>)
    target_include_directories(${objects} PRIVATE $<TARGET_PROPERTY:${target},INCLUDE_DIRECTORIES>)
    target_compile_options(${objects} PRIVATE $<TARGET_PROPERTY:${target},COMPILE_OPTIONS>)
    target_compile_definitions(${objects} PRIVATE
      $<TARGET_PROPERTY:${target},COMPILE_DEFINITIONS> "ATTEND_DISPATCHED=${type}")
    target_compile_features(${objects} PRIVATE cxx_std_20)
    set_target_properties(${objects} PROPERTIES INTERPROCEDURAL_OPTIMIZATION OFF)
    foreach(property CXX_STANDARD CXX_EXTENSIONS CXX_VISIBILITY_PRESET VISIBILITY_INLINES_HIDDEN
            POSITION_INDEPENDENT_CODE)
      get_target_property(value ${target} ${property})
      if(NOT value MATCHES "-NOTFOUND$")
        set_target_properties(${objects} PROPERTIES ${property} "${value}")
      endif()
    endforeach()
    get_target_property(kind ${target} TYPE)
    if(kind MATCHES "^(SHARED|MODULE)_LIBRARY$")
      set_target_properties(${objects} PROPERTIES POSITION_INDEPENDENT_CODE ON)
    endif()

    if(NOT linker)
      target_sources(${target} PRIVATE $<TARGET_OBJECTS:${objects}>)
      continue()
    endif()
    # One object in which only attend::compiled is left to be seen, and the data that a program has once: what the
    # compiler put out of line for std, Eigen or the program's own templates stays with the target that it was compiled
    # for.
    set(isolated "${CMAKE_CURRENT_BINARY_DIR}/${objects}/$<CONFIG>/${type}.o")
    add_custom_command(OUTPUT "${isolated}"
      COMMAND ${CMAKE_COMMAND} -E make_directory "${CMAKE_CURRENT_BINARY_DIR}/${objects}/$<CONFIG>"
      COMMAND ${linker} -r --force-group-allocation -o "${isolated}" $<TARGET_OBJECTS:${objects}>
      COMMAND ${CMAKE_OBJCOPY} --wildcard "--keep-global-symbol=_ZN6attend8compiledI*"
        "--keep-global-symbol=_ZN6attend6shared*" "${isolated}"
      DEPENDS ${objects} $<TARGET_OBJECTS:${objects}>
      COMMENT "Isolating ${objects}"
      COMMAND_EXPAND_LISTS VERBATIM)
    target_sources(${target} PRIVATE "${isolated}")
  endforeach()
endfunction()
