// SPDX-License-Identifier: BSD-3-Clause
// The calls that attend_tune measures: each is what one or two of the machine's numbers decide most of.
#pragma once

#include <string>

namespace attend_bench {

/// A call: `seconds(total, quick)` makes its tensors, runs it for about `total` seconds, and returns what it takes.
/// Quick problems are small, for tests.
struct tuned_row {
  char const* name;
  double (*seconds)(double total, bool quick);
};

/// The row with this name, or null.
tuned_row const* find_tuned_row(std::string const& name);

}  // namespace attend_bench
