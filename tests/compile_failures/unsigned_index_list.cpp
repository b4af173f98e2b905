// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: lengths, offsets and document numbers are 32- or 64-bit signed integers
// Lengths are signed, as extents are.
#include <attend/core/index_list.hpp>
#include <vector>

attend::extend::index_list lengths(std::vector<unsigned>{1, 2, 3});
