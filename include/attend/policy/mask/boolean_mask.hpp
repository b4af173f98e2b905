// SPDX-License-Identifier: BSD-3-Clause
// A boolean tensor [batch, query head, query, key]: true where the query sees the key. Any axis may have extent 1 and
// then holds for all; leading axes may be left out; the heads may also be the key's, each then holds for the query
// heads that share it. Tiles without a true element are skipped.
//
//   boolean_mask{tensor}             its key axis is that of the keys, or 1
//   boolean_mask{tensor}.padded()    its key axis may be shorter, and the keys past its end are hidden
#pragma once

#include <cstring>

#include "../pair_tensor.hpp"
#include "mask.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// Shows the pairs at which a tensor of bool is true. A call throws argument_error where the tensor's extents are
/// neither 1 nor those of the call.
///
///     softmax_attention(q, k, v, o, boolean_mask(seen));
class boolean_mask {
 public:
  using option_kind = option::mask;

  template <TensorArgument Tensor>
    requires std::same_as<element_of_t<Tensor const>, bool>
  explicit boolean_mask(Tensor const& tensor) : tensor_(tensor) {}

  /// Gives the same for a tensor of the first keys alone: the others are hidden.
  boolean_mask padded() const {
    boolean_mask shorter(*this);
    shorter.tensor_ = tensor_.padded(false);
    return shorter;
  }

  void check(extend::problem_shape const& shape) const { tensor_.check("boolean_mask", shape); }
  template <class T>
  extend::key_range bounds(extend::tile_rows<T> const& rows) const {
    return {0, tensor_.columns(rows)};
  }
  template <class T>
  extend::visibility classify(extend::tile_rows<T> const& rows, extend::key_range range) const {
    // Eight truths at a time, each a byte of 0 or 1.
    constexpr std::uint64_t eight = 0x0101010101010101;
    std::uint64_t every = eight, some = 0;
    if (index_t const there = tensor_.columns(rows); there < range.last) {
      every = 0;
      range.last = there;
    }
    for (int lane = 0; lane < rows.count; ++lane) {
      bool const* const row = tensor_.row(rows, lane);
      index_t key = tensor_.keys_shared() ? 0 : range.first;
      index_t const last = tensor_.keys_shared() ? 1 : range.last;
      for (; key + 8 <= last; key += 8) {
        std::uint64_t truths;
        std::memcpy(&truths, row + key, sizeof(truths));
        every &= truths;
        some |= truths;
      }
      for (; key < last; ++key) {
        every &= row[key] ? eight : 0;
        some |= row[key];
      }
      if (some != 0 && every != eight) return extend::visibility::some;
    }
    return every == eight ? extend::visibility::all : extend::visibility::none;
  }
  template <class T>
  auto bind(extend::tile_rows<T> const& rows, extend::key_range range) const {
    struct bound {
      index_t first;
      // Uninitialised beyond the range: it is never read there.
      alignas(64) T seen[extend::max_block_keys][extend::tile_rows<T>::lanes];
      auto operator()(extend::mask_place<T> const& place) const {
        return simd::reinterpret_mask<extend::position_t<T>>(simd::load(seen[place.key_index - first] + place.lane) !=
                                                             simd::vector<T>(T(0)));
      }
    };
    bound result;
    result.first = range.first;
    tensor_.read(rows, range, result.seen);
    return result;
  }

 private:
  detail::pair_tensor<bool> tensor_;
};

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
