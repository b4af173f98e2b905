// SPDX-License-Identifier: BSD-3-Clause
// The memory of a store: keys and values of tokens in slots, encoded as they are written.
//
//   keys    [block, key head, slot, key dimension]        elements of Key
//   values  [block, value head, slot, value dimension]    elements of Value
//   scales  [block, head, slot]                           float, of keys and of values, where elements have them
//   channel scales [key head, key dimension]              float, if they are given
//
// A block is all slots of one sequence, or all pages of a pool. The store decides which slot a token has. Where heads
// take slots from one pool, a slot is that of any head: [block, slot, dimension], or of any set of heads that share
// keys or values, with a row of each key head and each value head of the set.
#pragma once

#include <numeric>
#include <span>

#include "../core/arithmetic_mode.hpp"
#include "../core/buffer.hpp"
#include "quantize.hpp"

namespace attend::inline ATTEND_TARGET {

namespace caches {

/// The shape of a store: its number of sequences, and the extents that all of them have.
///
/// Keys and values may have different numbers of heads. A key-value head is then a pair of a key head and a value head,
/// each of which belongs to several consecutive pairs, and there are as many pairs as the least common multiple of both
/// numbers: of 4 key heads and 16 value heads there are 16 pairs, four for each key head.
///
///     cache_shape const fewer_keys{
///         .key_value_heads = 16, .key_dimension = 128, .value_dimension = 128, .key_heads = 4};
struct cache_shape {
  index_t sequences = 1;
  index_t key_value_heads = 1;
  index_t key_dimension = 0;
  index_t value_dimension = 0;
  /// The numbers of heads of keys and of values; 0 means key_value_heads.
  index_t key_heads = 0;
  index_t value_heads = 0;
};

}  // namespace caches

namespace detail {

/// Whether a slot has a row of each head, or those of any head, with the heads that share its keys or values.
enum class slots_of { all_heads, any_head };

/// What the memory has of a row.
enum class row_part { key, key_scale, value, value_scale };

template <StorageElement Key, StorageElement Value>
class row_memory {
 public:
  /// Allocates the memory. Throws argument_error, which names `store`, where an extent is negative or the memory too
  /// large, where the numbers of heads do not fit each other, and where channel scales do not fit or are not from 2^-40
  /// to 2^40.
  row_memory(char const* store, cache_shape const& shape, index_t blocks, index_t slots,
             tensor_view<float const, 2> const& channel_scales, slots_of heads = slots_of::all_heads)
      : shape_(with_heads(store, shape)), slots_(slots), any_head_(heads == slots_of::any_head) {
    if (shape_.key_heads > 0) heads_of_key_ = shape_.key_value_heads / shape_.key_heads;
    if (shape_.value_heads > 0) heads_of_value_ = shape_.key_value_heads / shape_.value_heads;
    std::array<index_t, 3> const keys{blocks, in_slot(shape_.key_heads), slots},
        values{blocks, in_slot(shape_.value_heads), slots};
    key_ = {store, std::array{keys[0], keys[1], keys[2], row_elements<Key>(shape.key_dimension)}};
    value_ = {store, std::array{values[0], values[1], values[2], row_elements<Value>(shape.value_dimension)}};
    if constexpr (is_scaled<Key>) key_scale_ = {store, keys};
    if constexpr (is_scaled<Value>) value_scale_ = {store, values};
    if (channel_scales.data() || channel_scales.extent(0) > 0) set_channel_scales(channel_scales);
  }

  /// The shape, with the numbers of key heads and of value heads.
  cache_shape const& shape() const { return shape_; }

  index_t bytes() const {
    return key_.bytes() + value_.bytes() + key_scale_.bytes() + value_scale_.bytes() + channel_scale_.bytes() +
           channel_factor_.bytes();
  }

  /// The run of `count` consecutive slots of a key-value head from `slot` on, the first of which holds the token at
  /// `position`.
  key_value_rows<Key, Value> rows(index_t block, index_t head, index_t slot, index_t count, index_t position) const {
    index_t const key_head = head / heads_of_key_;
    index_t const key_row = row_of_key(block, key_head, slot),
                  value_row = row_of_value(block, head / heads_of_value_, slot);
    key_value_rows<Key, Value> run;
    run.key_stride = row_elements<Key>(shape_.key_dimension);
    run.value_stride = row_elements<Value>(shape_.value_dimension);
    run.key = key_.data() + key_row * run.key_stride;
    run.value = value_.data() + value_row * run.value_stride;
    if constexpr (is_scaled<Key>) run.key_scale = key_scale_.data() + key_row;
    if constexpr (is_scaled<Value>) run.value_scale = value_scale_.data() + value_row;
    if (channel_scale_.size()) run.channel_scale = channel_scale_.data() + key_head * shape_.key_dimension;
    run.count = count;
    run.position = position;
    return run;
  }

  /// Encodes rows of a key head into `count` consecutive slots.
  template <Element K>
  void write_keys(index_t block, index_t head, index_t slot, index_t count, K const* key, index_t stride) {
    float const* const factor = channel_factor_.size() ? channel_factor_.data() + head * shape_.key_dimension : nullptr;
    index_t const first = row_of_key(block, head, slot);
    for (index_t row = first; row < first + count; ++row, key += stride)
      encode(key, factor, shape_.key_dimension, row, key_, key_scale_);
  }

