// SPDX-License-Identifier: BSD-3-Clause
// The same attention on tensors stored in 16 bits. Its error is what that storage costs, its rounding what the kernel
// adds to it.
#include "compare_variant.hpp"

namespace attend_bench {
namespace {

variant stored_as(std::string const& name, std::string const& what, element_type stored) {
  return {name, what, [=](problem const& p, element_type type) -> std::optional<prepared_variant> {
            bool const is_first_row = type == stored;
            if (is_first_row || !holds(stored, p)) return std::nullopt;
            return plain_softmax(p, stored, p.mask);
          }};
}

}  // namespace

std::vector<variant> storage_variants() {
  return {stored_as("half", "tensors of 1 + 5 + 10 bits", element_type::f16),
          stored_as("bfloat16", "tensors of 1 + 8 + 7 bits", element_type::bf16)};
}

}  // namespace attend_bench
