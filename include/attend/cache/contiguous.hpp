// SPDX-License-Identifier: BSD-3-Clause
// Keys and values in one piece: tensors [sequence, head, token, dimension], in which each sequence uses its first
// tokens.
//
//   key_value_tensors   views tensors of the caller
//   contiguous_cache    owns its tensors; tokens are appended up to a capacity
//
// Every sequence reserves its whole capacity. All rows of a (sequence, head) are one run.
#pragma once

#include <numeric>

#include "../core/index_list.hpp"
#include "row_store.hpp"

namespace attend::inline ATTEND_TARGET {

namespace caches {

/// Keys and values in tensors of the caller. The class holds views of the tensors and of the lengths, which must
/// outlive it.
///
///     decode_attention(q, key_value_tensors<float>(view_of(k), view_of(v), lengths), o);
template <StorageElement Key, StorageElement Value = Key>
class key_value_tensors {
 public:
  using key_element = Key;
  using value_element = Value;
  template <class T>
  using rows_view = tensor_view<T const, 4>;
  using scale_view = tensor_view<float const, 3>;

  key_value_tensors() = default;

  /// Views key [sequence, key head, token, dimension] and value [sequence, value head, token, dimension], where the
  /// dimension is in storage elements. Every sequence has all tokens. The numbers of heads may differ, as in a
  /// cache_shape. Throws argument_error where the shapes do not fit each other.
  key_value_tensors(rows_view<Key> key, rows_view<Value> value) : key_(key), value_(value) {
    detail::check_view("key", key_);
    detail::check_view("value", value_);
    for (int axis : {0, 2})
      detail::check_extent("value", axis_names[axis], value_.extent(axis), key_.extent(axis), "key");
    if ((key_heads() == 0) != (value_heads() == 0))
      detail::check_extent("value", "heads", value_heads(), key_heads(), "key");
    if (key_heads() == 0) return;
    heads_ = std::lcm(key_heads(), value_heads());
    heads_of_key_ = heads_ / key_heads();
    heads_of_value_ = heads_ / value_heads();
  }

  /// Views such tensors, of which sequence s has only its first lengths[s] tokens.
  template <TensorArgument Lengths>
  key_value_tensors(rows_view<Key> key, rows_view<Value> value, Lengths const& lengths)
      : key_value_tensors(key, value, index_list("lengths", lengths)) {}
  key_value_tensors(rows_view<Key> key, rows_view<Value> value, index_list lengths) : key_value_tensors(key, value) {
    if (lengths.size() != sequences())
      extend::fail("lengths", "expected one for each of ", sequences(), " sequences, got ", lengths.size());
    for (index_t s = 0; s < lengths.size(); ++s)
      if (lengths[s] < 0 || lengths[s] > key_.extent(2))
        extend::fail("lengths", "expected lengths from 0 to ", key_.extent(2), " (the tokens), got ", lengths[s],
                     " at ", s);
    lengths_ = lengths;
    has_lengths_ = true;
  }

  /// The same tensors with scales [sequence, head, token] of keys and of values. Elements of 8 and 4 bits need scales;
  /// for other elements the scales must be {}. Throws argument_error where the scales do not fit.
  key_value_tensors with_scales(scale_view key_scale, scale_view value_scale) const {
    key_value_tensors scaled(*this);
    scaled.key_scale_ = checked("key_scale", "keys", key_scale, key_, "key");
    scaled.value_scale_ = checked("value_scale", "values", value_scale, value_, "value");
    return scaled;
  }

  /// The same tensors with scales [key head, key dimension] of the channels of 8- or 4-bit keys. Throws argument_error
  /// where they do not fit, or keys have another element type.
  key_value_tensors with_channel_scales(tensor_view<float const, 2> channel_scale) const {
    if (!extend::is_scaled<Key>) extend::fail("channel_scale", "expected none, as keys are not quantized");
    detail::check_view("channel_scale", channel_scale);
    detail::check_extent("channel_scale", "heads", channel_scale.extent(0), key_heads(), "key");
    detail::check_extent("channel_scale", "dimension", channel_scale.extent(1), key_dimension(), "key");
    key_value_tensors scaled(*this);
    scaled.channel_scale_ = channel_scale;
    return scaled;
  }

  index_t sequences() const { return key_.extent(0); }
  index_t key_value_heads() const { return heads_; }
  index_t key_heads() const { return key_.extent(1); }
  index_t value_heads() const { return value_.extent(1); }
  index_t key_dimension() const { return key_.extent(3) * extend::elements_in<Key>; }
  index_t value_dimension() const { return value_.extent(3) * extend::elements_in<Value>; }
  index_t size(index_t sequence) const { return has_lengths_ ? lengths_[sequence] : key_.extent(2); }
  index_t stored(index_t sequence, index_t) const { return size(sequence); }