  /// The same for rows of a value head.
  template <Element V>
  void write_values(index_t block, index_t head, index_t slot, index_t count, V const* value, index_t stride) {
    index_t const first = row_of_value(block, head, slot);
    for (index_t row = first; row < first + count; ++row, value += stride)
      encode(value, nullptr, shape_.value_dimension, row, value_, value_scale_);
  }

  /// The number of heads that a part of a row has, and its bytes in each row: 0 for scales where elements have none.
  index_t heads_of(row_part part) const {
    return part == row_part::key || part == row_part::key_scale ? shape_.key_heads : shape_.value_heads;
  }
  index_t row_bytes(row_part part) const {
    index_t const bytes[] = {row_elements<Key>(shape_.key_dimension) * index_t{sizeof(Key)},
                             is_scaled<Key> ? index_t{sizeof(float)} : 0,
                             row_elements<Value>(shape_.value_dimension) * index_t{sizeof(Value)},
                             is_scaled<Value> ? index_t{sizeof(float)} : 0};
    return bytes[static_cast<int>(part)];
  }

  /// The memory of a part of `count` consecutive slots of one head, of keys or of values.
  template <class Memory>
  static auto bytes_of(Memory& memory, row_part part, index_t block, index_t head, index_t slot, index_t count) {
    using byte = std::conditional_t<std::is_const_v<Memory>, std::byte const, std::byte>;
    byte* const begin[] = {
        reinterpret_cast<byte*>(memory.key_.data()), reinterpret_cast<byte*>(memory.key_scale_.data()),
        reinterpret_cast<byte*>(memory.value_.data()), reinterpret_cast<byte*>(memory.value_scale_.data())};
    bool const of_keys = part == row_part::key || part == row_part::key_scale;
    index_t const row = of_keys ? memory.row_of_key(block, head, slot) : memory.row_of_value(block, head, slot);
    index_t const each = memory.row_bytes(part);
    return std::span<byte>(begin[static_cast<int>(part)] + row * each, array_size(count * each));
  }

  /// Of some heads, those that have a row in each slot; and how many sets of heads share keys or values.
  index_t in_slot(index_t heads) const { return any_head_ && heads > 0 ? heads / sets() : heads; }
  index_t sets() const { return std::gcd(shape_.key_heads, shape_.value_heads); }

  /// Scales [key head, key dimension]; null where all are 1.
  float const* channel_scales() const { return channel_scale_.data(); }

  /// Copies `count` slots, without encoding them again; `to` may be among them if it is before `from`.
  void copy(index_t block, index_t from, index_t to, index_t count) {
    for (index_t head = 0; head < in_slot(shape_.key_heads); ++head) {
      index_t const source = row_of_key(block, head, from), target = row_of_key(block, head, to);
      copy_rows(key_, row_elements<Key>(shape_.key_dimension), source, target, count);
      if constexpr (is_scaled<Key>) copy_rows(key_scale_, 1, source, target, count);
    }
    for (index_t head = 0; head < in_slot(shape_.value_heads); ++head) {
      index_t const source = row_of_value(block, head, from), target = row_of_value(block, head, to);
      copy_rows(value_, row_elements<Value>(shape_.value_dimension), source, target, count);
      if constexpr (is_scaled<Value>) copy_rows(value_scale_, 1, source, target, count);
    }
  }

 private:
  static cache_shape with_heads(char const* store, cache_shape shape) {
    for (index_t extent : {shape.sequences, shape.key_value_heads, shape.key_dimension, shape.value_dimension})
      if (extent < 0)
        fail(store, "expected extents of at least 0, got ",
             shape_text<4>({shape.sequences, shape.key_value_heads, shape.key_dimension, shape.value_dimension}));
    index_t const heads = shape.key_value_heads;
    for (index_t* own : {&shape.key_heads, &shape.value_heads}) {
      if (*own < 0 || (*own > 0 && heads % *own != 0))
        fail(store, "expected ", own == &shape.key_heads ? "key" : "value", " heads that divide ", heads,
             " (key_value_heads), got ", *own);
      if (*own == 0) *own = heads;
    }
    if (index_t const least = std::lcm(shape.key_heads, shape.value_heads); least != heads)
      fail(store, "expected ", least, " key-value heads (the least common multiple of ", shape.key_heads,
           " key heads and ", shape.value_heads, " value heads), got ", heads);
    return shape;
  }

  index_t row_of_key(index_t block, index_t head, index_t slot) const {
    index_t const heads = in_slot(shape_.key_heads);
    return (block * heads + (any_head_ ? head % heads : head)) * slots_ + slot;
  }
  index_t row_of_value(index_t block, index_t head, index_t slot) const {
    index_t const heads = in_slot(shape_.value_heads);
    return (block * heads + (any_head_ ? head % heads : head)) * slots_ + slot;
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
    check_extent(argument, "heads", scales.extent(0), shape_.key_heads, "the cache");
    check_extent(argument, "head dimension", scales.extent(1), shape_.key_dimension, "the cache");
    std::array const extents{shape_.key_heads, shape_.key_dimension};
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
  index_t slots_, heads_of_key_ = 1, heads_of_value_ = 1;
  bool any_head_;  // a slot has one row, of any head
  buffer<Key> key_;
  buffer<Value> value_;
  buffer<float> key_scale_, value_scale_, channel_scale_, channel_factor_;
};

}  // namespace detail
}  // namespace attend::inline ATTEND_TARGET
