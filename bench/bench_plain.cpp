// SPDX-License-Identifier: BSD-3-Clause
#include "bench_plain.hpp"

#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/window.hpp>

#include "softmax_call.hpp"
#include "visible_pairs.hpp"

namespace attend_bench {
namespace {

template <class T>
attention_call plain_call(attention_shape const& shape, plain_mask mask) {
  switch (mask) {
    case plain_mask::dense:
      return softmax_call<T>(shape, nullptr);
    case plain_mask::causal:
      return softmax_call<T>(shape, nullptr, attend::causal{});
    default:
      return softmax_call<T>(shape, nullptr, attend::window{window_left, 0});
  }
}

}  // namespace

attention_benchmark plain_attention(std::string const& family, element_type type, attention_shape const& shape,
                                    plain_mask mask) {
  attention_benchmark result{family, type, shape, {}, 0, limit::arithmetic, {}};
  bool const open_left = mask != plain_mask::window, open_right = mask == plain_mask::dense;
  result.mask = open_right ? "dense" : open_left ? "causal" : "window" + std::to_string(window_left);
  result.pairs_of_head = window_pairs(shape.queries, shape.keys, open_left ? -1 : window_left, open_right ? -1 : 0);
  result.prepare = [=] { return with_element_type(type, [&]<class T>() { return plain_call<T>(shape, mask); }); };
  return result;
}

}  // namespace attend_bench
