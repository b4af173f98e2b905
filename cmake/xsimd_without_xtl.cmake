# SPDX-License-Identifier: BSD-3-Clause
# Some packages of xsimd name xtl, an optional companion for complex numbers, among the libraries to link, without
# looking for it. A linker would then search in vain for a libxtl, which does not even exist: xtl is headers only.
if(NOT TARGET xtl)
  get_target_property(attend_xsimd_libraries xsimd INTERFACE_LINK_LIBRARIES)
  if(attend_xsimd_libraries)
    list(REMOVE_ITEM attend_xsimd_libraries xtl)
    set_target_properties(xsimd PROPERTIES INTERFACE_LINK_LIBRARIES "${attend_xsimd_libraries}")
  endif()
  unset(attend_xsimd_libraries)
endif()
