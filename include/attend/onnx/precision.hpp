// SPDX-License-Identifier: BSD-3-Clause
// What ONNX's attribute softmax_precision asks for: the type in which a softmax is computed, by ONNX's number of it.
// Here it is a least precision. Softmax is in float, in double for tensors of double, whatever is asked for: a request
// for half or bfloat16 gets more; one for double with narrower tensors gets float, to which ONNX rounds products and
// weights anyway.
#pragma once

#include <optional>

#include "../core/error.hpp"
#include "../core/types.hpp"

namespace attend::inline ATTEND_TARGET::detail {

inline void check_precision(std::optional<index_t> softmax_precision) {
  if (!softmax_precision) return;
  for (index_t const known : {1, 10, 11, 16})
    if (*softmax_precision == known) return;
  fail("softmax_precision", "expected 1 (float), 10 (half), 11 (double) or 16 (bfloat16), got ", *softmax_precision);
}

}  // namespace attend::inline ATTEND_TARGET::detail
