// SPDX-License-Identifier: BSD-3-Clause
// The memory of a store: keys and values of tokens in slots, encoded as they are written.
//
//   keys    [block, head, slot, key dimension]      elements of Key
//   values  [block, head, slot, value dimension]    elements of Value
//   scales  [block, head, slot]                     float, of keys and of values, where elements have them
//   channel scales [head, key dimension]            float, if they are given
//
// A block is all slots of one sequence, or all pages of a pool. The store decides which slot a token has.
#pragma once

#include "../core/arithmetic_mode.hpp"
#include "../core/buffer.hpp"
#include "quantize.hpp"

namespace attend::inline ATTEND_TARGET {

namespace caches {

/// The shape of a store: its number of sequences, and the extents that all of them have.
struct cache_shape {
  index_t sequences = 1;
  index_t key_value_heads = 1;
  index_t key_dimension = 0;
  index_t value_dimension = 0;
};

}  // namespace caches

namespace detail {

template <StorageElement Key, StorageElement Value>
class row_memory {
 public:
  /// Allocates the memory. Throws argument_error, which names `store`, where an extent is negative or the memory too
  /// large, and where channel scales do not fit or are not from 2^-40 to 2^40.
  row_memory(char const* store, cache_shape const& shape, index_t blocks, index_t slots,
             tensor_view<float const, 2> const& channel_scales)
      : shape_(shape), slots_(slots) {
    for (index_t extent : {shape.sequences, shape.key_value_heads, shape.key_dimension, shape.value_dimension})
      if (extent < 0)
        fail(store, "expected extents of at least 0, got ",
             shape_text<4>({shape.sequences, shape.key_value_heads, shape.key_dimension, shape.value_dimension}));
    std::array<index_t, 3> const rows{blocks, shape.key_value_heads, slots};
    key_ = {store, std::array{rows[0], rows[1], rows[2], row_elements<Key>(shape.key_dimension)}};
    value_ = {store, std::array{rows[0], rows[1], rows[2], row_elements<Value>(shape.value_dimension)}};
    if constexpr (is_scaled<Key>) key_scale_ = {store, rows};
    if constexpr (is_scaled<Value>) value_scale_ = {store, rows};
    if (channel_scales.data() || channel_scales.extent(0) > 0) set_channel_scales(channel_scales);
  }

  cache_shape const& shape() const { return shape_; }

  index_t bytes() const {
    return key_.bytes() + value_.bytes() + key_scale_.bytes() + value_scale_.bytes() + channel_scale_.bytes() +
           channel_factor_.bytes();
  }

  /// The run of `count` consecutive slots from `slot` on, the first of which holds the token at `position`.
  key_value_rows<Key, Value> rows(index_t block, index_t head, index_t slot, index_t count, index_t position) const {
    index_t const row = row_number(block, head, slot);
    key_value_rows<Key, Value> run;
    run.key_stride = row_elements<Key>(shape_.key_dimension);
    run.value_stride = row_elements<Value>(shape_.value_dimension);
    run.key = key_.data() + row * run.key_stride;
    run.value = value_.data() + row * run.value_stride;
    if constexpr (is_scaled<Key>) run.key_scale = key_scale_.data() + row;
    if constexpr (is_scaled<Value>) run.value_scale = value_scale_.data() + row;
    if (channel_scale_.size()) run.channel_scale = channel_scale_.data() + head * shape_.key_dimension;
    run.count = count;
    run.position = position;
    return run;
  }

  /// Encodes rows into `count` consecutive slots.
  template <Element K, Element V>
  void write(index_t block, index_t head, index_t slot, index_t count, K const* key, index_t key_stride, V const* value,
             index_t value_stride) {
    float const* const factor = channel_factor_.size() ? channel_factor_.data() + head * shape_.key_dimension : nullptr;
    index_t const first = row_number(block, head, slot);
    for (index_t row = first; row < first + count; ++row, key += key_stride, value += value_stride) {
      encode(key, factor, shape_.key_dimension, row, key_, key_scale_);
      encode(value, nullptr, shape_.value_dimension, row, value_, value_scale_);
    }
  }

  /// Copies `count` slots of all heads, without encoding them again.
  void copy(index_t block, index_t from, index_t to, index_t count) {
    for (index_t head = 0; head < shape_.key_value_heads; ++head) {
      index_t const source = row_number(block, head, from), target = row_number(block, head, to);
      copy_rows(key_, row_elements<Key>(shape_.key_dimension), source, target, count);
      copy_rows(value_, row_elements<Value>(shape_.value_dimension), source, target, count);
      if constexpr (is_scaled<Key>) copy_rows(key_scale_, 1, source, target, count);
      if constexpr (is_scaled<Value>) copy_rows(value_scale_, 1, source, target, count);
    }
  }

 private:
  index_t row_number(index_t block, index_t head, index_t slot) const {
    return (block * shape_.key_value_heads + head) * slots_ + slot;
  }

  template <Element T, StorageElement S>
  static void encode(T const* from, float const* factor, index_t dimension, index_t row, buffer<S>& to,
                     buffer<float>& scale) {
    S* const at = to.data() + row * row_elements<S>(dimension);
    if constexpr (is_scaled<S>)
      scale[row] = quantize_row(from, factor, dimension, at);
    else
      convert_row(from, dimension, at);
  }

  template <class T>
  static void copy_rows(buffer<T>& rows, index_t elements, index_t from, index_t to, index_t count) {
    std::copy_n(rows.data() + from * elements, count * elements, rows.data() + to * elements);
  }

  void set_channel_scales(tensor_view<float const, 2> const& scales) {
    arithmetic_mode const arithmetic;
    char const* const argument = "channel_scales";
    if (!is_scaled<Key>) fail(argument, "expected none, as keys are not quantized");
    check_view(argument, scales);
    check_extent(argument, "heads", scales.extent(0), shape_.key_value_heads, "the cache");
    check_extent(argument, "head dimension", scales.extent(1), shape_.key_dimension, "the cache");
    std::array const extents{shape_.key_value_heads, shape_.key_dimension};
    channel_scale_ = {argument, extents};
    channel_factor_ = {argument, extents};
    for (index_t head = 0; head < extents[0]; ++head)
      for (index_t c = 0; c < extents[1]; ++c) {
        float const scale = scales(head, c);
        // Keys are divided by the scale: with these bounds, keys of up to 2^87, about 1e26, stay finite, and small keys
        // do not become zero.
        if (!(scale >= 0x1p-40f && scale <= 0x1p40f))
          fail(argument, "expected numbers from 2^-40 to 2^40, got ", scale, " at [", head, ", ", c, "]");
        channel_scale_[head * extents[1] + c] = scale;
        channel_factor_[head * extents[1] + c] = 1 / scale;
      }
  }

  cache_shape shape_;
  index_t slots_;
  buffer<Key> key_;
  buffer<Value> value_;
  buffer<float> key_scale_, value_scale_, channel_scale_, channel_factor_;
};

}  // namespace detail
}  // namespace attend::inline ATTEND_TARGET
