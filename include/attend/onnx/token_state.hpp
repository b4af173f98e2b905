// SPDX-License-Identifier: BSD-3-Clause
// Keys or values that an operator carries from call to call: the past, and the present that it becomes.
//
//   present [batch, head, past + new, dimension] = past [batch, head, past, dimension] followed by the new tokens
//
// A past that begins in the present's memory stays where it is: a cache that grows in place.
#pragma once

#include "tensors.hpp"

namespace attend::inline ATTEND_TARGET::detail {

/// present = past followed by fresh, along tokens. A past that stands in present's memory already stays.
template <Element T, class E>
void join_tokens(tensor_view<T const, 4> const& past, tensor_view<T const, 4> const& fresh,
                 tensor_view<T, 4> const& present, E& executor) {
  index_t const before = past.extent(2);
  copy_rows<T>(past, part(present, 2, 0, before), executor);
  copy_rows<T>(fresh, part(present, 2, before, fresh.extent(2)), executor);
}

/// Two optional tensors that the operator wants both or none of.
template <class Tensor>
void check_both_or_none(char const* first_name, Tensor const& first, char const* second_name, Tensor const& second) {
  if (static_cast<bool>(first) != static_cast<bool>(second))
    fail(first_name, "expected it together with ", second_name, ", got one of them");
}

/// A past and a present of keys or values, and what attention reads: the present, memory of its own where there is a
/// past alone, or the new tokens as they came.
template <Element T>
struct token_state {
  tensor_view<T const, 4> fresh, past;
  tensor_view<T, 4> present;
  bool joined = false;
  /// For the check of memory: the caller's present, and a past that does not stand in it.
  tensor_view<T, 4> written;
  tensor_view<T const, 4> apart;

  token_state(scratch& memory, char const* past_name, char const* present_name, tensor_view<T const, 4> const& coming,
              onnx::optional_tensor<T const, 4> const& given, onnx::optional_tensor<T, 4> const& asked)
      : fresh(coming), written(asked.view()) {
    index_t const batches = fresh.extent(0), heads = fresh.extent(1), dimension = fresh.extent(3);
    past = given ? given.view() : tensor_view<T const, 4>(nullptr, {batches, heads, 0, dimension});
    if (given)
      check_shape(past_name, past, {batches, heads, past.extent(2), dimension}, "batch, head, past, dimension");
    if (!same_rows(past, written)) apart = past;
    if (!given && !asked) return;
    joined = true;
    std::array<index_t, 4> const extents{batches, heads, past.extent(2) + fresh.extent(2), dimension};
    if (!asked) {
      present = {memory.allocate<T>(batches * heads * extents[2] * dimension + 1), extents};
      return;
    }
    present = written;
    check_shape(present_name, present, extents, "batch, head, past + new tokens, dimension");
    check_output_view(present_name, present);
  }

  tensor_view<T const, 4> tokens() const { return joined ? tensor_view<T const, 4>(present) : fresh; }
  template <class E>
  void join(E& executor) const {
    if (joined) join_tokens<T>(past, fresh, present, executor);
  }
};

}  // namespace attend::inline ATTEND_TARGET::detail
