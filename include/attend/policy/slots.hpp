// SPDX-License-Identifier: BSD-3-Clause
// Extra key-value slots: keys and values that every query of every sequence sees before its own, under the same
// softmax. No mask hides them and no score policy touches them; their logit is scale * q.k'. The log-sum-exp counts
// them.
//
//   prefix_key_values{keys, values}   [batch, head, slot, dimension]; batch may be 1 or left out
//   key_bias{keys}                    the same without values: the slots only take weight away
//
// Prefix: Xiang Lisa Li, Percy Liang: Prefix-Tuning, 2021; Guangyu Sun et al.: FedPerfix, 2023. Learned key and value
// per head (explicit attention bias, KV bias): Mingjie Sun et al.: Massive Activations in Large Language Models, 2024.
// Key bias: Xiangming Gu et al.: When Attention Sink Emerges in Language Models, 2024. Prototypes of past activations:
// Manuele Barraco et al.: With a Little Help from your own Past (PMA-Net), 2023.
#pragma once

#include "../core/check.hpp"
#include "../core/options.hpp"
#include "tile.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {
template <Element T>
void check_slots(char const* argument, tensor_view<T const, 4> const& slots, problem_shape const& shape, index_t heads,
                 index_t dimension, char const* as) {
  check_view(argument, slots);
  if (slots.extent(0) != 1 && slots.extent(0) != shape.batches)
    fail(argument, "expected ", one_or(shape.batches, "batch", "batches"), ", got ", slots.extent(0));
  check_extent(argument, "heads", slots.extent(1), heads, as);
  check_extent(argument, "dimension", slots.extent(3), dimension, as);
}
}  // namespace detail

namespace options {

/// Shows every query some keys and values more, before its own: [batch, head, slot, dimension]. A call throws
/// argument_error where their shapes do not fit.
///
///     softmax_attention(q, k, v, o, causal{}, prefix_key_values(k2, v2));
template <Element T>
struct prefix_key_values {
  using option_kind = option::slots;
  tensor_view<T const, 4> key, value;

  template <TensorArgument Keys, TensorArgument Values>
  prefix_key_values(Keys const& keys, Values const& values)
      : key(extend::raise<4>(view_of(keys))), value(extend::raise<4>(view_of(values))) {}

  void check(extend::problem_shape const& shape) const {
    detail::check_slots<T>("prefix_key_values (keys)", key, shape, shape.key_heads, shape.key_dimension, "key");
    detail::check_slots<T>("prefix_key_values (values)", value, shape, shape.value_heads, shape.value_dimension,
                           "value");
    detail::check_extent("prefix_key_values (values)", "slots", value.extent(2), key.extent(2), "the keys");
  }
};
template <class Keys, class Values>
prefix_key_values(Keys const&, Values const&) -> prefix_key_values<element_of_t<Keys const>>;

/// Shows every query some keys more, [batch, head, slot, key dimension], whose values are 0.
///
///     softmax_attention(q, k, v, o, causal{}, key_bias(k2));
template <Element T>
struct key_bias {
  using option_kind = option::slots;
  tensor_view<T const, 4> key;

  template <TensorArgument Keys>
  explicit key_bias(Keys const& keys) : key(extend::raise<4>(view_of(keys))) {}

  void check(extend::problem_shape const& shape) const {
    detail::check_slots<T>("key_bias", key, shape, shape.key_heads, shape.key_dimension, "key");
  }
};
template <class Keys>
key_bias(Keys const&) -> key_bias<element_of_t<Keys const>>;

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