  key_value_rows<Key, Value> rows(index_t sequence, index_t head, index_t first) const {
    index_t const key_head = head / heads_of_key_, value_head = head / heads_of_value_;
    key_value_rows<Key, Value> run;
    run.key = key_.data() + sequence * key_.stride(0) + key_head * key_.stride(1) + first * key_.stride(2);
    run.value = value_.data() + sequence * value_.stride(0) + value_head * value_.stride(1) + first * value_.stride(2);
    run.key_stride = key_.stride(2);
    run.value_stride = value_.stride(2);
    if (key_scale_.data()) run.key_scale = &key_scale_(sequence, key_head, first);
    if (value_scale_.data()) run.value_scale = &value_scale_(sequence, value_head, first);
    run.key_scale_stride = key_scale_.stride(2);
    run.value_scale_stride = value_scale_.stride(2);
    if (channel_scale_.data()) run.channel_scale = &channel_scale_(key_head, 0);
    run.count = size(sequence) - first;
    run.position = first;
    return run;
  }

  /// Throws argument_error where elements need scales and with_scales gave none.
  void check_readable() const {
    if (extend::is_scaled<Key> && !key_scale_.data() && !detail::view_layout(key_).empty())
      extend::fail("key_scale", "expected scales of quantized keys, got none");
    if (extend::is_scaled<Value> && !value_scale_.data() && !detail::view_layout(value_).empty())
      extend::fail("value_scale", "expected scales of quantized values, got none");
  }

  /// Throws argument_error where a written tensor shares memory with the keys or values.
  void check_apart(char const* output, detail::view_layout const& written) const {
    detail::check_apart(output, written, "the cache's keys", key_);
    detail::check_apart(output, written, "the cache's values", value_);
  }

 private:
  static constexpr char const* axis_names[] = {"sequences", "heads", "tokens"};

  template <class Scaled>
  static scale_view checked(char const* argument, char const* scaled, scale_view scale,
                            tensor_view<Scaled const, 4> const& rows, char const* as) {
    if constexpr (!extend::is_scaled<Scaled>) {
      if (scale.data()) extend::fail(argument, "expected none, as ", scaled, " are not quantized");
      return {};
    }
    // The last stride of scales may be any: they are checked as if they had a further axis of extent 1.
    detail::check_view(argument,
                       tensor_view<float const, 4>(scale.data(), {scale.extent(0), scale.extent(1), scale.extent(2), 1},
                                                   {scale.stride(0), scale.stride(1), scale.stride(2), 1}));
    for (int axis : {0, 1, 2})
      detail::check_extent(argument, axis_names[axis], scale.extent(axis), rows.extent(axis), as);
    return scale;
  }

  rows_view<Key> key_;
  rows_view<Value> value_;
  scale_view key_scale_, value_scale_;
  tensor_view<float const, 2> channel_scale_;
  index_list lengths_;
  bool has_lengths_ = false;
  index_t heads_ = 0, heads_of_key_ = 1, heads_of_value_ = 1;
};

}  // namespace caches

/// Keys and values in one piece, of any element type.
///
///     cache_shape const small{.sequences = 1, .key_value_heads = 8, .key_dimension = 128, .value_dimension = 128};
///     contiguous_cache<bfloat16> kept(small, 4096);  // tokens of a sequence
template <extend::StorageElement Key, extend::StorageElement Value = Key>
class contiguous_cache : public detail::row_store<contiguous_cache<Key, Value>, Key, Value> {
  using base = detail::row_store<contiguous_cache<Key, Value>, Key, Value>;

 public:
  /// Allocates memory for `capacity` tokens of each sequence. `channel_scales` [head, key dimension] are for quantized
  /// keys; by default there are none. Throws argument_error for a negative extent, or where the product does not fit in
  /// memory.
  contiguous_cache(caches::cache_shape const& shape, index_t capacity, tensor_view<float const, 2> channel_scales = {})
      : base(name, shape, shape.sequences, capacity, channel_scales),
        capacity_(capacity),
        sizes_(name, std::array{shape.sequences}) {
    std::fill_n(sizes_.data(), sizes_.size(), 0);
  }

  index_t capacity() const { return capacity_; }
  index_t size(index_t sequence) const { return sizes_[sequence]; }
  index_t stored(index_t sequence, index_t) const { return sizes_[sequence]; }

  /// The size of the store's memory in bytes.
  index_t bytes() const { return this->memory_.bytes() + sizes_.bytes(); }

  /// Removes the tokens of a sequence from `size` on. Throws argument_error where it has fewer tokens.
  void truncate(index_t sequence, index_t size) {
    this->check_size(sequence, size);
    sizes_[sequence] = size;
  }

 private:
  friend base;
  friend detail::appending<contiguous_cache>;
  static constexpr char const* name = "contiguous_cache";

  void check_memory(detail::new_tokens const& asked) const {
    for (index_t i = asked.first; i < asked.last; ++i) {
      index_t const s = asked.sequence(i), room = capacity_ - sizes_[s];
      if (asked.tokens(i) > room)
        extend::fail(asked.argument, "expected at most ", room, " more tokens (sequence ", s, " has ", sizes_[s],
                     " of ", capacity_, "), got ", asked.tokens(i));
    }
  }
  void grow(index_t sequence, index_t tokens) { sizes_[sequence] += tokens; }

  static index_t position_of(index_t, index_t row) { return row; }
  detail::slot_run locate(index_t sequence, index_t position) const {
    return {sequence, position, capacity_ - position};
  }

  index_t capacity_;
  detail::buffer<index_t> sizes_;
};

}  // namespace attend::inline ATTEND_TARGET
