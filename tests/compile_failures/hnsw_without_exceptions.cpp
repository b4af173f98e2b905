// SPDX-License-Identifier: BSD-3-Clause
// expect: attend/select/hnsw_index.hpp needs exceptions, as hnswlib does
// What the compiler does not define with -fno-exceptions.
#undef __cpp_exceptions
#include <attend/select/hnsw_index.hpp>
