// SPDX-License-Identifier: BSD-3-Clause
// What tests of the caller's floating-point modes are written with, under short names.
#pragma once

#include "caller_modes.hpp"

namespace attend {

using test::bytes;
using test::expect_one_result;
using test::expect_one_result_everywhere;
using test::of_all_sizes;

}  // namespace attend
