// SPDX-License-Identifier: BSD-3-Clause
// Gradients of calls that take tokens in an order of their own (policy/token_order.hpp): tokens are listed once, and
// the rows of a block of keys and values are copied from where they stand, with what is summed up for them, and the
// sums are put back.
//
// Cost: a number for each token, and copies of blocks.
#pragma once

#include "../../core/scratch.hpp"
#include "problem.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// An order of tokens that was listed.
struct listed_order {
  index_t const* tokens;

  void tokens_at(key_range places, index_t* to) const { std::copy(tokens + places.first, tokens + places.last, to); }
};

/// Copies of the rows of a block, [key][dimension] without gaps.
template <Element T>
class reordered_block {
 public:
  using A = accumulation_t<T>;
  T *key, *value;
  A *key_sum, *value_sum;

  reordered_block(index_t const* tokens, index_t keys, problem_shape const& shape, scratch& memory)
      : key(memory.allocate<T>(keys * shape.key_dimension)),
        value(memory.allocate<T>(keys * shape.value_dimension)),
        key_sum(memory.allocate<A>(keys * shape.key_dimension)),
        value_sum(memory.allocate<A>(keys * shape.value_dimension)),
        tokens_(tokens) {}

  /// Copies the rows of a head at a range of places.
  template <class U>
  void take(tensor_view<U, 4> const& from, detail::sequence const& sequence, index_t head, key_range places,
            std::remove_const_t<U>* to) const {
    index_t const columns = from.extent(3);
    for_rows(from, sequence, head, places,
             [&](U const* row, index_t j) { std::copy_n(row, columns, to + j * columns); });
  }

  /// Puts the sums of a block back.
  void put_back(tensor_view<A, 4> const& of_key, tensor_view<A, 4> const& of_value, detail::sequence const& sequence,
                index_t key_head, index_t value_head, key_range places) const {
    auto const put = [&](A const* from, tensor_view<A, 4> const& to, index_t head) {
      index_t const columns = to.extent(3);
      for_rows(to, sequence, head, places, [&](A* row, index_t j) { std::copy_n(from + j * columns, columns, row); });
    };
    put(key_sum, of_key, key_head);
    put(value_sum, of_value, value_head);
  }

 private:
  template <class U, class Function>
  void for_rows(tensor_view<U, 4> const& tensor, detail::sequence const& sequence, index_t head, key_range places,
                Function const& function) const {
    if (tensor.extent(3) == 0) return;
    for (index_t j = 0; j < places.count(); ++j)
      function(&tensor(sequence.batch, head, sequence.first_key + tokens_[places.first + j], 0), j);
  }

  index_t const* tokens_;
};

}  // namespace attend::inline ATTEND_TARGET::engine
